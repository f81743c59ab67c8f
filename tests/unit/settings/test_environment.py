"""The variables of the environment that set options, and those that are somebody else's."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.settings.environment import given_by_environment
from taskd.settings.given import SettingError


def texts(**environ):
    return {name: given.texts for name, given in given_by_environment(environ).items()}


class EnvironmentTests(SynchronousTestCase):
    def test_a_variable_is_the_name_of_an_option_in_capitals(self):
        self.assertEqual(
            texts(TASKD_WORKERS="2:8", TASKD_MAX_QUEUE="5", HOME="/", PATH="/bin"),
            {"workers": ["2:8"], "max-queue": ["5"]},
        )

    def test_the_values_of_a_repeatable_option_are_separated_by_spaces(self):
        self.assertEqual(texts(TASKD_TASK_SERVER=" a:1  b:2 "), {"task-server": ["a:1", "b:2"]})
        self.assertEqual(texts(TASKD_LABEL="gpu zone=eu"), {"label": ["gpu", "zone=eu"]})

    def test_an_empty_variable_counts_as_none(self):
        self.assertEqual(texts(TASKD_WORKERS="", TASKD_APP="  "), {})

    def test_an_unknown_variable_is_answered_with_the_nearest(self):
        for variable, meant in ("TASKD_WORKRES", "TASKD_WORKERS"), ("TASKD_SEVRER", "TASKD_SERVER"):
            error = self.assertRaises(SettingError, texts, **{variable: "1"})
            self.assertIn(
                f"the environment has {variable}, which is no option; did you mean {meant}?", str(error)
            )
        error = self.assertRaises(SettingError, texts, TASKD_QQQQQQQQ="")
        self.assertIn("variables that begin with TASKD_ are options", str(error))

    def test_variables_of_clients_and_of_the_app_for_mails_are_left_to_them(self):
        self.assertEqual(texts(TASKD_SERVER="h:1", TASKD_TOKEN="t", TASKD_MAIL_URL="smtp://h"), {})
        self.assertEqual(texts(TASKD_CONFIG="a.toml"), {})

    def test_variables_that_kubernetes_sets_for_services_called_taskd_are_ignored(self):
        self.assertEqual(
            texts(
                TASKD_SERVICE_HOST="10.0.0.1",
                TASKD_SERVICE_PORT="12345",
                TASKD_SERVICE_PORT_TASKS="12345",
                TASKD_PORT="tcp://10.0.0.1:12345",
                TASKD_PORT_12345_TCP="tcp://10.0.0.1:12345",
                TASKD_PORT_12345_TCP_ADDR="10.0.0.1",
                TASKD_PORT_12345_TCP_PORT="12345",
                TASKD_PORT_12345_TCP_PROTO="tcp",
                TASKD_WEB_SERVICE_HOST="10.0.0.2",
                TASKD_WEB_PORT_8080_TCP="tcp://10.0.0.2:8080",
            ),
            {},
        )

    def test_variables_of_a_link_in_docker_are_ignored_and_a_name_is_an_option(self):
        self.assertEqual(
            texts(TASKD_NAME="/web/taskd", TASKD_ENV_LANG="C", TASKD_DB_NAME="/web/taskd-db"), {}
        )
        self.assertEqual(texts(TASKD_NAME="shop"), {"name": ["shop"]})
        self.assertRaises(SettingError, texts, TASKD_DB_NAME="shop")
