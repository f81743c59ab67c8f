"""`taskd serve`: options from a file and the environment, reloads of changed files, and its end."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.support import TASKD, TIMEOUT, Daemon, ServedDaemon, bare

APP = "from taskd import task\n\n@task\ndef version():\n    return {}\n"


def save(path: Path, text: str) -> None:
    """Write a file in one step, so that no half of it is ever seen."""
    half = path.with_suffix(".half")
    half.write_text(text)
    half.replace(path)


def write(folder: Path, app: str, *options: str) -> None:
    save(folder / "tasks.py", app)
    save(folder / "taskd.toml", "\n".join(('app = "tasks"', *options, "")))


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ServedDaemon]:
    """A server whose app is in the file, and whose number of workers is in the environment."""
    folder = tmp_path_factory.mktemp("served")
    write(folder, APP.format(1), "workers = 5", "reload = true")
    env = {"TASKD_WORKERS": "2"}
    served = ServedDaemon(directory=folder, env=env)
    served.folder = folder
    try:
        yield served.wait_until_ready()
    finally:
        served.stop()


def ask_version(server: Daemon) -> object:
    connection = server.connect()
    try:
        return connection.ask(bare("version"))
    finally:
        connection.close()


def test_options_come_from_the_file_and_the_environment_counts_more(server: ServedDaemon) -> None:
    assert ask_version(server) == 1
    server.wait_for_workers(2)


def test_a_changed_file_is_imported_again_and_code_that_fails_leaves_the_old_one(
    server: ServedDaemon,
) -> None:
    tasks, helper = server.folder / "tasks.py", server.folder / "helper.py"
    save(tasks, APP.format(22))
    server.wait_for_log("tasks.py changed: the app is imported again")
    server.wait_for_log(r"\] reloaded: ")
    assert ask_version(server) == 22

    save(tasks, "import helper\n" + APP.format("("))
    server.wait_for_log("The old code goes on")
    assert ask_version(server) == 22

    save(tasks, "import helper\n" + APP.format("helper.X"))
    server.wait_for_log("The old code goes on", 2)
    save(helper, "X = 333\n")
    server.wait_for_log(r"\] reloaded: ", 2)
    assert ask_version(server) == 333


def test_the_server_stays_in_the_foreground_writes_no_other_files_and_ends_by_the_signal(
    server: ServedDaemon,
) -> None:
    assert server.stop() == -signal.SIGTERM
    assert sorted(path.name for path in server.folder.iterdir()) == ["helper.py", "taskd.toml", "tasks.py"]
    assert "Traceback" not in server.log.rpartition("] reloaded: ")[2]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TASKD, *arguments], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def test_a_start_that_fails_ends_with_status_1_and_its_reason(tmp_path: Path) -> None:
    write(tmp_path, APP.format(1), "websocket = 'none'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = run(tmp_path, "serve", "--listen", f"tcp:{port}:interface=127.0.0.1")
    reason = outcome.stdout.splitlines()[-1]
    assert (outcome.returncode, outcome.stderr) == (1, "")
    assert reason.endswith("Address already in use")
    assert "twistd" not in reason


def test_the_log_goes_to_a_file_and_a_failed_start_is_on_the_terminal_too(tmp_path: Path) -> None:
    write(tmp_path, "def f(:\n", "websocket = 'none'", "listen = 'tcp:0:interface=127.0.0.1'")
    outcome = run(tmp_path, "serve", "--log-file", "a.log")
    assert outcome.returncode == 1
    for text in outcome.stderr, (tmp_path / "a.log").read_text():
        assert "SyntaxError" in text
    assert f"not started; the log is {tmp_path}/a.log" in outcome.stderr


def test_twistd_reads_the_file_too(tmp_path: Path, start) -> None:
    write(tmp_path, APP.format(7), "workers = 1", "reactor = 'poll'")
    daemon = start("--app", "tasks", directory=tmp_path).wait_until_ready()
    assert ask_version(daemon) == 7
    assert "reactor class: twisted.internet.pollreactor.PollReactor" in daemon.log
