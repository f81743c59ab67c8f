"""The pages for whoever watches over a daemon: its health, its readiness and its figures."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from taskd.listeners.gateway import GatewayConfig
from taskd.net.admission import Admission
from taskd.net.lag import LagMeter
from taskd.net.traffic import Traffic
from taskd.scheduler.histograms import Histogram
from taskd.server.figures import Commits
from taskd.server.readiness import Unready
from taskd.server.status import StoreStatus
from taskd.web import Root
from taskd.web.metrics import Measured, MetricsPage
from tests.unit.pools import ServerCase
from tests.unit.web.test_channel import ChannelCase

ROOT = Path(__file__).parents[3]

FULL = Unready("queue_full", "9 tasks are waiting")


class PagesCase(ChannelCase):
    def setUp(self):
        self.clock = Clock()
        self.gateway = GatewayConfig(["tcp:127.0.0.1:1"]).start(self.clock)
        self.measured = Measured(
            lag=LagMeter(self.clock), admission=Admission(100), traffic={"gateway": Traffic(5, 7)}
        )
        self.connect(Root(self.gateway, self.measured))
        self.measured.site = self.channel.factory
        self.found = None
        self.gateway.readiness.check = lambda: succeed(self.found)

    def ask(self, path, method=b"GET"):
        """Return the status, the headers and the body of the response."""
        self.transport.clear()
        self.send(method + b" " + path + b" HTTP/1.1\r\nHost: rebound.example\r\n\r\n")
        return self.response()

    def response(self):
        head, _, body = self.transport.value().partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(first.split()[1]), headers, body

    def samples(self):
        status, _, body = self.ask(b"/metrics")
        self.assertEqual(status, 200)
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }


class HealthTests(PagesCase):
    def test_nothing_of_it_is_kept_or_taken_for_something_else(self):
        for path in (b"/healthz", b"/readyz", b"/metrics"):
            headers = self.ask(path)[1]
            found = (headers["cache-control"], headers["x-content-type-options"])
            self.assertEqual(found, ("no-store", "nosniff"), path)

    def test_a_process_that_answers_is_healthy(self):
        status, headers, body = self.ask(b"/healthz")
        self.assertEqual((status, body, headers["cache-control"]), (200, b"ok\n", "no-store"))

    def test_a_gateway_that_would_take_a_task_is_ready(self):
        status, headers, body = self.ask(b"/readyz")
        self.assertEqual((status, json.loads(body)), (200, {"ready": True}))
        self.assertEqual(headers["content-type"], "application/json")

    def test_a_gateway_that_would_not_says_why(self):
        self.found = FULL
        status, headers, body = self.ask(b"/readyz")
        self.assertEqual((status, headers["retry-after"]), (503, "1"))
        self.assertEqual(
            json.loads(body), {"ready": False, "reason": "queue_full", "detail": "9 tasks are waiting"}
        )

    def test_head_has_the_status_without_a_body(self):
        self.found = FULL
        status, _, body = self.ask(b"/readyz", b"HEAD")
        self.assertEqual((status, body), (503, b""))
        self.assertEqual(self.ask(b"/healthz", b"HEAD")[0], 200)

    def test_an_answer_may_take_its_time_and_the_client_may_be_gone_by_then(self):
        for path in b"/readyz", b"/metrics":
            self.connect(Root(self.gateway, self.measured))
            found = Deferred()
            self.gateway.readiness.check = lambda found=found: found
            self.send(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            self.assertEqual(self.transport.value(), b"")
            self.channel.connectionLost(Failure(ConnectionDone()))
            found.callback(None)
            self.assertEqual(self.transport.value(), b"")


class MetricsTests(PagesCase):
    def test_the_figures_are_read_by_prometheus_own_parser(self):
        self.found = FULL
        self.assertEqual(self.ask(b"/readyz")[0], 503)
        samples = self.samples()
        self.assertEqual(samples["taskd_ready",], 0)
        self.assertEqual(samples["taskd_http_responses_total", "503"], 1)
        self.assertEqual(samples["taskd_connections", "http"], 1)
        self.assertEqual(samples["taskd_connections_limit",], 100)
        self.assertEqual(samples["taskd_received_bytes_total", "gateway"], 5)
        self.assertEqual(samples["taskd_sent_bytes_total", "gateway"], 7)
        self.assertNotIn(("taskd_tasks_running",), samples)

    def test_figures_that_are_asked_for_too_often_are_sent_again(self):
        times = iter([0.0, 0.01, 0.1, 0.3, 0.32])
        self.measured.site = None
        page = MetricsPage(self.gateway, self.measured, lambda: next(times))

        class Leaf(Resource):
            isLeaf = True

            def render_GET(self, request):
                return page.render(request)

        self.connect(Leaf())
        traffic = self.measured.traffic["gateway"]
        found = []
        for _ in range(3):
            found.append(self.samples()["taskd_received_bytes_total", "gateway"])
            traffic.received += 1
        self.assertEqual(found, [5, 5, 7])  # it took 10 ms, and so not again for the next 200 ms

    def test_failures_without_a_reply_are_counted_by_their_reason(self):
        self.gateway.factory.backend.unanswered.counts["disconnected"] = 3
        self.assertEqual(self.samples()["taskd_unanswered_failures_total", "disconnected"], 3)


class LocalMetricsTests(ServerCase):
    def test_the_task_server_of_the_process_is_measured(self):
        server = self.make()
        gateway = GatewayConfig([], "local").start(self.clock, server)
        self.assertIsNone(self.successResultOf(gateway.readiness.check()))
        gateway.announce_stop()
        self.assertEqual(self.successResultOf(gateway.readiness.check()).reason, "draining")
        root = Root(gateway, Measured(server))
        page = PagesCase()
        page.clock = self.clock
        page.connect(root)
        page.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertIn(b'taskd_workers{state="idle"} 1.0\n', page.transport.value())

    def test_everything_that_the_alerts_and_the_documentation_name_is_measured(self):
        server = self.make()
        server.stored = SimpleNamespace(
            status=StoreStatus(lasting=True, claimed=0, fault=None), commits=Commits(Histogram([1.0]), 0)
        )
        gateway = GatewayConfig([], "local").start(self.clock, server)
        page = PagesCase()
        page.setUp()
        measured = replace(page.measured, server=server)
        page.connect(Root(gateway, measured))
        page.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        text = page.transport.value().decode()
        measured_names = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
        for path in ("deploy/prometheus/taskd-alerts.yml", "docs/monitoring.md"):
            named = set(re.findall(r"\btaskd_\w+", (ROOT / path).read_text()))
            base = {re.sub(r"_(bucket|count|sum)$", "", name) for name in named}
            self.assertEqual(base - measured_names, set(), path)
            self.assertTrue(base)
