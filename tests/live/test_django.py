"""The backend for Django's Tasks, on each Django in an environment of its own."""

import faulthandler
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests import pythons

SECONDS = 240.0
"""How long the tests of one environment may take at most, on a busy machine: alone they take 12."""

TESTS = "tests/contrib/test_django_backend.py"


@dataclass(frozen=True)
class Environment:
    """A Django, as pip knows it, and the oldest Python that it runs on."""

    name: str
    packages: tuple[str, ...]
    python: tuple[int, int]

    def interpreter(self) -> str | None:
        """Return a Python for it: the one that runs this, if it is new enough."""
        if sys.version_info >= self.python:
            return sys.executable
        new_enough = [each for each in pythons.promised() if _numbers(each) >= self.python]
        return next((found for each in reversed(new_enough) if (found := pythons.find(each))), None)


ENVIRONMENTS = [
    Environment("django-5.2", ("django~=5.2.0", "django-tasks>=0.12"), (3, 11)),
    Environment("django-6.0", ("django~=6.0.0",), (3, 12)),
    Environment("django-6.1", ("django~=6.1.0",), (3, 12)),
]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _python(environment: Environment) -> str:
    interpreter = environment.interpreter()
    wanted = ".".join(map(str, environment.python))
    if interpreter is None:
        pytest.skip(
            f"{environment.name} needs Python {wanted} or newer: install one, or see what is there with "
            "ls ~/.pyenv/versions"
        )
    faulthandler.cancel_dump_traceback_later()  # pip may take its time; what follows has a limit of its own
    packages = ("-e", ".", *environment.packages, "pytest>=8", "coverage>=7.10", "psycopg[binary]")
    try:
        return pythons.environment(environment.name, interpreter, packages)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"pip cannot install {' '.join(packages)}: {error.stdout.strip().splitlines()[-1]}")


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda each: each.name)
def test_the_backend_passes_its_tests_on(environment: Environment) -> None:
    command = [_python(environment), "-m", "pytest", "-q", "-c", os.devnull, "--noconftest", "--rootdir", "."]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", TESTS],
        cwd=pythons.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
