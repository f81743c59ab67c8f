"""``twistd taskd``: its options, configuration and service."""
