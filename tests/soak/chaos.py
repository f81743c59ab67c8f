"""What happens to the server while it works: each by chance, and at a mean rate."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random

from taskd.errors import InvalidRequest, ParseError, TooLarge
from tests.soak.ledger import NOTHING, Asked, Ledger
from tests.soak.mix import Mix, Order
from tests.soak.peers import Peer, TextPeer, WebSocketPeer
from tests.soak.server import Server

__all__ = ["Chaos", "Code"]

CODE_SECONDS = 20.0
"""Seconds that new code has to come into use in, or to be given up."""

PAUSE_SECONDS = 1.5
"""Seconds for which a client may not read: the server gives it sixty."""

FILL = 12
"""Large results that a client asks for that does not read: more than it may leave unread."""

FREEZE_SECONDS = 0.3
"""Seconds for which a worker is stopped at most: its tasks' time goes on."""

STAY = "stay"
"""The function that ends only where its connection does."""

STAY_SECONDS = 0.3
"""Seconds after which the connection of such a task is dropped, at most."""

_GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
_UPGRADE = _GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
_KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
KNOCKS = (_GET + b"\r\n", _UPGRADE + b"\r\n", _UPGRADE + _KEY + b"\r\n\x81\x05hello")
"""What strangers say: a request for a page, and upgrades that are wrong, at once or a little later."""


class Code:
    """The app's file: as it is in `source`, with another version, or broken for a moment."""

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
        """Write it, in one step, at its present version."""
        text = re.sub(r"^VERSION = \d+$", f"VERSION = {self.version}", self._source, flags=re.MULTILINE)
        new = self.path.with_suffix(".new")
        new.write_text(f"{text}\n{breakage}\n")
        new.rename(self.path)


class Chaos:
    """Everything that is done to the server. `peers` are those that are open; `happened` counts.

    `haste`: how much more often it happens than usual.
    """

    def __init__(
        self,
        rng: Random,
        server: Server,
        ledger: Ledger,
        mix: Mix,
        code: Code,
        max_message: int,
        haste: float,
    ) -> None:
        self.rng = rng
        self.server = server
        self.ledger = ledger
        self.mix = mix
        self.code = code
        self.happened: Counter[str] = Counter()
        self.peers: list[Peer] = []
        self.worst_reload = 0.0
        self.is_ending = False
        self._max_message = max_message
        self._haste = haste
        self._tasks: list[asyncio.Task[None]] = []
        self._knocking: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Let it begin."""
        self._every(0.5, self._kill_worker)
        self._every(0.15, self._send_rare)
        self._every(0.4, self._disconnect)
        self._every(0.8, self._half_close)
        self._every(1.5, self._pause)
        self._every(2.5, self._send_too_much)
        self._every(0.2, self._cancel_old)
        self._every(0.5, self._leave_a_task)
        self._every(0.5, self._knock)
        self._every(0.7, self._freeze_worker)
        self._tasks.append(asyncio.create_task(self._change_code()))

    async def end(self) -> None:
        """Stop it; what is under way comes to its end."""
        self.is_ending = True
        for task in self._tasks[:-1]:
            task.cancel()
        for task in [*self._tasks, *self._knocking]:
            try:
                await task
            except asyncio.CancelledError:
                pass
            except Exception as error:
                self.ledger.violate(f"the soak itself failed: {error!r}")

    def _every(self, mean: float, action: Callable[[], None]) -> None:
        async def repeat() -> None:
            while True:
                await asyncio.sleep(self.rng.expovariate(self._haste / mean))
                action()

        self._tasks.append(asyncio.create_task(repeat()))

    def _peer(self, kind: type[Peer] = Peer) -> Peer | None:
        peers = [peer for peer in self.peers if isinstance(peer, kind) and peer.is_open and not peer.paused]
        return self.rng.choice(peers) if peers else None

    # --- processes ---

    def _kill_worker(self) -> None:
        workers = self.server.workers()
        if workers:
            self.ledger.kills(1)
            with suppress(ProcessLookupError):
                os.kill(self.rng.choice(workers), signal.SIGKILL)
            self.happened["workers killed"] += 1

    def _freeze_worker(self) -> None:
        """Stop a worker for a moment, as a machine does that has too much to do."""
        workers = self.server.workers()
        if workers:
            pid = self.rng.choice(workers)
            descriptor = os.pidfd_open(pid)  # by the time it goes on, its id may be another's
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
            asyncio.get_running_loop().call_later(
                self.rng.uniform(0.0, FREEZE_SECONDS), self._go_on, descriptor
            )
            self.happened["workers frozen"] += 1

    @staticmethod
    def _go_on(descriptor: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)
        os.close(descriptor)

    def _kill_fork_server(self, fork_server: int) -> None:
        # All of its workers go with it, and those that it was just forking.
        self.ledger.kills(len(self.server.workers()) + 2)
        os.kill(fork_server, signal.SIGKILL)
        self.happened["fork servers killed"] += 1

    # --- tasks ---

    def _send_rare(self) -> None:
        peer = self._peer()
        if peer is not None:
            self.mix.put_rare(peer)
            peer.flush()
            self.happened["tasks that misbehave"] += 1

    def _cancel_old(self) -> None:
        peer = self._peer()
        target = peer.to_cancel(self.rng) if peer is not None else None
        if peer is not None and target is not None:
            self.mix.cancel(peer, target)
            peer.flush()
            self.happened["cancels of what waits for long"] += 1

    def cancel_job(self, peer: Peer, job: int) -> None:
        """Cancel a task by its number, whosever it is."""
        ledger = self.ledger

        def fits(answer: dict[str, str]) -> bool:
            ledger.jobs_cancelled += answer["was"] != "done"
            return answer["was"] in ("waiting", "running", "done")

        asked = Asked("taskd.cancel", self.mix.number(), fits)
        peer.ask(Order(asked, "taskd.cancel", f'{{"job":{job}}}'))
        self.happened["cancels by job"] += 1

    # --- connections ---

    def _disconnect(self) -> None:
        peer = self._peer()
        if peer is None:
            return
        for asked in peer.owed():  # what it had asked for last is to be under way
            asked.timed = False
        drawn = self.rng.random()
        if isinstance(peer, WebSocketPeer) and drawn < 0.6:
            if drawn < 0.3:
                peer.close()
            else:
                peer.send_binary()
        else:
            peer.drop(reset=drawn < 0.8)
        self.happened["disconnects"] += 1

    def _leave_a_task(self) -> None:
        """Ask for something that is to end with its connection, and be gone."""
        peer = self._peer()
        if peer is None:
            return
        order = Order(
            Asked(STAY, self.mix.number(), NOTHING, on_disconnect=True),
            STAY,
            "[]",
            '{"on_disconnect":"cancel"}',
        )
        if self.rng.random() < 0.5:
            peer.ask(order)
        else:
            peer.ask_bare(order)
        peer.flush()
        asyncio.get_running_loop().call_later(self.rng.uniform(0.0, STAY_SECONDS), self._leave, peer)
        self.happened["tasks left"] += 1

    def _leave(self, peer: Peer) -> None:
        # It may be about to end by something else, for which its tasks need not end.
        if peer.transport is not None and not peer.transport.is_closing():
            peer.drop(reset=self.rng.random() < 0.5)

    def _knock(self) -> None:
        """Connect, say something that nobody understands, or nothing, and go."""
        knocking = asyncio.create_task(self._knock_at(self.rng.choice(self.server.ports)))
        self._knocking.add(knocking)
        knocking.add_done_callback(self._knocking.discard)
        self.happened["knocks"] += 1

    async def _knock_at(self, port: int) -> None:
        said = self.rng.choice([b"", self.rng.randbytes(300), b"GET / HTTP/1.1\r\nUpg", *KNOCKS])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        await asyncio.sleep(self.rng.uniform(0.0, 0.5))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def _half_close(self) -> None:
        peer = self._peer(TextPeer)
        if isinstance(peer, TextPeer):
            if self.rng.random() < 0.3:
                asked = Asked("unfinished", self.mix.number(), NOTHING, frozenset({ParseError.code}))
                peer.send_last(asked, b'{"function":"ec')
            peer.end_sending()
            self.happened["half-closes"] += 1

    def _send_too_much(self) -> None:
        """A line that is too long, or one that a browser would send: both end the connection."""
        peer = self._peer(TextPeer)
        if isinstance(peer, TextPeer):
            number = self.mix.number()
            if self.rng.random() < 0.5:
                asked = Asked("too long", number, NOTHING, frozenset({TooLarge.code}))
                peer.send_last(asked, b'{"function":"echo","args":["' + b"x" * (self._max_message + 5))
            else:
                asked = Asked("HTTP", number, NOTHING, frozenset({InvalidRequest.code}))
                peer.send_last(asked, b"POST / HTTP/1.1\r\n")
            self.happened["lines that end a connection"] += 1

    def _pause(self) -> None:
        """Have a client that reads nothing for a while."""
        peer = self._peer()
        if peer is not None:
            peer.pause()
            for _ in range(FILL):
                peer.ask(self.mix.large_result())
            peer.flush()
            seconds = self.rng.uniform(0.1, PAUSE_SECONDS)
            asyncio.get_running_loop().call_later(seconds, peer.resume)
            self.happened["clients that do not read"] += 1

    # --- code ---

    async def _change_code(self) -> None:
        actions = [self._reload, self._reload_broken, self._lose_code, self._reload]
        while not self.is_ending:
            await asyncio.sleep(self.rng.uniform(0.3, 2.0) / self._haste)
            if self.is_ending:
                return
            if actions:
                await actions.pop(0)()
                continue
            await self.rng.choices(
                [
                    self._reload,
                    self._reload_broken,
                    self._reload_twice,
                    self._reload_and_lose,
                    self._lose_code,
                    self._lose_broken_code,
                ],
                [50, 25, 10, 6, 4, 5],
            )[0]()
            await asyncio.sleep(self.rng.uniform(0.5, 6.0) / self._haste)

    async def _ended(self, what: str, ending: Awaitable[str]) -> str:
        try:
            return await asyncio.wait_for(ending, CODE_SECONDS)
        except TimeoutError:
            self.ledger.violate(f"{what} has not ended after {CODE_SECONDS} s")
            return ""

    async def _reload_now(self, *, may_fail: str, times: int = 1) -> bool:
        """Reload good code; whether it is in use. `may_fail`: why it may not be."""
        self.server.may_trace = False
        self.code.version += 1
        self.ledger.newest_version = self.code.version
        self.code.write()
        self.ledger.reload_began()
        began = self.ledger.clock()
        for turn in range(times):
            ended = self.server.expect(r"\] (not )?reloaded: ")
            self.server.reload()
            if turn < times - 1:
                await asyncio.sleep(self.rng.uniform(0.0, 0.3))
        record = await self._ended("a reload", ended)
        self.ledger.reload_ended()
        self.worst_reload = max(self.worst_reload, self.ledger.clock() - began)
        if " reloaded: " in record and "not reloaded" not in record:
            self.ledger.version = self.code.version
            return True
        if record and not re.search(may_fail, record):
            self.ledger.violate(f"good code was not taken: {record}")
        return False

    async def _reload(self) -> None:
        if await self._reload_now(may_fail="killed by SIGKILL"):
            self.happened["reloads"] += 1
        else:
            self.happened["reloads that a kill prevented"] += 1

    async def _reload_broken(self) -> None:
        breakage = self.rng.choice(Code.BREAKAGES)
        self.server.may_trace = "raise" in breakage  # its workers do so, each for itself
        self.code.write(breakage)
        ended = self.server.expect(r"\] (not )?reloaded: ")
        self.server.reload()
        record = await self._ended("a reload of broken code", ended)
        if record and "not reloaded: " not in record:
            self.ledger.violate(f"broken code was taken: {record}")
        self.code.write()
        self.happened["reloads of broken code"] += 1

    async def _reload_twice(self) -> None:
        """The first one is given up for the second."""
        self.ledger.reload_began()
        self.server.reload()
        await asyncio.sleep(self.rng.uniform(0.0, 0.3))
        await self._settle()
        self.ledger.reload_ended()
        self.happened["reloads during a reload"] += 1

    async def _reload_and_lose(self) -> None:
        """A fork server is killed while new code is loaded: which of both, is by chance."""
        self.server.reload()
        await asyncio.sleep(self.rng.uniform(0.0, 0.5))
        self._kill_fork_server(self.rng.choice(self.server.fork_servers()))
        await self._settle()
        self.happened["reloads with a fork server killed"] += 1

    async def _lose_code(self) -> None:
        loaded = self.server.expect("functions: ")
        self._kill_fork_server(self.server.fork_servers()[-1])  # older ones may be about to end
        await self._ended("the start of another fork server", loaded)

    async def _lose_broken_code(self) -> None:
        """The fork server is killed, and the next ones cannot load the code, until it is mended."""
        self.code.write(Code.BREAKAGES[0])
        self._kill_fork_server(self.server.fork_servers()[-1])
        await asyncio.sleep(self.rng.uniform(0.0, 1.0))
        if self.rng.random() < 0.5:
            self.server.reload()
            await asyncio.sleep(self.rng.uniform(0.0, 0.2))
        await self._settle()
        self.happened["fork servers killed under broken code"] += 1

    async def _settle(self) -> None:
        """Have good code in use, whatever is under way."""
        for _ in range(4):
            if await self._reload_now(may_fail="."):
                return
            await asyncio.sleep(1)
        self.ledger.violate("good code does not come into use any more")
