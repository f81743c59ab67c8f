"""Twisted adapted to taskd: sockets, transports, endpoint strings, TLS, timers. Knows nothing of tasks."""
