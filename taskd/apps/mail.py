"""The built-in app: `send_mail`, to an SMTP server or into a Maildir.

Where it delivers to is told by the environment variable ``TASKD_MAIL_URL``,
which a worker reads when it has its first mail to send:

``maildir:PATH``
    A Maildir, made if it is missing; relative to the worker's directory.
    ``maildir:./outbox`` is the default.
``smtp://user:password@host:port``
    A server that starts in the clear. STARTTLS is used where it is offered,
    insisted on with ``?starttls=required``, and left out with
    ``?starttls=never``. The port is 587 by default with a user (submission),
    25 without (relay).
``smtps://user:password@host:port``
    A server that speaks TLS from the start, on port 465 by default.

User and password may be left out, both together; ``@ : / ? # %`` in them are
percent-encoded. They are sent over TLS, or to a server on this machine (a
loopback address), and never else. TLS always verifies the certificate and the
host's name, by the system's authorities or those in ``SSL_CERT_FILE``.

A mail is never sent twice: where a connection ends after the mail's content
has gone out and before the server has answered, the task fails with
`OutcomeUnknownError` and leaves it to the caller what to do.
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
from datetime import UTC, datetime
from email import policy
from email.header import Header
from email.message import EmailMessage
from email.parser import Parser
from email.utils import format_datetime, make_msgid, parseaddr
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from taskd import on_worker_stop, task

__all__ = [
    "ConfigError",
    "InsecureError",
    "LoginError",
    "MailError",
    "OutcomeUnknownError",
    "RefusedError",
    "ServerAwayError",
    "compose",
    "configured_delivery",
    "delivery_to",
    "send_mail",
]

URL_VARIABLE = "TASKD_MAIL_URL"
DEFAULT_URL = "maildir:./outbox"

TIMEOUT = 30.0
"""Seconds that the server has for each step but the last: a mail server that
needs longer to greet or to answer is as good as away, and the worker is needed."""

ACCEPT_TIMEOUT = 600.0
"""Seconds that the server has for its answer to a mail's content: the ten
minutes of RFC 5321, 4.5.3.2.6. Whoever gives up sooner does not know whether
the mail was delivered, and a scanner on the server may well take minutes."""

CHECK_TIMEOUT = 5.0
"""Seconds that the server has to show that a kept connection still works, and
to answer our goodbye: a new connection is the better use of a longer wait."""

MAX_MAILBOX = 500
"""Characters of an address with its name: twice the 254 bytes that an address has at most (RFC 5321)."""


class MailError(Exception):
    """The mail was not sent, or (`OutcomeUnknownError`) perhaps not. No text holds the password."""


class ConfigError(MailError, ValueError):
    """TASKD_MAIL_URL cannot be used."""


class ServerAwayError(MailError):
    """The server cannot be reached, or closed the connection before it had the mail. Later it may work."""


class InsecureError(MailError):
    """The connection is not as safe as was asked for: TLS is missing, or has failed."""


class LoginError(MailError):
    """The server did not take the user and the password."""


class RefusedError(MailError):
    """The server does not take this mail: its sender, its recipient or its content."""


class OutcomeUnknownError(MailError):
    """The connection ended when the server had the mail but had not answered: it may be delivered or not."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail and its envelope: `sender` and `recipient` are bare addresses."""

    sender: str
    recipient: str
    message_id: str
    message: EmailMessage

    def as_bytes(self, linesep: str) -> bytes:
        """The mail as it is sent or stored; ends with `linesep`."""
        return self.message.as_bytes(policy=self.message.policy.clone(linesep=linesep))


_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# What goes into a header as it is; all else is written in encoded words.
_PLAIN_TEXT = re.compile(r"(?!.*=\?)[!-~]{1,60}(?: [!-~]{1,60})*")
_PLAIN_NAME = re.compile(r"(?=.{1,60}\Z)[\w'-]+(?: [\w'-]+)*", re.ASCII)

_WORDS = r'[^\s@<>()\[\]:;,\\".]+(?:\.[^\s@<>()\[\]:;,\\".]+)*'
_ADDRESS = rf'(?:{_WORDS}|"[^"\\]+")@(?:{_WORDS}|\[[^\s\[\]\\]+\])'
_MAILBOX = re.compile(rf'({_ADDRESS})|(?:"((?:[^"\\]|\\.)*)"|([^@<>:;,\\"]*?))\s*<({_ADDRESS})>')


def compose(from_: str, to: str, contents: str, subject: str = "", html: str | None = None) -> Mail:
    """Make a mail with a new Message-ID; its date is now.

    Raises `ValueError`, which names the argument, for what is not one address,
    for a line break or another control character in an address or the
    subject, and for text that is no Unicode.
    """
    sender_name, sender = _parsed("from", from_)
    recipient_name, recipient = _parsed("to", to)
    _refuse(_CONTROL, "subject", subject)
    _refuse(_SURROGATE, "contents", contents)
    _refuse(_SURROGATE, "html", html or "")
    message_id = make_msgid(domain=sender.rpartition("@")[2])
    headers = {
        "From": _mailbox("From", sender_name, sender),
        "To": _mailbox("To", recipient_name, recipient),
        "Subject": _encoded("Subject", subject, _PLAIN_TEXT),
        "Date": format_datetime(datetime.now(UTC)),
        "Message-ID": message_id,
    }
    # They are encoded and folded here, parsed, and passed on as they are: what
    # EmailMessage makes of a header that is set as text depends on Python's
    # version, and 3.11.7 turns "=?utf-8?q?=0d=0aBcc:_..." into a header of its
    # own and drops the quotes of a long name, which makes an address of it.
    kept = policy.SMTP.clone(refold_source="none", cte_type="7bit", utf8=True)
    head = "".join(f"{name}: {value}\n" for name, value in headers.items() if value)
    message = Parser(EmailMessage, policy=kept).parsestr(head + "\n")
    message.set_content(contents)
    if html is not None:
        message.add_alternative(html, subtype="html")
    return Mail(sender, recipient, message_id, message)


def _refuse(pattern: re.Pattern[str], argument: str, text: str) -> None:
    if found := pattern.search(text):
        raise ValueError(f"{argument}: a line break, control character or surrogate is in it: {found[0]!r}")


def _parsed(argument: str, text: str) -> tuple[str, str]:
    """The name (or "") and the address that `text` consists of; raises `ValueError`.

    Stricter than the standard library's parsers, which skip what they do not
    understand (a no-break space, for one) and so make another address of it.
    """
    _refuse(_CONTROL, argument, text)
    found = _MAILBOX.fullmatch(text.strip()) if len(text) <= MAX_MAILBOX else None
    bare, quoted, name, angled = found.groups() if found else ("", "", "", "")
    address = bare or angled
    if not address or not address.isprintable() or parseaddr(address) != ("", address):
        wanted = "one address is wanted, like ann@example.org or Ann <ann@example.org>"
        raise ValueError(f"{argument}: {wanted}, not {text[:80]!r}")
    return re.sub(r"\\(.)", r"\1", quoted or "") or name or "", address


def _mailbox(header: str, name: str, address: str) -> str:
    fold = "\n" if len(name) + len(address) > 60 else ""
    return f"{_encoded(header, name, _PLAIN_NAME)}{fold} <{address}>" if name else address


def _encoded(header: str, text: str, plain: re.Pattern[str]) -> str:
    return Header(text, "us-ascii" if plain.fullmatch(text) else "utf-8", header_name=header).encode()


_TLS = {
    ("smtp", ""): "offered",
    ("smtp", "starttls=required"): "required",
    ("smtp", "starttls=never"): "never",
    ("smtps", ""): "implicit",
}


def _config_error(wrong: str) -> ConfigError:
    return ConfigError(
        f"{URL_VARIABLE}: {wrong}; it should be maildir:PATH, smtp://user:password@host:port, with "
        "?starttls=required or ?starttls=never where wanted, or smtps://user:password@host:port "
        "(user:password@ and :port may be left out; in user and password, @:/?#% are percent-encoded)"
    )


def delivery_to(url: str) -> Delivery:
    """The delivery that `url` stands for; nothing is connected or made yet. Raises `ConfigError`."""
    scheme, _, rest = url.partition(":")
    if scheme.lower() in ("smtp", "smtps"):
        return SmtpDelivery(_server(url))
    if scheme.lower() == "maildir":
        if not rest or "\0" in rest or re.match("//[^/]", rest):
            raise _config_error("no path follows maildir:, as in maildir:./outbox")
        return MaildirDelivery(os.path.abspath(rest))
    raise _config_error(f"unknown scheme {scheme!r}" if rest.startswith("//") else "no known scheme")


def configured_delivery(environ: Mapping[str, str]) -> Delivery:
    """The delivery that the environment asks for, or the default. Raises `ConfigError`."""
    return delivery_to(environ.get(URL_VARIABLE, "").strip() or DEFAULT_URL)


class MaildirDelivery:
    """Delivers into the Maildir at `path`; any number of processes may do so at once."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __str__(self) -> str:
        return f"the Maildir {self._path}"

    def deliver(self, mail: Mail) -> None:
        """Add `mail` to ``new``; it is on the disk when this returns."""
        try:
            # Not left to mailbox, which fails where another process is half way through the same.
            for part in ("", "tmp", "new", "cur"):
                os.makedirs(os.path.join(self._path, part), 0o700, exist_ok=True)
            mailbox.Maildir(self._path, create=False).add(mail.as_bytes("\n"))
        except (OSError, mailbox.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise MailError(f"cannot deliver into the Maildir {self._path}: {reason}") from error

    def close(self) -> None:
        """Nothing is kept."""


@dataclass(frozen=True, slots=True)
class Server:
    """An SMTP server and how to talk to it; `tls` is one of `_TLS`."""

    host: str
    port: int
    tls: str = "offered"
    user: str | None = None
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'smtps' if self.tls == 'implicit' else 'smtp'}://{host}:{self.port}"


def _server(url: str) -> Server:
    """Parse ``smtp:`` and ``smtps:``; what is raised holds nothing of the URL."""
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
    return Server(host, port or default, tls, user, password)


class SmtpDelivery:
    """Delivers to an SMTP server, over one connection that is kept between mails."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._idle: smtplib.SMTP | None = None

    def __str__(self) -> str:
        """The server, without user and password."""
        return str(self._server)

    def deliver(self, mail: Mail) -> None:
        """Hand `mail` to the server; when this returns, it has answered for it.

        Where a kept connection turns out to be gone before any of the
        content was sent, it is tried once more over a new one.
        """
        content = mail.as_bytes("\r\n")
        if self._idle is not None:
            try:
                with self._kept_after(self._idle) as smtp:
                    self._reset(smtp)
                    self._hand_over(smtp, mail, content)
                return
            except ServerAwayError:
                pass  # Servers close what is idle.
        with self._kept_after(self._connect()) as smtp:
            self._hand_over(smtp, mail, content)

    def close(self) -> None:
        """Say goodbye and close the connection, if there is one."""
        smtp, self._idle = self._idle, None
        if smtp is not None:
            with contextlib.suppress(OSError):  # It is over in any case.
                _give(smtp, CHECK_TIMEOUT)
                smtp.quit()
            smtp.close()

    @contextlib.contextmanager
    def _kept_after(self, smtp: smtplib.SMTP) -> Iterator[smtplib.SMTP]:
        """Keep `smtp` only if the dialogue has come to an orderly end.

        After anything else, an exception from a signal handler too, an answer
        may be outstanding that would be taken for that to the next command.
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
        """A new connection: greeted, encrypted and logged in as the URL asks for."""
        host, port = self._server.host, self._server.port
        with contextlib.ExitStack() as undo:
            try:
                smtp: smtplib.SMTP
                if self._server.tls == "implicit":
                    smtp = smtplib.SMTP_SSL(host, port, timeout=TIMEOUT, context=ssl.create_default_context())
                else:
                    smtp = smtplib.SMTP(host, port, timeout=TIMEOUT)
                undo.callback(smtp.close)
                smtp.ehlo_or_helo_if_needed()
                self._start_tls(smtp)
                self._log_in(smtp)
            except OSError as error:  # smtplib's and ssl's are some, too
                raise self._explained(error) from error
            undo.pop_all()
        return smtp

    def _start_tls(self, smtp: smtplib.SMTP) -> None:
        if self._server.tls in ("implicit", "never"):
            return
        if smtp.has_extn("starttls"):
            smtp.starttls(context=ssl.create_default_context())
            smtp.ehlo_or_helo_if_needed()
        elif self._server.tls == "required":
            raise InsecureError(f"{self._server} does not offer STARTTLS, and ?starttls=required asks for it")

    def _log_in(self, smtp: smtplib.SMTP) -> None:
        server = self._server
        if server.user is None:
            return
        if not isinstance(smtp.sock, ssl.SSLSocket) and not _is_loopback(smtp):
            reason = "?starttls=never forbids TLS" if server.tls == "never" else "it does not offer STARTTLS"
            raise InsecureError(f"{server}: no password is sent unencrypted to another machine; {reason}")
        try:
            smtp.login(server.user, server.password)
        except smtplib.SMTPServerDisconnected:
            raise
        except smtplib.SMTPException as error:
            raise LoginError(f"{server} refused the login of {server.user}: {_told(error)}") from error

    def _explained(self, error: OSError) -> MailError:
        """What is told of a connection that did not come about."""
        server = self._server
        match error:
            case ssl.SSLCertVerificationError():
                return InsecureError(f"{server}: its certificate cannot be trusted: {error.verify_message}")
            case ssl.SSLError():
                return InsecureError(f"{server}: TLS failed: {error.reason or error}")
            case smtplib.SMTPException():
                return ServerAwayError(f"{server} did not take the connection: {_told(error)}")
        return ServerAwayError(f"cannot connect to {server}: {error.strerror or error}")

    def _reset(self, smtp: smtplib.SMTP) -> None:
        """Forget what the mail before has left, which also shows whether the server is still there."""
        try:
            _give(smtp, CHECK_TIMEOUT)
            self._expect(2, smtp.rset(), "the next mail")
            _give(smtp, TIMEOUT)
        except (smtplib.SMTPException, RefusedError) as error:
            raise ServerAwayError(f"{self._server} is no longer there: {error}") from error

    def _hand_over(self, smtp: smtplib.SMTP, mail: Mail, content: bytes) -> None:
        options = [f"size={len(content)}"] if smtp.has_extn("size") else []
        for address in (mail.sender, mail.recipient):
            if not address.isascii() and not smtp.has_extn("smtputf8"):
                raise RefusedError(f"{self._server} does not offer SMTPUTF8, which {address} needs")
        if not (mail.sender + mail.recipient).isascii():
            options += ["SMTPUTF8", "BODY=8BITMIME"]
        try:
            self._expect(2, smtp.mail(mail.sender, options), f"the sender {mail.sender}")
            self._expect(2, smtp.rcpt(mail.recipient), f"the recipient {mail.recipient}")
            self._expect(3, smtp.docmd("DATA"), "the mail")
        except smtplib.SMTPException as error:
            raise ServerAwayError(f"{self._server} broke off before it had the mail: {error}") from error
        self._send_content(smtp, content)

    def _send_content(self, smtp: smtplib.SMTP, content: bytes) -> None:
        """From here on only the server knows what has become of the mail."""
        try:
            smtp.send(re.sub(rb"(?m)^\.", b"..", content) + b".\r\n")
            _give(smtp, ACCEPT_TIMEOUT)
            code, told = smtp.getreply()
            _give(smtp, TIMEOUT)
            outcome = _reply(code, told)
        except smtplib.SMTPException as error:
            code, outcome = -1, _told(error)
        if code // 100 not in (2, 4, 5):
            problem = f"{self._server} was sent the mail but did not answer for it ({outcome})"
            raise OutcomeUnknownError(f"{problem}: it may have been delivered or not")
        if code == 421:
            smtp.close()
        if code // 100 != 2:
            raise RefusedError(f"{self._server} refused the mail: {outcome}")

    def _expect(self, kind: int, answer: tuple[int, bytes], what: str) -> None:
        """Raise unless the answer's first digit is `kind`."""
        code, text = answer
        if code // 100 == kind:
            return
        if code // 100 in (4, 5) and code != 421:
            raise RefusedError(f"{self._server} refused {what}: {_reply(code, text)}")
        # 421 announces that the server closes the connection; others make no sense here.
        raise ServerAwayError(f"{self._server} broke off at {what}: {_reply(code, text)}")


def _is_loopback(smtp: smtplib.SMTP) -> bool:
    """Whether the server is on this machine, by its address and not by its name."""
    assert smtp.sock is not None
    return ipaddress.ip_address(smtp.sock.getpeername()[0]).is_loopback


def _give(smtp: smtplib.SMTP, seconds: float) -> None:
    """Set how long the server has for its next answers."""
    if smtp.sock is not None:
        smtp.sock.settimeout(seconds)


def _reply(code: int, text: bytes | str) -> str:
    """A server's answer on one line."""
    told = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return " ".join([str(code) if code != -1 else "not SMTP:", *told.split()])


def _told(error: smtplib.SMTPException) -> str:
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


@task
def send_mail(
    from_: str, to: str, contents: str, subject: str = "", html: str | None = None
) -> dict[str, str]:
    """Send one mail, and return the Message-ID that it was given.

    `from_` and `to` are one address each, with or without a name
    (``Ann <ann@example.org>``); `contents` is the text, and `html` the same
    for those who prefer it so. Returns ``{"message_id": "<...>"}`` when the
    server has taken the mail, or when it is stored. Each call sends another
    mail. Raises `ValueError`, which names the argument, and `MailError`.
    """
    mail = compose(from_, to, contents, subject, html)
    _configured().deliver(mail)
    return {"message_id": mail.message_id}


@on_worker_stop
def close_connection() -> None:
    """Leave the server politely; the next mail would connect again."""
    if _delivery is not None:
        _delivery.close()
