"""The server under the soak: its process, its log, and its resources."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from taskd.drill.processes import children_of
from tests.live.support import (
    MARK,
    descriptors_of,
    processes_marked,
    resident_bytes,
    title_of,
)
from tests.soak.report import Allocated
from tests.soak.twistd import SOCKET

__all__ = ["TWISTD", "Server"]

TWISTD = [sys.executable, str(Path(__file__).with_name("twistd.py"))]

MEMORY = "memory"
"""The name of the socket where the daemon tells how much it has allocated."""

KEPT_RECORDS = 100
"""The number of log records kept, to be shown if a check fails."""

LINE_LIMIT = 1024 * 1024
"""Bytes of the longest line of the log."""

RELOAD_SECONDS = 20.0
"""Seconds within which a reload must begin."""

END_SECONDS = 40.0
"""Seconds within which the server must end: its own deadline is 30."""

_RECORD = re.compile(r"\d{4}-\d\d-\d\dT\S+ \[([^#\]]+)(?:#(\w+))?\] ?(.*)", re.DOTALL)
_RELOADED = re.compile(r"\] (not )?reloaded: ")
_PORT = re.compile(r"listening on .*port=(\d+)|\bSite starting on (\d+)")

_MAY_FAIL = re.compile(
    r"not reloaded: |the fork server ended \(|there is no fork server any more|--app \S+ cannot be imported"
)
"""Errors in the log that the soak itself causes."""

_MAY_TRACE = re.compile(
    r"(\d+ lines like the next one were left out\s+)?"
    r"(not reloaded: |--app \S+ cannot be imported|\S+ #\d+ failed after )"
)
"""Records that may contain a traceback of an app or a task."""


class Server:
    """One `twistd -n taskd` on its own ports; `violate` is called with records that must not be logged."""

    def __init__(
        self,
        directory: Path,
        violate: Callable[[str], None],
        log: IO[str] | None = None,
        twistd: list[str] | None = None,
    ) -> None:
        self.name = f"soak-{os.getpid()}"
        self.directory = directory
        self.records: deque[str] = deque(maxlen=KEPT_RECORDS)
        self.levels: Counter[str] = Counter()
        self.ports: list[int] = []
        self.process: asyncio.subprocess.Process | None = None
        self.may_trace = False
        """Whether the output of workers may contain tracebacks."""
        self._violate = violate
        self._log = log
        self._twistd = twistd or TWISTD
        self._reads = asyncio.Event()
        self._reads.set()
        self._record: list[str] = []
        self._expected: list[tuple[re.Pattern[str], asyncio.Future[str]]] = []
        # The reload in progress, and the one that was requested and has not begun.
        self._reload: asyncio.Future[str] | None = None
        self._next_reload: asyncio.Future[str] | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self, *options: str, env: dict[str, str]) -> None:
        """Start the server; return when its app is loaded."""
        await self.start_plugin("taskd", "--name", self.name, *options, env=env, started="functions: ")

    async def start_plugin(self, *command: str, env: dict[str, str], started: str) -> None:
        """Start a plugin of twistd with its options; return when a line of its log matches `started`."""
        loaded = self.expect(started)
        self.process = await asyncio.create_subprocess_exec(
            *self._twistd,
            *("--nodaemon", "--pidfile=", *command),
            cwd=self.directory,
            env={**os.environ, MARK: self.name, SOCKET: str(self.directory / MEMORY), **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE_LIMIT,
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read())
        await loaded

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        assert self.process is not None
        return self.process.pid

    # --- the log ---

    def expect(self, pattern: str) -> asyncio.Future[str]:
        """Return a Deferred of the next record that matches; it fails when the server ends."""
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._expected.append((re.compile(pattern), found))
        return found

    def pause_log(self) -> None:
        """Stop reading the log: the pipe from the server fills up."""
        self._reads.clear()

    def resume_log(self) -> None:
        """Read the log again."""
        self._reads.set()

    async def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            await self._reads.wait()
            text = line.decode("utf-8", "backslashreplace").rstrip("\n")
            if self._log is not None:
                print(text, file=self._log)
            if _RECORD.match(text):
                self._end_record()
            self._record.append(text)
            if len(self._record) == 1:
                self._look_out(text)
        self._end_record()
        for _, found in self._expected:
            if not found.done():
                found.set_exception(EOFError("the server has ended"))
        self._expected = []

    def _look_out(self, line: str) -> None:
        if "] reloading: " in line:
            self._reload, self._next_reload = self._next_reload, None
        elif _RELOADED.search(line) and self._reload is not None and not self._reload.done():
            self._reload.set_result(line)
        port = _PORT.search(line)
        if port is not None:
            self.ports.append(int(port[1] or port[2]))
        for entry in list(self._expected):
            pattern, found = entry
            if found.done():
                self._expected.remove(entry)
            elif pattern.search(line):
                self._expected.remove(entry)
                found.set_result(line)

    def _end_record(self) -> None:
        record, self._record = "\n".join(self._record), []
        if not record:
            return
        self.records.append(record)
        match = _RECORD.match(record)
        level = (match[2] or "") if match else ""
        text = match[3] if match else record
        self.levels[level] += 1
        if (
            level == "critical"
            or (level == "error" and not _MAY_FAIL.match(text))
            or ("Traceback" in text and not _MAY_TRACE.match(text) and not self._is_of_hook(text))
            or "Unhandled" in text
            or "a bug in taskd" in text
        ):
            self._violate(f"the log says: {record[:2000]}")

    def _is_of_hook(self, text: str) -> bool:
        return self.may_trace and "] no task: " in text

    # --- its resources ---

    def memory(self) -> int:
        """Return the resident memory of the daemon, in bytes."""
        return resident_bytes(self.pid)

    async def allocated(self) -> Allocated:
        """Return what the daemon has allocated, which it finds out after a collection."""
        reader, writer = await asyncio.open_unix_connection(str(self.directory / MEMORY))
        answer = json.loads(await reader.read())
        writer.close()
        return Allocated(time.monotonic(), answer["blocks"], answer["malloc"], self.memory())

    def cpu_seconds(self) -> float:
        """Return the processor time of the daemon, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> Counter[str]:
        """Return the daemon's open descriptors, by kind."""
        return descriptors_of(self.pid)

    def fork_servers(self) -> list[int]:
        """Return its fork servers: more than one during a reload."""
        return children_of(self.pid)

    def workers(self) -> list[int]:
        """Return the workers of all its fork servers."""
        return [pid for fork_server in self.fork_servers() for pid in children_of(fork_server)]

    def strangers(self) -> list[str]:
        """Return processes of this server that are neither its workers nor in a worker's group."""
        fork_servers = self.fork_servers()
        workers = {pid for fork_server in fork_servers for pid in children_of(fork_server)}
        known = {self.pid, *fork_servers, *workers}
        found = []
        for pid in processes_marked(self.name):
            with suppress(OSError):
                if pid not in known and os.getpgid(pid) not in workers:
                    found.append(f"{pid} {title_of(pid)}")
        return found

    def why_not_at_rest(self, status: dict[str, Any], connections: int) -> str:
        """Describe the resources that an idle server should not have; "" if there are none.

        `status` is its own report; `connections` is how many it may have.
        """
        workers, fork_servers, strangers = status["workers"], self.fork_servers(), self.strangers()
        if status["waiting"] or status["running"] or status["reloading"]:
            return "it has something to do"
        if [worker["state"] for worker in workers] != ["idle"] * status["min_workers"]:
            return "it has more or less workers than it has to"
        if len(fork_servers) != 1:
            return f"it has the fork servers {fork_servers}"
        if sorted(worker["pid"] for worker in workers) != sorted(self.workers()):
            return f"the workers are {self.workers()}"
        if strangers:
            return f"it has other processes as well: {strangers}"
        if status["connections"] > connections:
            return "it has connections"
        return ""

    # --- reload and stop ---

    async def reload(self) -> asyncio.Future[str]:
        """Send SIGHUP, and return when the reload has begun.

        The returned Deferred fires when it has ended, with the log line about its result.
        """
        assert self.process is not None
        begun = self.expect(r"\] reloading: ")
        ended = self._next_reload = asyncio.get_running_loop().create_future()
        self.process.send_signal(signal.SIGHUP)
        await asyncio.wait_for(begun, RELOAD_SECONDS)
        return ended

    async def stop(self) -> int:
        """Send SIGTERM; return the exit status, or minus the signal."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = await asyncio.wait_for(self.process.wait(), END_SECONDS)
        except TimeoutError:
            self._violate(f"the server has not ended {END_SECONDS} s after SIGTERM")
            self.process.kill()
            status = await self.process.wait()
        assert self._reader is not None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._reader, END_SECONDS)
        return status

    def left_over(self) -> list[str]:
        """Return its remaining processes, with their titles."""
        return [f"{pid} {title_of(pid)}" for pid in processes_marked(self.name)]

    def kill_all(self) -> None:
        """Kill every remaining process, whatever has gone wrong."""
        ending = time.monotonic() + END_SECONDS
        while (left := processes_marked(self.name)) and time.monotonic() < ending:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
