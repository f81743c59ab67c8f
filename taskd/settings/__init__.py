"""The options of a daemon: one description of them, and the places where their values come from."""
