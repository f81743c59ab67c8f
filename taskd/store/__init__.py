"""Stores: where tasks are kept that outlive a connection, and with a file also the daemon."""
