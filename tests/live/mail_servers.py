"""Real SMTP servers for the tests, each in a thread of its own."""

import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

DEADLINE = 10
"""Seconds after which a test fails: nothing here takes that long."""


class Session(SMTP):
    """An SMTP session that reports when its connection is closed."""

    def __init__(self, *args, **options):
        self.over = threading.Event()
        super().__init__(*args, **options)

    def connection_lost(self, error):
        super().connection_lost(error)
        self.over.set()


class Handler:
    """A handler that accepts and keeps every mail with its SMTP commands; a test overrides single steps."""

    def __init__(self):
        self.taken = []
        self.resets = 0
        self.left = threading.Event()

    async def handle_DATA(self, server, session, envelope):
        self.taken.append((session, envelope))
        return "250 taken"

    async def handle_RSET(self, server, session, envelope):
        self.resets += 1
        return "250 forgotten"

    async def handle_QUIT(self, server, session, envelope):
        self.left.set()
        return "221 bye"


class MailServer(Controller):
    """An SMTP server on a free port, which counts its connections."""

    def __init__(self, handler=None, port=0, **options):
        super().__init__(handler or Handler(), hostname="127.0.0.1", port=port, **options)
        self.sessions = []

    def factory(self):
        session = Session(self.handler, loop=self.loop, **self.SMTP_kwargs)
        self.sessions.append(session)
        return session

    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()

    def __enter__(self):
        self.start()
        assert self.sessions[0].over.wait(DEADLINE)
        self.sessions.clear()  # start() itself has opened a connection, to check that it works.
        return self

    def __exit__(self, *_):
        for session in self.sessions:
            self.loop.call_soon_threadsafe(self._leave, session)
        self.stop()

    def leave_all(self, last_words=b""):
        """Close every connection, as servers do with idle ones."""
        for session in self.sessions:
            self.loop.call_soon_threadsafe(self._leave, session, last_words)
            assert session.over.wait(DEADLINE)

    @staticmethod
    def _leave(session, last_words=b""):
        if session.transport is None:
            pass  # It has never been connected (TLS failed), or is closed already.
        elif last_words:
            session.transport.write(last_words)
            session.transport.close()
        else:
            session.transport.abort()  # close() waits until the client closes, too

    def url(self, options="", *, scheme="smtp", login="", host="127.0.0.1"):
        return f"{scheme}://{login}{host}:{self.port}{options}"


def refusing(step, answer):
    """Make a handler that gives `answer` at `step`, the first time."""

    class Refusing(Handler):
        answers = [answer]

    async def refuse(self, server, session, envelope, *args):
        if self.answers:
            return self.answers.pop()
        if step == "DATA":
            return await super(Refusing, self).handle_DATA(server, session, envelope)
        if step == "MAIL":
            envelope.mail_from = args[0]
        else:
            envelope.rcpt_tos.append(args[0])
        return "250 OK"

    setattr(Refusing, f"handle_{step}", refuse)
    return Refusing()
