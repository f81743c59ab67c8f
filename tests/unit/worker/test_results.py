"""Results as JSON: what has an obvious form in it, and the place of what has none."""

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import pathlib
import string
import sys
import types
import uuid

import attrs
import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET, Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.worker.results import FEW_ITEMS, NotJSON, encode_result

NAN = float("nan")
EPOCH = datetime.datetime(1970, 1, 1, 1, 2, 3, 4, datetime.UTC)


class Text(str):
    """A str whose own methods must not be used, as those of Django's SafeString need not be."""

    def __str__(self):
        raise SystemExit

    encode = __getitem__ = isascii = __str__


class Int(int):
    def __int__(self):
        raise SystemExit

    __index__ = __str__ = __repr__ = __int__


class Float(float):
    def __float__(self):
        raise SystemExit

    __str__ = __repr__ = __float__


class Bytes(bytes):
    def __bytes__(self):
        raise SystemExit


class Date(datetime.date):
    pass


class DateTime(datetime.datetime):
    pass


class Decimal(decimal.Decimal):
    pass


class Colour(enum.Enum):
    RED = "red"
    ONE = 1
    NAN = NAN


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Data:
    value: object
    left_out: object = UNSET
    in_class: int = dataclasses.field(default=3, init=False)


@dataclasses.dataclass(slots=True)
class SlottedData:
    value: object
    _hidden: int = 2


@attrs.define
class Attrs:
    value: object
    left_out: object = UNSET
    _hidden: int = 2


@attrs.define(slots=False)
class DictAttrs:
    value: object
    _hidden: int = 2


class Pair(collections.namedtuple("Pair", "one other")):
    pass


class Struct(msgspec.Struct, frozen=True, tag=True, rename="camel", omit_defaults=True):
    the_value: object
    as_usual: object = None
    left_out: object = UNSET

    def __copy__(self):
        raise SystemExit


class Scalar:
    """A scalar of numpy: no number by its class, but it can be asked for one."""

    def __init__(self, value, dtype=""):
        self.value = value
        self.dtype = types.SimpleNamespace(kind=dtype[:1], str=dtype)

    def tolist(self):
        return self.value

    def astype(self, dtype):
        return Scalar([self.value, dtype])


class LongDouble(Scalar):
    """A float that Python has no type for: it stays what it is."""

    def tolist(self):
        return self

    def __float__(self):
        return self.value


class Lazy:
    """A text of Django that is translated when it is needed."""

    def __str__(self):
        return Text("lazy")

    def __len__(self):
        return 4

    def __iter__(self):
        return iter("lazy")

    __contains__ = isidentifier = encode = __len__


class Index:
    def __index__(self):
        return Int(7)


class Floating:
    def __float__(self):
        return 7.5


class Row:
    """A row of sqlite3: it has keys, but is no Mapping."""

    def keys(self):
        return ["a", "b"]

    def __getitem__(self, key):
        return key * 2


class Model:
    """A model of Pydantic."""

    def model_dump(self, mode):
        return {"mode": mode, "path": pathlib.Path("/a")}


class Items(collections.UserDict):
    def __iter__(self):
        raise SystemExit(3)


class Endless:
    def tolist(self):
        return Other()


class Other:
    def tolist(self):
        return Endless()


class Itself:
    def tolist(self):
        return Itself()


class Meta(type):
    def __hash__(cls):
        raise KeyboardInterrupt


class Unhashable(metaclass=Meta):
    pass


class Zone(datetime.tzinfo):
    def utcoffset(self, when):
        raise GeneratorExit


class Time(datetime.time):
    pass


class Duration(datetime.timedelta):
    pass


class NotATime(datetime.datetime):
    """As `pandas.NaT`."""

    year = float("nan")

    def __str__(self):
        return "NaT"


class Table:
    """As `pandas.DataFrame`, which has the same rows under a name that two of its columns have."""

    def keys(self):
        return ["a", "a"]

    def __getitem__(self, key):
        return self


class Proxy:
    """As `django.utils.functional.SimpleLazyObject`."""

    def __init__(self, wrapped):
        self._wrapped = wrapped

    __class__ = property(lambda self: type(self._wrapped))

    def __len__(self):
        return len(self._wrapped)

    def __iter__(self):
        return iter(self._wrapped)

    def __contains__(self, item):
        return item in self._wrapped


class Lies:
    @property
    def __class__(self):
        raise RuntimeError

    def __getattr__(self, name):
        return getattr(self, name)


FORMS = [
    (Text("a"), "a"),
    (Int(1), 1),
    (Int(2**70), 2**70),
    (Float(1.5), 1.5),
    (Bytes(b"abc"), "YWJj"),
    (b"abc", "YWJj"),
    (bytearray(b"abc"), "YWJj"),
    (memoryview(b"a-b-c-")[::2], "YWJj"),
    (True, True),
    (Colour.RED, "red"),
    (Number.ONE, 1),
    (collections.deque([1, Text("a")]), [1, "a"]),
    (range(3), [0, 1, 2]),
    ({Text("a")}, ["a"]),
    (frozenset([Int(1)]), [1]),
    ({"a": 1}.keys(), ["a"]),
    ({"a": 1}.values(), [1]),
    ({"a": 1}.items(), [["a", 1]]),
    (array.array("i", [1, 2]), [1, 2]),
    (collections.UserList([1]), [1]),
    (collections.UserString("ab"), "ab"),
    (collections.UserDict(a=1), {"a": 1}),
    (collections.ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (types.MappingProxyType({"a": Int(1)}), {"a": 1}),
    (Row(), {"a": "aa", "b": "bb"}),
    (pathlib.Path("/a"), "/a"),
    (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    (decimal.Decimal("1.50"), "1.50"),
    (Decimal("1.50"), "1.50"),
    (fractions.Fraction(1, 4), 0.25),
    (EPOCH, "1970-01-01T01:02:03.000004Z"),
    (DateTime(1970, 1, 1, 1, 2, 3, 4, datetime.UTC), "1970-01-01T01:02:03.000004Z"),
    (EPOCH.date(), "1970-01-01"),
    (Date(1970, 1, 1), "1970-01-01"),
    (EPOCH.time(), "01:02:03.000004"),
    (Time(1, 2, 3, 4), "01:02:03.000004"),
    (datetime.timedelta(1), "P1D"),
    (Duration(1, 2, 3), "P1DT2.000003S"),
    (Lazy(), "lazy"),
    (LongDouble(1.5), 1.5),
    (Scalar(5), 5),
    (Scalar([Scalar(True), [1.5]]), [True, [1.5]]),
    (Scalar(5, "M8[D]"), 5),
    (Scalar(5, "M8[ns]"), [5, "datetime64[us]"]),
    (Scalar(5, "m8[ps]"), [5, "timedelta64[us]"]),
    (Index(), 7),
    (Floating(), 7.5),
    (Model(), {"mode": "json", "path": "/a"}),
    (Pair(1, Text("a")), [1, "a"]),
    (Raw(b'{"a": [1,\n2]}'), {"a": [1, 2]}),
    (10**4000, 10**4000),
]
"""Values, and what a caller gets for them."""

OBJECTS = [Data, SlottedData, Attrs, DictAttrs, Struct]

KEYS = [
    (1, "1"),
    (1.5, "1.5"),
    (True, "true"),
    (None, "null"),
    (Text("a"), "a"),
    (Int(5), "5"),
    (Number.ONE, "1"),
    (Colour.RED, "red"),
    (pathlib.Path("/a"), "/a"),
    (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    (EPOCH, "1970-01-01T01:02:03.000004Z"),
    (EPOCH.date(), "1970-01-01"),
    (decimal.Decimal(1), "1"),
    (b"abc", "YWJj"),
    (Scalar(5), "5"),
]
"""Keys of a dict, and the members that they become."""


class ResultTests(SynchronousTestCase):
    def reason(self, result):
        return str(self.assertRaises(NotJSON, encode_result, result))

    def test_values_with_an_obvious_form_in_json_get_it(self):
        for value, form in FORMS:
            self.assertEqual(json.loads(encode_result(value)), form, repr(type(value)))

    def test_values_have_the_same_form_within_others(self):
        for value, form in FORMS:
            for around in OBJECTS:
                result = {"x": [(around(value), None)]}
                [[held, _]] = json.loads(encode_result(result))["x"]
                self.assertIn(form, list(held.values()), repr(type(value)))
            # Beside a value that msgspec cannot encode by itself.
            self.assertEqual(json.loads(encode_result([Text("x"), value])), ["x", form], repr(type(value)))

    def test_an_object_has_the_same_members_whatever_they_hold(self):
        """The second one cannot be encoded by msgspec alone."""
        for kind in OBJECTS:
            simple, other = (json.loads(encode_result(kind(value))) for value in ("a", Text("a")))
            self.assertEqual(simple, other, kind)

    def test_deleted_and_unset_members_are_left_out(self):
        data, slotted = Data(Text("a")), SlottedData(Text("a"))
        del slotted._hidden
        self.assertEqual(json.loads(encode_result(slotted)), {"value": "a"})
        self.assertEqual(json.loads(encode_result(data)), {"value": "a"})
        left_out = Attrs(Text("a"))
        del left_out.left_out
        self.assertEqual(json.loads(encode_result(left_out)), {"value": "a"})

    def test_a_key_becomes_the_member_that_its_value_would_be(self):
        for key, member in KEYS:
            self.assertEqual(json.loads(encode_result({key: 1, "x": Text("a")})), {member: 1, "x": "a"})
            self.assertEqual(json.loads(encode_result({key: 1, "x": "a"})), {member: 1, "x": "a"})

    def test_two_keys_that_become_one_member_are_refused(self):
        for key, member in KEYS:
            if key == member:
                continue  # the same key to a dict, too
            for owner in {key: 1, member: 2}, types.MappingProxyType({member: 1, key: 2}):
                reason = self.reason({"rows": [0, owner]})
                self.assertEqual(
                    reason, f"result.rows[1] has two keys that both become the member {json.dumps(member)}"
                )

    def test_a_mapping_whose_keys_repeat_is_refused(self):
        self.assertEqual(self.reason(Table()), 'result has two keys that both become the member "a"')

    def test_other_keys_are_refused(self):
        for key in (1, 2), frozenset(), Pair(1, 2), Struct(1):
            reason = self.reason({"a": {key: 1}})
            self.assertTrue(reason.startswith("result.a has a key of type "), reason)
            self.assertTrue(reason.endswith("make it a str or a number"), reason)
        self.assertIn("has a key that is nan", self.reason({NAN: 1}))
        self.assertIn("has a key that has a lone surrogate", self.reason({"\ud800": 1}))
        self.assertIn("has a key that is of type object", self.reason({object(): 1}))

    def test_numbers_that_are_not_finite_are_refused_with_their_place(self):
        for number in (
            NAN,
            float("inf"),
            -float("inf"),
            Float("nan"),
            decimal.Decimal("NaN"),
            decimal.Decimal("sNaN"),
            Decimal("-Infinity"),
            Colour.NAN,
            Scalar(NAN),
            LongDouble(NAN),
        ):
            for result, path in [
                (number, "result"),
                ({"a": number}, "result.a"),
                ([None, number], "result[1]"),
                ({"rows": [{}, {"price": number, "other": None}]}, "result.rows[1].price"),
                ({"two words": (1, [number])}, 'result["two words"][1][0]'),
                ({"a": Data(number)}, "result.a.value"),
                (Struct(number), "result.theValue"),
                ({1: number}, 'result["1"]'),
            ]:
                reason = self.reason(result)
                self.assertTrue(reason.startswith(f"{path} is "), reason)
                self.assertTrue(reason.endswith(", which JSON cannot hold"), reason)

    def test_a_date_that_is_none_is_refused_with_its_place(self):
        missing = NotATime(2000, 1, 1)
        self.assertEqual(self.reason({"at": [missing]}), "result.at[0] is NaT, which JSON cannot hold")

    def test_the_limit_of_digits_is_not_pythons(self):
        before = sys.get_int_max_str_digits()
        self.addCleanup(sys.set_int_max_str_digits, before)
        for digits in 0, 640, before:
            sys.set_int_max_str_digits(digits)
            self.assertEqual(len(encode_result({"n": 10**4299})), len('{"n":}') + 4300)
            self.assertEqual(self.reason({"n": [10**4300]}), "result.n[0] has more than 4300 digits")
            self.assertEqual(self.reason(10**4300), "result has more than 4300 digits")
            self.assertEqual(sys.get_int_max_str_digits(), digits)

    def test_a_proxy_does_not_become_its_keys_or_characters(self):
        for wrapped in {"a": 1}, "abc", 5:
            reason = self.reason({"user": Proxy(wrapped)})
            self.assertRegex(
                reason, r"^result\.user is of type .*Proxy, which stands for an object of another type"
            )

    def test_values_that_only_look_like_such_numbers_are_encoded(self):
        for result in (
            {"a": None, "b": ["null", "NaN", "Infinity", "nan"]},
            [b"\xcb\x7f\xf8\x00"],
            {"a": "\u02ff\u0f8b\u2ff0" * 100, "b": [1.5]},
            {"a": [decimal.Decimal("1e999")]},
            {"a": {"b": 2**64}},
        ):
            encoded = encode_result(result)
            self.assertEqual(encoded, msgspec.json.encode(result))

    def test_a_path_is_cut(self):
        deep = NAN
        for _ in range(50):
            deep = [deep]
        self.assertEqual(self.reason(deep), "result" + "[0]" * 20 + "… is nan, which JSON cannot hold")
        for character in "x", " ":
            self.assertLess(len(self.reason({character * 10_000: NAN})), 200)

    def test_a_container_that_contains_itself_is_refused(self):
        array = []
        array.append(array)
        self.assertEqual(self.reason(array), "result[0] contains itself")
        row = {}
        row["me"] = (row,)
        self.assertEqual(self.reason(row), "result.me[0] contains itself")
        self.assertEqual(self.reason([Data(array)]), "result[0].value[0] contains itself")
        shared = [Text("a")]
        self.assertEqual(encode_result([shared, shared]), b'[["a"],["a"]]')

    def test_a_result_nested_too_deeply_is_refused(self):
        deep = []
        for _ in range(100_000):
            deep = [deep]
        self.assertIn("is nested too deeply", self.reason(deep))

    def test_texts_that_utf8_cannot_hold_are_refused(self):
        for text in (
            "a\ud800",
            Text("a\ud800"),
            pathlib.Path("a\udc80"),
            b"a\x80".decode("ascii", "surrogateescape"),
        ):
            self.assertIn("result.a has a lone surrogate, U+D", self.reason({"a": text}))
        self.assertEqual(json.loads(encode_result([Text("äöü"), 1])), ["äöü", 1])

    def test_an_error_raised_by_an_object_is_the_reason(self):
        for value, reason in [
            (Items(a=1), "cannot be read: SystemExit: 3"),
            (Endless(), "is nested too deeply"),
            (Itself(), "has no form in JSON"),
            (Unhashable(), "cannot be read: KeyboardInterrupt"),
            (EPOCH.replace(tzinfo=Zone()), "cannot be read: GeneratorExit"),
            (Lies(), "stands for an object of another type"),
            (10**5000, "has more than 4300 digits"),
            (fractions.Fraction(10**400), "cannot be read: OverflowError"),
        ]:
            found = self.reason({"a": value})
            self.assertTrue(found.startswith("result.a "), found)
            self.assertIn(reason, found)

    def test_a_value_without_a_form_is_refused_with_a_hint(self):
        async def coroutine():
            """Return nothing."""

        async def asynchronous():
            yield 1

        awaited = coroutine()
        self.addCleanup(awaited.close)
        for value, reason in [
            (
                object(),
                "is of type object, which has no form in JSON: make it a str, a number, a list or a dict",
            ),
            (iter([]), "is of type list_iterator, which can be read only once: make it a list"),
            ((x for x in "a"), "is of type generator, which can be read only once: make it a list"),
            (awaited, "is of type coroutine, which has to be awaited"),
            (
                asynchronous(),
                "is of type async_generator, which can be read only once, by async for: make it a list",
            ),
            (1j, "is of type complex, which has no form in JSON: make it a str, a number, a list or a dict"),
            (Data, "is of type type, which has no form in JSON: make it a str, a number, a list or a dict"),
            (
                Raw(b"nonsense"),
                "is a msgspec.Raw that is not JSON: JSON is malformed: invalid character (byte 1)",
            ),
            (Raw(b'"\xff"'), "is a msgspec.Raw that is not JSON: 'utf-8' codec can't decode byte 0xff"),
        ]:
            self.assertEqual(self.reason(value)[: len(reason) + 7], f"result {reason}")
            self.assertTrue(self.reason([value]).startswith(f"result[0] {reason}"))
        self.assertIn("has no form", self.reason(Colour))

    def test_a_lack_of_memory_is_a_reason_too(self):
        class Large(collections.UserList):
            def __iter__(self):
                raise MemoryError

        self.assertIn("MemoryError", self.reason(Large()))

    def test_the_failure_names_the_type_and_the_place(self):
        failure = self.assertRaises(NotJSON, encode_result, {"a": 1j, "\ud800": 1}).failure()
        self.assertEqual(failure.code, -32000)
        self.assertEqual(failure.data["type"], "complex")
        self.assertTrue(failure.message.startswith("the result is not JSON: result.a is of type complex"))

    def test_many_items_are_treated_as_few_are(self):
        for count in 1, FEW_ITEMS, FEW_ITEMS + 1, 1000:
            for bad in NAN, {1: 1, "1": 2}, object(), "\ud800":
                self.assertIn(f"result[{count}] ", self.reason([0.5] * count + [bad]))
                self.assertIn("result.x ", self.reason({str(n): 0.5 for n in range(count)} | {"x": bad}))
                self.assertIn(f"result[{count}] ", self.reason([None] * count + [bad]))

    plain = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )

    @given(plain)
    @example({character: [None, 1.5, 2**64, -(2**63) - 1, {}] for character in string.printable})
    def test_plain_results_are_as_msgspec_encodes_them(self, result):
        self.assertEqual(encode_result(result), msgspec.json.encode(result))

    @given(plain)
    def test_a_walk_changes_nothing_about_plain_results(self, result):
        encoded = encode_result([result, Text("x")])
        self.assertEqual(encoded, msgspec.json.encode([result, "x"]))
