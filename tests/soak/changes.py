"""Changes of the app's code, which is broken and repaired, and fork servers that are killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

from tests.soak.ledger import Ledger
from tests.soak.server import Server

__all__ = ["Changes", "Code"]

CODE_SECONDS = 20.0
"""Seconds within which new code must be in use or given up."""


class Code:
    """The app's file: a copy of `source` with another version, or broken for a moment."""

    BREAKAGES = (
        "def",  # a syntax error
        "raise RuntimeError('broken for a moment')",
        "import there_is_no_such_module",
        "os._exit(3)",
        "import taskd\n@taskd.on_worker_start\ndef fail():\n    raise RuntimeError('no worker starts')",
        "import taskd\n@taskd.on_worker_start\ndef end():\n    os._exit(4)",
    )

    def __init__(self, source: Path, target: Path) -> None:
        self._source = source.read_text()
        self.path = target
        self.version = 0
        self.write()

    def write(self, breakage: str = "") -> None:
        """Write the current version of the app in one step."""
        text = re.sub(r"^VERSION = \d+$", f"VERSION = {self.version}", self._source, flags=re.MULTILINE)
        new = self.path.with_suffix(".new")
        new.write_text(f"{text}\n{breakage}\n")
        new.rename(self.path)


class Changes:
    """Random changes, one after the other.

    `happened` counts them; `haste` is that of `chaos.Chaos`. `worst` is how long the longest reload
    took, in seconds.
    """

    def __init__(
        self,
        rng: Random,
        server: Server,
        ledger: Ledger,
        code: Code,
        happened: Counter[str],
        haste: float,
    ) -> None:
        self.worst = 0.0
        self._rng = rng
        self._server = server
        self._ledger = ledger
        self._code = code
        self._happened = happened
        self._haste = haste
        self._is_ending = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin with the changes."""
        self._task = asyncio.create_task(self._change())

    async def end(self) -> None:
        """Return when the last change has ended and good code is in use."""
        self._is_ending = True
        assert self._task is not None
        try:
            await self._task
        except Exception as error:
            self._ledger.violate(f"the soak itself failed: {error!r}")

    # --- what happens ---

    def _kill_fork_server(self, fork_server: int) -> None:
        # All of its workers end with it, and those that it was just forking.
        self._ledger.kills(len(self._server.workers()) + 2)
        os.kill(fork_server, signal.SIGKILL)
        self._happened["fork servers killed"] += 1

    async def _change(self) -> None:
        often: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (50, self._reload),
            (25, self._reload_broken),
            (10, self._reload_twice),
            (6, self._reload_and_lose),
            (4, self._lose_code),
            (5, self._lose_broken_code),
        ]
        weights, changes = zip(*often, strict=True)
        first = [self._reload, self._reload_broken, self._lose_code]  # a short run has each kind too
        while not self._is_ending:
            if first:
                await asyncio.sleep(self._rng.uniform(0.3, 2.0) / self._haste)
                await first.pop(0)()
            else:
                await asyncio.sleep(self._rng.uniform(0.8, 8.0) / self._haste)
                await self._rng.choices(changes, weights)[0]()

    async def _ended(self, what: str, ending: Awaitable[str]) -> str:
        try:
            return await asyncio.wait_for(ending, CODE_SECONDS)
        except TimeoutError:
            self._ledger.violate(f"{what} has not ended after {CODE_SECONDS} s")
            return ""

    async def _reload_now(self, *, may_fail: str) -> bool:
        """Reload good code, and return whether it is in use. `may_fail` is a valid reason for failing."""
        self._server.may_trace = False
        self._code.version += 1
        self._ledger.newest_version = self._code.version
        self._code.write()
        self._ledger.reload_began()
        began = self._ledger.clock()
        ended = await self._server.reload()
        record = await self._ended("a reload", ended)
        self._ledger.reload_ended()
        self.worst = max(self.worst, self._ledger.clock() - began)
        if " reloaded: " in record and "not reloaded" not in record:
            self._ledger.version = self._code.version
            return True
        if record and not re.search(may_fail, record):
            self._ledger.violate(f"good code was not taken: {record}")
        return False

    async def _reload(self) -> None:
        if await self._reload_now(may_fail="killed by SIGKILL"):
            self._happened["reloads"] += 1
        else:
            self._happened["reloads that a kill prevented"] += 1

    async def _reload_broken(self) -> None:
        breakage = self._rng.choice(Code.BREAKAGES)
        self._server.may_trace = "raise" in breakage  # its workers end by themselves
        self._code.write(breakage)
        ended = await self._server.reload()
        record = await self._ended("a reload of broken code", ended)
        if record and "not reloaded: " not in record:
            self._ledger.violate(f"broken code was taken: {record}")
        self._code.write()
        self._happened["reloads of broken code"] += 1

    async def _reload_twice(self) -> None:
        """Start a second reload during the first, which is given up for it."""
        self._ledger.reload_began()
        await self._server.reload()
        await asyncio.sleep(self._rng.uniform(0.0, 0.3))
        await self._settle()
        self._ledger.reload_ended()
        self._happened["reloads during a reload"] += 1

    async def _reload_and_lose(self) -> None:
        """Kill one of both fork servers, chosen at random, while new code is loaded."""
        await self._server.reload()
        await asyncio.sleep(self._rng.uniform(0.0, 0.5))
        self._kill_fork_server(self._rng.choice(self._server.fork_servers()))
        await self._settle()
        self._happened["reloads with a fork server killed"] += 1

    async def _lose_code(self) -> None:
        loaded = self._server.expect("functions: ")
        self._kill_fork_server(self._server.fork_servers()[-1])  # older fork servers may be about to end
        await self._ended("the start of another fork server", loaded)

    async def _lose_broken_code(self) -> None:
        """Kill the fork server, and let the next ones fail to load the code until it is repaired."""
        self._code.write(Code.BREAKAGES[0])
        self._kill_fork_server(self._server.fork_servers()[-1])
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        if self._rng.random() < 0.5:
            await self._server.reload()
            await asyncio.sleep(self._rng.uniform(0.0, 0.2))
        await self._settle()
        self._happened["fork servers killed under broken code"] += 1

    async def _settle(self) -> None:
        """Make sure that good code is in use, whatever is in flight."""
        for _ in range(4):
            if await self._reload_now(may_fail="."):
                return
            await asyncio.sleep(1)
        self._ledger.violate("good code does not come into use any more")
