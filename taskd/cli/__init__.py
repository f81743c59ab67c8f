"""The ``taskd`` command, a client of a running server: a module for each subcommand, and what they share."""
