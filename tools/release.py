"""``python -m tools.release v0.1.0``: checks that a tag may be released, and prints the version's notes.

The tag must name the version in ``taskd/__init__.py``, and CHANGELOG.md must have a section for it. Nothing
needs to be installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


def notes(tag: str, code: str, changelog: str) -> str:
    """Return the section of the changelog on the version of a tag.

    Raises `ValueError`, with what must be changed first, if it may not be released.
    """
    version = _VERSION.search(code)
    if version is None or tag != f"v{version[1]}":
        found = version[1] if version is not None else "missing"
        raise ValueError(f"the tag is {tag}, but __version__ in taskd/__init__.py is {found}")
    section = re.search(
        rf"^## \[{re.escape(version[1])}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)",
        changelog,
        re.MULTILINE | re.DOTALL,
    )
    if section is None:
        raise ValueError(f"CHANGELOG.md has no section ## [{version[1]}] - YYYY-MM-DD; rename [Unreleased]")
    return section[1].strip()


def main(arguments: list[str]) -> int:
    """Check the tag that the arguments name."""
    if len(arguments) != 1:
        print("usage: python -m tools.release TAG", file=sys.stderr)
        return 2
    try:
        print(
            notes(arguments[0], (ROOT / "taskd/__init__.py").read_text(), (ROOT / "CHANGELOG.md").read_text())
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
