"""`TaskClient`: the client for Twisted programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Raw, structs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskd.client.link import Link, OnProgress, PendingCall
from taskd.client.pending import OnEvent
from taskd.client.per_call import PerCallLink
from taskd.client.pooled import PooledLink
from taskd.errors import WaitTimeout
from taskd.functions.wire_names import wire_name
from taskd.model import NO_OPTIONS, Call, Options, Outcome, Result
from taskd.net.client_addresses import is_websocket, websocket_url
from taskd.net.reactor import Reactor
from taskd.protocol.request_lines import encode_arguments

__all__ = ["TaskClient"]

_log = Logger(namespace="taskd.client")


class TaskClient:
    """Calls functions of a task server.

    ::

        client = TaskClient(reactor, "tcp:127.0.0.1:12345")
        result = await client.call("send_mail", from_="a@x", to="b@y", contents="hi")

    `server` is an address (``HOST:PORT``), a Twisted client endpoint string
    (``tcp:HOST:PORT``, ``unix:PATH``, ``tls:HOST:PORT:trustRoots=…``), or a
    gateway's ``ws://…``. `link` is ``per-call`` (a connection for each call) or
    ``pooled`` (connections are kept, with many calls in flight on each); a
    websocket is always kept. `on_event` is called with each event of the stored
    tasks and batches that ``taskd.attach`` was asked for, a dict as `docs/protocol.md`
    has it; that needs connections which are kept. Raises `ValueError` for an
    address that is not valid.
    """

    def __init__(
        self,
        reactor: Reactor,
        server: str,
        *,
        link: Literal["per-call", "pooled"] = "per-call",
        on_event: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        self._reactor = reactor
        self._link: Link
        pushed = None if on_event is None else _decoded(on_event)
        if is_websocket(server):
            # Autobahn takes a while to import, and several MiB: only those who use websockets pay for it.
            from taskd.client.websocket import WebSocketLink

            self._link = WebSocketLink(reactor, websocket_url(server), pushed)
        elif link == "pooled":
            self._link = PooledLink(reactor, server, on_event=pushed)
        elif link != "per-call":
            raise ValueError(f"link must be one of per-call, pooled, not {link!r}")
        elif on_event is not None:
            raise ValueError("events are pushed on connections that are kept: link must be pooled")
        else:
            self._link = PerCallLink(reactor, server)

    def call(
        self,
        function: str,
        /,
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        **args: Any,
    ) -> Deferred[Any]:
        """Call `function` by name, with keyword arguments.

        A name that is a Python keyword is written with an underscore behind it
        (``from_``). For arguments named ``on_progress`` or ``timeout``, or by
        position, there is `request`, which describes the rest.
        """
        named = {wire_name(name): value for name, value in args.items()}
        return self.request(function, named, on_progress=on_progress, timeout=timeout)

    def request(
        self,
        function: str,
        args: Mapping[str, Any] | Sequence[Any] = (),
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        options: Options | None = None,
    ) -> Deferred[Any]:
        """Call `function` with arguments by name (a mapping, in wire terms) or by position.

        The Deferred fires with the result. It fails with the class of
        `taskd.errors` that belongs to the error's code; with `Unreachable`
        if there is no server; with `WaitTimeout` after `timeout` seconds
        of waiting. `on_progress` is called with each
        `taskd.model.Progress` of the task.

        Cancelling the Deferred cancels the task too: one that waits is not
        started, one that runs is stopped. So does the end of `timeout`. The
        wait ends at once; how the task ended is then not known.

        `options` (`taskd.model.Options`) say how the server should run the
        call: `timeout` (there it is run time), `deadline`, `priority`,
        `on_disconnect`. Their `progress` is ignored.

        Raises `TypeError` if `args` cannot be written as JSON, `ValueError` if
        they are nested too deeply for a request.
        """
        asked = structs.replace(options or NO_OPTIONS, progress=on_progress is not None)
        pending = self._link.call(Call(function, encode_arguments(args), asked), on_progress)
        # Without a canceller of its own: Twisted then drops the outcome that comes after the cancel.
        done: Deferred[Outcome] = Deferred()
        pending.outcome.chainDeferred(done)
        done.addErrback(_cancel, pending)
        if timeout is not None:
            done.addTimeout(timeout, self._reactor, lambda _, seconds: _raise_wait_timeout(function, seconds))
        return done.addCallback(_result)

    def close(self) -> None:
        """Drop the connections; calls in flight fail.

        Their tasks go on, except those whose `on_disconnect` is "cancel".
        """
        self._link.close()


def _decoded(on_event: Callable[[dict[str, Any]], object]) -> OnEvent:
    """Return a function that passes events on, decoded. If `on_event` raises, that is logged."""

    def pushed(event: Raw) -> None:
        try:
            on_event(msgspec.json.decode(event))
        except Exception:
            _log.failure("an on_event callback raised")

    return pushed


def _cancel(reason: Failure, pending: PendingCall) -> Failure:
    """Have the task cancelled if that is why the wait has ended."""
    if reason.check(CancelledError):
        pending.cancel()
        pending.detach()
    return reason


def _raise_wait_timeout(function: str, seconds: float) -> Outcome:
    raise WaitTimeout(
        f"{function} has not answered within {seconds:g} s; it was asked to be cancelled", seconds=seconds
    )


def _result(outcome: Outcome) -> Any:
    if isinstance(outcome, Result):
        return msgspec.json.decode(outcome.value)
    raise outcome.exception()
