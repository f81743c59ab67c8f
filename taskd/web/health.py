"""The health checks: `/healthz`, whether the process lives; `/readyz`, whether it would take a task now."""

from __future__ import annotations

import msgspec
from twisted.internet.defer import Deferred
from twisted.web.http import SERVICE_UNAVAILABLE
from twisted.web.server import NOT_DONE_YET, Request

from taskd.listeners.readiness import Readiness
from taskd.server.readiness import Unready

__all__ = ["HEALTH_PATH", "READY_PATH", "render_health", "render_readiness"]

HEALTH_PATH = b"/healthz"
READY_PATH = b"/readyz"

RETRY_AFTER = 1
"""Seconds after which a client should ask again: what the answer may be old."""


class _Ready(msgspec.Struct):
    ready: bool = True


class _NotReady(msgspec.Struct):
    reason: str
    detail: str
    ready: bool = False


def render_health(request: Request) -> bytes:
    """Answer that this process serves: that the answer comes is all there is to it."""
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    return b"ok\n"


def render_readiness(request: Request, readiness: Readiness) -> int:
    """Answer whether a task would be taken now: 200, or 503 with the reason."""
    gone: Deferred[None] = request.notifyFinish()
    gone.addErrback(lambda _: None)
    readiness.check().addCallback(_answer, request)
    return NOT_DONE_YET


def _answer(found: Unready | None, request: Request) -> None:
    if request.channel is None:  # the client has not waited
        return
    request.setHeader(b"content-type", b"application/json")
    body: _Ready | _NotReady = _Ready()
    if found is not None:
        request.setResponseCode(SERVICE_UNAVAILABLE)
        request.setHeader(b"retry-after", b"%d" % RETRY_AFTER)
        body = _NotReady(found.reason, found.detail)
    text = msgspec.json.encode(body) + b"\n"
    request.setHeader(b"content-length", b"%d" % len(text))
    request.write(text)
    request.finish()
