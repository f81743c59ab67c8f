"""docs/testing.md as it stands: each example is run by pytest, or by trial, in a directory of its own.

What needs a reactor that runs is here, too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from taskd.client import TaskClient
from taskd.errors import Unreachable
from taskd.functions.registry import Registry
from taskd.testing import MemoryServer

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"

EXAMPLE = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the files of the page."""
    for name, text in EXAMPLE.findall(PAGE.read_text()):
        (tmp_path / name).write_text(text)
    return tmp_path


def run(project: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a Python module in the project, where the directory is on the import path."""
    environment = {name: value for name, value in os.environ.items() if name != "TASKD_SERVER"}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        env={**environment, "PYTHONPATH": str(project), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def pytest_in(project: Path, *options: str, **variables: str) -> str:
    ended = run(project, "pytest", "-q", "-p", "no:cacheprovider", *options, **variables)
    return ended.stdout + ended.stderr


def test_the_examples_of_the_page_pass_as_they_stand(project):
    assert "5 passed" in pytest_in(project, "test_report.py", "test_shop.py", "test_async.py")
    (project / "conftest.py").unlink()
    written = pytest_in(project, "test_report.py", "test_shop.py", TASKD_SERVER="127.0.0.1:1")
    assert "4 passed" in written


def test_the_example_for_trial_passes_and_leaves_no_connection_behind(project):
    ended = run(project, "twisted.trial", "test_twisted")
    assert "PASSED (successes=1)" in ended.stdout, ended.stdout


def test_the_app_may_be_named_on_the_command_line_or_not_at_all(project):
    (project / "pyproject.toml").unlink()
    assert "4 passed" in pytest_in(project, "--taskd-app=tasks.py", "test_report.py", "test_shop.py")
    assert "3 passed" in pytest_in(project, "test_report.py")


def test_an_app_that_is_not_there_is_named_with_the_reason(project):
    written = pytest_in(project, "--taskd-app=task", "test_report.py")
    assert "taskd_app: task: there is no module 'task'" in written
    assert "did you mean tasks?" in written


def test_the_plugin_imports_nothing_of_weight_before_a_fixture_is_used(project):
    (project / "test_lean.py").write_text(
        "import sys\n"
        "def test_lean():\n"
        "    assert not {'twisted', 'msgspec', 'asyncio'} & {name.split('.')[0] for name in sys.modules}\n"
        "def test_the_program_may_still_choose_its_reactor(taskd_client):\n"
        "    taskd_client.ping()\n"
        "    assert 'twisted.internet.reactor' not in sys.modules\n"
    )
    (project / "conftest.py").unlink()
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    assert "2 passed" in pytest_in(project, "-p", "taskd.testing.plugin", "test_lean.py", **alone)


def add(a: int, b: int = 1) -> int:
    return a + b


@pytest_twisted.ensureDeferred
async def test_a_closed_double_for_twisted_is_unreachable():
    functions = Registry()
    functions.add(add)
    server = MemoryServer(functions)
    client = TaskClient(reactor, server.address)
    assert await client.call("add", 1) == 2
    server.close()
    with pytest.raises(Unreachable):
        await client.call("add", 1)
