"""The files in deploy/, checked by the programs that read them, as far as this machine has these."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"

MAX_EXPOSURE = 3.0
"""The level of systemd-analyze security up to which a service counts as protected."""


def run(*command: str) -> str:
    """Run a program that must succeed, and return what it prints; skip the test if it is missing."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"this machine has no {command[0]}")
    ended = subprocess.run(command, capture_output=True, text=True)
    output = ended.stdout + ended.stderr
    assert ended.returncode == 0, output
    return output


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A directory with the units, whose program exists."""
    for name in ("taskd.service", "taskd.socket"):
        text = (DEPLOY / name).read_text().replace("/srv/tasks/venv/bin/taskd", "/bin/true")
        (tmp_path / name).write_text(text)
    return tmp_path


def test_systemd_understands_every_line_of_the_units(units: Path) -> None:
    output = run("systemd-analyze", "verify", str(units / "taskd.service"), str(units / "taskd.socket"))
    assert "taskd" not in output


def test_the_service_is_protected_in_the_eyes_of_systemd(units: Path) -> None:
    output = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(units / "taskd.service"))
    level = re.search(r"Overall exposure level for .*: ([\d.]+)", output)
    assert level is not None
    assert float(level[1]) <= MAX_EXPOSURE


def test_haproxy_understands_its_configuration() -> None:
    run("haproxy", "-c", "-f", str(DEPLOY / "haproxy.cfg"))


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    run("hadolint", str(DEPLOY / "Dockerfile"))
