"""Rows of CSV: cut into texts that add up to the file, parsed, and written again when they have failed."""

import contextlib
import csv
import io

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.wire_names import wire_name
from taskd.rows.csv_rows import MAX_COLUMNS, CsvRows
from taskd.rows.row import ERROR_COLUMN, RowLimits
from taskd.rows.texts import lines_of
from tests.unit.rows.row_cases import args_of, as_text, csv_rows, failed_file, good, lines

BIG_CELL = "x" * 1_000_000
"""A cell over the default limit of Python's csv module."""

cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.lists(
    st.text(st.characters(codec="ascii", categories=["Ll", "Lu", "Nd"]), min_size=1, max_size=5),
    min_size=1,
    max_size=4,
    unique_by=wire_name,
).map(lambda found: [wire_name(name) for name in found])
any_bytes = st.lists(
    st.sampled_from(
        [b"a", b",", b";", b"\t", b'"', b'""', b"\n", b"\r\n", b"\r", b" ", b"\0", b"\xff", b"\xc3\xa9"]
    )
).map(b"".join)


def csv_bytes(*rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()


def rows_of(data):
    return list(csv_rows(data).read(as_text))


class ReadingTests(SynchronousTestCase):
    def test_each_row_has_the_names_of_the_header(self):
        expected = [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
        for data in (b"a,b\n1,2\n3,4\n", b"a,b\n1,2\n3,4", b"a;b\n1;2\n3;4\n", b"a\tb\n1\t2\n3\t4\n"):
            self.assertEqual(args_of(csv_rows(data)), expected)

    def test_cells_are_converted_as_the_parameters_ask(self):
        def convert(name, cell):
            return int(cell) if name == "a" else cell

        first, second, third = csv_rows(b"a,b\n1,2\nx,3\n4,5\n").read(convert)
        self.assertEqual((first.args, third.args), ({"a": 1, "b": "2"}, {"a": 4, "b": "5"}))
        self.assertIn("'x'", second.problem)
        self.assertEqual((second.text, second.args, second.is_whole), (b"x,3\n", None, True))

    def test_names_are_those_on_the_wire(self):
        self.assertEqual(args_of(csv_rows(b" from_ ,to\na,b\n")), [{"from": "a", "to": "b"}])

    def test_a_row_has_the_line_on_which_it_begins(self):
        self.assertEqual([row.line for row in rows_of(b'a\n1\n"2\n2"\n\n4\n')], [2, 3, 6])
        self.assertEqual([row.line for row in rows_of(b'"a\nb"\n1\n')], [3])

    def test_blank_lines_are_no_rows(self):
        self.assertEqual(args_of(csv_rows(b"a\n\n1\n\n\r\n2\n\n")), [{"a": "1"}, {"a": "2"}])

    def test_line_ends_of_every_system_are_accepted_and_may_be_mixed(self):
        self.assertEqual(
            args_of(csv_rows(b"a,b\n1,2\r\n3,4\r5,6")),
            [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}, {"a": "5", "b": "6"}],
        )

    def test_cells_keep_their_blanks_line_ends_and_nul_bytes(self):
        self.assertEqual(args_of(csv_rows(b'a,b\n " x" ,"1\r\n2"\n')), [{"a": ' " x" ', "b": "1\r\n2"}])
        self.assertEqual(args_of(csv_rows(b"a\n  x\0 \n")), [{"a": "  x\0 "}])

    def test_a_long_cell_is_read_whole(self):
        self.assertEqual(args_of(csv_rows(f"a\n{BIG_CELL}\nx\n".encode())), [{"a": BIG_CELL}, {"a": "x"}])

    def test_the_columns_of_errors_are_not_arguments(self):
        data = f"{ERROR_COLUMN},a,{ERROR_COLUMN}\nline 7: no paper,1,old\n".encode()
        self.assertEqual(args_of(csv_rows(data)), [{"a": "1"}])

    def test_a_file_whose_first_line_does_not_name_the_columns_is_refused(self):
        for data, words in (
            (b"", "is empty"),
            (b"\n1\n", "is empty"),
            (b"a,\n1,2\n", "each column once"),
            (b"a,a\n1,2\n", "each column once"),
            (b"from,from_\n1,2\n", "each column once"),
            (b'"a\n1\n', "never closed"),
            (b'"a"b\n1\n', "text follows"),
            (b"\xff,a\n1,2\n", "not UTF-8"),
            (b'{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n', "line 1 is JSON"),
            (b'[\n{"a": 3}\n]\n', "line 1 is JSON"),
            ("a,b\n1,2\n".encode("utf-16-le"), "UTF-16"),
        ):
            self.assertIn(words, str(self.assertRaises(ValueError, csv_rows, data)))

    def test_names_in_brackets_are_names(self):
        self.assertEqual(args_of(csv_rows(b"[id],{a}\n1,2\n")), [{"[id]": "1", "{a}": "2"}])

    def test_a_header_alone_has_no_rows(self):
        self.assertEqual(rows_of(b"a,b\n"), [])
        self.assertEqual(csv_rows(b"a,b").count(), 0)

    @given(names, st.data())
    def test_rows_that_the_csv_module_writes_are_read_back(self, header, data):
        row = st.lists(cells, min_size=len(header), max_size=len(header))
        rows = data.draw(st.lists(row, max_size=4))
        written = csv_bytes(header, *rows)
        self.assertEqual(args_of(csv_rows(written)), [dict(zip(header, row, strict=True)) for row in rows])
        self.assertEqual(csv_rows(written).count(), len(rows))


class CuttingTests(SynchronousTestCase):
    @given(any_bytes)
    def test_the_texts_of_any_file_add_up_to_it(self, data):
        header = b"a,b\n"
        texts = list(csv_rows(header + data).texts())
        self.assertEqual(b"".join(text.text for text in texts), data)
        self.assertEqual(
            csv_rows(header + data).count(), len(rows_of(header + data)), "each row is counted once"
        )

    @given(any_bytes)
    def test_every_row_of_any_file_is_either_arguments_or_a_problem(self, data):
        for row in rows_of(b"a,b\n" + data):
            self.assertEqual(row.args is None, bool(row.problem))

    @given(any_bytes)
    def test_python_finds_the_same_rows_before_the_first_quotation_mark_that_is_wrong(self, data):
        text = ("a,b\n" + data.decode("latin-1")).encode()
        found = [row.args for row in rows_of(text) if row.is_whole and row.args is not None]
        rows = csv.reader(io.StringIO(text.decode(), newline=""), strict=True)
        expected = []
        with contextlib.suppress(csv.Error):
            expected.extend(dict(zip("ab", row, strict=True)) for row in rows if len(row) == 2)
        self.assertEqual(found[: len(expected) - 1], expected[1:])

    def test_lines_behind_an_unclosed_quotation_mark_fail_one_by_one(self):
        rows = rows_of(b'a,b\n1,2\n"3,4\n5,6\n7,8\n')
        self.assertEqual([row.args for row in rows], [{"a": "1", "b": "2"}, None, None, None])
        self.assertEqual([row.text for row in rows[1:]], [b'"3,4\n', b"5,6\n", b"7,8\n"])
        self.assertIn("never closed", rows[1].problem)
        self.assertIn("line 3", rows[2].problem)

    def test_text_behind_a_closed_quotation_mark_fails_alone(self):
        rows = rows_of(b'a\n1\n"2"x\n3\n"4\n"y\n5\n')
        self.assertEqual([row.args for row in rows], [{"a": "1"}, None, {"a": "3"}, None, None, {"a": "5"}])
        self.assertEqual([row.line for row in rows], [2, 3, 4, 5, 6, 7])

    def test_a_row_with_the_wrong_number_of_cells_has_a_problem(self):
        rows = rows_of(b"a,b\n1\n1,2,3\n4,5\n")
        self.assertEqual(
            [row.problem for row in rows], ["1 values for 2 columns", "3 values for 2 columns", ""]
        )

    def test_a_row_that_is_not_utf8_fails_alone(self):
        rows = rows_of(b"a\nJ\xfcrgen\nAnn\n")
        self.assertEqual([row.args for row in rows], [None, {"a": "Ann"}])
        self.assertIn("0xfc", rows[0].problem)

    def test_a_row_over_a_limit_fails_line_by_line_and_those_behind_it_are_read(self):
        for limits, most in ((RowLimits(size=20), "20 bytes"), (RowLimits(lines=5), "5 lines")):
            text = b'a\n1\n"' + b"x\n" * 20 + b'"\n2\n"3"\n"4\n4"\n'
            rows = list(CsvRows("rows.csv", lines(text), limits=limits).read(as_text))
            taken = [row.args for row in rows if row.args is not None]
            self.assertEqual(taken, [{"a": "1"}, {"a": "2"}, {"a": "3"}, {"a": "4\n4"}])
            wrong = [row for row in rows if row.args is None]
            self.assertEqual(b"".join(row.text for row in wrong), b'"' + b"x\n" * 20 + b'"\n')
            for row in wrong:
                self.assertIn(f"part of a row of more than {most} from line 3 on", row.problem)

    def test_a_file_with_more_columns_than_any_function_takes_is_refused(self):
        header = ",".join(f"c{number}" for number in range(MAX_COLUMNS + 1)).encode()
        self.assertIn("10001 columns", str(self.assertRaises(ValueError, rows_of, header)))

    def test_the_rest_of_a_broken_row_is_not_a_row(self):
        broken = b'"foo"bar,"x\ny,2"\n'
        rows = rows_of(b"a,b\n" + broken + b"3,4\n")
        self.assertEqual([row.args for row in rows], [None, None, {"a": "3", "b": "4"}])
        self.assertEqual(b"".join(row.text for row in rows[:2]), broken)
        self.assertIn("on line 2", rows[0].problem)
        self.assertIn("the row that begins on line 2", rows[1].problem)

    def test_a_quotation_mark_that_a_broken_row_opens_is_looked_for_to_the_end(self):
        rows = rows_of(b'a,b\n"say "hi,"you"",z\n1,2\n3,4\n')
        self.assertEqual([row.args for row in rows], [None] * 3)
        self.assertEqual(b"".join(row.text for row in rows), b'"say "hi,"you"",z\n1,2\n3,4\n')

    def test_a_line_over_the_limit_is_an_error(self):
        long = lines_of("rows", io.BytesIO(b"a\n" + b"x" * 21), 20)
        self.assertIn("line 2", str(self.assertRaises(ValueError, list, long)))


class FailedCsvTests(SynchronousTestCase):
    def failed(self, data, why="why"):
        return failed_file(self.mktemp(), csv_rows, data, why)

    def test_a_failed_row_is_written_as_it_was_behind_its_line_and_reason(self):
        self.assertEqual(
            self.failed(b'a,b\r\n01,"x"\r\n2,"""z\n"""', 'a "reason",\nof two lines'),
            b'taskd_error,a,b\r\n"line 2: a ""reason"",\nof two lines",01,"x"\r\n'
            b'"line 3: a ""reason"",\nof two lines",2,"""z\n"""\r\n',
        )

    def test_the_separator_and_the_encoding_are_kept(self):
        self.assertEqual(self.failed(b"a;b\n\xff;2\n").splitlines()[0], b"taskd_error;a;b")
        self.assertTrue(self.failed(b"a;b\n\xff;2\n").endswith(b";\xff;2\n"))

    def test_an_earlier_reason_is_replaced(self):
        data = b'taskd_error,a\n"line 9: then, ""so""",1\n'
        self.assertEqual(self.failed(data), b"taskd_error,a\nline 2: why,1\n")

    def test_cells_too_few_or_too_many_are_kept_however_often_they_fail(self):
        data = b"a,b\n1\n2,two\n3,3,surplus\n"
        for _ in range(3):
            data = self.failed(data)
            self.assertEqual(good(csv_rows(data)), [{"a": "2", "b": "two"}])
            self.assertIn(b",1\n", data)
            self.assertIn(b",3,3,surplus\n", data)

    def test_a_broken_row_comes_last_so_that_it_swallows_no_other_row(self):
        data = self.failed(b'a\n"1"x\n2\n"3\n4\n')
        self.assertEqual(data.splitlines()[1], b"line 3: why,2")
        self.assertEqual(good(csv_rows(data)), [{"a": "2"}])

    def test_rows_are_right_once_the_missing_quotation_mark_is_there(self):
        data = b'a,b\n"1,2\n3,4\n"5",6\n'
        for _ in range(3):
            data = self.failed(data)
        data = data.replace(b'"1,', b'"1",')
        self.assertEqual([args["a"] for args in good(csv_rows(data))], ["1", "3", "5"])

    @given(any_bytes)
    def test_any_failed_file_keeps_the_text_of_every_row_however_often_it_fails(self, data):
        original = b"a,b\n" + data
        texts = sorted(_bare(row.text) for row in rows_of(original))
        failed = original
        for _ in range(3):
            failed = self.failed(failed)
            if not texts:
                return
            self.assertEqual(sorted(_bare(row.text) for row in rows_of(failed)), texts)
            self.assertEqual(good(csv_rows(failed)), good(csv_rows(original)))


def _bare(text):
    return text.rstrip(b"\r\n")
