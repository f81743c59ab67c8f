"""What `taskd.contrib` needs other packages for: run by tests/live in environments of their own."""
