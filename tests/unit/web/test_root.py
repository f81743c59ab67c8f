"""The settings of a gateway under `twistd web`."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.web.root import config_from_environment


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
