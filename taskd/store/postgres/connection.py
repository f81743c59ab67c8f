"""The connections to a PostgreSQL database: made when they are needed, and made again when they were lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from select import POLLIN, poll
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import Connection, RawCursor, errors
from psycopg.pq import PipelineStatus, TransactionStatus

from taskd.store.base import StoreError
from taskd.store.postgres.errors import explained, shown
from taskd.store.postgres.transaction import Retry

__all__ = ["Database", "Line", "is_pooled"]

CONNECT_SECONDS = 10
"""Seconds after which a server that does not answer is given up."""

ATTEMPTS = 10
"""Times that a transaction is tried which others have made impossible, such as by a deadlock."""

PREPARED = 200
"""Statements that are kept prepared on a connection; there are fewer."""

# It warns of what cannot be ended in order on a lost connection, which is raised as well.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

_SILENCE = {
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""After some 10 seconds of silence a connection is given up, so that a lost network is noticed."""

_AGAIN = (errors.DeadlockDetected, errors.SerializationFailure)
_CUT = (None, "57P01", "57P02")
"""The codes with which a connection ends: none from the client's library, or those of a server that stops."""

Result = TypeVar("Result")


class Database:
    """A database, by its description: `postgres:` and anything that libpq takes, or a URL."""

    def __init__(self, description: str) -> None:
        kind, _, rest = description.partition(":")
        is_url = rest.startswith("//")
        self.dsn = (
            f"postgresql:{rest}" if is_url else rest if kind in ("postgres", "postgresql") else description
        )
        self.name = shown(self.dsn)

    def connect(self, role: str) -> Connection[Any]:
        """Return a new connection, which shows this role in PostgreSQL's lists. Raises `psycopg.Error`."""
        given = psycopg.conninfo.conninfo_to_dict(self.dsn)
        defaults = {"connect_timeout": str(CONNECT_SECONDS), **_SILENCE}
        options: dict[str, Any] = {name: value for name, value in defaults.items() if name not in given}
        name = f"taskd {role}"
        connection = psycopg.connect(
            self.dsn, autocommit=True, application_name=name, client_encoding="UTF8", **options
        )
        try:
            connection.prepared_max = PREPARED
            connection.prepare_threshold = None if is_pooled(connection) else 0
        except BaseException:
            connection.close()
            raise
        return connection

    def error(self, what: str, error: psycopg.Error) -> StoreError:
        """Return the error of something that could not be done."""
        return StoreError(f"{self.name} cannot be {what}: {explained(error)}")


def is_pooled(connection: Connection[Any]) -> bool:
    """Return whether a pooler such as PgBouncer is in between.

    Then every transaction may have another connection to the server, on which a
    prepared statement of the same name may be another one.
    """
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is None or row[0] != connection.info.backend_pid


def _is_lost(connection: Connection[Any]) -> bool:
    """Return whether an idle connection was lost, as far as its socket shows it: nothing is sent for that."""
    waiting = poll()
    waiting.register(connection.fileno(), POLLIN)
    try:
        while waiting.poll(0):  # an idle server sends its reasons for an end, and seldom anything else
            connection.pgconn.consume_input()
    except psycopg.Error:
        return True
    return False


@dataclass(frozen=True, slots=True)
class _Done(Generic[Result]):
    result: Result


class Line:
    """One connection with one role, used by one thread at a time."""

    def __init__(self, database: Database, role: str) -> None:
        self._database = database
        self._role = role
        self._connection: Connection[Any] | None = None
        self.is_in_doubt = False
        """Whether it is not known if the last transaction took place."""

    @property
    def pid(self) -> int | None:
        """The server's process for this connection. Any thread may ask.

        None if there is no connection, or a pooler in between, which lends the process to others as well.
        """
        connection = self._connection
        if connection is None or connection.prepare_threshold is None:
            return None
        try:
            return connection.info.backend_pid
        except psycopg.Error:  # closed meanwhile
            return None

    def _open(self) -> Connection[Any]:
        if self._connection is not None and (self._connection.closed or _is_lost(self._connection)):
            self.close()
        if self._connection is None:
            self._connection = self._database.connect(self._role)
        return self._connection

    def run(self, work: Callable[[Connection[Any]], Callable[[], Result]]) -> Result:
        """Do what `work` does in one transaction, and commit it. Raises `StoreError`.

        What it returns is called once the commit has been sent, and returns the answer: so
        rows are read while the server waits for its disk.
        It is tried again if another transaction has made it impossible, so that `work` has to
        begin from nothing each time. It raises `Retry` itself if it has found that. So it is on a new
        connection if an old one turns out to be lost before the commit was sent.
        """
        for left in reversed(range(ATTEMPTS)):
            is_old = self._connection is not None
            failure = self._try(work)
            if isinstance(failure, _Done):
                return failure.result
            if isinstance(failure, psycopg.Error) and not (
                left and (isinstance(failure, _AGAIN) or (is_old and self._was_cut(failure)))
            ):
                raise self._database.error("written", failure) from failure
            if not isinstance(failure, psycopg.Error | Retry):
                raise failure
        raise StoreError(
            f"{self._database.name} cannot be written: other nodes write the same at each attempt"
        )

    def _try(self, work: Callable[[Connection[Any]], Callable[[], Result]]) -> _Done[Result] | BaseException:
        """Do what `work` does once; return the answer, or the error.

        The transaction is that of a pipeline: it begins with the first statement, and is
        committed when the pipeline is synced, also at its end. So the connection is cut if something fails
        here, and not in the server, which then takes no more of the pipeline.
        """
        self.is_in_doubt = False
        is_committing = False
        failure: BaseException | None = None
        try:
            connection = self._open()
            with connection.pipeline() as pipeline:
                try:
                    finish = work(connection)
                except BaseException as error:
                    failure = error
                    if connection.info.pipeline_status is not PipelineStatus.ABORTED:
                        connection.pgconn.finish()
                else:
                    is_committing = True
                    pipeline.sync()
                    result = finish()
            if failure is None:
                return _Done(result)
        except psycopg.Error as error:
            failure = failure or error
        self._give_up()
        self.is_in_doubt = is_committing and self._connection is None
        return failure

    def _was_cut(self, failure: psycopg.Error) -> bool:
        """Return whether the connection was lost, and the transaction with it."""
        return self._connection is None and not self.is_in_doubt and failure.sqlstate in _CUT

    def _give_up(self) -> None:
        """Close the connection after a transaction that has failed, unless it can be used again."""
        connection = self._connection
        if connection is None:
            return
        if connection.closed or connection.info.transaction_status is not TransactionStatus.IDLE:
            self.close()

    def read(self, query: str, values: list[Any]) -> list[Any]:
        """Return the rows of a query. Raises `StoreError`.

        A connection that was lost while it was idle is made again.
        """
        for is_last in (False, True):
            is_new = self._connection is None
            try:
                cursor = RawCursor(self._open())
                return cursor.execute(query.encode(), values, binary=True).fetchall()
            except psycopg.Error as error:
                is_lost = self._connection is None or self._connection.closed
                if is_lost:
                    self.close()
                if is_lost and not is_new and not is_last:
                    continue
                raise self._database.error("read", error) from error
        raise AssertionError

    def close(self) -> None:
        """Close the connection. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()
