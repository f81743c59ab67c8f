"""The app that sends mail: `send_mail`, to an SMTP server or into a Maildir.

The environment variable ``TASKD_MAIL_URL``, read for a worker's first mail, is one of:

``maildir:PATH``
    A Maildir, created if it is missing; relative to the worker's directory.
    ``maildir:./outbox`` is the default.
``smtp://user:password@host:port``
    A server whose connections begin unencrypted. STARTTLS is used if it is
    offered, required with ``?starttls=required``, and not used with
    ``?starttls=never``. The port is 587 by default with a user (submission),
    25 without (relay).
``smtps://user:password@host:port``
    A server that uses TLS from the start, on port 465 by default.

User and password may be omitted, but only together; ``@ : / ? # %`` in them
must be percent-encoded. They are sent only over TLS, or to a server on this
machine (a loopback address). TLS always verifies the certificate and the
host's name, by the system's authorities or those in ``SSL_CERT_FILE``.

`send_mail` is durable: a mail that was accepted is sent, though the daemon dies
meanwhile. It is tried again if the server cannot be reached, breaks off before it
has the mail, or refuses it for now (a reply 4xx); not if it refuses the mail for
good (5xx).

None of these sends a mail twice: if a connection ends after the mail's content was
sent and before the server has answered, the task fails with
`OutcomeUnknownError`, and the caller decides what to do. But if the worker's
process or the daemon dies while a mail is being sent, nobody knows how far it
has come, and it is sent again, with the same Message-ID: that is made from the
task's id.
"""

from __future__ import annotations

import contextlib
import ipaddress
import mailbox
import os
import re
import smtplib
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from taskd import current_task, on_worker_stop, task
from taskd.apps.mail_message import Mail, compose

__all__ = [
    "ConfigError",
    "InsecureError",
    "LoginError",
    "MailError",
    "OutcomeUnknownError",
    "RefusedError",
    "RefusedForNowError",
    "ServerAwayError",
    "configured_delivery",
    "delivery_to",
    "send_mail",
]

URL_VARIABLE = "TASKD_MAIL_URL"
DEFAULT_URL = "maildir:./outbox"

STEP_TIMEOUT = 30.0
"""Seconds that the server has for each step but the last: a mail server that needs
longer to greet or to answer is as good as down, and the worker is needed."""

ACCEPT_TIMEOUT = 600.0
"""Seconds that the server has for its answer to a mail's content: the ten minutes
of RFC 5321, 4.5.3.2.6. A client that gives up sooner does not know whether the
mail was delivered, and a scanner on the server may well take minutes."""

CHECK_TIMEOUT = 5.0
"""Seconds that the server has to show that a kept connection still works, and to
answer QUIT: rather than wait longer, it is better to open a new connection."""


RETRIES = 8
"""Attempts after the first one: with `BACKOFF`, they are spread over about twenty minutes,
forty-three at most. That is longer than a mail server's restart, and than servers take that
refuse every new sender for some minutes (greylisting); callers do not wait for hours."""

BACKOFF = 10.0
"""Seconds before the second attempt at most; doubled with each."""

KEEP = 86400.0
"""Seconds for which an ended task is kept, so that the mails of a night that failed can be
looked at, and put back, in the morning."""


class MailError(Exception):
    """The mail was not sent or, for `OutcomeUnknownError`, may not have been. No text has the password."""


class ConfigError(MailError, ValueError):
    """The environment variable TASKD_MAIL_URL cannot be used."""


class ServerAwayError(MailError):
    """The server cannot be reached, or closed the connection before it had the mail. It is tried again."""


class InsecureError(MailError):
    """The connection is not as safe as required: TLS is missing or has failed."""


class LoginError(MailError):
    """The server did not accept the user and the password."""


class RefusedError(MailError):
    """The server does not accept this mail: its sender, its recipient or its content."""


class RefusedForNowError(RefusedError):
    """The server does not accept this mail now (a reply 4xx). It is tried again."""


class OutcomeUnknownError(MailError):
    """The connection ended after the mail was sent and before the answer: it may have been delivered."""


RETRY_FOR = (ServerAwayError, RefusedForNowError)
"""What does not mean that the mail will never be sent."""

_TLS = {
    ("smtp", ""): "offered",
    ("smtp", "starttls=required"): "required",
    ("smtp", "starttls=never"): "never",
    ("smtps", ""): "implicit",
}


def _config_error(wrong: str) -> ConfigError:
    return ConfigError(
        f"{URL_VARIABLE}: {wrong}; it should be maildir:PATH, smtp://user:password@host:port, with "
        "?starttls=required or ?starttls=never if needed, or smtps://user:password@host:port "
        "(user:password@ and :port may be left out; in user and password, @:/?#% are percent-encoded)"
    )


def delivery_to(url: str) -> Delivery:
    """Make the delivery for `url`, without connecting yet. Raises `ConfigError` if the URL is invalid."""
    scheme, _, rest = url.partition(":")
    if scheme.lower() in ("smtp", "smtps"):
        return SmtpDelivery(_server(url))
    if scheme.lower() == "maildir":
        if not rest or "\0" in rest or re.match("//[^/]", rest):
            raise _config_error("no path follows maildir:, as in maildir:./outbox")
        return MaildirDelivery(os.path.abspath(rest))
    raise _config_error(f"unknown scheme {scheme!r}" if rest.startswith("//") else "no known scheme")


def configured_delivery(environ: Mapping[str, str]) -> Delivery:
    """Return the delivery that the environment configures, or the default. Raises `ConfigError`."""
    return delivery_to(environ.get(URL_VARIABLE, "").strip() or DEFAULT_URL)


class MaildirDelivery:
    """The delivery into the Maildir at `path`, by any number of processes at once."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"the Maildir {self.path}"

    def deliver(self, mail: Mail) -> None:
        """Add `mail` to the folder ``new``; it is on the disk when this returns."""
        try:
            # Done here, since mailbox fails if another process is creating them at the same time.
            for part in ("", "tmp", "new", "cur"):
                os.makedirs(os.path.join(self.path, part), 0o700, exist_ok=True)
            mailbox.Maildir(self.path, create=False).add(mail.as_bytes("\n"))
        except (OSError, mailbox.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise MailError(f"cannot deliver into the Maildir {self.path}: {reason}") from error

    def close(self) -> None:
        """Do nothing, since no connection is kept."""


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """An SMTP server and how to connect to it; `tls` is one of the values of `_TLS`."""

    host: str
    port: int
    tls: str = "offered"
    user: str | None = None
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'smtps' if self.tls == 'implicit' else 'smtp'}://{host}:{self.port}"


def _server(url: str) -> SmtpServer:
    """Parse an ``smtp:`` or ``smtps:`` URL. Raises `ConfigError`, whose text contains nothing of the URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:  # its text may hold a piece of the password
        raise _config_error("its host or port cannot be read") from None
    if not host or port == 0 or parts.path not in ("", "/") or parts.fragment:
        raise _config_error("no host, or something that does not belong there")
    user, password = parts.username, parts.password
    if (not user or password is None) and "@" in parts.netloc:
        raise _config_error("a user and a password go together")
    user, password = user and unquote(user), unquote(password or "")
    if not f"{user}{password}".isascii() or not f"{user}{password}".isprintable():
        raise _config_error("smtplib logs in only with a user and a password of printable ASCII")
    tls = _TLS.get((parts.scheme, parts.query))
    if tls is None:
        raise _config_error("an unknown option follows the '?'")
    default = smtplib.SMTP_SSL_PORT if tls == "implicit" else 587 if user else smtplib.SMTP_PORT
    return SmtpServer(host, port or default, tls, user, password)


class SmtpDelivery:
    """The delivery to an SMTP server, over one connection that is kept between mails."""

    def __init__(self, server: SmtpServer) -> None:
        self.server = server
        self._idle: smtplib.SMTP | None = None

    def __str__(self) -> str:
        """Return the server's URL, without user and password."""
        return str(self.server)

    def deliver(self, mail: Mail) -> None:
        """Send `mail` to the server; when this returns, the server has accepted it.

        If a kept connection turns out to have been closed before any content
        was sent, the mail is sent again over a new one. Raises `MailError`.
        """
        content = mail.as_bytes("\r\n")
        if self._idle is not None:
            try:
                with self._kept_after(self._idle) as smtp:
                    self._reset(smtp)
                    self._hand_over(smtp, mail, content)
                return
            except ServerAwayError:
                pass  # servers close idle connections
        with self._kept_after(self._connect()) as smtp:
            self._hand_over(smtp, mail, content)

    def close(self) -> None:
        """Send QUIT and close the connection, if there is one."""
        smtp, self._idle = self._idle, None
        if smtp is not None:
            with contextlib.suppress(OSError):  # the connection ends in any case
                set_timeout(smtp, CHECK_TIMEOUT)
                smtp.quit()
            smtp.close()

    @contextlib.contextmanager
    def _kept_after(self, smtp: smtplib.SMTP) -> Iterator[smtplib.SMTP]:
        """Keep `smtp` only if the dialogue has ended in order.

        After anything else, even an exception from a signal handler, an answer
        may be outstanding, which would be mistaken for that to the next command.
        """
        self._idle = None
        try:
            yield smtp
        except RefusedError:
            self._idle = smtp if smtp.sock is not None else None
            raise
        except BaseException:
            smtp.close()
            raise
        self._idle = smtp

    def _connect(self) -> smtplib.SMTP:
        """Open a connection: greeted, encrypted and logged in as the URL requires."""
        host, port = self.server.host, self.server.port
        with contextlib.ExitStack() as undo:
            try:
                smtp: smtplib.SMTP
                if self.server.tls == "implicit":
                    smtp = smtplib.SMTP_SSL(
                        host, port, timeout=STEP_TIMEOUT, context=ssl.create_default_context()
                    )
                else:
                    smtp = smtplib.SMTP(host, port, timeout=STEP_TIMEOUT)
                undo.callback(smtp.close)
                smtp.ehlo_or_helo_if_needed()
                self._start_tls(smtp)
                self._log_in(smtp)
            except OSError as error:  # includes smtplib's and ssl's errors
                raise self._explained(error) from error
            undo.pop_all()
        return smtp

    def _start_tls(self, smtp: smtplib.SMTP) -> None:
        if self.server.tls in ("implicit", "never"):
            return
        if smtp.has_extn("starttls"):
            smtp.starttls(context=ssl.create_default_context())
            smtp.ehlo_or_helo_if_needed()
        elif self.server.tls == "required":
            raise InsecureError(f"{self.server} does not offer STARTTLS, and ?starttls=required asks for it")

    def _log_in(self, smtp: smtplib.SMTP) -> None:
        server = self.server
        if server.user is None:
            return
        if not isinstance(smtp.sock, ssl.SSLSocket) and not is_loopback(smtp):
            reason = "?starttls=never forbids TLS" if server.tls == "never" else "it does not offer STARTTLS"
            raise InsecureError(f"{server}: no password is sent unencrypted to another machine; {reason}")
        try:
            smtp.login(server.user, server.password)
        except smtplib.SMTPServerDisconnected:
            raise
        except smtplib.SMTPException as error:
            if isinstance(error, smtplib.SMTPResponseException) and error.smtp_code // 100 == 4:
                problem = f"{server} could not check the login of {server.user}: {_answer(error)}"
                raise ServerAwayError(problem) from error
            raise LoginError(f"{server} refused the login of {server.user}: {_answer(error)}") from error

    def _explained(self, error: OSError) -> MailError:
        """Return the `MailError` for a connection that could not be opened."""
        server = self.server
        match error:
            case ssl.SSLCertVerificationError():
                return InsecureError(f"{server}: its certificate cannot be trusted: {error.verify_message}")
            case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
                return ServerAwayError(f"{server} broke off while TLS began")
            case ssl.SSLError():
                return InsecureError(f"{server}: TLS failed: {error.reason or error}")
            case smtplib.SMTPException():
                return ServerAwayError(f"{server} did not take the connection: {_answer(error)}")
        return ServerAwayError(f"cannot connect to {server}: {error.strerror or error}")

    def _reset(self, smtp: smtplib.SMTP) -> None:
        """Reset the dialogue after the previous mail, and check that the server is still there."""
        try:
            set_timeout(smtp, CHECK_TIMEOUT)
            self._expect(2, smtp.rset(), "the next mail")
            set_timeout(smtp, STEP_TIMEOUT)
        except (smtplib.SMTPException, RefusedError) as error:
            raise ServerAwayError(f"{self.server} is no longer there: {error}") from error

    def _hand_over(self, smtp: smtplib.SMTP, mail: Mail, content: bytes) -> None:
        options = [f"size={len(content)}"] if smtp.has_extn("size") else []
        for address in (mail.sender, mail.recipient):
            if not address.isascii() and not smtp.has_extn("smtputf8"):
                raise RefusedError(f"{self.server} does not offer SMTPUTF8, which {address} needs")
        if not (mail.sender + mail.recipient).isascii():
            options += ["SMTPUTF8", "BODY=8BITMIME"]
        try:
            self._expect(2, smtp.mail(mail.sender, options), f"the sender {mail.sender}")
            self._expect(2, smtp.rcpt(mail.recipient), f"the recipient {mail.recipient}")
            self._expect(3, smtp.docmd("DATA"), "the mail")
        except smtplib.SMTPException as error:
            raise ServerAwayError(f"{self.server} broke off before it had the mail: {error}") from error
        self._send_content(smtp, content)

    def _send_content(self, smtp: smtplib.SMTP, content: bytes) -> None:
        """Send the mail's content; from here on, only the server knows whether it is delivered."""
        try:
            smtp.send(re.sub(rb"(?m)^\.", b"..", content) + b".\r\n")
            set_timeout(smtp, ACCEPT_TIMEOUT)
            code, text = smtp.getreply()
            set_timeout(smtp, STEP_TIMEOUT)
            outcome = _reply(code, text)
        except smtplib.SMTPException as error:
            code, outcome = -1, _answer(error)
        if code // 100 not in (2, 4, 5):
            problem = f"{self.server} was sent the mail but did not answer for it ({outcome})"
            raise OutcomeUnknownError(f"{problem}: it may have been delivered or not")
        if code == 421:
            smtp.close()
        if code // 100 != 2:
            raise _refusal(code)(f"{self.server} refused the mail: {outcome}")

    def _expect(self, kind: int, answer: tuple[int, bytes], what: str) -> None:
        """Raise `RefusedError` or `ServerAwayError` unless the answer's first digit is `kind`."""
        code, text = answer
        if code // 100 == kind:
            return
        if code // 100 in (4, 5) and code != 421:
            raise _refusal(code)(f"{self.server} refused {what}: {_reply(code, text)}")
        # 421 announces that the server closes the connection; other codes make no sense here.
        raise ServerAwayError(f"{self.server} broke off at {what}: {_reply(code, text)}")


def _refusal(code: int) -> type[RefusedError]:
    return RefusedForNowError if code // 100 == 4 else RefusedError


def is_loopback(smtp: smtplib.SMTP) -> bool:
    """Return whether the server is on this machine, by its address and not by its name."""
    assert smtp.sock is not None
    return ipaddress.ip_address(smtp.sock.getpeername()[0]).is_loopback


def set_timeout(smtp: smtplib.SMTP, seconds: float) -> None:
    """Set the time that the server has for each of its next answers."""
    if smtp.sock is not None:
        smtp.sock.settimeout(seconds)


def _reply(code: int, text: bytes | str) -> str:
    """Format a server's answer on one line."""
    words = (text.decode("utf-8", "replace") if isinstance(text, bytes) else text).split()
    return " ".join([str(code) if code != -1 else "not SMTP:", *words])


def _answer(error: smtplib.SMTPException) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return _reply(error.smtp_code, error.smtp_error)
    return str(error)


Delivery: TypeAlias = MaildirDelivery | SmtpDelivery
_delivery: Delivery | None = None


def _configured() -> Delivery:
    global _delivery
    if _delivery is None:
        _delivery = configured_delivery(os.environ)
    return _delivery


@task(
    durable=True,
    retries=RETRIES,
    backoff=BACKOFF,
    retry_for=RETRY_FOR,
    keep=KEEP,
)
def send_mail(
    from_: str, to: str, contents: str, subject: str = "", html: str | None = None
) -> dict[str, str]:
    """Send one mail, and return its Message-ID.

    `from_` and `to` are one address each, with or without a name
    (``Ann <ann@example.org>``); `contents` is the text, and `html` the same as
    HTML. Returns ``{"message_id": "<...>"}`` when the server has accepted the
    mail, or when it is stored. This is not idempotent: each call sends another
    mail. All attempts of one task have the same Message-ID.
    Raises `ValueError`, which names the argument, and `MailError`.
    """
    mail = compose(from_, to, contents, subject, html, unique=current_task().id)
    _configured().deliver(mail)
    return {"message_id": mail.message_id}


@on_worker_stop
def close_connection() -> None:
    """Close the connection to the mail server, if there is one; a further mail would open it again."""
    if _delivery is not None:
        _delivery.close()
