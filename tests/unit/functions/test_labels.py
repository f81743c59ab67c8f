"""Labels, and the functions that need them."""

from twisted.trial.unittest import SynchronousTestCase

from taskd import task
from taskd.functions import registry as registered
from taskd.functions.labels import MAX_NEEDS, checked_label, checked_needs, missing_labels
from taskd.functions.registry import Registry


class LabelTests(SynchronousTestCase):
    def test_a_label_is_a_short_word(self):
        for label in ("gpu", "zone=eu", "a100", "example.com/big:2", "X" * 64):
            self.assertEqual(checked_label(label), label)
        for wrong in ("", "a b", "a,b", "-x", "ü", "X" * 65, "gpu\n", 5, None):
            with self.assertRaises(ValueError):
                checked_label(wrong)

    def test_a_function_needs_one_label_or_several_each_once(self):
        for given, needs in (
            ("gpu", ("gpu",)),
            ((), ()),
            (["gpu", "big", "gpu"], ("gpu", "big")),
            ({"gpu", "big"}, ("big", "gpu")),
        ):
            self.assertEqual(checked_needs(given), needs)
        for wrong in (None, 5, "", ["a b"], {"a b"}, {3, "gpu"}, {"gpu": 1}, [["gpu"]]):
            with self.assertRaises(ValueError):
                checked_needs(wrong)
        with self.assertRaises(ValueError):
            checked_needs([f"label{number}" for number in range(MAX_NEEDS + 1)])

    def test_what_is_missing_keeps_its_order(self):
        self.assertEqual(missing_labels(("c", "b", "a"), {"b"}), ("c", "a"))
        self.assertEqual(missing_labels(("a",), {"a", "b"}), ())
        self.assertEqual(missing_labels(("a",), None), ())

    def test_a_function_is_described_with_what_it_needs(self):
        self.patch(registered, "registry", Registry())

        @task(needs=["gpu", "big"])
        def render() -> None:
            pass

        @task
        def send() -> None:
            pass

        needs = {each.name: (each.describe().needs, each.describe().missing) for each in registered.registry}
        self.assertEqual(needs, {"render": (("gpu", "big"), ()), "send": ((), ())})

    def test_a_wrong_label_is_refused_where_the_function_is_decorated(self):
        with self.assertRaises(ValueError) as refused:
            task(needs="a b")
        self.assertIn("not 'a b'", str(refused.exception))
