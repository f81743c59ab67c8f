"""What the store keeps of functions for those who submit by SQL."""

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.described import described
from taskd.functions.descriptions import ParameterInfo
from taskd.functions.durability import Durability
from taskd.functions.registry import FunctionInfo
from taskd.functions.secret_arguments import SecretArguments
from taskd.store.nodes import Described


class DescribedTests(SynchronousTestCase):
    def describe(self, parameters=(), durable=None, *, seals=False):
        made = {name: ParameterInfo([], **more) for name, more in dict(parameters).items()}
        [only] = described([FunctionInfo("f", "f()", "", made, durable=durable)], seals=seals)
        return only

    def test_a_plain_function_has_the_defaults(self):
        self.assertEqual(self.describe(), Described("f"))

    def test_a_durable_function_has_its_own(self):
        durable = Durability(once=True, keep=7.0)
        self.assertEqual(self.describe(durable=durable), Described("f", 7.0, once=True))

    def test_a_concurrency_key_has_the_place_of_its_argument(self):
        durable = Durability(concurrency=1, concurrency_key="user")
        found = self.describe({"a": {}, "user": {}}, durable)
        self.assertEqual((found.key, found.place), ("user", 1))
        found = self.describe({"a": {}, "user": {"passed": "by_name"}}, durable)
        self.assertEqual((found.key, found.place), ("user", None))

    def test_secret_arguments_are_named_and_may_be_sealed(self):
        parameters = {"a": {}, "password": {"secret": True}}
        found = self.describe(parameters)
        self.assertEqual(
            msgspec.json.decode(found.secrets, type=SecretArguments), SecretArguments(("password",), (1,))
        )
        self.assertFalse(found.is_sealed)
        self.assertTrue(self.describe(parameters, seals=True).is_sealed)
        self.assertFalse(self.describe(seals=True).is_sealed)
