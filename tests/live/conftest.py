"""Fixtures that start and stop real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.support import APPS, Daemon


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start servers with the given options; each is stopped, and leaves no process behind."""
    started: list[Daemon] = []

    def start_one(*options: str, **more: object) -> Daemon:
        if "--app" not in options and not more.get("web") and "none" not in options:
            options = ("--app", str(APPS / "plain.py"), *options)
        daemon = Daemon(*options, directory=tmp_path, **more)
        started.append(daemon)
        return daemon

    yield start_one
    for daemon in started:
        daemon.stop()
        daemon.wait_until_gone()


@pytest.fixture
def daemon(start: Callable[..., Daemon]) -> Daemon:
    """A server with four workers and the functions of `apps/plain.py`, ready."""
    return start("--workers", "4").wait_until_ready()
