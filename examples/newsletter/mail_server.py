"""The demo's SMTP server: it accepts every mail, and keeps nothing but the Message-IDs of each recipient."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import Factory
from twisted.mail.smtp import ESMTP, IMessage, IMessageDelivery
from zope.interface import implementer

from taskd.net.reactor import Reactor


class MailServer:
    """An SMTP server on a free port of this machine, in the demo's own process.

    A mail counts as accepted as soon as all of it is here, just before the
    server's reply: a client that is killed in between will send it again.
    """

    def __init__(self, reactor: Reactor) -> None:
        self.message_ids: defaultdict[str, list[str]] = defaultdict(list)
        self.accepted = 0
        self._awaited: list[tuple[int, Deferred[None]]] = []
        factory = Factory.forProtocol(_Session)
        factory.mails = self
        self._port = reactor.listenTCP(0, factory, interface="127.0.0.1")

    @property
    def url(self) -> str:
        """The address for ``TASKD_MAIL_URL``."""
        return f"smtp://127.0.0.1:{self._port.getHost().port}"

    def accept(self, recipient: str, message_id: str) -> None:
        """Count a mail."""
        self.message_ids[recipient].append(message_id)
        self.accepted += 1
        while self._awaited and self.accepted >= self._awaited[0][0]:
            self._awaited.pop(0)[1].callback(None)

    def reached(self, count: int) -> Deferred[None]:
        """Return a Deferred that fires once so many mails have been accepted."""
        if self.accepted >= count:
            return succeed(None)
        deferred: Deferred[None] = Deferred()
        self._awaited.append((count, deferred))
        self._awaited.sort(key=lambda awaited: awaited[0])
        return deferred

    def close(self) -> Deferred[None]:
        """Stop listening."""
        return maybeDeferred(self._port.stopListening)


class _Session(ESMTP):
    def connectionMade(self) -> None:
        self.delivery = _Delivery(self.factory.mails)
        super().connectionMade()


@implementer(IMessageDelivery)
class _Delivery:
    def __init__(self, mails: MailServer) -> None:
        self._mails = mails

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:  # noqa: N802
        return b""

    def validateFrom(self, helo: Any, origin: Any) -> Any:  # noqa: N802
        return origin

    def validateTo(self, user: Any) -> Any:  # noqa: N802
        return lambda: _Message(self._mails, str(user.dest))


@implementer(IMessage)
class _Message:
    def __init__(self, mails: MailServer, recipient: str) -> None:
        self._mails = mails
        self._recipient = recipient
        self._message_id = ""

    def lineReceived(self, line: bytes) -> None:
        name, _, value = line.decode("utf-8", "replace").partition(": ")
        if not self._message_id and name.lower() == "message-id":
            self._message_id = value

    def eomReceived(self) -> Deferred[None]:
        self._mails.accept(self._recipient, self._message_id)
        return succeed(None)

    def connectionLost(self) -> None:
        pass
