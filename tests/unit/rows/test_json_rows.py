"""Rows of JSON lines, and how they are written again when they have failed."""

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.rows.row import ERROR_COLUMN
from tests.unit.rows.row_cases import args_of, as_text, failed_file, good, json_rows, without_error

objects = st.dictionaries(st.text(), st.integers(-(2**60), 2**60) | st.text() | st.none(), max_size=3)
any_bytes = st.lists(
    st.sampled_from(
        [b"{", b"}", b"[", b"]", b'"a"', b'"', b":", b",", b"1", b"\n", b"\r\n", b" ", b"\0", b"\xff"]
    )
    | st.just(b'{"a":1}\n')
).map(b"".join)


def rows_of(data):
    return list(json_rows(data).read(as_text))


class JsonRowsTests(SynchronousTestCase):
    def test_each_line_is_an_object(self):
        data = b'{"a": 1}\n\n  {"b": [null, {"c": "x"}]}\r\n{}'
        self.assertEqual(args_of(json_rows(data)), [{"a": 1}, {"b": [None, {"c": "x"}]}, {}])
        self.assertEqual([row.line for row in rows_of(data)], [1, 3, 4])
        self.assertEqual(json_rows(data).count(), 3)

    def test_values_are_not_converted(self):
        self.assertEqual(args_of(json_rows(b'{"a": "1"}'), lambda name, cell: int(cell)), [{"a": "1"}])

    def test_a_line_that_cannot_be_arguments_has_a_problem_and_its_text(self):
        for line in (
            b"nonsense",
            b"[1]",
            b"5",
            b'{"a"',
            b'{"a": NaN}',
            b'{"a": 1, "a": 2}',
            b'{"a": {"b": 1, "b": 2}}',
            b'{"a": "\\ud800"}',
            b'{"a": "\xed\xa0\x80"}',
            b'{"a": "\0"}',
            b'{"a": "J\xfcrgen"}',
            b'{"a": ' + b"[" * 100_000,
        ):
            first, second = rows_of(line + b'\n{"a": 1}\n')
            self.assertTrue(first.problem, line)
            self.assertEqual((first.text, first.args), (line + b"\n", None))
            self.assertEqual(second.args, {"a": 1})

    def test_the_member_of_errors_is_not_an_argument(self):
        for data in (b'{"a": 1, "%b": "line 3: x"}', b'{"%b": "line 3: x", "a": 1}'):
            self.assertEqual(args_of(json_rows(data % ERROR_COLUMN.encode())), [{"a": 1}])

    def test_a_line_may_hold_any_character_of_unicode(self):
        self.assertEqual(args_of(json_rows('{"a": "\u2028\x85ไทย"}\n'.encode())), [{"a": "\u2028\x85ไทย"}])

    @given(st.lists(objects, max_size=5))
    def test_rows_that_json_writes_are_read_back(self, rows):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        found = rows_of(data)
        self.assertEqual(len(found), len(rows))
        for row, written in zip(found, rows, strict=True):
            self.assertIn(row.args, (None, without_error(written)))


class FailedJsonTests(SynchronousTestCase):
    def failed(self, data, why="why"):
        return failed_file(self.mktemp(), json_rows, data, why)

    def test_a_failed_object_keeps_its_text_and_has_the_reason_as_its_last_member(self):
        self.assertEqual(
            self.failed('{"a": "ไทย", "b": 1.50}\r\n { }'.encode(), 'a "reason"'),
            '{"a": "ไทย", "b": 1.50,"taskd_error":"line 1: a \\"reason\\""}\r\n'
            ' {"taskd_error":"line 2: a \\"reason\\""}\n'.encode(),
        )

    def test_an_earlier_reason_is_replaced(self):
        data = self.failed(self.failed(b'{"a": 1}\n{}\n', "first"), "second")
        self.assertEqual(data.count(b"taskd_error"), 2)
        self.assertEqual(data.count(b"second"), 2)

    def test_a_row_with_a_million_blanks_is_read_at_once(self):
        data = b'{"a": "' + b" " * 1_000_000 + b'"}\n'
        (row,) = json_rows(data).read(as_text)
        self.assertEqual(row.text, data)  # with the square of the length it would take ten minutes

    def test_blanks_around_an_earlier_reason_go_with_it(self):
        data = b'{"a": 1 , "taskd_error" : "line 3: \\"so\\"" }\n'
        (row,) = json_rows(data).read(as_text)
        self.assertEqual(row.text, b'{"a": 1 }\n')

    def test_a_line_that_is_no_object_follows_its_reason(self):
        data = self.failed(b"nonsense\n")
        note, line = data.splitlines()
        self.assertTrue(json.loads(note).startswith("taskd_error: line 1: not a JSON object"), note)
        self.assertEqual(line, b"nonsense")
        self.assertEqual(json_rows(data).count(), 1)
        self.assertEqual(self.failed(data).splitlines()[1], b"nonsense")
        self.assertEqual(good(json_rows(data.replace(b"nonsense", b'{"a": 1}'))), [{"a": 1}])

    @given(any_bytes)
    def test_any_failed_file_keeps_the_text_of_every_row_however_often_it_fails(self, data):
        texts = sorted(row.text.strip() for row in rows_of(data) if not row.is_whole)
        arguments = sorted(map(json.dumps, good(json_rows(data))))
        for _ in range(3):
            if not rows_of(data):
                return
            data = self.failed(data)
            self.assertEqual(sorted(row.text.strip() for row in rows_of(data) if not row.is_whole), texts)
            self.assertEqual(sorted(map(json.dumps, good(json_rows(data)))), arguments)

    @given(any_bytes)
    def test_the_rows_of_any_file_add_up_to_it_without_its_blank_lines(self, data):
        found = b"".join(row.text for row in rows_of(data))
        kept = b"".join(line for line in data.splitlines(keepends=True) if line.strip())
        self.assertEqual(found, kept)
        self.assertEqual(json_rows(data).count(), len(rows_of(data)))
