"""Accidents that happen to the server while it works, at random times and a mean rate."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random

from taskd.errors import ParseError, TooLarge
from tests.soak.ledger import NOTHING, Asked, Ledger
from tests.soak.mix import Mix, Order
from tests.soak.peers import Peer, TextPeer
from tests.soak.server import Server
from tests.soak.websocket import WebSocketPeer

__all__ = ["STAY", "Chaos"]

PAUSE_SECONDS = 1.5
"""Seconds for which a client stops reading: the server tolerates sixty."""

FILL = 12
"""The number of large results requested by a client that does not read: more than it may leave unread."""

FREEZE_SECONDS = 0.3
"""The longest time for which a worker is stopped, in seconds: its tasks' time limits go on."""

BURST_SECONDS = 0.02
"""Seconds after a burst within which a worker is killed."""

BURST_CANCELS = 5

STAY = "stay"
"""The function that ends only with its connection."""

STAY_SECONDS = 0.3
"""The longest time after which the connection of such a task is dropped, in seconds."""

_GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
_UPGRADE = _GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
_KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
KNOCKS = (_GET + b"\r\n", _UPGRADE + b"\r\n", _UPGRADE + _KEY + b"\r\n\x81\x05hello")
"""Data that strangers send: a request for a page, and upgrades that are invalid, at once or later."""


class Chaos:
    """The accidents of processes, tasks and connections.

    `peers` are the open ones; `happened` counts the accidents. `haste` is how much more often than usual
    they happen.
    """

    def __init__(
        self,
        rng: Random,
        server: Server,
        ledger: Ledger,
        mix: Mix,
        peers: list[Peer],
        happened: Counter[str],
        max_message: int,
        haste: float,
    ) -> None:
        self.rng = rng
        self.server = server
        self.ledger = ledger
        self.mix = mix
        self.happened = happened
        self.peers = peers
        self._max_message = max_message
        self._haste = haste
        self._tasks: list[asyncio.Task[None]] = []
        self._knocking: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Begin with the accidents."""
        self._every(0.5, self._kill_worker)
        self._every(0.15, self._send_rare)
        self._every(0.6, self._burst)
        self._every(0.4, self._disconnect)
        self._every(0.8, self._half_close)
        self._every(1.5, self._pause)
        self._every(2.5, self._send_too_much)
        self._every(0.2, self._cancel_old)
        self._every(0.5, self._leave_a_task)
        self._every(0.5, self._knock)
        self._every(0.7, self._freeze_worker)

    async def end(self) -> None:
        """Stop the accidents."""
        for task in self._tasks:
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
        """Stop a worker for a moment, as on an overloaded machine."""
        workers = self.server.workers()
        if workers:
            pid = self.rng.choice(workers)
            descriptor = os.pidfd_open(pid)  # by the time it continues, its id may belong to another process
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

    # --- tasks ---

    def _send_rare(self) -> None:
        peer = self._peer()
        if peer is not None:
            self.mix.put_rare(peer)
            peer.flush()
            self.happened["tasks that misbehave"] += 1

    def _burst(self) -> None:
        """Send many requests at once, for batches; some are cancelled, or lose their worker."""
        peer = self._peer()
        if peer is None:
            return
        for _ in range(peer.room - peer.in_flight):
            peer.ask(self.mix.short())
        peer.flush()
        self.happened["bursts"] += 1
        loop, drawn = asyncio.get_running_loop(), self.rng.random()
        if drawn < 0.3:
            loop.call_later(self.rng.uniform(0.0, BURST_SECONDS), self._kill_worker)
        elif drawn < 0.6:
            for _ in range(BURST_CANCELS):
                target = peer.to_cancel(self.rng)
                if target is not None:
                    self.mix.cancel(peer, target)
            peer.flush()

    def _cancel_old(self) -> None:
        peer = self._peer()
        target = peer.to_cancel(self.rng) if peer is not None else None
        if peer is not None and target is not None:
            self.mix.cancel(peer, target)
            peer.flush()
            self.happened["cancels of what waits for long"] += 1

    def cancel_task(self, peer: Peer, task: int) -> None:
        """Cancel a task of any connection by its number."""
        ledger = self.ledger

        def fits(answer: dict[str, str]) -> bool:
            ledger.tasks_cancelled += answer["was"] != "done"
            return answer["was"] in ("waiting", "running", "done")

        asked = Asked("taskd.cancel", self.mix.number(), fits)
        peer.ask(Order(asked, "taskd.cancel", f'{{"task":{task}}}'))
        peer.flush()
        self.happened["cancels by task"] += 1

    # --- connections ---

    def _disconnect(self) -> None:
        peer = self._peer()
        if peer is None:
            return
        for asked in peer.owed():  # its last request must be in flight
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
        """Request a task that must end with its connection, and disconnect."""
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
        # The connection may be about to end for another reason, which does not cancel its tasks.
        if peer.transport is not None and not peer.transport.is_closing():
            peer.drop(reset=self.rng.random() < 0.5)

    def _knock(self) -> None:
        """Connect, send nonsense or nothing, and disconnect."""
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
        """Send a line that is too long, which ends the connection."""
        peer = self._peer(TextPeer)
        if isinstance(peer, TextPeer):
            number = self.mix.number()
            asked = Asked("too long", number, NOTHING, frozenset({TooLarge.code}))
            peer.send_last(asked, b'{"function":"echo","args":["' + b"x" * (self._max_message + 5))
            self.happened["lines that end a connection"] += 1

    def _pause(self) -> None:
        """Let a client read nothing for a while."""
        peer = self._peer()
        if peer is not None:
            peer.pause()
            for _ in range(FILL):
                peer.ask(self.mix.large_result())
            peer.flush()
            seconds = self.rng.uniform(0.1, PAUSE_SECONDS)
            asyncio.get_running_loop().call_later(seconds, peer.resume)
            self.happened["clients that do not read"] += 1
