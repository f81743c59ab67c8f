"""A short soak, and a short run of the fuzzer; `make soak` and `make fuzz` are the long ones."""

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


FUZZ_SECONDS = 5
"""Seconds of spoiled messages: some hundreds of connections."""

KILLS = 4
"""Kills of a daemon with a store."""


def test_a_short_soak_loses_no_reply_and_leaves_nothing_behind() -> None:
    run("--seconds", str(SECONDS))


def test_a_daemon_that_is_killed_again_and_again_loses_no_stored_task() -> None:
    run("--kills", str(KILLS))


def test_spoiled_messages_break_nothing_for_a_caller_with_a_token() -> None:
    run("--tokens", "--seconds", str(FUZZ_SECONDS), module="tests.soak.fuzz")


def run(*arguments: str, module: str = "tests.soak.run") -> None:
    soak = subprocess.run(
        [sys.executable, "-m", module, *arguments, "--seed", str(SEED)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert soak.returncode == 0, soak.stdout
