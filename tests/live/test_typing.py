"""What type checkers make of calls: they refuse the wrong ones, and know the types of results."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.support import BIN

CALLS = Path(__file__).parents[1] / "typing" / "calls.py"


@pytest.fixture(scope="module")
def wrong() -> set[int]:
    """The numbers of the lines that must be refused."""
    lines = CALLS.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("  # wrong")}


def test_mypy_refuses_the_wrong_calls_and_no_others(wrong: set[int], tmp_path: Path) -> None:
    checked = subprocess.run(
        [BIN / "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path, "--no-error-summary", CALLS],
        capture_output=True,
        text=True,
    )
    found = re.findall(r"calls\.py:(\d+): error:", checked.stdout)
    assert {int(number) for number in found} == wrong, checked.stdout + checked.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="pyright would have to download Node")
def test_pyright_refuses_the_wrong_calls_and_no_others(wrong: set[int]) -> None:
    checked = subprocess.run(
        [BIN / "pyright", "--pythonpath", sys.executable, "--outputjson", CALLS],
        capture_output=True,
        text=True,
        env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin"},
    )
    errors = [
        each for each in json.loads(checked.stdout)["generalDiagnostics"] if each["severity"] == "error"
    ]
    assert {each["range"]["start"]["line"] + 1 for each in errors} == wrong, errors
