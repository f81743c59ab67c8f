"""The daemon ``twistd taskd``: its options, configuration, signals, and the order of start and stop."""
