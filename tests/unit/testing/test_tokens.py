"""The clients for tests with tokens: each caller has the rights of its own, as on a real server."""

import asyncio
import time

from twisted.trial.unittest import SynchronousTestCase

from taskd.auth.caller import Caller
from taskd.client import Client as RealClient
from taskd.errors import NotAllowed
from taskd.functions.registry import Registry
from taskd.model import Grant
from taskd.testing import AsyncClient, Client, MemoryServer


def add(a: int, b: int = 1) -> int:
    return a + b


FUNCTIONS = Registry()
FUNCTIONS.add(add, name="add")
FUNCTIONS.add(add, name="admin.add")

TOKENS = {
    "ann": Grant("ann"),
    "guest": Grant("guest", "watch"),
    "few": Grant("few", functions=("admin.*",)),
    "old": Caller("old", Grant("old"), expires=1.0),
    "later": Caller("later", Grant("later"), expires=time.time() + 3600),
}


class TokenTests(SynchronousTestCase):
    def setUp(self):
        self.server = MemoryServer(FUNCTIONS, tokens=TOKENS)
        self.addCleanup(self.server.close)

    def client(self, token):
        client = RealClient(self.server.address, token=token)
        self.addCleanup(client.close)
        return client

    def reason(self, token, function="add"):
        return self.assertRaises(NotAllowed, self.client(token).call, function, 1).data["reason"]

    def test_a_token_has_the_rights_of_its_owner_and_no_others(self):
        self.assertEqual(self.client("ann").call("add", 1), 2)
        self.assertEqual(self.client("later").call("add", 1), 2)
        self.assertEqual(self.client("few").call("admin.add", 1), 2)
        self.assertEqual(self.reason("few"), "function")
        self.assertEqual(self.reason("guest"), "role")

    def test_unknown_and_expired_tokens_are_refused(self):
        self.assertEqual(self.reason("nobody"), "unknown")
        self.assertEqual(self.reason("old"), "expired")

    def test_a_function_brings_another_token_for_one_that_has_expired(self):
        tokens = ["old", "ann"]
        self.assertEqual(self.client(lambda: tokens.pop(0)).call("add", 1), 2)

    def test_a_client_learns_who_it_is(self):
        found = self.client("ann").call("taskd.whoami")
        self.assertEqual((found["owner"], found["role"], found["expires"]), ("ann", "submit", None))

    def test_the_task_of_another_owner_is_not_shown(self):
        task = self.client("ann").submit("add", 1)
        self.assertEqual(task.result(), 2)
        error = self.assertRaises(NotAllowed, self.client("later").task(task.id).state)
        self.assertEqual(error.data["reason"], "owner")


class DoubleTests(SynchronousTestCase):
    def test_the_doubles_take_the_tokens_of_their_server_and_their_own(self):
        with Client(FUNCTIONS, tokens=TOKENS, token="ann") as client:
            self.assertEqual(client.call("taskd.whoami")["owner"], "ann")

        async def owner():
            async def token():
                return "ann"

            async with AsyncClient(FUNCTIONS, tokens=TOKENS, token=token) as client:
                return (await client.call("taskd.whoami"))["owner"]

        self.assertEqual(asyncio.run(owner()), "ann")

    def test_a_token_that_is_none_starts_no_server(self):
        self.assertRaises(ValueError, Client, FUNCTIONS, token="a b")
