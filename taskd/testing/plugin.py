"""The plugin for pytest: fixtures with clients of a task server within the test.

pytest loads it wherever taskd is installed: so it imports nothing of weight before a fixture
is used, and changes nothing unless ``taskd_app`` is set.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from taskd.client import AsyncClient, Client
    from taskd.testing import MemoryServer

__all__ = [
    "pytest_addoption",
    "pytest_configure",
    "pytest_unconfigure",
    "taskd_app",
    "taskd_async_client",
    "taskd_client",
    "taskd_server",
    "taskd_socket",
]

VARIABLE = "TASKD_SERVER"
"""As `taskd.client.addresses.VARIABLE`, which would import msgspec."""

_directory = pytest.StashKey[str]()
_before = pytest.StashKey[str | None]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option and the setting that name the app."""
    about = "the app whose functions the taskd fixtures serve: a module's name, or the path of a file"
    parser.getgroup("taskd").addoption("--taskd-app", action="append", default=[], metavar="APP", help=about)
    parser.addini("taskd_app", f"{about}; several are possible", type="args", default=[])


def _apps(config: pytest.Config) -> list[str]:
    apps: list[str] = config.getoption("--taskd-app") or config.getini("taskd_app")
    return apps


def pytest_configure(config: pytest.Config) -> None:
    """Lead clients that have no address of their own to the server within the test, and nowhere else."""
    if _apps(config):
        config.stash[_directory] = tempfile.mkdtemp(prefix="taskd-")
        config.stash[_before] = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = f"unix:{_socket(config.stash[_directory])}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Put back the address that clients had."""
    if _directory in config.stash:
        shutil.rmtree(config.stash[_directory], ignore_errors=True)
        before = config.stash[_before]
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def _socket(directory: str) -> str:
    return os.path.join(directory, "socket")


@pytest.fixture(scope="session")
def taskd_socket(pytestconfig: pytest.Config) -> str | None:
    """Return where clients without an address look for the server; None if ``taskd_app`` is not set."""
    directory = pytestconfig.stash.get(_directory, None)
    return None if directory is None else _socket(directory)


@pytest.fixture(scope="session")
def taskd_app(pytestconfig: pytest.Config) -> list[str]:
    """Import the app that ``taskd_app`` names, if it does; returns the names."""
    from taskd.functions.registry import registry
    from taskd.worker.loading import AppError, load_apps

    apps = _apps(pytestconfig)
    if apps:
        try:
            load_apps(apps, str(pytestconfig.rootpath), registry)
        except AppError as error:
            raise pytest.UsageError(f"taskd_app: {str(error).removeprefix('--app ')}") from error
    return apps


@pytest.fixture
def taskd_server(taskd_app: list[str], taskd_socket: str | None) -> Iterator[MemoryServer]:  # noqa: ARG001
    """Return a task server within the test, which has no stored task yet."""
    from taskd.testing import MemoryServer

    with MemoryServer(socket=taskd_socket) as server:
        yield server


@pytest.fixture
def taskd_client(taskd_server: MemoryServer) -> Iterator[Client]:
    """Return a `taskd.client.Client` of a task server within the test."""
    from taskd.client import Client

    with Client(taskd_server.address) as client:
        yield client


@pytest.fixture
def taskd_async_client(taskd_server: MemoryServer) -> AsyncClient:
    """Return a `taskd.client.AsyncClient` of a task server within the test."""
    from taskd.testing.aio import FixtureClient

    return FixtureClient(taskd_server.address)
