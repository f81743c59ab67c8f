"""A node of a drill: a daemon as a process of its own, which is killed, stopped, frozen and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import taskd
from taskd.client.aio import AsyncClient
from taskd.drill.processes import children_of, family_of
from taskd.drill.runs import LIFE
from taskd.errors import TaskdError
from taskd.worker.forking import die_with_parent

__all__ = ["DrillError", "Node"]

START_SECONDS = 60.0
"""Seconds within which a node must be ready: it takes one or two."""

LOOK_SECONDS = 0.05
"""Seconds between two looks at whether it is."""

STOP_SECONDS = 40.0
"""Seconds within which a node must end after SIGTERM; the tasks have 30 by then."""

OPTIONS_OF_ENVIRONMENT = "TASKD_"
"""How the variables begin that would set options of a node: it gets none of them."""


class DrillError(Exception):
    """A drill cannot be made, or go on: the text has why."""


class Node:
    """A node with the `options` of ``taskd serve``. Its output is appended to `log`.

    `life` is its name and how many times it has been started. `socket` is where it listens. It ends with
    this process, however that ends. `is_ready` is whether it has started, and was not ended since.
    """

    def __init__(
        self, number: int, options: Sequence[str], directory: Path, socket: Path, runs: Mapping[str, str]
    ) -> None:
        self.number = number
        self.log = directory / f"node-{number}.log"
        self.address = f"unix:{socket}"
        self.is_frozen = False
        self.is_ready = False
        self._options = options
        self._directory = directory
        self._runs = runs
        self._store = ""
        self._lives = 0
        self._process: asyncio.subprocess.Process | None = None
        self._ends_on_purpose = False

    @property
    def life(self) -> str:
        """The name of the present life, or of the last one."""
        return f"{self.number}.{self._lives}"

    @property
    def is_running(self) -> bool:
        """Whether the daemon is there."""
        return self._process is not None and self._process.returncode is None

    @property
    def death(self) -> str | None:
        """How the daemon has ended by itself, None if it has not."""
        if self._process is None or self._process.returncode is None or self._ends_on_purpose:
            return None
        return f"node {self.life} ended by itself with status {self._process.returncode}: {self.last_line()}"

    def last_line(self) -> str:
        """Return the last line of the log."""
        lines = self.log.read_text(errors="backslashreplace").splitlines() if self.log.exists() else []
        return lines[-1] if lines else "its log is empty"

    def use_store(self, store: str) -> None:
        """Name its store; call this before it is started.

        It is no option of the command line, since that is shown to everybody, and it may have a password.
        """
        self._store = store

    async def start(self) -> None:
        """Start the daemon; return when it runs tasks. Raises `DrillError` if it ends, or takes too long."""
        self._lives += 1
        self._ends_on_purpose = False
        parent = os.getpid()
        command = [
            *(sys.executable, "-m", "taskd.cli.main", "serve", "--app", "taskd.drill.app"),
            *("--name", f"drill-{parent}-{self.number}", "--listen", self.address, "--websocket", "none"),
            *self._options,
        ]

        def begin() -> None:
            die_with_parent(signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)  # it has ended before the kernel knew

        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self._directory,
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=begin,
            )
        try:
            await asyncio.wait_for(self._ready(), START_SECONDS)
        except TimeoutError:
            await self.abort()
            raise DrillError(
                f"node {self.life} is not ready within {START_SECONDS:g} s: {self.last_line()}"
            ) from None
        self.is_ready = True

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(OPTIONS_OF_ENVIRONMENT)
        }
        # The nodes run the same taskd as this process, wherever that was found.
        paths = [str(Path(taskd.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        kept["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        return kept | dict(self._runs) | {LIFE: self.life, "TASKD_STORE": self._store}

    async def _ready(self) -> None:
        async with AsyncClient(self.address, connect_timeout=LOOK_SECONDS) as client:
            while True:
                with suppress(TaskdError):
                    status = await client.with_options(wait=1.0).status()
                    if status["code"]["state"] == "ready":
                        return
                if not self.is_running:
                    self._ends_on_purpose = True  # the error is reported, and is enough
                    raise DrillError(f"node {self.life} has not started: {self.last_line()}")
                await asyncio.sleep(LOOK_SECONDS)

    # --- what is done to it ---

    def kill_worker(self, rng: Random) -> int:
        """Kill a worker; return its process id, 0 if there is none."""
        if not self.is_running or self.is_frozen:
            return 0
        workers = [worker for fork_server in children_of(self._pid) for worker in children_of(fork_server)]
        if not workers:
            return 0
        victim = rng.choice(workers)
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        return victim

    async def kill(self) -> None:
        """Kill the daemon, whose other processes end with it."""
        self._ends_on_purpose, self.is_ready = True, False
        self._signal([self._pid], signal.SIGKILL)
        await self._ended()

    async def stop(self) -> str | None:
        """Stop the daemon in order; return what is wrong with its end, None if nothing is."""
        self._ends_on_purpose, self.is_ready = True, False
        self._signal([self._pid], signal.SIGTERM)
        try:
            status = await asyncio.wait_for(self._ended(), STOP_SECONDS)
        except TimeoutError:
            await self.kill()
            return f"node {self.life} has not ended {STOP_SECONDS:g} s after SIGTERM"
        if status not in (0, -signal.SIGTERM):
            return f"node {self.life} ended with status {status} after SIGTERM: {self.last_line()}"
        return None

    def freeze(self) -> list[int]:
        """Freeze all processes of the node, as if its machine did nothing; return them for `thaw`."""
        self.is_frozen = True
        family = family_of(self._pid)
        self._signal(family, signal.SIGSTOP)
        return family

    def thaw(self, family: Sequence[int]) -> None:
        """Let the processes go on."""
        self._signal(family, signal.SIGCONT)
        self.is_frozen = False

    async def abort(self) -> None:
        """Kill all processes of the node at once, whatever state they are in."""
        self._ends_on_purpose, self.is_ready = True, False
        self._signal(family_of(self._pid), signal.SIGKILL)
        await self._ended()

    # --- in here ---

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def _ended(self) -> int:
        assert self._process is not None
        return await self._process.wait()

    def _signal(self, family: Sequence[int], number: signal.Signals) -> None:
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
