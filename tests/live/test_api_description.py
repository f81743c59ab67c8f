"""The HTTP API of a real daemon keeps to its own description, whatever schemathesis sends."""

import os
import re
import subprocess

import pytest

from tests.live.support import APPS, BIN, kept_daemon

EXAMPLES = "8"
"""Cases for each operation: enough to see that nothing has changed. Those who look for more run it by hand,
as tests/live/api_hooks.py says."""

LEAST = 300
"""Cases that there are at least, with the fixed ones of each operation."""

SECONDS = 900
"""Seconds after which schemathesis hangs: it takes about ten alone, and minutes beside all other tests."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shapes")
    with kept_daemon("--app", str(APPS / "shapes.py"), "--store", "memory", directory=directory) as daemon:
        yield daemon


def test_schemathesis_finds_nothing(daemon, tmp_path):
    url = f"http://127.0.0.1:{daemon.port(2)}/api/v1/openapi.json"
    command = [
        *(BIN / "schemathesis", "run", url, "--max-examples", EXAMPLES, "--generation-deterministic"),
        # A task that is cancelled is still there.
        *("--exclude-checks", "use_after_free", "--request-timeout", "60", "--no-color"),
    ]
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.live.api_hooks", "PYTHONPATH": str(APPS.parents[2])},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    cases = re.search(r"(\d+) generated, (\d+) passed", ran.stdout)
    assert cases, ran.stdout
    assert int(cases[1]) == int(cases[2]) > LEAST
