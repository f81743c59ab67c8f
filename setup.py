"""Packaging of taskd; its metadata is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def readme() -> str:
    """Return README.md with links to the files of this release: an index of packages has only this page."""
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "taskd/__init__.py").read_text(), re.MULTILINE)[1]
    home = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?![a-z]+:|#)", f"]({home}/blob/v{version}/", page)


def shared() -> list[Path]:
    """Return what "make share" has written, by paths in the repository."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / "share").rglob("*") if path.is_file())


setup(
    # twisted/ and twisted/plugins/ have no __init__.py: the plugin joins
    # Twisted's own package by path, as Twisted's plugin system asks.
    packages=[*find_packages(include=["taskd", "taskd.*"]), "twisted.plugins"],
    # A path entry rather than an import hook for `pip install -e .`: Twisted
    # looks for plugins by walking sys.path, and sees no hooks.
    package_dir={"": "."},
    # The manual page and the completions, at the same paths below the prefix as here.
    data_files=[(str(path.parent), [str(path)]) for path in shared()],
    long_description=readme(),
    long_description_content_type="text/markdown",
)
