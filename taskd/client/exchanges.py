"""The exchanges of a blocking client: a connection for each from a pool, and what is sent again if one fails.

The rules:

- a call that may have been run is never sent again; one that was not sent is, for up to
  `connect_timeout` seconds, in which a server restarts;
- a question, which changes nothing, is asked again in any case;
- what is refused since the token has expired was not run, and is sent once more with a new token;
- a connection that has ended or said something impossible while it was idle is not used again;
- a forked process has a pool of its own: it never touches the connections of its parent.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from taskd.client.addresses import Address
from taskd.client.answers import Event, Following, lost, not_in_time, result_of
from taskd.client.conversation import PING_INTERVAL
from taskd.client.flight import Ended, Flight
from taskd.client.patience import Patience
from taskd.client.sockets import ConnectFailed, Connection, connect
from taskd.client.tokens import Credentials, has_expired
from taskd.client.waiting import Reply
from taskd.client.words import OnProgress
from taskd.errors import TaskdError, Unreachable
from taskd.functions.wire_names import RESERVED
from taskd.model import Call

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Exchanges"]

PAUSE = 0.1
"""Seconds between two tries to connect."""

MAX_IDLE = 30.0
"""Seconds after which an idle connection is not used again: less than what firewalls and most proxies
remember a silent connection for. A call that is sent on a forgotten one may have been run, or not."""


class _Pool:
    """The idle connections of one process. Needs no lock: a deque is safe for threads."""

    def __init__(self, size: int) -> None:
        self.pid = os.getpid()
        self.idle: deque[Connection] = deque()
        self._size = size

    def take(self) -> Connection | None:
        """Return the connection that was used last, if it can be used again."""
        while self.idle:
            try:
                connection = self.idle.pop()
            except IndexError:  # another thread has taken it
                return None
            if monotonic() - connection.idle_since < MAX_IDLE and connection.is_alive():
                return connection
            connection.close()
        return None

    def give_back(self, connection: Connection) -> None:
        """Keep a connection, unless it cannot be used again or there are enough."""
        if connection.is_usable and len(self.idle) < self._size:
            connection.idle_since = monotonic()
            self.idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close all that are idle."""
        while self.idle:
            self.idle.pop().close()


class Exchanges:
    """Calls and their replies, in as many threads at once as there are."""

    def __init__(
        self,
        address: Address,
        context: SSLContext | None,
        pool: int,
        connect_timeout: float,
        ping_interval: float = PING_INTERVAL,
        credentials: Credentials | None = None,
    ) -> None:
        self.address = address
        self._credentials = credentials
        self._context = context
        self._size = pool
        self._connect_timeout = connect_timeout
        self._ping_interval = ping_interval
        self._pool = _Pool(pool)
        self._is_closed = False

    def _pool_here(self) -> _Pool:
        pool = self._pool
        if pool.pid != os.getpid():  # this process was forked
            parents, pool = pool, _Pool(self._size)
            self._pool = pool
            parents.close()
        return pool

    def close(self) -> None:
        """Close the connections; other threads finish what they wait for."""
        self._is_closed = True
        self._pool_here().close()

    @property
    def is_renewable(self) -> bool:
        """Whether there is another token when one has expired."""
        return self._credentials is not None and self._credentials.is_renewable

    # --- connections ---

    def _checkout(self, deadline: float) -> Connection:
        """Return a connection, which is made by the `deadline` at the latest. Raises `Unreachable`."""
        if self._is_closed:
            raise RuntimeError("this client is closed")
        connection = self._pool_here().take()
        return self._connected(deadline) if connection is None else connection

    def _connected(self, deadline: float) -> Connection:
        """Return a new connection. Tries until the `deadline`. Raises `Unreachable`."""
        while True:
            left = max(deadline - monotonic(), PAUSE)
            try:
                return connect(self.address, self._context, left, self._ping_interval, self._credentials)
            except ConnectFailed as error:
                if not error.may_pass or monotonic() + PAUSE >= deadline:
                    raise lost(self.address.text, error.why, sent=False) from None
            sleep(PAUSE)

    def _give_back(self, connection: Connection) -> None:
        if self._is_closed or connection.pid != self._pool.pid:
            connection.close()
        else:
            self._pool.give_back(connection)

    # --- one call ---

    def call(
        self, call: Call, what: str, wait: float | None = None, on_progress: OnProgress | None = None
    ) -> Any:
        """Return the result of a call; raise the error that it has.

        Raises `WaitTimeout`, which names `what` was waited for, after `wait` seconds; then
        the task is asked to be cancelled, as it is if the wait is interrupted.
        """
        started = monotonic()
        until = None if wait is None else started + wait
        deadline = started + self._connect_timeout
        may_renew = self.is_renewable
        while True:
            connection = self._checkout(deadline)
            reply = Reply(on_progress)
            if not self._exchange(connection, call, reply, until):
                assert wait is not None
                raise not_in_time(what, wait, _consequence(call))
            if reply.outcome is not None:
                if may_renew and has_expired(reply.outcome):
                    may_renew = False
                    continue
                return result_of(reply.outcome)
            assert reply.error is not None
            if not reply.was_not_sent:
                raise reply.error
            if connection.conversation.is_foreign or monotonic() >= deadline:
                raise connection.conversation.unreachable(sent=False)

    def _exchange(self, connection: Connection, call: Call, reply: Reply, until: float | None) -> bool:
        """Send a call on a connection, and wait; returns whether it has ended in time."""
        request_id = b""
        try:
            request_id = connection.conversation.call(call, reply)
            connection.send(reply)
            while not reply.is_done:
                is_in_time = connection.wait(until)
                reply.report()
                if not (is_in_time or reply.is_done):
                    if _is_of_a_task(call):
                        connection.conversation.cancel(request_id)
                    connection.conversation.detach(request_id)
                    connection.flush()
                    self._give_back(connection)
                    return False
        except BaseException:
            connection.abandon({request_id: reply} if request_id and _is_of_a_task(call) else {})
            raise
        self._give_back(connection)
        return True

    # --- questions, which may be asked again ---

    def ask(self, call: Call, what: str, wait: float | None = None) -> Any:
        """Return the answer to a question that changes nothing. Raises as `call` does."""
        deadline = monotonic() + self._connect_timeout
        while True:
            try:
                return self.call(call, what, wait)
            except Unreachable as error:
                if not error.data["sent"] or monotonic() >= deadline:
                    raise

    def ask_patiently(
        self, question: Callable[[], tuple[Call, float | None]], what: str, until: float | None
    ) -> Any:
        """Ask until a server that is being restarted answers, for up to `PATIENCE` seconds.

        `question` is asked each time for the call, and for how many seconds to wait; the last
        time is `until`.
        """
        patience = Patience(monotonic)
        while True:
            call, wait = question()
            try:
                return self.call(call, what, wait)
            except TaskdError as error:
                _endure(patience, error, until)

    # --- events ---

    def follow(self, following: Following) -> Iterator[Event]:
        """Yield the events of a task or a batch to its last, over connections that are lost."""
        patience = Patience(monotonic)
        while not following.is_over:
            try:
                connection = self._checkout(monotonic() + self._connect_timeout)
                try:
                    yield from _events(connection, following, patience, may_renew=self.is_renewable)
                finally:
                    connection.close()  # with it ends the attachment
            except TaskdError as error:
                _endure(patience, error)

    # --- many calls ---

    def many(
        self,
        calls: Iterable[tuple[Any, Call]],
        at_once: int,
        wait: float | None,
        on_progress: OnProgress | None,
    ) -> Generator[Ended, None, None]:
        """Yield each call's row with its outcome, or with why there is none, as they end.

        Up to `at_once` calls are in flight, on one connection. If the iterator is closed, they are cancelled.
        """
        flight = Flight(calls, wait, on_progress, is_renewable=self.is_renewable)
        deadline: float | None = None  # since nothing has failed
        while flight.has_more():
            if deadline is None:
                deadline = monotonic() + self._connect_timeout
            try:
                connection = self._checkout(deadline)
            except Unreachable as error:
                yield flight.fail_next(error)
                continue
            try:
                for row, ended in flight.run(connection, at_once, deadline):
                    if not isinstance(ended, TaskdError):
                        deadline = None
                    yield row, ended
            except BaseException:
                flight.abandon(connection)
                raise
            self._give_back(connection)


def _is_of_a_task(call: Call) -> bool:
    """Return whether a call runs a function, and so can be cancelled; else it is one of the server's own."""
    return not call.function.startswith(RESERVED)


def _consequence(call: Call) -> str:
    """Return what becomes of a call whose answer is not awaited any more."""
    if _is_of_a_task(call):
        return "it was asked to be cancelled"
    return f"whether {call.function} was done is not known"


def _endure(patience: Patience, error: TaskdError, until: float | None = None) -> None:
    """Wait a moment before the next try; raise the error instead if that is no use, or it is `until`."""
    if until is not None and monotonic() >= until:
        raise error
    sleep(patience.pause_after(error))


def _events(
    connection: Connection, following: Following, patience: Patience, *, may_renew: bool
) -> Iterator[Event]:
    """Yield the events that come on one connection. Raises `Unreachable` if it is lost.

    If it `may_renew` its token, that has expired, it counts as lost.
    """
    reply = Reply()
    connection.conversation.is_watching = True
    connection.conversation.call(following.attach(), reply)
    connection.send(reply)
    while not reply.is_done:
        connection.wait()
    if reply.error is not None:
        raise reply.error
    assert reply.outcome is not None
    if may_renew and has_expired(reply.outcome):
        raise lost(connection.conversation.server, "its token had expired", sent=False)
    following.attached(reply.outcome)
    patience.found()
    while True:
        arrived = connection.events[:]
        del connection.events[: len(arrived)]
        for event in arrived:
            new = following.take(event)
            if new is not None:
                yield new
        if following.is_over:
            return
        if connection.conversation.is_over:
            raise connection.conversation.unreachable(sent=True)
        if not connection.events:
            connection.wait()
