"""The rows of a batch: all of them, or an error that names lines of the text."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import InvalidParams
from taskd.rows.batch_rows import BatchRows
from tests.unit.rows.row_cases import as_text, csv_rows


def batch_of(text):
    rows = BatchRows("people.csv")
    args = [given for row in csv_rows(text).read(as_text) if (given := rows.take(row)) is not None]
    return rows, args


class BatchRowsTests(SynchronousTestCase):
    def test_rows_keep_the_lines_on_which_they_begin(self):
        rows, args = batch_of(b'a\n"1\n"\n\n2\n')
        rows.check()
        self.assertEqual(args, [{"a": "1\n"}, {"a": "2"}])
        self.assertEqual(rows.lines, [2, 5])

    def test_rows_without_arguments_are_named_up_to_three_of_them(self):
        rows, _ = batch_of(b"a,b\n1\n1,2\n2\n3\n4\n5\n")
        error = self.assertRaises(ValueError, rows.check)
        self.assertEqual(
            str(error),
            "people.csv: nothing was submitted: line 2: 1 values for 2 columns; line 4: 1 values for 2 "
            "columns; line 5: 1 values for 2 columns; and 2 more",
        )

    def test_a_row_that_the_server_refuses_is_named_by_its_line(self):
        rows, _ = batch_of(b"a\n\n1\nx\n")
        error = rows.by_line(InvalidParams("args[1]: a is no number", argument="args[1]", expected="int"))
        self.assertEqual(error.message, "people.csv: nothing was submitted: line 4: a is no number")
        self.assertEqual(error.data, {"argument": "args[1]", "expected": "int", "line": 4})

    def test_a_refusal_of_anything_else_stays_as_it_is(self):
        rows, _ = batch_of(b"a\n1\n")
        for argument in ("args[9]", "options.key", "function"):
            error = InvalidParams("no", argument=argument)
            self.assertIs(rows.by_line(error), error)
