"""The soak: a server under half the load that it can bear, to which everything happens that can."""
