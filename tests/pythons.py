"""The Pythons that the project promises: which of them this machine has, and an environment for each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

METADATA = ("pyproject.toml", "setup.py")
"""The files by which an environment is out of date if one of them is newer."""

_CLASSIFIER = re.compile(r"Programming Language :: Python :: (3\.\d+)")


def promised() -> list[str]:
    """The versions, like ``3.12``, in the classifiers of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = (_CLASSIFIER.fullmatch(each) for each in project["classifiers"])
    return [each[1] for each in found if each is not None]


def find(version: str) -> str | None:
    """The interpreter of a version, None if this machine has none: on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    installed = sorted(map(str, pyenv.glob(f"{version}*/bin/python")))
    on_path = shutil.which(f"python{version}")
    for each in [*([on_path] if on_path else []), *reversed(installed)]:
        # What is on the path may be a shim for a version that is not there.
        if _version_of(each) == version:
            return each
    return None


def _version_of(interpreter: str) -> str:
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([interpreter, "-c", show], capture_output=True, text=True).stdout.strip()


TEST = ("-e", ".[test]")
"""What pip installs into an environment by default: what `make test` has in its own."""


def environment(name: str, interpreter: str, packages: Sequence[str] = TEST) -> str:
    """Make or update the environment ``.venv-NAME`` with what pip gets as `packages`; return its Python.

    The name is a version, like ``3.12``, or what the environment is for. Raises
    `subprocess.CalledProcessError`, with the output, if that cannot be done.
    """
    directory = ROOT / f".venv-{name}"
    python, stamp = directory / "bin/python", directory / ".test"
    if not python.exists():
        _run(interpreter, "-m", "venv", str(directory))
    changed = max((ROOT / each).stat().st_mtime for each in METADATA)
    if not stamp.exists() or stamp.stat().st_mtime < changed:
        _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
        stamp.touch()
    return str(python)


def _run(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
