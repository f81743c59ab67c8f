"""The composition of the messages that `taskd.apps.mail` sends, with checks of the addresses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email import policy
from email.header import Header
from email.message import EmailMessage
from email.parser import Parser
from email.utils import format_datetime, make_msgid, parseaddr

__all__ = ["Mail", "compose"]

MAX_MAILBOX = 500
"""Characters of an address with its name: about twice the longest address, 254 bytes (RFC 5321)."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail and its envelope: `sender` and `recipient` are bare addresses."""

    sender: str
    recipient: str
    message_id: str
    message: EmailMessage

    def as_bytes(self, linesep: str) -> bytes:
        """Encode the mail as it is sent or stored, with `linesep` after each line and at the end."""
        return self.message.as_bytes(policy=self.message.policy.clone(linesep=linesep))


_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Text that goes into a header as it is; all other text is written in encoded words.
_PLAIN_TEXT = re.compile(r"(?!.*=\?)[!-~]{1,60}(?: [!-~]{1,60})*")
_PLAIN_NAME = re.compile(r"(?=.{1,60}\Z)[\w'-]+(?: [\w'-]+)*", re.ASCII)

_WORDS = r'[^\s@<>()\[\]:;,\\".]+(?:\.[^\s@<>()\[\]:;,\\".]+)*'
_ADDRESS = rf'(?:{_WORDS}|"[^"\\]+")@(?:{_WORDS}|\[[^\s\[\]\\]+\])'
_MAILBOX = re.compile(rf'({_ADDRESS})|(?:"((?:[^"\\]|\\.)*)"|([^@<>:;,\\"]*?))\s*<({_ADDRESS})>')


def compose(
    from_: str,
    to: str,
    contents: str,
    subject: str = "",
    html: str | None = None,
    *,
    unique: str | None = None,
) -> Mail:
    """Make a mail, dated now, whose Message-ID is made from `unique`, or else a new one.

    Raises `ValueError`, which names the argument, if `from_` or `to` is not one
    address, if an address or the subject contains a control character (such as
    a line break), or if a text contains a lone surrogate.
    """
    sender_name, sender = _parsed("from", from_)
    recipient_name, recipient = _parsed("to", to)
    _refuse(_CONTROL, "subject", subject)
    _refuse(_SURROGATE, "contents", contents)
    _refuse(_SURROGATE, "html", html or "")
    domain = sender.rpartition("@")[2]
    message_id = make_msgid(domain=domain) if unique is None else f"<{unique}@{domain}>"
    headers = {
        "From": _mailbox("From", sender_name, sender),
        "To": _mailbox("To", recipient_name, recipient),
        "Subject": _encoded("Subject", subject, _PLAIN_TEXT),
        "Date": format_datetime(datetime.now(UTC)),
        "Message-ID": message_id,
    }
    # The headers are encoded and folded here, parsed, and passed on unchanged. What
    # EmailMessage does with a header that is set as text depends on Python's version:
    # 3.11.7 turns "=?utf-8?q?=0d=0aBcc:_..." into a header of its own, and drops the
    # quotes of a long name, which makes an address of it.
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
    """Split `text` into a name (or "") and an address. Raises `ValueError` if it is anything else.

    This is stricter than the standard library's parsers, which skip what they do
    not understand (such as a no-break space), and so return a different address.
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
