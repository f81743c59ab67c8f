"""The token that a gateway shows its task servers, and what it makes of their answers to that."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.client.tokens import Credentials
from taskd.errors import MethodNotFound, Unreachable
from taskd.model import Failure, Outcome, Role
from taskd.net.log_rate import RatedLog

__all__ = ["server_credentials"]

_log = Logger(namespace="taskd.gateway")


class _Answer(msgspec.Struct):
    """What matters here of the answer to `taskd.auth`."""

    role: Role = "operate"
    anonymous: bool = False


_answer = msgspec.json.Decoder(_Answer)


def server_credentials(clock: IReactorTime, token: Callable[[], str], *, passes_on: bool) -> Credentials:
    """Return the credentials of a gateway's links.

    That the token is refused is logged, and is no matter of the callers' own tokens: for them the
    task server cannot be reached. If the gateway `passes_on` whose calls they are, its token must be
    an operator's, since nobody else is believed that.
    """
    log = RatedLog(clock, _log)

    def judge(outcome: Outcome) -> Outcome:
        if isinstance(outcome, Failure):
            if outcome.code == MethodNotFound.code:  # the task server knows no tokens
                return outcome
            why = outcome.message
        else:
            answer = _answer.decode(outcome.value)
            if not passes_on or answer.anonymous or answer.role == "operate":
                return outcome
            why = f"it has the role {answer.role}, and must have operate, to speak for the gateway's callers"
        log.warn("token", "a task server does not take the token of --task-server-token: {why}", why=why)
        return Failure.of(
            Unreachable("the task server does not accept the gateway's token; its log says why", sent=False)
        )

    return Credentials(token, judge=judge)
