"""The ``taskd`` command."""
