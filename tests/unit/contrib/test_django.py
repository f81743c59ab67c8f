"""The parts of Django's backend that need no Django."""

import os

from hypothesis import given
from hypothesis.strategies import integers
from twisted.trial.unittest import SynchronousTestCase

from taskd.contrib import django
from taskd.contrib.django import clients
from taskd.contrib.django.app import set_up
from taskd.contrib.django.options import BackendOptions
from taskd.contrib.django.order import Order, server_priority
from taskd.errors import Busy, ShuttingDown, Unreachable
from taskd.functions.registry import registry

PRIORITIES = integers(-100, 100)


class PriorityTests(SynchronousTestCase):
    def test_the_middle_and_both_ends_correspond(self):
        djangos = [-100, -76, -75, -51, -50, -26, -25, -1, 0, 1, 20, 21, 40, 41, 60, 61, 80, 81, 100]
        expected = [9, 9, 8, 8, 7, 7, 6, 6, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0]
        self.assertEqual([server_priority(each) for each in djangos], expected)

    @given(PRIORITIES, PRIORITIES)
    def test_no_task_is_less_urgent_than_one_that_django_puts_behind_it(self, one, other):
        first, second = max(one, other), min(one, other)
        self.assertLessEqual(server_priority(first), server_priority(second))


class OptionTests(SynchronousTestCase):
    def test_only_the_options_that_are_given_go_with_a_task(self):
        self.assertEqual(BackendOptions.of("default", {}).submit_options(), {})
        options = BackendOptions.of("default", {"server": "h:1", "timeout": 5, "retries": 2, "keep": 9})
        self.assertEqual(options.submit_options(), {"timeout": 5.0, "retries": 2, "keep": 9.0})

    def test_a_wrong_option_is_named_with_those_that_there_are(self):
        for options, reason in (
            (
                {"sever": "x"},
                "unknown field `sever`; there are: server, token, timeout, retries, keep, modules",
            ),
            ({"timeout": 0}, "`$.timeout`"),
            ({"modules": "tasks"}, "Expected `array`, got `str` - at `$.modules`"),
        ):
            error = self.assertRaises(ValueError, BackendOptions.of, "mine", options)
            self.assertIn("TASKS['mine']['OPTIONS']: ", str(error))
            self.assertIn(reason, str(error))


class PackageTests(SynchronousTestCase):
    def test_importing_the_package_registers_the_function_and_sets_nothing_up(self):
        function = registry["django.task"]
        self.assertIs(function.durable.once, False)
        self.assertIn(set_up, registry.load_hooks)

    def test_only_the_backend_is_found_in_it(self):
        self.assertRaises(AttributeError, getattr, django, "Backend")

    def test_settings_that_are_not_named_are_an_error_that_names_the_variable(self):
        for environ in ({}, {"DJANGO_SETTINGS_MODULE": ""}):
            self.patch(os, "environ", environ)
            error = self.assertRaises(RuntimeError, set_up)
            self.assertIn("DJANGO_SETTINGS_MODULE names no settings module", str(error))


class Stored:
    """The handle of a stored task."""

    id = "id of the task"


class FailingClient:
    """A client that raises `errors`, one after the other, before anything else."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.options = []
        self.calls = []

    def with_options(self, **options):
        self.options.append(options)
        return self

    def submit(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        if self.errors:
            raise self.errors.pop(0)
        return Stored

    def call(self, *args, **kwargs):
        self.submit(*args, **kwargs)
        return "answer"


class ClientTests(SynchronousTestCase):
    def setUp(self):
        self.now = 0.0
        self.patch(clients, "monotonic", lambda: self.now)
        self.patch(clients, "sleep", self.sleep)

    def sleep(self, seconds):
        self.now += seconds

    def test_a_task_is_submitted_again_with_the_same_token_while_the_server_restarts(self):
        client = FailingClient(ShuttingDown(), Unreachable(sent=True))
        order = Order(task="shop.tasks.add", args=[1], priority=-1)
        self.assertEqual(clients.submit(client, order, priority=6), Stored.id)
        [options] = client.options
        self.assertEqual(len(options.pop("token")), 32)
        self.assertEqual(options, {"priority": 6})
        given = {"task": "shop.tasks.add", "args": [1], "kwargs": {}, "priority": -1}
        given |= {"backend": "default", "queue_name": "default"}
        self.assertEqual(client.calls, [(("django.task",), given)] * 3)

    def test_each_submit_has_a_token_of_its_own(self):
        client = FailingClient()
        for _ in range(2):
            clients.submit(client, Order(task="shop.tasks.add"))
        first, second = client.options
        self.assertNotEqual(first["token"], second["token"])

    def test_a_server_that_does_not_come_back_is_given_up(self):
        client = FailingClient(*[ShuttingDown() for _ in range(1000)])
        self.assertRaises(ShuttingDown, clients.ask, client, "taskd.get", task="t")
        self.assertTrue(clients.RESTART < self.now < clients.RESTART + 1)

    def test_an_error_that_no_restart_explains_is_raised_at_once(self):
        for error in Busy(), Unreachable(sent=False):
            client = FailingClient(error)
            self.assertRaises(type(error), clients.ask, client, "taskd.get", task="t")
            self.assertEqual(len(client.calls), 1)
        self.assertEqual(clients.ask(FailingClient(Unreachable(sent=True)), "taskd.get", task="t"), "answer")

    def test_backends_of_one_server_share_a_client(self):
        one = clients.client_for("127.0.0.1:1")
        self.assertIs(clients.client_for("127.0.0.1:1"), one)
        self.assertIsNot(clients.client_for("127.0.0.1:2"), one)
        self.assertRaises(ValueError, clients.client_for, "nowhere:at:all:")
        self.assertIsNot(clients.client_for("127.0.0.1:1", "ann"), one)
        self.assertRaises(ValueError, clients.client_for, "127.0.0.1:1", "no token")
