"""Rows of arguments: reading, converting and counting them, and writing those that failed."""

import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.rows import ERROR_COLUMN, FailedRows, count_rows, read_rows
from taskd.functions.parameters import wire_name

BIG_CELL = "x" * 1_000_000
"""A cell over the default limit of Python's csv module."""

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
names = st.lists(
    st.text(st.characters(codec="ascii", categories=["Ll", "Lu", "Nd"]), min_size=1, max_size=5),
    min_size=1,
    max_size=4,
    unique_by=wire_name,
).map(lambda found: [wire_name(name) for name in found])


def rows_of(text, path="rows.csv", integers=()):
    """Return the rows of a file with this text; cells of the columns `integers` become numbers."""

    def convert(name, cell):
        return int(cell) if name in integers else cell

    return list(read_rows(path, io.StringIO(text, newline=""), convert))


def args_of(text, path="rows.csv", integers=()):
    """Return the arguments of the rows alone."""
    return [row.args for row in rows_of(text, path, integers)]


def counted(text, path="rows.csv"):
    return count_rows(path, io.StringIO(text, newline=""))


def csv_text(*rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue()


class FileOfFailedRows:
    """A `FailedRows` that writes into memory."""

    def __init__(self, source="rows.csv"):
        self.opened = []
        self._text = None
        self.failed = FailedRows("failed", self._open)

    def _open(self, path):
        self.opened.append(path)
        file = io.StringIO(newline="")
        close = file.close

        def keep():
            self._text = file.getvalue()
            close()

        file.close = keep
        return file

    @property
    def text(self):
        """Return the content of the file, which is then closed."""
        if self._text is None:
            self.failed.close()
        return self._text


class CsvTests(SynchronousTestCase):
    def test_each_row_has_the_names_of_the_header(self):
        self.assertEqual(args_of("a,b\n1,2\n3,4\n"), [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}])
        self.assertEqual(args_of("a,b\n1,2"), [{"a": "1", "b": "2"}])

    def test_cells_are_converted_as_the_parameters_ask(self):
        rows = args_of("a,b,c\n1,2,3\n4,,\n", integers={"a"})
        self.assertEqual(rows, [{"a": 1, "b": "2", "c": "3"}, {"a": 4, "b": "", "c": ""}])

    def test_a_cell_that_cannot_be_converted_is_the_problem_of_its_row_alone(self):
        first, second = rows_of("a,b\nx,1\n2,2\n", integers={"a"})
        self.assertIsNone(first.args)
        self.assertIn("'x'", first.problem)
        self.assertEqual(first.original, (["a", "b"], ["x", "1"]))
        self.assertEqual(second.args, {"a": 2, "b": "2"})

    def test_column_names_are_argument_names_on_the_wire(self):
        self.assertEqual(args_of(" from_ ,to\na,b\n"), [{"from": "a", "to": "b"}])
        self.assertEqual(args_of("from\na\n", integers={"to"}), [{"from": "a"}])

    def test_a_row_has_the_line_on_which_it_begins(self):
        rows = rows_of('a\n1\n"2\n2"\n\n4\n')
        self.assertEqual([row.line for row in rows], [2, 3, 6])
        self.assertEqual([row.line for row in rows_of('"a\nb"\n1\n')], [3])

    def test_blank_lines_are_skipped(self):
        self.assertEqual(args_of("a\n\n1\n\n\n2\n\n"), [{"a": "1"}, {"a": "2"}])

    def test_line_ends_of_every_system_are_accepted(self):
        for end in ("\n", "\r\n", "\r"):
            self.assertEqual(
                args_of(f"a,b{end}1,2{end}3,4{end}"), [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
            )

    def test_cells_keep_their_blanks_and_line_ends(self):
        self.assertEqual(args_of('a,b\n " x" ,"1\r\n2"\n')[0]["b"], "1\r\n2")
        self.assertEqual(args_of("a\n  x  \n"), [{"a": "  x  "}])

    def test_a_row_with_the_wrong_number_of_cells_has_a_problem(self):
        rows = rows_of("a,b\n1\n1,2,3\n4,5\n")
        self.assertEqual([row.args for row in rows], [None, None, {"a": "4", "b": "5"}])
        self.assertEqual(rows[0].problem, "1 values for 2 columns")
        self.assertEqual(rows[1].problem, "3 values for 2 columns")

    def test_a_row_that_is_not_csv_has_a_problem_and_rows_before_it_are_kept(self):
        rows = rows_of('a\n1\n"2"x\n3\n')
        self.assertEqual(rows[0].args, {"a": "1"})
        self.assertIn("not CSV", rows[1].problem)
        self.assertEqual(rows[1].line, 3)

    def test_a_quote_that_is_never_closed_is_a_problem_and_not_a_row(self):
        rows = rows_of('a\n1\n"2\n3\n')
        self.assertEqual([row.args for row in rows], [{"a": "1"}, None])

    def test_the_column_of_errors_is_not_an_argument(self):
        self.assertEqual(args_of(f"a,{ERROR_COLUMN}\n1,line 7: no paper\n"), [{"a": "1"}])

    def test_a_long_cell_is_read_whole(self):
        self.assertEqual(args_of(f"a\n{BIG_CELL}\nx\n"), [{"a": BIG_CELL}, {"a": "x"}])
        self.assertEqual(counted(f"a\n{BIG_CELL}\nx\n"), 2)

    def test_a_file_whose_columns_have_no_names_is_refused(self):
        for text in ("", "\n1\n", "a,\n1,2\n", "a,a\n1,2\n", "from,from_\n1,2\n", " ,b\n"):
            self.assertRaises(ValueError, rows_of, text)

    def test_a_header_alone_has_no_rows(self):
        self.assertEqual(rows_of("a,b\n"), [])
        self.assertEqual(counted("a,b\n"), 0)
        self.assertEqual(counted(""), 0)

    @given(names, st.data())
    def test_rows_that_the_csv_module_writes_are_read_back(self, header, data):
        row = st.lists(cells, min_size=len(header), max_size=len(header))
        # One empty cell is written as "", and is still a row.
        rows = data.draw(st.lists(row, max_size=4))
        text = csv_text(header, *rows)
        self.assertEqual(args_of(text), [dict(zip(header, row, strict=True)) for row in rows])
        self.assertEqual(counted(text), len(rows))

    @given(st.text(st.sampled_from('ab,"\n\r 1'), max_size=30))
    def test_reading_any_text_gives_rows_or_raises_value_error(self, text):
        try:
            rows = rows_of(text)
        except ValueError:
            return
        self.assertTrue(all((row.args is None) is bool(row.problem) for row in rows))
        self.assertEqual(sorted(row.line for row in rows), [row.line for row in rows])
        counted(text)


class JsonLinesTests(SynchronousTestCase):
    def test_each_line_is_read_as_an_object(self):
        text = '{"a": 1}\n\n  {"b": [null, {"c": "x"}]}\r\n{}'
        self.assertEqual(args_of(text, "rows.jsonl"), [{"a": 1}, {"b": [None, {"c": "x"}]}, {}])
        self.assertEqual([row.line for row in rows_of(text, "rows.jsonl")], [1, 3, 4])
        self.assertEqual(counted(text, "rows.jsonl"), 3)

    def test_json_lines_are_recognised_by_the_name_of_the_file(self):
        for path in ("rows.jsonl", "rows.ndjson", "rows.json", "a.csv/rows.JSONL"):
            self.assertEqual(args_of('{"a": 1}\n', path), [{"a": 1}])
        for path in ("rows.csv", "rows.txt", "rows", "a.jsonl/rows"):
            self.assertEqual(args_of("a\n1\n", path), [{"a": "1"}])

    def test_values_are_not_converted(self):
        self.assertEqual(args_of('{"a": "1"}', "rows.jsonl", {"a"}), [{"a": "1"}])

    def test_a_line_that_is_not_an_object_has_a_problem_and_other_lines_are_kept(self):
        deep = "[" * 100_000
        text = f'nonsense\n[1]\n5\n{{"a"\n{{"a": 1}}\n{{"a": {deep}\n'
        rows = rows_of(text, "rows.jsonl")
        self.assertEqual([row.args for row in rows], [None, None, None, None, {"a": 1}, None])
        for row in rows:
            self.assertEqual(bool(row.problem), row.args is None)
        self.assertEqual(rows[0].original, "nonsense")

    def test_the_member_of_errors_is_not_an_argument(self):
        self.assertEqual(args_of(f'{{"a": 1, "{ERROR_COLUMN}": "line 3: x"}}', "rows.jsonl"), [{"a": 1}])

    def test_a_line_may_hold_any_character_of_unicode(self):
        self.assertEqual(args_of('{"a": "\u2028\x85ไทย"}\n', "rows.jsonl"), [{"a": "\u2028\x85ไทย"}])

    @given(
        st.lists(st.dictionaries(st.text(), st.integers(-(2**60), 2**60) | st.text() | st.none()), max_size=5)
    )
    def test_rows_that_json_writes_are_read_back(self, rows):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            text.encode()
        except UnicodeEncodeError:
            return  # half of a surrogate pair: no file in UTF-8 has it
        self.assertEqual(args_of(text, "rows.jsonl"), [without_error(row) for row in rows])

    @given(st.text(st.sampled_from('{}[]":,a1\n\r '), max_size=30))
    def test_reading_any_text_gives_rows(self, text):
        rows = rows_of(text, "rows.jsonl")
        self.assertEqual(counted(text, "rows.jsonl"), len(rows))


def without_error(row):
    return {name: value for name, value in row.items() if name != ERROR_COLUMN}


class FailedRowsTests(SynchronousTestCase):
    def test_the_file_is_made_when_the_first_row_fails(self):
        file = FileOfFailedRows()
        self.assertEqual(file.opened, [])
        file.failed.close()
        self.assertEqual((file.opened, file.failed.count), ([], 0))
        file = FileOfFailedRows()
        for row in rows_of("a\n1\n2\n"):
            file.failed.add(row, "why")
        self.assertEqual((file.opened, file.failed.count), (["failed"], 2))

    def test_a_failed_row_is_written_as_it_was_with_its_line_and_reason(self):
        file = FileOfFailedRows()
        for row, why in zip(
            rows_of('a,b\n1,"x,y"\n02,"""z\n"""\n', integers={"a"}), ("so", "thus"), strict=True
        ):
            file.failed.add(row, why)
        self.assertEqual(
            list(csv.DictReader(io.StringIO(file.text, newline=""))),
            [
                {"a": "1", "b": "x,y", ERROR_COLUMN: "line 2: so"},
                {"a": "02", "b": '"z\n"', ERROR_COLUMN: "line 3: thus"},
            ],
        )

    def test_every_column_is_kept_whichever_row_fails_first(self):
        rows = rows_of('a,b\n1\n2,two\n"3"x,three\n4,four\n')
        for order in (rows, rows[::-1]):
            file = FileOfFailedRows()
            for row in order:
                file.failed.add(row, "why")
            text = file.text
            self.assertEqual(set(text.splitlines()[0].split(",")), {"a", "b", ERROR_COLUMN})
            self.assertIn("two", text)
            self.assertIn("four", text)

    def test_an_extra_cell_is_kept_as_well(self):
        file = FileOfFailedRows()
        (row,) = rows_of("a,b\n1,2,surplus\n")
        file.failed.add(row, row.problem)
        self.assertIn("surplus", file.text)

    def test_an_earlier_error_is_replaced(self):
        file = FileOfFailedRows()
        (row,) = rows_of(f"{ERROR_COLUMN},a\nline 9: then,1\n")
        file.failed.add(row, "now")
        (again,) = csv.DictReader(io.StringIO(file.text, newline=""))
        self.assertEqual(again, {"a": "1", ERROR_COLUMN: "line 2: now"})

    def test_an_error_of_several_lines_does_not_break_the_file(self):
        file = FileOfFailedRows()
        (row,) = rows_of("a\n1\n")
        file.failed.add(row, 'a "traceback",\nof two lines')
        self.assertEqual(args_of(file.text), [{"a": "1"}])

    def test_a_malformed_row_never_becomes_a_row(self):
        for text in (
            'a,b\n1\n2,two\n3,three,surplus\n"4"x,four\n',
            'a\n"1"x\n2\n3,surplus\n',
            f"a,{ERROR_COLUMN},b\n1\n2,why\n3,why,three\n4,why,four,surplus\n",
        ):
            rows = rows_of(text)
            good = [row.args for row in rows if row.args is not None]
            for _ in range(4):
                file = FileOfFailedRows()
                for row in rows:
                    file.failed.add(row, row.problem or "why")
                before, rows = rows, rows_of(file.text)
                self.assertEqual([row.args for row in rows if row.args is not None], good)
                self.assertEqual(len(rows), len(before))

    def test_an_extra_cell_is_kept_however_often_its_row_fails(self):
        rows = rows_of("a,b\n1,2,surplus\n")
        for _ in range(4):
            file = FileOfFailedRows()
            for row in rows:
                file.failed.add(row, row.problem)
            self.assertIn("surplus", file.text)
            rows = rows_of(file.text)

    def test_failed_json_lines_are_written_with_their_reason(self):
        file = FileOfFailedRows("rows.jsonl")
        rows = rows_of('{"a": "ไทย", "b": {"c": [1.5, null]}}\nnonsense\n', "rows.jsonl")
        for row in rows:
            file.failed.add(row, "why")
        first, second = file.text.splitlines()
        self.assertEqual(
            json.loads(first), {"a": "ไทย", "b": {"c": [1.5, None]}, ERROR_COLUMN: "line 1: why"}
        )
        self.assertEqual(second, "nonsense")

    @given(names, st.data())
    def test_failed_rows_can_be_read_again(self, header, data):
        row = st.lists(cells, min_size=len(header), max_size=len(header))
        text = csv_text(header, *data.draw(st.lists(row, min_size=1, max_size=4)))
        file = FileOfFailedRows()
        for one in rows_of(text):
            file.failed.add(one, data.draw(cells))
        self.assertEqual(args_of(file.text), args_of(text))

    @given(
        st.lists(
            st.dictionaries(st.text(), st.floats(-1e9, 1e9) | st.text(), max_size=3), min_size=1, max_size=4
        )
    )
    def test_failed_json_lines_can_be_read_again(self, rows):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if any(row.problem for row in rows_of(text, "rows.jsonl")):
            return  # half of a surrogate pair, which is not read
        file = FileOfFailedRows("rows.jsonl")
        for one in rows_of(text, "rows.jsonl"):
            file.failed.add(one, "why")
        self.assertEqual(args_of(file.text, "rows.jsonl"), [without_error(row) for row in rows])
