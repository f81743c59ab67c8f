"""Measures taskd beside its peers: `make bench`, `make profile`."""
