"""Secret arguments in the JSON text of a call: by name, by place, and among any number of further ones."""

from typing import Annotated

from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.registry import Registry
from taskd.functions.secret_arguments import ALL_SECRET, NOT_SECRET, SecretArguments, masked
from taskd.functions.secrets import Secret

Password = Annotated[str, Secret]


def secrets_of(function):
    return Registry().add(function, "f").secrets


class SecretArgumentTests(SynchronousTestCase):
    def test_a_function_without_secrets_has_none(self):
        def f(a, *b, c=1, **d): ...

        self.assertEqual(secrets_of(f), NOT_SECRET)
        self.assertFalse(secrets_of(f))
        self.assertEqual(masked(b'{"a":1}', secrets_of(f)), b'{"a":1}')

    def test_a_secret_is_masked_by_name_and_by_place(self):
        def f(user: str, from_: Password, *, key: Password = ""): ...

        secrets = secrets_of(f)
        self.assertTrue(secrets)
        self.assertEqual(masked(b'{"user":"a","from":"b"}', secrets), b'{"user":"a","from":"[secret]"}')
        self.assertEqual(masked(b'{"key":["b"],"x":"c"}', secrets), b'{"key":"[secret]","x":"c"}')
        self.assertEqual(masked(b'["a","b","c"]', secrets), b'["a","[secret]","c"]')
        self.assertEqual(masked(Raw(b'["a"]'), secrets), Raw(b'["a"]'))
        self.assertEqual(masked(b'{"user":"a"}', secrets), b'{"user":"a"}')

    def test_any_number_of_further_arguments_may_be_secret(self):
        def f(a, *b: Password, c=1, **d: Password): ...

        secrets = secrets_of(f)
        self.assertEqual(masked(b'[1,2,"3"]', secrets), b'[1,"[secret]","[secret]"]')
        self.assertEqual(masked(b'{"a":1,"c":2,"e":3}', secrets), b'{"a":1,"c":2,"e":"[secret]"}')

    def test_all_arguments_of_a_function_that_is_not_known_are_masked(self):
        self.assertEqual(masked(b"[1,2]", ALL_SECRET), b'["[secret]","[secret]"]')
        self.assertEqual(masked(b'{"a":1}', ALL_SECRET), b'{"a":"[secret]"}')

    def test_arguments_that_are_none_or_cannot_be_read_stay_as_they_are(self):
        for args in None, b"null", b"{", b"[1", b'{"a":\xff}', b"":
            self.assertEqual(masked(args, ALL_SECRET), args)

    def test_the_values_are_found(self):
        secrets = SecretArguments(("a",), (0,))
        self.assertEqual([bytes(each) for each in secrets.values(b'{"a":[1],"b":2}')], [b"[1]"])
        self.assertEqual([bytes(each) for each in secrets.values(Raw(b"[3,4]"))], [b"3"])
        self.assertEqual(list(secrets.values(None)), [])
