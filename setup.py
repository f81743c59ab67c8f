"""Packaging of taskd; its metadata is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    # twisted/ and twisted/plugins/ have no __init__.py: the plugin joins
    # Twisted's own package by path, as Twisted's plugin system asks.
    packages=[*find_packages(include=["taskd", "taskd.*"]), "twisted.plugins"],
    # A path entry rather than an import hook for `pip install -e .`: Twisted
    # looks for plugins by walking sys.path, and sees no hooks.
    package_dir={"": "."},
)
