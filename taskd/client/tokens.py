"""The tokens that clients show: where they come from, the request that shows one, and its answer."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from time import time
from typing import Any

import msgspec

from taskd.errors import MethodNotFound, NotAllowed
from taskd.model import Call, Failure, Outcome
from taskd.protocol.method_names import AUTH
from taskd.protocol.request_lines import encode_arguments, request_line

__all__ = [
    "AUTH_ID",
    "VARIABLE",
    "Credentials",
    "GivenToken",
    "ShownToken",
    "checked",
    "credentials_of",
    "denial_of",
    "has_expired",
    "no_token",
]

VARIABLE = "TASKD_TOKEN"
"""The environment variable with the token that a client shows if its program gives none."""

AUTH_ID = b'"auth"'
"""The id of the request that shows a token: none that `PendingCalls` gives to a call."""

RENEW_SECONDS = 30.0
"""Seconds before the end of a token at which a new one is asked for: enough for a slow function.
If a token lasts for less than twice as long, half of its time."""

_TOKEN = re.compile(r"[A-Za-z0-9_.~+-]+")

_FORM = "a token is a text of letters, digits and . _ ~ + -"

GivenToken = str | Callable[[], Any] | None
"""A token as a program gives it: a text, or a function that returns one for each connection."""


def checked(token: object) -> str:
    """Return a token. Raises `NotAllowed` if it is none; a token is never quoted."""
    if token is None or token == "":
        raise NotAllowed("there is no token: the function for it has returned none", reason="no token")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise NotAllowed(f"the function for the token has returned what is none: {_FORM}", reason="malformed")
    return token


def no_token(error: BaseException) -> NotAllowed:
    """Return the error of a call for which there is no token, since the function for it has raised."""
    if isinstance(error, NotAllowed):
        return error
    return NotAllowed(
        f"there is no token: the function for it has raised {type(error).__name__}: {error}",
        reason="no token",
    )


class Credentials:
    """The token of a client: a text, or a function that is asked for each connection.

    `origin` says where it comes from, for errors; `judge` returns what counts instead of a server's answer
    to it. Raises `ValueError` if it is no token.
    """

    def __init__(
        self,
        token: str | Callable[[], Any],
        origin: str = "",
        judge: Callable[[Outcome], Outcome] | None = None,
    ) -> None:
        self.judge = judge
        if isinstance(token, str):
            if not _TOKEN.fullmatch(token):
                raise ValueError(f"{origin}{_FORM}")
        elif not callable(token):
            raise ValueError(f"{origin}{_FORM}, or a function that returns one")
        self._token = token

    @property
    def is_renewable(self) -> bool:
        """Whether there is another token when this one has expired."""
        return not isinstance(self._token, str)

    def ask(self) -> Any:
        """Return the token to be shown next, or what can be awaited for it: see `checked`.

        Raises `NotAllowed` if the function raises.
        """
        if isinstance(self._token, str):
            return self._token
        try:
            return self._token()
        except Exception as error:
            raise no_token(error) from error

    def next(self) -> str:
        """Return the token to be shown next, for a program that blocks. Raises `NotAllowed`."""
        token = self.ask()
        if hasattr(token, "__await__"):
            if hasattr(token, "close"):
                token.close()  # a coroutine, which would complain that nobody awaits it
            raise NotAllowed("there is no token: a client that blocks awaits no function", reason="no token")
        return checked(token)

    async def awaited(self) -> str:
        """Return the token to be shown next, in an event loop. Raises `NotAllowed`."""
        token = self.ask()
        if hasattr(token, "__await__"):
            try:
                token = await token
            except Exception as error:
                raise no_token(error) from error
        return checked(token)


def credentials_of(token: GivenToken) -> Credentials | None:
    """Return the credentials of a client; None stands for the token in the environment, if there is one.

    Raises `ValueError` if it is no token.
    """
    if token is not None:
        return Credentials(token)
    found = os.environ.get(VARIABLE, "").strip()
    return Credentials(found, f"{VARIABLE} in the environment: ") if found else None


def has_expired(outcome: Outcome) -> bool:
    """Return whether a call was refused, and not run, because the token had expired."""
    return type(outcome) is Failure and outcome.code == NotAllowed.code and _reason(outcome) == "expired"


def denial_of(code: int, why: str | None) -> Failure | None:
    """Return why a gateway has closed a websocket with this code, if that is because of its token."""
    from taskd.auth.caller import EXPIRED, REFUSED  # which those without websockets need not import

    if code == EXPIRED:
        return Failure.of(NotAllowed(why or "the token has expired", reason="expired"))
    return Failure.of(NotAllowed(why or "the token is not accepted")) if code == REFUSED else None


def _reason(failure: Failure) -> object:
    return failure.data.get("reason") if isinstance(failure.data, dict) else None


class _Answer(msgspec.Struct):
    """What is used of the answer to `taskd.auth`."""

    expires: float | None = None


_answer = msgspec.json.Decoder(_Answer)


class ShownToken:
    """The tokens that one connection shows: one at first, and others before that expires. Does no I/O.

    `accepted` is called when `renews_in` is known. `judge` is as for `Credentials`.
    """

    def __init__(
        self,
        *,
        is_renewable: bool,
        wall_clock: Callable[[], float] = time,
        accepted: Callable[[], object] = bool,  # which does nothing
        judge: Callable[[Outcome], Outcome] | None = None,
    ) -> None:
        self._judge = judge
        self._accepted = accepted
        self.was_accepted = False
        """Whether the server has accepted one: what was sent behind it may have been run."""
        self.renews_in: float | None = None
        """Seconds from the last answer until another token should be shown; None if that is no use."""
        self._is_renewable = is_renewable
        self._wall_clock = wall_clock
        self._unanswered = 0

    @property
    def awaits_answer(self) -> bool:
        """Whether a token was shown that the server has not answered yet."""
        return self._unanswered > 0

    def first(self, token: str) -> bytes:
        """Return the request that shows the first token of a connection, without its LF."""
        self.was_accepted = False
        self._unanswered = 0
        return self.line(token)

    def line(self, token: str) -> bytes:
        """Return the request that shows a token, without its LF."""
        self.renews_in = None
        self._unanswered += 1
        return request_line(Call(AUTH, encode_arguments({"token": token})), AUTH_ID)

    def answered(self, outcome: Outcome) -> Failure | None:
        """Take the answer to that; return the failure of all that was sent behind it, if it is refused.

        A server that knows no tokens needs none. A second token that is refused leaves the first as it was.
        """
        self._unanswered -= 1
        if self._judge is not None:
            outcome = self._judge(outcome)
        if isinstance(outcome, Failure):
            if self.was_accepted or outcome.code == MethodNotFound.code:
                return None
            return outcome
        self.was_accepted = True
        expires = _answer.decode(outcome.value).expires
        if expires is not None and self._is_renewable:
            left = expires - self._wall_clock()
            if left > 0:  # else this machine's clock differs from the server's
                self.renews_in = max(left - RENEW_SECONDS, left / 2)
                self._accepted()
        return None
