"""Access: tokens, their owners, and the rights of those who show them. No I/O but reading files."""
