"""Access to JSON-RPC and the API over HTTP, by the Host header and by the origin of a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.web.server import NOT_DONE_YET, Request

from taskd.auth.bearer import bearer_token
from taskd.auth.caller import Caller
from taskd.errors import NotAllowed
from taskd.listeners.gate import Gate
from taskd.listeners.origins import Origins
from taskd.net.party_keys import party_key
from taskd.web.problems import PHRASES, PROBLEM_TYPE, Problem, problem_of

__all__ = ["Access", "answer_empty", "answer_problem", "guarded"]

_ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Traceparent"
_EXPOSED_HEADERS = "Location, Retry-After, WWW-Authenticate"

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

    def caller(self, request: Request) -> Caller | None:
        """Return whoever has shown a token with a request; None if none are asked for. Raises `Problem`."""
        if self._gate is None:
            return None
        headers = request.requestHeaders.getRawHeaders(b"authorization") or []
        return self.caller_of(headers, party_key(request.channel.transport))

    def caller_of(self, headers: Sequence[bytes], party: str) -> Caller | None:
        """Return whoever has shown a token by these headers Authorization, as `caller` does."""
        if self._gate is None:
            return None
        try:
            if not headers:
                raise NotAllowed("a token is needed here: Authorization: Bearer TOKEN", reason="no token")
            if len(headers) > 1:
                raise NotAllowed("the header Authorization is there more than once", reason="malformed")
            token = bearer_token(headers[0].decode("latin-1"))
            return self._gate.verify(token, party)
        except NotAllowed as error:
            raise problem_of(error) from None

    def check_operator(self, request: Request) -> None:
        """Let a request pass if no tokens are asked for, or with one of an operator. Raises `Problem`."""
        caller = self.caller(request)
        if caller is not None and not caller.grant.has("operate"):
            raise problem_of(NotAllowed("this needs a token with the role operate", reason="role"))

    def check(self, request: Request) -> None:
        """Let a request pass, with the headers for its page. Raises `Problem`."""
        host = (request.getHeader(b"host") or b"").decode("latin-1")
        given = request.getHeader(b"origin")
        request.setHeader(b"vary", b"Origin")
        if given is None:
            if not self._origins.knows(host):
                raise Problem(421, self._origins.unknown_host(host))
            return
        origin = given.decode("latin-1")
        if not self._origins.allows(origin, host):
            raise Problem(403, self._origins.refusal(origin, host))
        request.setHeader(b"access-control-allow-origin", given)
        request.setHeader(b"access-control-expose-headers", _EXPOSED_HEADERS)

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
    request: Request, access: Access, take: Callable[[Request], int], *, is_stopping: bool
) -> bytes | int:
    """Answer a request of JSON-RPC or the API by `take`, which may raise `Problem`, if it has access.

    If the gateway stops, the answer is the last one.
    """
    if is_stopping:
        request.channel.persistent = 0
        request.setHeader(b"connection", b"close")
    try:
        access.check(request)
        return take(request)
    except Problem as problem:
        return answer_problem(request, problem)


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
