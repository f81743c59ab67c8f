"""The kinds of JSON values that an annotation takes."""

import collections
import dataclasses
import datetime
import decimal
import enum
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.kinds import Kind, kinds_of

ANYTHING = ["null", "boolean", "number", "string", "array", "object"]

T = TypeVar("T")
B = TypeVar("B", bound=int)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Bits(enum.IntFlag):
    ONE = 1


class Lenient(enum.Enum):
    KNOWN = "known"

    @classmethod
    def _missing_(cls, value):
        return cls.KNOWN


class Point(msgspec.Struct):
    x: int


class Pair(msgspec.Struct, array_like=True):
    x: int


class Tree(msgspec.Struct):
    children: "list[Tree]" = []


@dataclasses.dataclass
class Address:
    street: str


class Options(TypedDict):
    width: int


class Position(NamedTuple):
    x: int


class KindTests(SynchronousTestCase):
    def test_each_annotation_has_its_kinds(self):
        for annotation, expected in [
            (int, ["integer"]),
            (float, ["number"]),
            (bool, ["boolean"]),
            (str, ["string"]),
            (None, ["null"]),
            (Optional[int], ["integer", "null"]),  # noqa: UP045
            (int | str | None, ["integer", "string", "null"]),
            (Annotated[int, msgspec.Meta(gt=0)], ["integer"]),
            (Annotated[int | None, msgspec.Meta(title="a")], ["integer", "null"]),
            (NewType("A", NewType("B", float)), ["number"]),
            (Path, ["string"]),
            (decimal.Decimal, ["string", "number"]),
            (dict, ["object"]),
            (dict[str, int], ["object"]),
            (Point, ["object"]),
            (Address, ["object"]),
            (Options, ["object"]),
            (Tree, ["object"]),
            (Pair, ["array"]),
            (Position, ["array"]),
            (tuple[int, str], ["array"]),
            (Bits, ["integer"]),
            (Lenient, ["string"]),
            (Any, ANYTHING),
            (object, ANYTHING),
            (msgspec.Raw, ANYTHING),
            (T, ANYTHING),
            (B, ["integer"]),
        ]:
            self.assertEqual(kinds_of(annotation), [Kind(name) for name in expected], annotation)

    def test_a_text_that_is_written_in_a_certain_way_has_its_format(self):
        for annotation, written in [
            (bytes, "base64"),
            (bytearray, "base64"),
            (datetime.datetime, "date-time"),
            (datetime.date | None, "date"),
            (datetime.time, "time"),
            (datetime.timedelta, "duration"),
            (uuid.UUID, "uuid"),
        ]:
            self.assertEqual(kinds_of(annotation)[0], Kind("string", format=written), annotation)
        self.assertEqual(kinds_of(list[datetime.date])[0].items, [Kind("string", format="date")])

    def test_an_enumeration_has_its_values(self):
        for annotation, expected in [
            (Literal[1, 2], [Kind("integer", [1, 2])]),
            (Literal["a"] | None, [Kind("string", ["a"]), Kind("null")]),
            (Literal[1, "a"], [Kind("integer", [1]), Kind("string", ["a"])]),
            (Literal[None, 1], [Kind("null"), Kind("integer", [1])]),
            (Literal[True], [Kind("boolean", [True])]),
            (Level, [Kind("integer", [1, 2])]),
            (Word, [Kind("string", ["yes"])]),
            (Literal["a"] | str, [Kind("string")]),
            (str | Literal["a"], [Kind("string")]),
        ]:
            self.assertCountEqual(kinds_of(annotation), expected, annotation)

    def test_an_array_has_the_kinds_of_its_elements(self):
        for annotation, expected in [
            (list[int], [Kind("integer")]),
            (set[str], [Kind("string")]),
            (tuple[float, ...], [Kind("number")]),
            (collections.abc.Sequence[int | None], [Kind("integer"), Kind("null")]),
            (list[Literal[1, 2]], [Kind("integer", [1, 2])]),
            (list[list[int]], [Kind("array")]),
            (list[Tree], [Kind("object")]),
            (list, [Kind(name) for name in ANYTHING]),
        ]:
            self.assertEqual(kinds_of(annotation), [Kind("array", items=expected)], annotation)
