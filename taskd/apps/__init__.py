"""Apps that come with taskd: ready to be named with ``--app``."""
