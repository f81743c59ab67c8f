"""Sockets, transports, endpoints and timers: Twisted, adapted to taskd."""
