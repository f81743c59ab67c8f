"""What the import of an app changes in its process, and fork servers that cannot be started."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskd.pool.child_process import ChildProcess
from tests.live.support import (
    APPS,
    TIMEOUT,
    Daemon,
    bare,
    kept_daemon,
    run_twistd,
    wait_for_exit,
)
from tests.unit.pool.processes import FakeReactor

Start = Callable[..., Daemon]

APP = """
from taskd import task

@task
def version():
    return {version!r}
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server of an app that changes much of its process at import."""
    directory = tmp_path_factory.mktemp("hostile")
    with kept_daemon("--app", str(APPS / "hostile.py"), "--workers", "1", directory=directory) as daemon:
        yield daemon
        # The helpers end with the fork server, and do not keep the daemon.
        helpers = daemon.connect().ask(bare("helpers"))
        daemon.stop()
        for pid in helpers:
            wait_for_exit(pid)


def test_changes_by_the_import_are_put_back_and_reported(hostile: Daemon) -> None:
    changed = hostile.wait_for_log(r"#warn\] while it was imported, the app changed .*: (.*)\.")[1]
    assert changed.split(", ") == ["the handler of SIGCHLD", "timers that send signals", "descriptor 0"]


def test_threads_of_the_import_are_counted_and_named(hostile: Daemon) -> None:
    hostile.wait_for_log(r"#warn\] the import of the app has left a thread running \(poller\)")


def test_output_through_a_replaced_stream_reaches_the_log(hostile: Daemon) -> None:
    hostile.connect().ask(bare("say", "through the tee"))
    hostile.wait_for_log("say #.*: through the tee")


def test_the_file_of_the_app_is_logged(hostile: Daemon) -> None:
    hostile.wait_for_log(f"the app .* was loaded from {APPS / 'hostile.py'}")


def test_a_worker_that_ends_is_replaced_by_the_same_fork_server(hostile: Daemon) -> None:
    fork_server = hostile.fork_server
    pid = hostile.connect().ask(bare("pid"))
    os.kill(pid, signal.SIGKILL)
    hostile.wait_for_log(f"process {pid}.* ended: killed by SIGKILL")
    (worker,) = hostile.wait_for_status(
        lambda status: (
            [(each["state"], each["pid"] is None) for each in status["workers"]] == [("idle", False)]
        )
    )["workers"]
    # It does not end by the default timeout of sockets, a millisecond.
    assert hostile.connect().ask(bare("pid")) == worker["pid"] != pid
    assert hostile.fork_server == fork_server


def test_the_children_of_a_task_end_by_sigterm_without_a_trace(hostile: Daemon) -> None:
    assert hostile.connect().ask(bare("terminate")) == [-signal.SIGTERM, -signal.SIGTERM]
    hostile.connect().ask(bare("say", "after that"))
    hostile.wait_for_log("after that")
    assert "most recent call first" not in hostile.log


def test_a_killed_fork_server_is_replaced_though_helpers_hold_its_pipes(hostile: Daemon) -> None:
    client = hostile.connect()
    old = client.ask(bare("helpers"))
    os.kill(hostile.fork_server, signal.SIGKILL)
    hostile.wait_for_log(r"the fork server ended \(killed by SIGKILL\)")
    new = client.ask(bare("helpers"))
    assert not set(old) & set(new)
    # Those with a session of their own are unknown to the daemon.
    for pid in (old[0], old[2], old[3]):
        wait_for_exit(pid)
    os.kill(old[1], signal.SIGKILL)


def test_the_helpers_of_replaced_code_end_with_it(hostile: Daemon) -> None:
    old = hostile.connect().ask(bare("helpers"))
    hostile.process.send_signal(signal.SIGHUP)
    hostile.wait_for_log("reloaded: ")
    for pid in old:
        wait_for_exit(pid)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os._exit(7)", r"exit status 7: the app called os\._exit"),
        ("import os; os.closerange(3, 1000)", "the app closed descriptors that taskd needs"),
        ("import os\nif os.fork(): os._exit(0)\nos.setsid()", "code that makes the process a daemon"),
        ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
    ],
    ids=["os._exit", "closerange", "daemonised", "sys.exit"],
)
def test_an_import_that_ends_the_process_is_explained(tmp_path: Path, code: str, reason: str) -> None:
    (tmp_path / "app.py").write_text(f"{code}\n{APP.format(version=1)}")
    listen = ("--listen", "tcp:0:interface=127.0.0.1", "--websocket", "tcp:0:interface=127.0.0.1")
    ended = run_twistd(tmp_path, "gone", "-n", "--pidfile=", "taskd", *listen, "--app", "app.py")
    assert ended.returncode == 1
    assert reason.replace("\\", "") in ended.stdout


CHANGES = {
    "stdout is None": ("sys.stdout = None", "sys.stdout"),
    "stdout closed": ("sys.stdout.close()", "sys.stdout"),
    "stdout of any class": (
        "sys.stdout = type('S', (), {'__getattr__': lambda *_: 1 / 0})()",
        "sys.stdout",
    ),
    "stdout encoded": ("sys.stdout = codecs.getwriter('utf-8')(sys.stdout.buffer)", ""),
    "stdout detached": ("sys.stdout = io.TextIOWrapper(sys.stdout.detach())", ""),
    "stdout redirected": ("os.dup2(os.open(os.devnull, os.O_WRONLY), 1)", "descriptor 1"),
    "0 to 2 closed": ("[os.close(n) for n in range(3)]", "descriptor 0, descriptor 1, descriptor 2"),
    "SIGTERM ignored": ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "the handler of SIGTERM"),
    "SIGPIPE deadly": ("signal.signal(signal.SIGPIPE, signal.SIG_DFL)", "the handler of SIGPIPE"),
    "SIGUSR1 handled": ("signal.signal(signal.SIGUSR1, signal.SIG_IGN)", ""),
    "SIGTERM traced": ("faulthandler.register(signal.SIGTERM)", ""),
    "signals blocked": ("signal.pthread_sigmask(0, signal.valid_signals())", "blocked signals"),
    "wakeup": (
        "pipe = os.pipe(); os.set_blocking(pipe[1], False); signal.set_wakeup_fd(pipe[1])",
        "the descriptor that signals wake",
    ),
    "few files": ("resource.setrlimit(resource.RLIMIT_NOFILE, (20, limits[1]))", "the limit of open files"),
    "low recursion": ("sys.setrecursionlimit(100)", "the recursion limit"),
    "garbage collected": ("gc.enable()", ""),
}
"""What an app may do at import, and what is reported of it."""

GUARDED = """
import codecs, faulthandler, gc, io, os, resource, signal, sys
from taskd.worker.guard import Guard
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
recursion = sys.getrecursionlimit()
guard = Guard([])
{change}
warnings = guard.put_back()
print("seen", flush=True)
assert os.fstat(0) and not gc.isenabled()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits and sys.getrecursionlimit() == recursion
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
print(*warnings)
"""


@pytest.mark.parametrize(("change", "reported"), CHANGES.values(), ids=CHANGES)
def test_the_guard_puts_back(change: str, reported: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", GUARDED.format(change=change)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,  # one pipe for both, as in the fork server
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert run.stdout.startswith("seen\n")
    assert run.stdout.partition("as before: ")[2].partition(". A start hook")[0] == reported, run.stdout


TO_CLEAN_UP = """
import atexit, pathlib, tempfile
atexit.register(pathlib.Path("cleaned-up").touch)
import multiprocessing, time
FILE = tempfile.NamedTemporaryFile(dir=".", prefix="of-the-import")
multiprocessing.Process(target=time.sleep, args=(600,)).start()
"""


def test_exit_handlers_and_temporary_files_of_the_import_are_cleaned_up_despite_its_processes(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(TO_CLEAN_UP + APP.format(version=1))
    daemon = start("--app", "app", "--workers", "1", directory=tmp_path).wait_until_ready()
    assert daemon.connect().ask(bare("version")) == 1  # from here on a SIGTERM is an orderly stop
    assert list(tmp_path.glob("of-the-import*"))
    daemon.stop()
    assert (tmp_path / "cleaned-up").exists(), daemon.log
    assert not list(tmp_path.glob("of-the-import*"))


def test_a_fork_server_that_was_stopped_does_not_keep_the_daemon(start: Start, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.format(version=1))
    daemon = start("--app", "app", "--workers", "1", directory=tmp_path).wait_until_ready()
    assert daemon.connect().ask(bare("version")) == 1
    os.kill(daemon.fork_server, signal.SIGSTOP)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.wait_for_end() == -signal.SIGTERM
    assert "the fork server has read nothing for 10 s" in daemon.log


def test_a_monkey_patched_socket_module_does_not_matter(start: Start, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        f"import socket; socket.socketpair = socket.recv_fds = None\n{APP.format(version=1)}"
    )
    daemon = start("--app", "app", "--workers", "1", directory=tmp_path).wait_until_ready()
    assert daemon.connect().ask(bare("version")) == 1


def test_a_process_that_cannot_be_watched_is_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def refuse(pid: int) -> int:
        started.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many"):
        ChildProcess(FakeReactor(), ["sleep", "600"], "/", (), 2, lambda _: None)
    (pid,) = started
    assert not Path(f"/proc/{pid}").exists()


def test_a_process_that_the_reactor_cannot_watch_is_ended_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reactor, watched = FakeReactor(), []

    def refuse(reader: ChildProcess) -> None:
        watched.append((reader.pid, reader.fileno()))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reactor, "addReader", refuse)
    with pytest.raises(OSError, match="No space"):
        ChildProcess(reactor, ["sleep", "600"], "/", (), 2, lambda _: None)
    ((pid, descriptor),) = watched
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_fork_server_that_cannot_be_started_is_tried_again_until_it_can(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "app.py").write_text(APP.format(version="1"))
    daemon = start("--app", "app", "--workers", "1", directory=tmp_path / "app").wait_until_ready()
    client = daemon.connect()
    assert client.ask(bare("version")) == "1"

    # No working directory.
    (tmp_path / "app").rename(tmp_path / "gone")
    os.kill(daemon.fork_server, signal.SIGKILL)
    daemon.wait_for_log(r"a fork server cannot be started: .*No such file or directory.*starts in 0\.4 s")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for_log("not reloaded: a fork server cannot be started: .*No such file or directory")
    code = daemon.wait_for_status(lambda _: True, client)["code"]
    assert code["state"] == "waiting"
    assert "No such file or directory" in code["reason"]
    assert code["next_try"] >= 0
    client.send(bare("version"))
    (tmp_path / "gone").rename(tmp_path / "app")
    assert client.receive() == "1"
    code = daemon.wait_for_status(lambda _: True, client)["code"]
    assert code == {"state": "ready", "reason": None, "next_try": None}

    # No descriptors.
    _, most = limits = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (3, most))
    before = daemon.descriptors()
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for_log("not reloaded: a fork server cannot be started: .*Too many open files")
    assert daemon.descriptors() == before
    os.kill(daemon.fork_server, signal.SIGKILL)
    daemon.wait_for_log("a fork server cannot be started: .*Too many open files; another one")
    client.send(bare("version"))
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, limits)
    assert client.receive() == "1"
    assert "Traceback" not in daemon.log


def test_a_reload_follows_the_symbolic_link_through_which_the_directory_was_entered(
    start: Start, tmp_path: Path
) -> None:
    for number in (1, 2):
        release = tmp_path / "releases" / str(number)
        release.mkdir(parents=True)
        (release / "app.py").write_text(APP.format(version=number))
    current = tmp_path / "current"
    current.symlink_to("releases/1")
    daemon = start(
        "--app", "app", "--workers", "1", directory=current, env={"PWD": str(current)}
    ).wait_until_ready()
    assert daemon.connect().ask(bare("version")) == 1
    (tmp_path / "next").symlink_to("releases/2")
    (tmp_path / "next").rename(current)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for_log(f"the app app was loaded from {tmp_path}/releases/2/app.py")
    daemon.wait_for_log("reloaded: ")
    assert daemon.connect().ask(bare("version")) == 2
