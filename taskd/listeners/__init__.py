"""The connections that the daemon accepts: the task server's port (TCP, unix, TLS) and the gateway."""
