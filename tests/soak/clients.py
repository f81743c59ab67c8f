"""The clients of a soak, which are opened, replaced when they end, and closed."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import Any

from tests.soak.ledger import Asked, Ledger
from tests.soak.mix import Mix, Order
from tests.soak.peers import Peer, TextPeer
from tests.soak.websocket import WebSocketPeer

__all__ = ["Clients", "Stuck"]

ANSWER_SECONDS = 30.0
"""Seconds within which the server must answer, whatever else it does."""

POLL_SECONDS = 0.05


class Stuck(Exception):
    """The server does not answer, so the soak cannot go on."""


class Clients:
    """The clients.

    `peers` can send requests; `open_peers` also has those that are about to end. While `replaces` is
    true, a client that has ended is replaced by another of its kind. `control` sends the soak's own
    requests.
    """

    def __init__(self, rng: Random, ledger: Ledger, mix: Mix) -> None:
        self.peers: list[Peer] = []
        self.open_peers: set[Peer] = set()
        self.replaces = False
        self.control = TextPeer(ledger, rng, lambda _: None)
        self._rng = rng
        self._ledger = ledger
        self._mix = mix
        self._ports: list[int] = []
        self._opening: set[asyncio.Task[None]] = set()

    # --- opening ---

    async def connect(self, ports: list[int]) -> None:
        """Connect `control`; `ports` are those of the task server and of the gateway."""
        self._ports = ports
        await asyncio.get_running_loop().create_connection(lambda: self.control, "127.0.0.1", ports[0])

    async def open(self, kind: type[Peer]) -> Peer:
        """Open another client."""
        _, peer = await asyncio.get_running_loop().create_connection(
            lambda: kind(self._ledger, self._rng, self._lost),
            "127.0.0.1",
            self._ports[1 if kind is WebSocketPeer else 0],
        )
        if isinstance(peer, WebSocketPeer):
            await asyncio.wait_for(peer.opened, ANSWER_SECONDS)
        else:  # its first line must look like a request
            peer.ask(self._mix.echo())
            peer.flush()
        self.open_peers.add(peer)
        self.peers.append(peer)
        return peer

    def _lost(self, peer: Peer) -> None:
        self.open_peers.discard(peer)
        if peer in self.peers:
            self.peers.remove(peer)
            if self.replaces:
                opening = asyncio.create_task(self._reopen(type(peer)))
                self._opening.add(opening)
                opening.add_done_callback(self._opening.discard)

    async def _reopen(self, kind: type[Peer]) -> None:
        try:
            await self.open(kind)
        except OSError as error:
            self._ledger.violate(f"no connection could be opened: {error}")

    # --- the soak's own requests ---

    async def ask(self, peer: Peer, function: str) -> Any:
        """Call one of the server's own methods, and return its answer."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def take(value: Any) -> bool:
            if not answer.done():  # the caller may have been cancelled
                answer.set_result(value)
            return True

        peer.ask(Order(Asked(function, self._mix.number(), take), function))
        peer.flush()
        return await asyncio.wait_for(answer, ANSWER_SECONDS)

    async def status(self) -> dict[str, Any]:
        """Return the server's status."""
        status: dict[str, Any] = await self.ask(self.control, "taskd.status")
        return status

    # --- closing ---

    async def drain(self) -> None:
        """Wait until everything is answered, and every connection that should end has ended."""
        for peer in self.open_peers:
            if peer.paused:
                peer.resume()
        ending = time.monotonic() + ANSWER_SECONDS
        while not all(peer.is_open and not peer.in_flight for peer in self.open_peers):
            if time.monotonic() > ending:
                self._tell_what_is_owed()
                raise Stuck(f"not all was answered; the server says {await self.status()}")
            await asyncio.sleep(POLL_SECONDS)

    def _tell_what_is_owed(self) -> None:
        for peer in self.open_peers:
            owed = peer.owed()
            if owed or not peer.is_open:
                what = ", ".join(f"{asked.what} {asked.number}" for asked in owed[:5])
                self._ledger.violate(
                    f"{ANSWER_SECONDS} s after the last request a connection ({peer.ending.value}) "
                    f"is owed {len(owed)} replies: {what}"
                )

    def close(self) -> None:
        """Close all but `control`."""
        self.replaces = False
        for peer in list(self.open_peers):
            if isinstance(peer, WebSocketPeer) and peer.is_open:
                peer.close()
            elif peer.is_open:
                peer.drop(reset=False)
