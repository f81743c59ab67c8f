"""Programs that tests start beside taskd (PostgreSQL, pgbouncer): ports, users, and an end in any case."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.live.support import parent_of

TIMEOUT = 60.0
"""Seconds in which a program must start or stop; four runs of the tests share two processors."""

TICK = 0.01
"""Seconds between two looks at whether a program is ready, unless it ends meanwhile."""

PORTS = range(20000, 30000)
"""The ports for these programs: below those that the kernel gives to whoever asks for any, so that a program
that is stopped and started finds its own still free."""

PACKAGES = "postgresql, pgbouncer and haproxy"
"""What the tests cannot do without, as `tests/programs.sh` installs it."""

_reserved: dict[int, socket.socket] = {}


class MissingProgram(Exception):
    """A program that the tests need is not installed."""

    def __init__(self, program: str, package: str) -> None:
        super().__init__(
            f"{program} was not found, and the tests need it: install Debian's packages {PACKAGES} "
            f"(this one is in {package})"
        )


def find_program(name: str, package: str, folders: Sequence[Path] = ()) -> Path:
    """Return the path of a program, in one of the folders or on the path (or in an administrator's path)."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise MissingProgram(name, package)
    return Path(found)


def unprivileged_user() -> str:
    """Return the user that the programs run as: "" for the own one, another if that is root.

    PostgreSQL and pgbouncer refuse to run as root.
    """
    if os.geteuid() != 0:
        return ""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise AssertionError("there is no user to run PostgreSQL as: it refuses root")


def give_to(user: str, *paths: Path) -> None:
    """Make the user the owner of files or directories, unless it is ""."""
    if user:
        account = pwd.getpwnam(user)
        for path in paths:
            os.chown(path, account.pw_uid, account.pw_gid)


def run_as(user: str, *command: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    """Run a program to its end as the user (the own one if ""); its output is in the error if it fails."""
    account = pwd.getpwnam(user) if user else None
    ran = subprocess.run(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        text=True,
        check=False,
        timeout=TIMEOUT,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        cwd="/",
    )
    assert ran.returncode == 0, f"{command[0]} failed with status {ran.returncode}:\n{ran.stdout}"
    return ran


def environment() -> dict[str, str]:
    """Return the environment of these programs: nothing of the tests' own, and messages in English."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def reserve_port() -> int:
    """Return a free port of 127.0.0.1 that no other run of the tests gets until this process ends."""
    for port in random.sample(PORTS, len(PORTS)):
        name = socket.socket(socket.AF_UNIX)
        try:
            # A name that the kernel frees with this process, however that ends.
            name.bind(f"\0taskd-tests-port-{port}")
            with socket.socket() as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(("127.0.0.1", port))
        except OSError:
            name.close()
            continue
        _reserved[port] = name
        return port
    raise AssertionError("no port is free")


def release_port(port: int) -> None:
    """Let other runs of the tests have a reserved port."""
    _reserved.pop(port).close()


class Kept:
    """One run of a program under `keeper.py`: it ends with this process, even if that is killed.

    `log` is appended to; `directory`, if given, is removed when this process was killed.
    """

    def __init__(
        self,
        *command: str | Path,
        log: Path,
        user: str,
        number: signal.Signals,
        directory: Path | None = None,
    ) -> None:
        keeper = [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py"))]
        self._log = log
        with log.open("ab") as errors:
            self._keeper = subprocess.Popen(
                [*keeper, str(int(number)), str(log), user, str(directory or ""), *map(str, command)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,  # not ours: whoever reads that to its end must not wait for the keeper
                env=environment(),
                cwd="/",
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        with self._keeper.stdout as output:
            first = output.readline()
        assert first, f"{command[0]} could not be started:\n{log.read_text()}"
        self.pid = int(first)
        self._ended = os.pidfd_open(self._keeper.pid)

    @property
    def is_running(self) -> bool:
        """Whether the program has not ended yet."""
        return self._keeper.poll() is None

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Return once the condition holds; fail if the program ends first, or after `TIMEOUT`."""
        ending = time.monotonic() + TIMEOUT
        while not holds():
            # Without a pause, but for one in which the program does not end.
            ended, _, _ = select.select([self._ended], [], [], TICK)
            assert not ended, f"process {self.pid} has ended by itself:\n{self._log.read_text()}"
            assert time.monotonic() < ending, f"process {self.pid} is not ready:\n{self._log.read_text()}"

    def signal(self, number: signal.Signals) -> None:
        """Send the program a signal, if it is running."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def family(self) -> list[int]:
        """Return the ids of the program and its children."""
        return [self.pid, *(pid for pid in map(int, _process_ids()) if parent_of(pid) == self.pid)]

    def kill(self) -> None:
        """Kill the program and its children by SIGKILL, and return when all are gone."""
        # A stopped process starts no child while they are looked up.
        self.signal(signal.SIGSTOP)
        with contextlib.ExitStack() as stack:
            descriptors = [stack.enter_context(_pidfd(pid)) for pid in self.family()]
            for descriptor in filter(None, descriptors):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            for descriptor in filter(None, descriptors):
                ended, _, _ = select.select([descriptor], [], [], TIMEOUT)
                assert ended, "a killed process is still there"
        self.wait()

    def wait_or_kill(self, patience: float) -> None:
        """Wait until the program has ended, and kill it with its children after so many seconds."""
        ended, _, _ = select.select([self._ended], [], [], patience)
        if ended:
            self.wait()
        else:
            self.kill()

    def wait(self) -> int:
        """Wait until the program has ended; return its status, 128 and more after a signal."""
        status = self._keeper.wait(TIMEOUT)
        if self._ended >= 0:
            os.close(self._ended)
            self._ended = -1
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        return status


def _process_ids() -> list[str]:
    return [path.name for path in Path("/proc").glob("[0-9]*")]


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int | None]:
    """Open a descriptor of a process; None if it has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    yield descriptor
    os.close(descriptor)
