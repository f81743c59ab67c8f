"""A short soak; `make soak` is the long one."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

SECONDS = 8
"""Seconds of load: enough for new code, broken code and a lost fork server."""

SEED = 1
"""Always the same, so that a failure can be repeated."""

TIMEOUT = 180.0
"""Seconds: the soak limits itself to less."""


KILLS = 4
"""Kills of a daemon with a store."""


def test_a_short_soak_loses_no_reply_and_leaves_nothing_behind() -> None:
    run("--seconds", str(SECONDS))


def test_a_daemon_that_is_killed_again_and_again_loses_no_stored_task() -> None:
    run("--kills", str(KILLS))


def run(*arguments: str) -> None:
    soak = subprocess.run(
        [sys.executable, "-m", "tests.soak.run", *arguments, "--seed", str(SEED)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert soak.returncode == 0, soak.stdout
