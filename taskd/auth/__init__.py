"""Who a caller is, and what it may do: tokens, their owners and roles. No I/O but reading files."""
