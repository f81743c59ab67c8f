"""The settings of a gateway under `twistd web`."""

from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from taskd.web.root import config_from_environment
from tests.unit.web.gateways import GatewayCase


class EnvironmentTests(SynchronousTestCase):
    def test_an_empty_environment_gives_the_defaults(self):
        config = config_from_environment({})
        self.assertEqual(config.task_servers, ["tcp:127.0.0.1:12345"])
        self.assertEqual((config.link, list(config.allow_origins)), ("per-message", []))

    def test_every_setting_is_read(self):
        config = config_from_environment(
            {
                "TASKD_TASK_SERVER": "tcp:a:1  tcp:b:2",
                "TASKD_LINK": "pooled",
                "TASKD_ALLOW_ORIGIN": "https://x https://y",
                "TASKD_HOSTNAME": "a.example  b.example",
            }
        )
        self.assertEqual((config.task_servers, config.link), (["tcp:a:1", "tcp:b:2"], "pooled"))
        self.assertEqual(config.allow_origins, ["https://x", "https://y"])
        self.assertEqual(config.hostnames, ["a.example", "b.example"])

    def test_a_pattern_or_a_name_that_is_none_is_refused_with_its_variable(self):
        for variable, value in ("TASKD_ALLOW_ORIGIN", "https://x x"), ("TASKD_HOSTNAME", "a b:80"):
            error = self.assertRaises(ValueError, config_from_environment, {variable: value})
            self.assertIn(variable, str(error))

    def test_an_unknown_link_is_refused(self):
        error = self.assertRaises(ValueError, config_from_environment, {"TASKD_LINK": "sometimes"})
        self.assertIn("'sometimes'", str(error))

    def test_a_local_link_is_refused_with_the_reason(self):
        error = self.assertRaises(ValueError, config_from_environment, {"TASKD_LINK": "local"})
        for words in "TASKD_LINK", "its own process", "per-message or pooled":
            self.assertIn(words, str(error))


class HeadTests(GatewayCase):
    def test_an_answer_to_head_has_the_length_of_that_to_get_and_logs_nothing(self):
        logged = []
        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        for path in (
            "/",
            "/taskd.js",
            "/healthz",
            "/none",
            "/pages/\xac.js",
            "/api/v1/none",
            "/api/v1/tasks/1/events?x=1",
        ):
            answers = []
            for method in ("GET", "HEAD"):
                client = self.connect()
                client.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1"))
                head, _, body = client.socket.sent.partition(b"\r\n\r\n")
                answers.append((head.lower(), body))
            (got, body), (head, nothing) = answers
            self.assertIn(b"content-length: %d" % len(body), head, path)
            self.assertEqual((nothing, sorted(head.split(b"\r\n"))), (b"", sorted(got.split(b"\r\n"))), path)
        self.assertEqual([formatEvent(event) for event in logged], [])
