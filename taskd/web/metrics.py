"""`/metrics`: the figures of this process, in Prometheus' text format.

Nothing is counted for this alone: at each scrape, the counters that the parts keep are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from twisted.internet.defer import Deferred
from twisted.web.server import NOT_DONE_YET, Request

from taskd import __version__
from taskd.listeners.gateway import Gateway
from taskd.net.admission import Admission
from taskd.net.lag import LagMeter
from taskd.net.traffic import Traffic
from taskd.server.readiness import Unready
from taskd.server.task_server import TaskServer
from taskd.web.channel import GatewaySite
from taskd.web.server_metrics import histogram, server_metrics

__all__ = ["METRICS_PATH", "Measured", "MetricsPage"]

METRICS_PATH = b"/metrics"

SHARE = 0.05
"""The part of the time that may be spent on this page. If it is asked for more often, it is sent again as
it was: with fifty functions it takes some 10 ms, in which nobody is served, and anybody may ask."""


@dataclass(slots=True)
class Measured:
    """The parts of a daemon besides its gateway that have figures; `traffic` is that of each kind of port."""

    server: TaskServer | None = None
    lag: LagMeter | None = None
    admission: Admission | None = None
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    site: GatewaySite | None = None


class MetricsPage:
    """The page with the figures of a daemon. Is a collector of prometheus_client."""

    def __init__(
        self, gateway: Gateway, measured: Measured, seconds: Callable[[], float] = time.perf_counter
    ) -> None:
        self._seconds = seconds
        self._text = b""
        self._again_at = -inf
        self._gateway = gateway
        self._measured = measured
        self._unready: Unready | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self, request: Request) -> int:
        """Answer with the figures, once it is known whether a task would be taken."""
        gone: Deferred[None] = request.notifyFinish()
        gone.addErrback(lambda _: None)
        self._gateway.readiness.check().addCallback(self._answer, request)
        return NOT_DONE_YET

    def _answer(self, unready: Unready | None, request: Request) -> None:
        if request.channel is None:  # the client has not waited
            return
        self._unready = unready
        began = self._seconds()
        if began >= self._again_at:
            self._text = generate_latest(self._registry)
            ended = self._seconds()
            self._again_at = ended + (ended - began) / SHARE
        request.setHeader(b"content-type", CONTENT_TYPE_LATEST.encode())
        request.setHeader(b"content-length", b"%d" % len(self._text))
        request.write(self._text)
        request.finish()

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the figures are not collected when this is registered."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return the present figures."""
        measured = self._measured
        yield InfoMetricFamily("taskd_build", "The version.", {"version": __version__})
        yield GaugeMetricFamily(
            "taskd_ready", "Whether a task would be taken now, as /readyz says.", float(self._unready is None)
        )
        yield from self._connections()
        yield from self._requests()
        if measured.lag is not None:
            yield histogram(
                "taskd_reactor_lag_seconds",
                "How late the reactor was, measured each second.",
                measured.lag.lag,
            )
        if measured.server is not None:
            yield from server_metrics(measured.server.figures())

    def _connections(self) -> Iterable[Metric]:
        measured = self._measured
        connections = GaugeMetricFamily("taskd_connections", "Open connections.", labels=["kind"])
        connections.add_metric(["websocket"], self._gateway.factory.countConnections)
        if measured.site is not None:
            connections.add_metric(["http"], len(measured.site.channels))
        if measured.server is not None:
            connections.add_metric(["task_server"], measured.server.connections)
        yield connections
        if measured.admission is not None:
            yield GaugeMetricFamily(
                "taskd_connections_limit",
                "Connections that there may be.",
                measured.admission.most,
            )
        received = CounterMetricFamily("taskd_received_bytes", "Bytes from clients.", labels=["port"])
        sent = CounterMetricFamily("taskd_sent_bytes", "Bytes to clients.", labels=["port"])
        for port, traffic in measured.traffic.items():
            received.add_metric([port], traffic.received)
            sent.add_metric([port], traffic.sent)
        yield from (received, sent)

    def _requests(self) -> Iterable[Metric]:
        backend = self._gateway.factory.backend
        yield GaugeMetricFamily(
            "taskd_gateway_requests", "Requests in flight at the gateway.", self._gateway.in_flight().total()
        )
        if self._measured.site is not None:
            responses = CounterMetricFamily("taskd_http_responses", "HTTP responses.", labels=["status"])
            for status, count in sorted(self._measured.site.responses.items()):
                responses.add_metric([str(status)], count)
            yield responses
        budget = backend.budget
        yield GaugeMetricFamily("taskd_held_bytes", "Bytes held for clients (--max-buffered).", budget.held)
        yield GaugeMetricFamily("taskd_held_bytes_limit", "Bytes that may be held.", budget.limit)
        unanswered = CounterMetricFamily(
            "taskd_unanswered_failures", "Failures that no reply carried.", labels=["reason"]
        )
        for reason, count in sorted(backend.unanswered.counts.items()):
            unanswered.add_metric([reason], count)
        yield unanswered
