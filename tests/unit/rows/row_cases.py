"""What the tests of rows share: files in memory, and what their rows are."""

import io

from taskd.cli.failed_rows import FailedRows
from taskd.rows.csv_rows import CsvRows
from taskd.rows.json_rows import JsonRows
from taskd.rows.row import ERROR_COLUMN
from taskd.rows.texts import lines_of


def lines(data):
    return lines_of("rows", io.BytesIO(data))


def csv_rows(data):
    return CsvRows("rows.csv", lines(data))


def json_rows(data):
    return JsonRows(lines(data))


def as_text(name, cell):
    """Convert nothing."""
    return cell


def args_of(rows, convert=as_text):
    return [row.args for row in rows.read(convert)]


def good(rows):
    return [args for args in args_of(rows) if args is not None]


def without_error(row):
    return {name: value for name, value in row.items() if name != ERROR_COLUMN}


def failed_file(path, make, data, why="why"):
    """Let every row of a file fail; return what is then in the file of failed rows."""
    rows = make(data)
    failed = FailedRows(path, rows)
    for row in rows.read(as_text):
        failed.add(row, row.problem or why)
    failed.close()
    if not failed.count:
        return b""
    with open(path, "rb") as file:
        return file.read()
