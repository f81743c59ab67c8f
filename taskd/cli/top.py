"""The subcommand ``taskd top``: what the server and its workers are doing, each second, in the terminal."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Callable
from types import TracebackType
from typing import Self

import click
from rich.console import RenderableType
from rich.live import Live
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IReadDescriptor
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.cli.console import duration, out
from taskd.cli.following import RESTARTING
from taskd.cli.options import server_options
from taskd.cli.running import USAGE, fail, run_with_client
from taskd.cli.top_view import ORDERS, Answer, History, Screen, screen
from taskd.client import TaskClient
from taskd.errors import TaskdError, WaitTimeout
from taskd.net.reactor import Reactor
from taskd.protocol.method_names import STATUS

__all__ = ["Top", "top"]

INTERVAL = 1.0
"""Seconds between two questions, and between two pictures: what a person can read."""

PATIENCE = 5.0
"""Seconds for an answer. A server that takes longer is overloaded or gone, which the screen then shows."""

KEYS = 64
"""Bytes of keys read at once."""


@click.command()
@click.option("--once", is_flag=True, help="Print one picture, with the rates of one second, and end.")
@server_options
def top(server: str, *, once: bool) -> None:
    """Show what the server and its workers are doing, each second, until q or Ctrl-C.

    The rates are those of the last five seconds. If the server is restarted, this goes on when
    it is back. The key s sorts the functions by their rate, mean time, failures or name.
    """
    if once:
        run_with_client(_print_once, server)
    if not sys.stdout.isatty():
        fail("the output is no terminal; try taskd top --once, or taskd status --json for a program", USAGE)
    with Terminal() as terminal:

        async def run(reactor: Reactor, client: TaskClient) -> None:
            try:
                await _watch(reactor, client, terminal)
            finally:
                terminal.restore()  # before an error is printed

        run_with_client(run, server)


async def _print_once(reactor: Reactor, client: TaskClient) -> None:
    history = History()
    history.add(await client.request(STATUS))
    await deferLater(reactor, INTERVAL)
    history.add(await client.request(STATUS))
    out.print(screen(history, Screen(next(iter(ORDERS)), keys=False)))


async def _watch(reactor: Reactor, client: TaskClient, terminal: Terminal) -> None:
    watched = Top(reactor, lambda: client.request(STATUS, timeout=PATIENCE), terminal.draw)
    keys = terminal.keys(watched.pressed)
    if keys is not None:
        reactor.addReader(keys)
    try:
        await watched.run()
    finally:
        if keys is not None:
            reactor.removeReader(keys)


class Top:
    """Asks for the status each second, and draws it; a server that is gone is asked again.

    `ask` returns a Deferred of the answer, and `draw` gets the history and what else is shown.
    """

    def __init__(
        self,
        clock: IReactorTime,
        ask: Callable[[], Deferred[Answer]],
        draw: Callable[[History, str, str | None], None],
    ) -> None:
        self._clock = clock
        self._ask = ask
        self._draw = draw
        self._history = History()
        self._orders = list(ORDERS)
        self._is_asking = False
        self._answered_at = clock.seconds()
        self._problem: str | None = None
        self._done: Deferred[None] = Deferred()

    async def run(self) -> None:
        """Draw until q is pressed.

        Raises `TaskdError` if the first question fails, or a later one is refused.
        """
        each_second = LoopingCall(self._tick)
        each_second.clock = self._clock
        each_second.start(INTERVAL).addErrback(self._end)
        try:
            await self._done
        finally:
            if each_second.running:
                each_second.stop()

    def pressed(self, keys: str) -> None:
        """React to keys; those that mean nothing are ignored."""
        for key in keys.lower():
            if key == "q":
                self._end()
            elif key == "s":
                self._orders.append(self._orders.pop(0))
                self._show()

    def _tick(self) -> None:
        if not self._is_asking:
            self._is_asking = True
            self._ask().addCallbacks(self._answered, self._failed).addErrback(self._end)
        self._show()

    def _answered(self, answer: Answer) -> None:
        self._is_asking = False
        self._history.add(answer)
        self._answered_at = self._clock.seconds()
        self._problem = None
        self._show()

    def _failed(self, failure: Failure) -> None:
        self._is_asking = False
        error = failure.check(*RESTARTING, WaitTimeout)
        if error is None or self._history.last is None:
            failure.raiseException()
        assert isinstance(failure.value, TaskdError)
        self._problem = failure.value.message

    def _show(self) -> None:
        problem = self._problem
        if problem is not None:
            age = duration(self._clock.seconds() - self._answered_at)
            problem = f"these figures are {age} old: {problem}"
        self._draw(self._history, self._orders[0], problem)

    def _end(self, why: Failure | None = None) -> None:
        if not self._done.called:
            if why is None:
                self._done.callback(None)
            else:
                self._done.errback(why)


class Terminal:
    """The terminal while ``taskd top`` runs: its other screen, and keys that arrive without Enter.

    It is as before at the end of the ``with`` block, however that ends.
    """

    def __init__(self) -> None:
        self._live: Live | None = None
        self._fd = sys.stdin.fileno()
        self._settings = termios.tcgetattr(self._fd) if sys.stdin.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Leave the other screen, and let keys be lines again. May be called twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._settings is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._settings)

    def draw(self, history: History, order: str, problem: str | None) -> None:
        """Draw the screen; there is none before the first answer."""
        if history.last is None:
            return
        if self._live is None:
            self._live = Live(console=out, screen=True, auto_refresh=False)
            self._live.start()
        self._live.update(self._picture(history, order, problem), refresh=True)

    def _picture(self, history: History, order: str, problem: str | None) -> RenderableType:
        return screen(history, Screen(order, out.size.height, problem, keys=self._settings is not None))

    def keys(self, pressed: Callable[[str], None]) -> Keys | None:
        """Return a reader that calls `pressed` with what is typed; None if nothing can be."""
        if self._settings is None:
            return None
        tty.setcbreak(self._fd)
        return Keys(self._fd, pressed)


@implementer(IReadDescriptor)
class Keys:
    """The terminal's input, for the reactor. It stays blocking: the output may be the same open file."""

    def __init__(self, fd: int, pressed: Callable[[str], None]) -> None:
        self._fd = fd
        self._pressed = pressed

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._fd

    def logPrefix(self) -> str:  # noqa: N802
        """Return the name in logs."""
        return "keys"

    def doRead(self) -> None:
        """Read what was typed."""
        try:
            typed = os.read(self._fd, KEYS)
        except OSError:  # the terminal was closed
            typed = b""
        # Without a terminal there is nobody to watch: as if q had been pressed.
        self._pressed(typed.decode("utf-8", "replace") if typed else "q")

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing: the terminal belongs to others, too."""
