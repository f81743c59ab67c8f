"""The soak: a server under half the load that it can bear, exposed to every kind of accident."""
