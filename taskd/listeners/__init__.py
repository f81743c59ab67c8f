"""What listens: the task server's port and the websocket gateway."""
