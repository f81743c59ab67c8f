"""Access to JSON-RPC and the API over HTTP, by the Host header and by the origin of a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.web.server import NOT_DONE_YET, Request

from taskd.auth.bearer import bearer_token
from taskd.auth.caller import Caller
from taskd.errors import Busy, NotAllowed
from taskd.listeners.gate import MOST_REFUSED, Gate
from taskd.listeners.message_rate import Allowance
from taskd.listeners.origins import Origins
from taskd.listeners.websocket import WebSocketFactory
from taskd.net.party_keys import party_key
from taskd.web.channel import GatewayChannel
from taskd.web.heads import Head
from taskd.web.problems import PHRASES, PROBLEM_TYPE, Problem, problem_of

__all__ = ["Access", "answer_empty", "answer_problem", "guarded"]

_ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Traceparent"
_EXPOSED_HEADERS = b"Location, Retry-After, WWW-Authenticate"

PREFLIGHT_SECONDS = 600
"""Seconds for which a browser need not ask again whether a page may send a request."""


class Access:
    """The rule for HTTP requests: that of `taskd.listeners.origins`, which holds for every Host header here.

    With a `gate` each request needs a token, in the header Authorization. Cookies and other credentials
    that a browser sends by itself mean nothing here, so pages need not, and cannot, send any.
    """

    def __init__(self, origins: Origins, gate: Gate | None = None) -> None:
        self._origins = origins
        self._gate = gate

    def admit(self, head: Head, party: str) -> Caller | None:
        """Return whoever has shown a token with the head of a request; None if none are asked for.

        Raises `Problem`, with the headers for the page that has sent it.
        """
        if self._gate is None:
            return None
        host = (head.values(b"host") or [b""])[-1]
        origins = head.values(b"origin")
        headers = self._checked(host, origins[-1] if origins else None)
        try:
            return self._caller_of(self._gate, head.values(b"authorization"), party)
        except Problem as problem:
            problem.headers.update({name.title(): value.decode("latin-1") for name, value in headers.items()})
            raise

    def caller(self, request: Request) -> Caller | None:
        """Return whoever has shown a token with a request; None if none are asked for. Raises `Problem`.

        The answer to the last token that may be refused on its connection closes that.
        """
        gate = self._gate
        if gate is None:
            return None
        channel = request.channel if isinstance(request.channel, GatewayChannel) else None
        known = None if channel is None else channel.caller
        if known is not None and gate.accepts(known):
            return known  # by the head, which came before the body
        headers = request.requestHeaders.getRawHeaders(b"authorization") or []
        try:
            return self._caller_of(gate, headers, party_key(request.channel.transport))
        except Problem:
            if channel is not None and headers:
                channel.refused += 1
                if channel.refused >= MOST_REFUSED:
                    _close_after(request)
            raise

    @staticmethod
    def _caller_of(gate: Gate, headers: Sequence[bytes], party: str) -> Caller:
        try:
            if not headers:
                raise NotAllowed("a token is needed here: Authorization: Bearer TOKEN", reason="no token")
            if len(headers) > 1:
                raise NotAllowed("the header Authorization is there more than once", reason="malformed")
            token = bearer_token(headers[0].decode("latin-1"))
            return gate.verify(token, party)
        except NotAllowed as error:
            raise problem_of(error) from None

    def check_operator(self, request: Request) -> None:
        """Let a request pass if no tokens are asked for, or with one of an operator. Raises `Problem`."""
        caller = self.caller(request)
        if caller is not None and not caller.grant.has("operate"):
            raise problem_of(NotAllowed("this needs a token with the role operate", reason="role"))

    def check(self, request: Request) -> None:
        """Let a request pass, with the headers for its page. Raises `Problem`."""
        request.setHeader(b"vary", b"Origin")
        headers = self._checked(request.getHeader(b"host") or b"", request.getHeader(b"origin"))
        for name, value in headers.items():
            request.setHeader(name, value)

    def _checked(self, given_host: bytes, given_origin: bytes | None) -> Mapping[str, bytes]:
        """Return the headers for the page of a request, if it has access. Raises `Problem`."""
        host = given_host.decode("latin-1")
        if given_origin is None:
            if not self._origins.knows(host):
                raise Problem(421, self._origins.unknown_host(host))
            return {"vary": b"Origin"}
        origin = given_origin.decode("latin-1")
        if not self._origins.allows(origin, host):
            raise Problem(403, self._origins.refusal(origin, host))
        return {
            "vary": b"Origin",
            "access-control-allow-origin": given_origin,
            "access-control-expose-headers": _EXPOSED_HEADERS,
        }

    @staticmethod
    def answer_options(request: Request, methods: Sequence[bytes]) -> int:
        """Answer an OPTIONS request, which a browser sends before other requests of a page."""
        allowed = b", ".join(methods)
        if request.getHeader(b"origin") is not None and request.getHeader(b"access-control-request-method"):
            request.setHeader(b"access-control-allow-methods", allowed)
            request.setHeader(b"access-control-allow-headers", _ALLOWED_HEADERS)
            request.setHeader(b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS)
        request.setHeader(b"allow", allowed)
        return answer_empty(request, 204)


def guarded(
    request: Request, access: Access, take: Callable[[Request], int], gateway: WebSocketFactory
) -> bytes | int:
    """Answer a request of JSON-RPC or the API by `take`, which may raise `Problem`, if it has access.

    If the gateway stops, the answer is the last one.
    """
    if gateway.peers.is_stopping:
        _close_after(request)
    try:
        access.check(request)
        if gateway.message_rate is not None and request.method != b"OPTIONS":
            _check_rate(request, gateway.message_rate, gateway.clock)
        return take(request)
    except Problem as problem:
        return answer_problem(request, problem)


def _close_after(request: Request) -> None:
    """Close the connection after the answer, which announces that."""
    request.channel.persistent = 0
    request.setHeader(b"connection", b"close")


def _check_rate(request: Request, rate: float, clock: IReactorTime) -> None:
    """Count a request for the rate of its connection. Raises `Problem`, with the time to wait."""
    channel = request.channel
    if not isinstance(channel, GatewayChannel):
        return
    if channel.allowance is None:
        channel.allowance = Allowance(clock, rate)
    wait = channel.allowance.take()
    if wait > 0:
        text = f"over {rate:g} messages a second on one connection; there is room again in {wait:.3f} s"
        raise problem_of(Busy(text, retry_after=wait, limit="message-rate"))


def answer_empty(request: Request, status: int) -> int:
    """Answer with a status alone."""
    request.setResponseCode(status, PHRASES[status].encode())
    request.finish()  # by itself twisted.web adds a length of 0, which a 204 must not have
    return NOT_DONE_YET


def answer_problem(request: Request, problem: Problem) -> bytes:
    """Prepare an answer that is a problem, and return its body."""
    request.setResponseCode(problem.status, PHRASES[problem.status].encode())
    request.setHeader(b"content-type", PROBLEM_TYPE)
    for name, value in problem.headers.items():
        request.setHeader(name, value)
    return problem.body
