"""The files of tokens and keys of a running daemon: read again at SIGHUP, in a thread.

A disk may be slow, a network file system may not answer, and a file may have 100 000 tokens: the
reactor goes on meanwhile. What a file had before stays in use until the new content is known to be right.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskd.auth.files import AccessFileError
from taskd.daemon.access import open_sealer, open_server_token, open_verifier
from taskd.daemon.config import ServiceConfig
from taskd.model import OPERATOR

if TYPE_CHECKING:
    # All are imported only when they are used: PyJWT and cryptography cost memory.
    from taskd.auth.sealing import Sealer
    from taskd.auth.verifier import TokenVerifier
    from taskd.client.file_token import FileToken
    from taskd.listeners.gate import Gate

__all__ = ["AccessFiles", "in_thread"]

_log = Logger(namespace="taskd.access")

InThread = Callable[[Callable[[], Any]], "Deferred[Any]"]
"""Runs a function in a thread; the Deferred fires in the reactor with its result."""


def in_thread(reactor: IReactorFromThreads, function: Callable[[], Any]) -> Deferred[Any]:
    """Run a function in a thread of its own, which a stop of the daemon does not wait for.

    The Deferred fires in the reactor with the result.
    """
    fires: Deferred[Any] = Deferred()

    def run() -> None:
        try:
            result = function()
        except BaseException:
            reactor.callFromThread(fires.errback, Failure())
        else:
            reactor.callFromThread(fires.callback, result)

    Thread(target=run, name="access-files", daemon=True).start()
    return fires


class _File:
    """What is read again together: `read` runs in a thread, and `use` takes its result in the reactor."""

    def __init__(self, name: str, read: Callable[[], Any], use: Callable[[Any], object]) -> None:
        self.name = name
        self._read = read
        self._use = use

    def read(self) -> Callable[[], object]:
        """Read it, and return what then has to be done in the reactor."""
        try:
            found = self._read()
        except AccessFileError as error:
            why = str(error)
            return lambda: _log.error(
                "{name} are not read again: {why}; the old ones stay in use", name=self.name, why=why
            )
        except Exception:
            failure = Failure()
            return lambda: _log.failure(
                "a bug in taskd: {name} are not read again; the old ones stay in use", failure, name=self.name
            )
        return lambda: self._use(found)


class AccessFiles:
    """The tokens and keys of one daemon, each None if it has none, and the reading of their files.

    `verifier` knows the callers' tokens, `sealer` the keys that seal stored secrets, `server_token` is
    what a gateway shows its task servers. When tokens have changed, `gate` is informed, if there is one.
    """

    def __init__(
        self,
        in_thread: InThread,
        verifier: TokenVerifier | None = None,
        sealer: Sealer | None = None,
        server_token: FileToken | None = None,
    ) -> None:
        self.verifier = verifier
        self.sealer = sealer
        self.server_token = server_token
        self.gate: Gate | None = None
        self._in_thread = in_thread
        self._files: list[_File] = []
        if verifier is not None:
            self._files.append(_File("tokens", verifier.read, self._use_tokens))
        if sealer is not None:
            self._files.append(_File("the keys of --secret-key", sealer.read_again, self._use_keys))
        if server_token is not None:
            self._files.append(_File("the token's file", server_token.read, self._use_server_token))
        self._is_reading = False
        self._waiting: list[Deferred[None]] = []

    @classmethod
    def open(cls, config: ServiceConfig, in_thread: InThread) -> AccessFiles:
        """Read the files at the start, before the reactor runs. Raises `StartError`."""
        return cls(
            in_thread,
            open_verifier(config.access),
            open_sealer(config.secret_key),
            open_server_token(config.server_token),
        )

    def __len__(self) -> int:
        """Return how many of the three there are."""
        return len(self._files)

    def read_again(self) -> Deferred[None]:
        """Read all files again; fires when what they have now is in use, or it is logged why it is not.

        If they are being read, they are read once more after that, for all who have asked meanwhile.
        """
        if not self._files:
            return succeed(None)
        fires: Deferred[None] = Deferred()
        self._waiting.append(fires)
        if not self._is_reading:
            self._begin()
        return fires

    def _begin(self) -> None:
        self._is_reading = True
        waiting, self._waiting = self._waiting, []
        files = self._files
        self._in_thread(lambda: [file.read() for file in files]).addCallback(self._took, waiting)

    def _took(self, steps: list[Callable[[], object]], waiting: list[Deferred[None]]) -> None:
        for step in steps:
            try:
                step()
            except Exception:
                _log.failure("a bug in taskd: tokens and keys")
        self._is_reading = False
        if self._waiting:
            self._begin()
        for fires in waiting:
            fires.callback(None)

    def _use_tokens(self, found: Any) -> None:
        assert self.verifier is not None
        self.verifier.use(found)
        _log.info("tokens read again: {verifier!r}", verifier=self.verifier)
        if self.gate is not None:
            self.gate.tokens_changed()
            if self.gate.audit is not None:
                self.gate.audit.note(OPERATOR, "tokens")

    def _use_keys(self, found: Sealer) -> None:
        assert self.sealer is not None
        self.sealer.use(found)
        _log.info("the keys of --secret-key read again: {count}", count=len(found))

    def _use_server_token(self, found: str) -> None:
        assert self.server_token is not None
        self.server_token.token = found
        _log.info("the token of --task-server-token read again")
