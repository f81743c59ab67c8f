"""A short run of the attackers, all at once; `python -m tests.soak.attack` is the long one."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

ATTACKS = (
    "bodies", "crowd", "flood-batches", "flood-errors", "flood-pings", "flood-status", "heads",
    "hold-arguments", "hold-lines", "hold-unread", "leave", "numbers", "pages", "protocols", "refusals",
)  # fmt: skip

SECONDS = 4

PATIENCE = 4
"""How much longer everything may take than when nothing else runs."""

TIMEOUT = 120.0
"""Seconds: the attacks are ended after `SECONDS`."""


def test_attackers_cost_a_well_behaved_client_no_answer() -> None:
    attack = subprocess.run(
        [
            *(sys.executable, "-m", "tests.soak.attack", *ATTACKS, "--together"),
            *("--seconds", str(SECONDS), "--patience", str(PATIENCE)),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert attack.returncode == 0, attack.stdout
