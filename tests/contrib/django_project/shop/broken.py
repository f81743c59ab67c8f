"""A module that cannot be imported."""

import a_package_that_is_not_installed as missing

__all__ = ["missing"]
