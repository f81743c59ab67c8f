"""Annotations and decorators of all kinds, from the app to the command line and back."""

from __future__ import annotations

import csv
import json
import os
import subprocess

import pytest

from tests.live.support import APPS, BIN, TIMEOUT, kept_daemon

USAGE, FAILED = 2, 1
"""Exit statuses."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server of all tests."""
    options = ("--app", str(APPS / "annotated.py"), "--workers", "1")
    with kept_daemon(*options, directory=tmp_path_factory.mktemp("annotated")) as daemon:
        yield daemon


@pytest.fixture
def taskd(server, tmp_path):
    """Run the command in a directory of its own."""
    return lambda *arguments: subprocess.run(
        [BIN / "taskd", *arguments],
        cwd=tmp_path,
        env={**os.environ, "TASKD_SERVER": server.tcp},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        text=True,
        check=False,
    )


def test_texts_become_what_the_resolved_annotations_take(taskd):
    for arguments, result in [
        (["numbers", "a=5", "b=6", "c=2", "d=2", "e=7", "f=8", "g="], [5, 6, 2, 2, 7, 8, None]),
        (["counts", "apples=3"], {"apples": 3}),
        (["mail", "from=a", "copies=2"], "aa"),
        (["fetch", 'urls=["a","b"]'], ["a", "b"]),
        (["later", "number=5"], 5),
        (["query", "limit=5"], ["a connection", 5]),
    ]:
        ended = taskd("call", *arguments)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout) == result


def test_a_text_for_a_list_is_answered_with_how_to_write_one(taskd):
    ended = taskd("call", "fetch", "urls=http://example.org")
    assert ended.returncode == USAGE
    assert """write 'urls:=["http://example.org"]'""" in ended.stderr


def test_cells_are_converted_or_fail_with_their_row(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text('urls\n"[""a"", ""b""]"\nhttp://example.org\n')
    ended = taskd("map", "fetch", "rows.csv", "--output", "out.jsonl")
    assert ended.returncode == FAILED
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"line": 2, "result": ["a", "b"]}
    (row,) = csv.DictReader((tmp_path / "rows.failed.csv").open(newline=""))
    assert row["urls"] == "http://example.org"
    assert "line 3: argument 'urls': 'http://example.org' is not a JSON array" in row["taskd_error"]


def test_functions_shows_the_names_of_the_wire_and_the_kinds_of_values(taskd):
    assert "mail(from: str, copies: int = 1) -> str" in taskd("functions").stdout
    described = {each["name"]: each["parameters"] for each in json.loads(taskd("functions", "--json").stdout)}
    assert described["mail"]["from"] == {
        "kinds": [{"type": "string"}], "required": True, "passed": "either", "annotation": "str",
        "secret": False,
    }  # fmt: skip
    assert described["numbers"]["c"]["kinds"] == [{"type": "integer", "enum": [1, 2]}]
    assert described["fetch"]["urls"]["kinds"] == [{"type": "array", "items": [{"type": "string"}]}]
    assert list(described["query"]) == ["limit"]
