"""The mix of requests: mostly short echoes, and a little of everything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

from taskd.errors import (
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    ParseError,
    TaskFailed,
    TimedOut,
)
from tests.soak.ledger import NOTHING, Asked, Ledger

if TYPE_CHECKING:
    from tests.soak.peers import Peer

__all__ = ["MALFORMED", "Mix", "Order"]

DEADLINE = 0.02
"""A deadline in seconds, which some waiting tasks exceed and most do not."""

LIMIT = 0.2
"""The time limit, in seconds, of tasks that do not end by themselves."""

LONGEST_NAP = 0.05
"""Seconds."""

MAX_BATCH = 12
"""The largest number of requests in a batch: larger batches show nothing new."""

LARGE = (1_000, 30_000, 300_000)
"""Bytes of a large argument: more than one read, and more than a socket holds."""

NESTED = 200
"""The depth of an unusual, but valid nesting."""

NO_FUNCTION = "no_such_function"


class Order:
    """One call: its form on the wire, except for the dialect, and its possible replies."""

    __slots__ = ("args", "asked", "function", "options")

    def __init__(self, asked: Asked, function: str, args: str = "[]", options: str = "") -> None:
        self.asked = asked
        self.function = function
        self.args = args
        self.options = options

    def bare(self) -> bytes:
        """Make a bare request, as Workerman's example sends it."""
        options = f',"options":{self.options}' if self.options else ""
        return f'{{"function":"{self.function}","args":{self.args}{options}}}'.encode()

    def rpc(self, request_id: int | str | None) -> bytes:
        """Make a JSON-RPC request; without an id a notification."""
        identity = "" if request_id is None else f'"id":{json.dumps(request_id)},'
        options = f',"options":{self.options}' if self.options else ""
        return (
            f'{{"jsonrpc":"2.0",{identity}"method":"{self.function}","params":{self.args}{options}}}'.encode()
        )


MALFORMED: list[tuple[bytes, int]] = [
    (b"{", ParseError.code),
    (b"\xff\xfe\x00", ParseError.code),
    (b"nonsense", ParseError.code),
    (b'{"function":"echo","args":[1]', ParseError.code),
    (b'{"function":"echo"}{"function":"echo"}', ParseError.code),
    (b"[" * 5000, ParseError.code),
    (b'{"function":"echo","args":["\xc3\x28"]}', ParseError.code),
    (b"[]", InvalidRequest.code),
    (b"12", InvalidRequest.code),
    (b"null", InvalidRequest.code),
    (b'"text"', InvalidRequest.code),
    (b"{}", InvalidRequest.code),
    (b'{"function":5}', InvalidRequest.code),
    (b'{"function":"echo","argz":[]}', InvalidRequest.code),
    (b'{"function":"echo","args":"x"}', InvalidRequest.code),
    (b'{"function":"echo","args":["\\u0000\xe2\x82\xac"],"options":{"what":1}}', InvalidRequest.code),
    (b'{"function":"echo","options":{"timeout":-1}}', InvalidRequest.code),
    (b'{"function":"echo","options":{"priority":10}}', InvalidRequest.code),
    (b'{"jsonrpc":"1.0","method":"echo"}', InvalidRequest.code),
    (b'{"jsonrpc":"2.0","method":["echo"]}', InvalidRequest.code),
    (b'{"jsonrpc":"2.0","method":"echo","id":{}}', InvalidRequest.code),
]
"""Messages without a readable id, each with the code of its error."""

MALFORMED_TEXTS = [
    (message, code) for message, code in MALFORMED if b"\xff" not in message and b"\xc3" not in message
]
"""The messages of these that are UTF-8: others close a websocket."""


class Mix:
    """A source of random orders; everything that it does follows from `rng`."""

    def __init__(self, rng: Random, ledger: Ledger) -> None:
        self.rng = rng
        self._ledger = ledger
        self._numbers = count(1)
        # The lower bounds of `random` for the next kind.
        self._table: list[tuple[float, Callable[[Peer], None]]] = []
        weights: list[tuple[float, Callable[[Peer], None]]] = [
            (42, self._rpc),
            (22, self._bare),
            (13, lambda peer: peer.ask(self._mark())),
            (6, lambda peer: peer.notify(self._mark(what="mark by notification"))),
            (2, self._batch),
            (4, lambda peer: peer.ask(self._nap())),
            (2, lambda peer: peer.ask_bare(self._nap())),
            (2, lambda peer: peer.ask(self._failing())),
            (1, lambda peer: peer.ask_bare(self._failing())),
            (1, lambda peer: peer.notify(self._failing())),
            (1, lambda peer: peer.ask(self._late())),
            (1, lambda peer: peer.ask(self._steps())),
            (1, self._cancel),
            (0.8, self._malformed),
            (0.5, lambda peer: peer.ask(self._own())),
            (0.3, lambda peer: peer.ask(self._large())),
            (0.3, lambda peer: peer.ask(self._say())),
            (0.3, lambda peer: peer.ask(self._version())),
        ]
        total = sum(weight for weight, _ in weights)
        below = 0.0
        for weight, make in weights:
            below += weight / total
            self._table.append((below, make))

    def put_one(self, peer: Peer) -> None:
        """Send one message, whatever it is."""
        drawn = self.rng.random()
        for below, make in self._table:
            if drawn < below:
                make(peer)
                return

    def number(self) -> int:
        """Return a new number."""
        return next(self._numbers)

    # --- usual requests ---

    def _rpc(self, peer: Peer) -> None:
        peer.ask(self.echo(timed=True))

    def _bare(self, peer: Peer) -> None:
        peer.ask_bare(self.echo())

    def echo(self, *, timed: bool = False) -> Order:
        """Make a short call."""
        number = self.number()
        asked = Asked("echo", number, number, timed=timed)
        return Order(asked, "echo", f"[{number}]", self._options(asked))

    def _mark(self, what: str = "mark") -> Order:
        number = self.number()
        asked = Asked(what, number, number, mark=True)
        return Order(asked, "mark", f"[{number}]", self._options(asked))

    def short(self) -> Order:
        """Make a call that counts as short, and may be sent to a worker in a batch."""
        return self.echo() if self.rng.random() < 0.5 else self._mark()

    def _options(self, asked: Asked) -> str:
        """Draw options; mostly there are none."""
        drawn = self.rng.random()
        if drawn < 0.9:
            return ""
        if drawn < 0.93:
            asked.timed = False  # it may have to wait for the others
            return f'{{"priority":{self.rng.randrange(10)}}}'
        if drawn < 0.96:
            asked.on_disconnect = True
            return '{"on_disconnect":"cancel"}'
        return '{"timeout":3.5,"deadline":60}'

    def _nap(self) -> Order:
        return self.nap(round(min(self.rng.expovariate(100), LONGEST_NAP) + 0.001, 4))

    def nap(self, seconds: float) -> Order:
        """Make a call that takes some time."""
        number, drawn = self.number(), self.rng.random()
        if drawn < 0.4:
            asked = Asked("mark and nap", number, number, mark=True)
            return Order(asked, "mark", f"[{number},{seconds}]", self._options(asked))
        asked = Asked("nap", number, seconds)
        function = "nap" if drawn < 0.7 else "nap_async"
        return Order(asked, function, f"[{seconds}]", self._options(asked))

    def _late(self) -> Order:
        """Make a call that must be started soon or not at all."""
        number = self.number()
        asked = Asked("mark in time", number, number, frozenset({TimedOut.code}), mark=True)
        return Order(
            asked, "mark", f"[{number}]", f'{{"deadline":{DEADLINE},"priority":{self.rng.randrange(5, 10)}}}'
        )

    def _steps(self) -> Order:
        steps = self.rng.randrange(1, 20)
        asked = Asked("steps", self.number(), steps, reports=True)
        return Order(asked, "steps", f"[{steps}]", '{"progress":true}')

    def _say(self) -> Order:
        lines = self.rng.randrange(5)
        return Order(Asked("say", self.number(), lines), "say", f'["said",{lines}]')

    def _version(self) -> Order:
        ledger, floor = self._ledger, self._ledger.version
        asked = Asked("version", self.number(), lambda value: floor <= value <= ledger.newest_version)
        return Order(asked, "version")

    def _own(self) -> Order:
        """Make a call of one of the server's own methods."""
        name = self.rng.choice(["ping", "status", "functions"])
        wanted: Any = "pong" if name == "ping" else lambda value: bool(value)
        return Order(Asked(f"taskd.{name}", self.number(), wanted), f"taskd.{name}")

    def _large(self) -> Order:
        number = self.number()
        value = f"{number} " + "x" * self.rng.choice(LARGE)
        return Order(Asked("echo, large", number, value), "echo", json.dumps([value]))

    def large_result(self) -> Order:
        """Make a small call with a result that fills a socket."""
        size = self.rng.choice(LARGE[1:])
        asked = Asked("big", self.number(), lambda value: len(value) == size)
        return Order(asked, "big", f"[{size}]")

    # --- invalid requests ---

    def _failing(self) -> Order:
        drawn = self.rng.random()
        number = self.number()
        if drawn < 0.5:
            return Order(
                Asked("boom", number, NOTHING, frozenset({TaskFailed.code})), "boom", '["b\\u00fcm"]'
            )
        if drawn < 0.8:
            asked = Asked("typed, wrongly", number, NOTHING, frozenset({InvalidParams.code}))
            return Order(asked, "typed", self.rng.choice(['["1",[]]', '{"count":1}', "[1,[1]]", "[1,[],1]"]))
        return Order(Asked("no function", number, NOTHING, frozenset({MethodNotFound.code})), NO_FUNCTION)

    def _malformed(self, peer: Peer) -> None:
        drawn = self.rng.random()
        if drawn < 0.7:
            message, code = self.rng.choice(MALFORMED_TEXTS if peer.takes_text else MALFORMED)
            peer.send_malformed(Asked("malformed", self.number(), NOTHING, frozenset({code})), message)
        elif drawn < 0.9:
            options = self.rng.choice(['{"timeout":0}', '{"progress":1}', '{"retries":3}', "[]"])
            asked = Asked("malformed, with id", self.number(), NOTHING, frozenset({InvalidRequest.code}))
            peer.ask(Order(asked, "echo", "[1]", options))
        else:
            nested = "[" * NESTED + "]" * NESTED
            peer.ask(Order(Asked("echo, nested", self.number()), "echo", f"[{nested}]"))

    # --- batches and cancels ---

    def _batch(self, peer: Peer) -> None:
        makers: list[Callable[[], Order]] = [self.echo, self._mark, self._nap, self._failing, self._own]
        orders = [self.rng.choice(makers)() for _ in range(self.rng.randrange(1, MAX_BATCH))]
        notes = [self._mark(what="mark by notification") for _ in range(self.rng.randrange(3))]
        peer.ask_batch(orders, notes)

    def _cancel(self, peer: Peer) -> None:
        target = peer.to_cancel(self.rng)
        if target is not None:
            self.cancel(peer, target)

    def cancel(self, peer: Peer, target: Asked) -> None:
        """Cancel a request of the same connection."""
        target.is_cancelled = True
        ledger = self._ledger
        asked = Asked("taskd.cancel", self.number(), lambda value: ledger.cancel_answered(target, value))
        peer.ask(Order(asked, "taskd.cancel", f'{{"id":{json.dumps(target.request_id)}}}'))

    # --- rare requests ---

    def put_rare(self, peer: Peer) -> None:
        """Send a call that costs a process or much of its worker's time."""
        number, limited = self.number(), f'{{"timeout":{LIMIT}}}'
        timed_out = frozenset({TimedOut.code})
        drawn = self.rng.randrange(11)
        name = ("vanish", "kill_itself", "segfault", "save", "nap", "spin", "deaf", "deaf_to_sigterm")
        if drawn < 3:
            order = Order(Asked(name[drawn], number, NOTHING, mark=True), name[drawn], f"[{number}]")
        elif drawn < 8:
            args = "[600]" if name[drawn] == "nap" else "[]"
            order = Order(Asked(name[drawn], number, NOTHING, timed_out), name[drawn], args, limited)
        elif drawn == 8:
            order = Order(Asked("hog", number, 64), "hog", "[64]")
        elif drawn == 9:
            order = Order(
                Asked("glutton", number, NOTHING, frozenset({TaskFailed.code})), "glutton", "[4000]"
            )
        else:
            order = Order(Asked("litter", number, None), "litter")
        if order.options and self.rng.random() < 0.2:
            order.asked.on_disconnect = True
            order.options = order.options[:-1] + ',"on_disconnect":"cancel"}'
        if self.rng.random() < 0.3:
            peer.ask_bare(order)
        else:
            peer.ask(order)
