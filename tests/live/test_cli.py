"""The `taskd` command as people and scripts use it: what it prints, and its exit status."""

from __future__ import annotations

import csv
import gzip
import json
import os
import pty
import signal
import subprocess
from contextlib import suppress

import pytest
import pytest_twisted

from tests.live.peers import SOON, in_thread
from tests.live.support import BIN, TIMEOUT

FAILED, USAGE, UNAVAILABLE = 1, 2, 69
"""Exit statuses."""


@pytest.fixture
def start(clean_start):
    return clean_start


@pytest.fixture
def taskd(shared, tmp_path, monkeypatch):
    """Run the command in a directory of its own, against the shared server."""
    monkeypatch.setenv("TASKD_SERVER", shared.tcp)
    return lambda *arguments, **more: run(tmp_path, *arguments, **more)


def run(directory, *arguments, **more):
    return subprocess.run(
        [BIN / "taskd", *map(str, arguments)],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        text=True,
        check=False,
        **more,
    )


def errors(ended, status):
    """Return what the command wrote to stderr; it must have ended with this status and no traceback."""
    assert ended.returncode == status, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


# --- call --------------------------------------------------------------------


def test_call_prints_the_result_as_json(taskd):
    for arguments, result in [
        (["hello"], "Hello, World!"),
        (["hello", "name="], "Hello, !"),
        (["hello", "name=Ann = ไทย"], "Hello, Ann = ไทย!"),
        (["taskd.ping"], "pong"),
    ]:
        ended = taskd("call", *arguments)
        assert (ended.returncode, ended.stdout, ended.stderr) == (
            0,
            json.dumps(result, ensure_ascii=False) + "\n",
            "",
        )


def test_call_takes_json_and_prints_objects_for_a_reader(taskd):
    value = {"a": [1, None, "x"], "b": {"c": 1.5}}
    ended = taskd("call", "echo", f"value:={json.dumps(value)}")
    assert ended.returncode == 0
    assert json.loads(ended.stdout) == value
    assert ended.stdout.count("\n") > 3
    assert taskd("call", "echo", "value:=null").stdout == "null\n"


def test_call_converts_text_to_the_numbers_that_the_function_wants(taskd):
    assert taskd("call", "add", "a=40", "b=2").stdout == "42\n"
    assert taskd("call", "nap", "seconds=0.01").stdout == "0.01\n"
    assert taskd("call", "hello", "name=42").stdout == '"Hello, 42!"\n', (
        "text stays text where text is wanted"
    )
    assert taskd("call", "say", "text=x", "error=yes").stdout == "null\n"


def test_call_writes_keywords_without_the_underscore_of_python(taskd):
    assert json.loads(taskd("call", "from.keyword", "from=a@x", "class=3").stdout) == ["a@x", 3]
    assert json.loads(taskd("call", "from.keyword", "from_=a@x").stdout) == ["a@x", 0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["boom", "message=no paper"], ["task failed", "no paper"]),
        (["add", "a:=[]"], ["invalid params", "'a'"]),
        (["no_such_function"], ["method not found", "no_such_function", "hello"]),
        (["helo"], ["method not found", "did you mean hello?"]),
        (["helo", "a=1"], ["method not found", "did you mean hello?"]),
        (["no_such_function", "a=1"], ["method not found", "no_such_function", "hello"]),
    ],
)
def test_call_reports_a_failure_in_one_sentence(taskd, arguments, words):
    ended = taskd("call", *arguments)
    text = errors(ended, FAILED)
    assert ended.stdout == ""
    assert text.startswith("taskd: ")
    assert text.count("\n") == 1
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["call", "hello", "=Ann"],
        ["call", "hello", "name=a", "name=b"],
        ["call", "add", "a=three"],
        ["call", "--server", "nonsense", "hello"],
        ["call", "--via", "redis://localhost", "hello"],
        ["map", "hello", "no-such-file.csv"],
    ],
)
def test_a_malformed_command_is_a_usage_error(taskd, arguments):
    ended = taskd(*arguments)
    assert errors(ended, USAGE) != ""


def test_call_says_which_argument_is_wrong(taskd):
    assert "'name'" in errors(taskd("call", "hello", "name"), USAGE)
    assert "value:=nonsense" in errors(taskd("call", "echo", "value:=nonsense"), USAGE)


def test_the_command_knows_its_version_and_explains_itself(taskd):
    from taskd import __version__

    assert __version__ in taskd("--version").stdout
    for arguments in (["--help"], ["map", "-h"]):
        ended = taskd(*arguments)
        assert errors(ended, 0) == ""
        assert "Usage: taskd" in ended.stdout


@pytest.mark.parametrize(
    ("command", "option"),
    [("call hello name=x", "--server"), ("map hello rows.csv", "--server"), ("status", "--via")],
)
def test_an_unreachable_server_is_reported_in_one_sentence(taskd, refusing, tmp_path, command, option):
    (tmp_path / "rows.csv").write_text("name\nAnn\n")
    port = refusing.rpartition(":")[2]
    address = {"--server": refusing, "--via": f"ws://127.0.0.1:{port}"}[option]
    ended = taskd(*command.split(), option, address)
    text = errors(ended, UNAVAILABLE)
    assert ended.stdout == ""
    assert text.startswith("taskd: ")
    assert text.count("\n") == 1, text
    assert address in text
    assert os.listdir(tmp_path) == ["rows.csv"], "a file was left behind"


def test_every_command_works_through_a_gateway(taskd, shared, tmp_path):
    assert taskd("call", "--via", shared.ws, "add", "a=40", "b=2").stdout == "42\n"
    assert "hello" in taskd("functions", "--via", shared.ws).stdout
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n3,4\n")
    ended = taskd("map", "--via", shared.ws, "--output", "out.jsonl", "add", "rows.csv")
    assert "2 done, 0 failed" in errors(ended, 0)
    # In the order of the replies.
    results = sorted(read_json_lines(tmp_path / "out.jsonl"), key=lambda each: each["line"])
    assert results == [{"line": 2, "result": 3}, {"line": 3, "result": 7}]


def test_unix_sockets_work(start, taskd, tmp_path_factory):
    path = tmp_path_factory.mktemp("u") / "s"
    start("--listen", f"unix:{path}", "--workers", "1").wait_until_ready()
    assert taskd("call", "--server", f"unix:{path}", "hello").stdout == '"Hello, World!"\n'


def test_a_closed_output_causes_no_traceback(taskd, shared, tmp_path):
    command = f"{BIN / 'taskd'} call big size=2000000 | head -c 10"
    ended = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == ('"xxxxxxxxx', "")


# --- functions and status ----------------------------------------------------


def test_functions_lists_signatures_and_summaries(taskd):
    ended = taskd("functions")
    assert errors(ended, 0) == ""
    lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    assert any("hello(name: str = 'World') -> str Say hello." in line for line in lines), ended.stdout
    assert "add(a: int, b: int = 1) -> int" in ended.stdout


def test_functions_prints_json(taskd):
    functions = {one["name"]: one for one in json.loads(taskd("functions", "--json").stdout)}
    assert functions["hello"]["summary"] == "Say hello."
    assert functions["add"]["signature"] == "add(a: int, b: int = 1) -> int"
    assert functions["from.keyword"]["parameters"].keys() == {"from", "class"}


def test_status_shows_each_worker_and_what_it_does(start, taskd, gate):
    daemon = start("--workers", "2").wait_until_ready()
    held = daemon.connect().send(gate.call())
    gate.wait_until_entered()
    ended = taskd("status", "--server", daemon.tcp)
    assert errors(ended, 0) == ""
    assert "1 running, 0 of 10000 waiting" in " ".join(ended.stdout.split())
    assert "busy" in ended.stdout
    assert "wait_for" in ended.stdout
    status = json.loads(taskd("status", "--json", "--server", daemon.tcp).stdout)
    assert status["running"] == 1
    assert [one["function"] for one in status["workers"] if one["state"] == "busy"] == ["wait_for"]
    for pid in daemon.workers:
        assert str(pid) in ended.stdout
    gate.release("done")
    assert held.receive() == "done"


def test_status_shows_that_a_server_is_stopping(start, taskd, gate):
    daemon = start("--workers", "1").wait_until_ready()
    connection = daemon.connect()
    connection.send(gate.call())
    gate.wait_until_entered()
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for_log(r"Port \d+ Closed", 2)
    assert connection.ask({"jsonrpc": "2.0", "id": 1, "method": "taskd.status"})["result"]["stopping"] is True
    gate.release()


# --- map ---------------------------------------------------------------------


def read_json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_map_calls_the_function_for_each_row_of_a_csv_file(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text('name\r\nAnn\r\n"Lee, Bob"\r\nไทย\r\n"two\r\nlines"\r\n', newline="")
    ended = taskd("map", "hello", "rows.csv", "--output", "out.jsonl")
    text = errors(ended, 0)
    assert "4 done, 0 failed" in text
    assert ended.stdout == ""
    results = {one["line"]: one["result"] for one in read_json_lines(tmp_path / "out.jsonl")}
    assert results == {2: "Hello, Ann!", 3: "Hello, Lee, Bob!", 4: "Hello, ไทย!", 5: "Hello, two\r\nlines!"}
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "rows.csv"], "there is no file of failed rows"


def test_map_converts_cells_to_the_numbers_that_the_function_wants(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n-3,0\n")
    errors(taskd("map", "add", "rows.csv", "--output", "out.jsonl"), 0)
    assert sorted(one["result"] for one in read_json_lines(tmp_path / "out.jsonl")) == [-3, 3]


def test_map_calls_the_function_for_each_line_of_json(taskd, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n{"a": 2, "b": 5}\r\n{"b": 4, "a": 3}')
    errors(taskd("map", "add", "rows.jsonl", "--output", "out.jsonl"), 0)
    results = {one["line"]: one["result"] for one in read_json_lines(tmp_path / "out.jsonl")}
    assert results == {1: 2, 3: 7, 4: 7}


def test_map_writes_keywords_as_they_are_on_the_wire(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("from,class\na@x,1\n")
    errors(taskd("map", "from.keyword", "rows.csv", "--output", "out.jsonl"), 0)
    assert read_json_lines(tmp_path / "out.jsonl") == [{"line": 2, "result": ["a@x", 1]}]


def test_failed_rows_go_to_a_file_with_the_reasons(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text('a,b\n1,2\nx,3\n4\n5,6,7\n"8\n8",1\n9,9\n')
    ended = taskd("map", "add", "rows.csv", "--output", "out.jsonl")
    text = errors(ended, FAILED)
    assert "2 done, 4 failed" in text
    assert "rows.failed.csv" in text
    failed = {one["a"]: one for one in read_csv(tmp_path / "rows.failed.csv")}
    assert failed.keys() == {"x", "4", "5", "8\n8"}
    assert failed["x"]["b"] == "3"
    assert failed["x"]["taskd_error"].startswith("line 3: ")
    assert "'a'" in failed["x"]["taskd_error"]
    assert failed["4"]["taskd_error"] == "line 4: 1 values for 2 columns"
    assert failed["5"]["taskd_error"] == "line 5: 3 values for 2 columns"
    assert failed["8\n8"]["taskd_error"].startswith("line 6: ")
    assert sorted(one["result"] for one in read_json_lines(tmp_path / "out.jsonl")) == [3, 18]


def test_no_cell_of_a_failed_row_is_lost(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n5\nx,keep me\n5,6,surplus\n")
    errors(taskd("map", "add", "rows.csv"), FAILED)
    text = (tmp_path / "rows.failed.csv").read_text()
    assert set(text.splitlines()[0].split(",")) == {"a", "b", "taskd_error"}
    assert "keep me" in text
    assert "surplus" in text


def test_the_failed_file_can_be_repaired_and_mapped_again(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("b,a\n1,x\n2,y\n3,3\n")
    errors(taskd("map", "add", "rows.csv"), FAILED)
    failed = tmp_path / "rows.failed.csv"
    failed.write_text(failed.read_text().replace(",x", ",7"))
    ended = taskd("map", "add", "rows.failed.csv", "--output", "out.jsonl")
    assert "1 done, 1 failed" in errors(ended, FAILED)
    assert [one["result"] for one in read_json_lines(tmp_path / "out.jsonl")] == [8]
    again = read_csv(tmp_path / "rows.failed.failed.csv")
    assert [(one["a"], one["b"]) for one in again] == [("y", "2")]
    assert [name for name in again[0] if name != "taskd_error"] == ["b", "a"], "the columns keep their order"


def test_the_failed_file_of_json_lines_can_be_mapped_again(taskd, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": "x", "b": 2}\nnonsense\n[1]\n')
    assert "1 done, 3 failed" in errors(taskd("map", "add", "rows.jsonl"), FAILED)
    failed = tmp_path / "rows.failed.jsonl"
    lines = failed.read_text().splitlines()
    assert len(lines) == 5, "two of the rows are no objects: their reasons have lines of their own"
    refused = next(json.loads(line) for line in lines if '"b"' in line)
    assert refused.pop("taskd_error").startswith("line 2: ")
    assert refused == {"a": "x", "b": 2}
    assert "nonsense" in lines
    failed.write_text("".join(line + "\n" for line in lines).replace('"x"', "5"))
    assert "1 done, 2 failed" in errors(taskd("map", "add", "rows.failed.jsonl"), FAILED)


def test_the_failed_file_can_be_named(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("a\nx\n")
    errors(taskd("map", "add", "rows.csv", "--failed", "elsewhere.csv"), FAILED)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere.csv", "rows.csv"]


def test_the_failed_file_goes_to_the_working_directory(taskd, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "rows.csv").write_text("a\nx\n")
    errors(taskd("map", "add", "far/rows.csv"), FAILED)
    assert sorted(os.listdir(tmp_path)) == ["far", "rows.failed.csv"]


def test_rows_whose_function_fails_are_kept_with_its_error(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("message\nno paper\nno ink\n")
    assert "0 done, 2 failed" in errors(taskd("map", "boom", "rows.csv"), FAILED)
    reasons = {one["message"]: one["taskd_error"] for one in read_csv(tmp_path / "rows.failed.csv")}
    assert "no paper" in reasons["no paper"]
    assert reasons["no ink"].startswith("line 3: task failed: ")


def test_a_bom_is_not_part_of_the_first_name(taskd, tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbfname\r\nAnn\r\n")
    assert "1 done, 0 failed" in errors(taskd("map", "hello", "rows.csv"), 0)
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"name": "Ann"}\n')
    assert "1 done, 0 failed" in errors(taskd("map", "hello", "rows.jsonl"), 0)


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"name,name\nAnn,Bob\n"])
def test_a_csv_file_without_names_for_its_columns_is_refused(taskd, tmp_path, content):
    (tmp_path / "rows.csv").write_bytes(content)
    text = errors(taskd("map", "hello", "rows.csv"), USAGE)
    assert "rows.csv" in text
    assert "line" in text


def test_map_of_a_file_without_rows_ends_at_once(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("name\n")
    assert "0 done, 0 failed" in errors(taskd("map", "hello", "rows.csv"), 0)
    (tmp_path / "rows.jsonl").write_text("")
    assert "0 done, 0 failed" in errors(taskd("map", "hello", "rows.jsonl"), 0)


def test_a_row_that_is_not_utf8_fails_alone_and_keeps_its_bytes(taskd, tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"name\nAnn\nJ\xfcrgen\n")
    assert "1 done, 1 failed" in errors(taskd("map", "hello", "rows.csv"), FAILED)
    assert (tmp_path / "rows.failed.csv").read_bytes().endswith(b",J\xfcrgen\n")


def test_a_file_in_utf16_or_compressed_is_refused_before_any_call(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("name\nAnn\n", encoding="utf-16")
    assert "UTF-16" in errors(taskd("map", "hello", "rows.csv"), USAGE)
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"name\nAnn\n"))
    assert "gzip" in errors(taskd("map", "hello", "rows.csv.gz"), USAGE)


def test_rows_behind_an_unclosed_quotation_mark_can_be_mapped_once_it_is_closed(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text('a,b\n1,2\n"3,4\n5,6\nx,7\n')
    assert "1 done, 3 failed" in errors(taskd("map", "add", "rows.csv"), FAILED)
    failed = tmp_path / "rows.failed.csv"
    assert "0 done, 3 failed" in errors(taskd("map", "add", "rows.failed.csv"), FAILED)
    again = tmp_path / "rows.failed.failed.csv"
    again.write_text(again.read_text().replace('"3,', '"3",').replace(",x,", ",8,"))
    assert again.read_text().splitlines()[0] == failed.read_text().splitlines()[0] == "taskd_error,a,b"
    ended = taskd("map", "add", "rows.failed.failed.csv", "--output", "out.jsonl")
    assert "3 done, 0 failed" in errors(ended, 0)
    assert sorted(one["result"] for one in read_json_lines(tmp_path / "out.jsonl")) == [7, 11, 15]


def test_rows_are_read_from_the_standard_input(shared, tmp_path):
    for text, failed in (("a\n1\nx\n", "stdin.failed.csv"), ('{"a": 1}\n{"a": "x"}\n', "stdin.failed.jsonl")):
        command = [BIN / "taskd", "map", "--server", shared.tcp, "add", "-"]
        ended = subprocess.run(
            command, cwd=tmp_path, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        assert "1 done, 1 failed" in errors(ended, FAILED)
        assert (tmp_path / failed).exists()


def test_a_result_that_cannot_be_written_makes_its_row_fail_and_no_more_are_sent(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("a\n1\n2\n3\n")
    ended = taskd("map", "add", "rows.csv", "--output", "/dev/full", "--concurrency", "1")
    assert "0 done, 3 failed" in errors(ended, FAILED)
    reasons = [one["taskd_error"] for one in read_csv(tmp_path / "rows.failed.csv")]
    assert "it was done" in reasons[0]
    assert all("not sent" in reason for reason in reasons[1:])


def test_failed_rows_that_cannot_be_written_are_named_by_their_lines(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("a\nx\ny\n1\n")
    text = errors(taskd("map", "add", "rows.csv", "--failed", "/dev/full", "--concurrency", "1"), USAGE)
    assert "0 done, 3 failed" in text
    assert "2-4" in text


def test_an_earlier_file_of_failed_rows_is_not_overwritten(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("a\nx\n")
    for _ in range(3):
        errors(taskd("map", "add", "rows.csv"), FAILED)
    assert {"rows.failed.csv", "rows.failed.2.csv", "rows.failed.3.csv"} <= set(os.listdir(tmp_path))


def test_an_unknown_function_fails_before_any_row(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("name\nAnn\n")
    text = errors(taskd("map", "no_such_function", "rows.csv"), FAILED)
    assert "no_such_function" in text
    assert "hello" in text, "which there are"
    assert os.listdir(tmp_path) == ["rows.csv"]


def test_an_output_that_cannot_be_written_is_reported_before_any_call(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("name\nAnn\n")
    errors(taskd("map", "hello", "rows.csv", "--output", "no/such/directory.jsonl"), USAGE)


@pytest.mark.parametrize("option", ["--output", "--failed"])
def test_a_file_is_never_overwritten_with_its_own_results(taskd, tmp_path, option):
    (tmp_path / "rows.csv").write_text("a\n1\nx\n")
    assert "rows.csv" in errors(taskd("map", "add", "rows.csv", option, "./rows.csv"), USAGE)
    assert (tmp_path / "rows.csv").read_text() == "a\n1\nx\n"


def test_every_row_of_a_long_file_is_called_once(taskd, tmp_path):
    (tmp_path / "rows.csv").write_text("a\n" + "".join(f"{number}\n" for number in range(3000)))
    assert "3000 done, 0 failed" in errors(taskd("map", "add", "rows.csv", "--output", "out.jsonl"), 0)
    results = sorted(one["result"] for one in read_json_lines(tmp_path / "out.jsonl"))
    assert results == list(range(1, 3001))


def test_map_shows_its_progress_in_a_terminal(taskd, tmp_path, shared):
    (tmp_path / "rows.csv").write_text("a\n1\n2\n3\n")
    ours, theirs = pty.openpty()
    mapping = subprocess.Popen(
        [BIN / "taskd", "map", "--server", shared.tcp, "add", "rows.csv"],
        cwd=tmp_path,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the end of a terminal is an error
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert mapping.wait(TIMEOUT) == 0
    assert b"3/3" in shown
    assert b"3 done, 0 failed" in shown


def test_as_many_rows_are_in_flight_as_concurrency_allows(start, taskd, tmp_path, make_gate):
    daemon = start("--workers", "4").wait_until_ready()
    daemon.wait_for_workers(4)
    gates = [make_gate() for _ in range(4)]
    (tmp_path / "rows.csv").write_text("path\n" + "".join(f"{gate.path}\n" for gate in gates))
    command = [BIN / "taskd", "map", "--server", daemon.tcp, "--concurrency", "2", "wait_for", "rows.csv"]
    mapping = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    for gate in gates[:2]:
        gate.wait_until_entered()
    status = daemon.connect().ask({"function": "taskd.status"})
    assert (status["running"], status["waiting"]) == (2, 0)
    for gate in gates:
        gate.release()
    _, text = mapping.communicate(timeout=TIMEOUT)
    assert mapping.returncode == 0
    assert "4 done, 0 failed" in text


def test_a_busy_server_is_called_again_and_no_row_fails(start, taskd, tmp_path, gate):
    daemon = start("--workers", "1", "--max-queue", "1").wait_until_ready()
    daemon.wait_for_workers(1)
    held = daemon.connect().send(gate.call())
    gate.wait_until_entered()
    (tmp_path / "rows.csv").write_text("a\n" + "".join(f"{number}\n" for number in range(10)))
    command = [BIN / "taskd", "map", "--server", daemon.tcp, "--output", "out.jsonl", "add", "rows.csv"]
    mapping = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    daemon.wait_for_status(lambda status: status["waiting"] == 1)
    gate.release()
    assert held.receive() == ""
    _, text = mapping.communicate(timeout=TIMEOUT)
    assert mapping.returncode == 0, text
    assert "10 done, 0 failed" in text
    assert sorted(one["result"] for one in read_json_lines(tmp_path / "out.jsonl")) == list(range(1, 11))


def test_every_unanswered_row_is_kept_when_the_server_is_lost(start, taskd, tmp_path, gate):
    daemon = start("--workers", "1").wait_until_ready()
    rows = [gate.path, "b", "c", "d", "e"]
    (tmp_path / "rows.csv").write_text("path\n" + "".join(f"{row}\n" for row in rows))
    command = [BIN / "taskd", "map", "--server", daemon.tcp, "--concurrency", "2", "wait_for", "rows.csv"]
    mapping = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    gate.wait_until_entered()
    daemon.stop(signal.SIGKILL)
    _, text = mapping.communicate(timeout=TIMEOUT)
    assert mapping.returncode in (FAILED, UNAVAILABLE), text
    assert "Traceback" not in text
    assert sorted(one["path"] for one in read_csv(tmp_path / "rows.failed.csv")) == sorted(rows)


# --- progress ----------------------------------------------------------------


def test_call_shows_the_message_of_progress_and_keeps_stdout_clean(taskd):
    ended = taskd("call", "count", "upto=3")
    assert ended.returncode == 0
    assert "step" not in ended.stdout
    assert ended.stderr.splitlines()[-1] == "count: 3 of 3 (100 %): step 3"


# --- Ctrl-C ------------------------------------------------------------------


class Interrupted:
    """A `taskd map` of a row that waits at the gate and nine more, one at a time."""

    def __init__(self, directory, daemon, gate):
        rows = [gate.path, *(f"row {number}" for number in range(9))]
        (directory / "rows.csv").write_text("path\n" + "".join(f"{row}\n" for row in rows))
        self.rows = rows
        self._failed = directory / "rows.failed.csv"
        self.process = subprocess.Popen(
            [BIN / "taskd", "map", "--server", daemon.tcp, "--concurrency", "1", "wait_for", "rows.csv"],
            cwd=directory,
            stderr=subprocess.PIPE,
            text=True,
        )
        gate.wait_until_entered()

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        return self

    def wait_for_line(self, text):
        line = self.process.stderr.readline()
        assert text in line
        return self

    def end(self):
        """Wait for the end; return the failed rows and why they failed."""
        self._text = self.process.stderr.read()
        assert self.process.wait(TIMEOUT) == FAILED, self._text
        assert "Traceback" not in self._text
        return {one["path"]: one["taskd_error"] for one in read_csv(self._failed)}


def test_after_ctrl_c_rows_that_were_sent_are_waited_for_and_the_rest_is_kept(daemon, tmp_path, gate):
    mapping = Interrupted(tmp_path, daemon, gate).interrupt().wait_for_line("interrupted")
    gate.release()
    failed = mapping.end()
    assert failed.keys() == set(mapping.rows[1:])
    assert all("not sent" in why for why in failed.values())


def test_after_a_second_ctrl_c_every_unanswered_row_is_kept(daemon, tmp_path, gate):
    mapping = Interrupted(tmp_path, daemon, gate).interrupt().wait_for_line("interrupted").interrupt()
    failed = mapping.end()
    assert failed.keys() == set(mapping.rows)
    assert "sent, but" in failed[gate.path]


@pytest_twisted.ensureDeferred
async def test_ctrl_c_while_the_server_is_busy_keeps_every_row(fake, tmp_path):
    function = {"name": "f", "signature": "f(a)", "summary": "", "parameters": {}}

    def always_busy(message):
        if message.function == "taskd.functions":
            message.answer([function])
        else:
            message.fail(-32004, "busy", {"retry_after": 600})

    server = fake(always_busy)
    (tmp_path / "rows.csv").write_text("a\n1\n2\n3\n4\n")
    command = [BIN / "taskd", "map", "--server", server.endpoint, "--concurrency", "2", "f", "rows.csv"]
    mapping = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(3):
            await server.received()
        mapping.send_signal(signal.SIGINT)
        await in_thread(mapping.stderr.readline)
        mapping.send_signal(signal.SIGINT)
        _, text = await in_thread(lambda: mapping.communicate(timeout=SOON))
        assert mapping.returncode == FAILED, text
        assert "Traceback" not in text
        assert sorted(one["a"] for one in read_csv(tmp_path / "rows.failed.csv")) == ["1", "2", "3", "4"]
        # The second signal may find a call whose `busy` has not been read yet, and cancel it.
        assert [message.function for message in server.messages].count("f") == 2, "no more rows were sent"
    finally:
        mapping.kill()


@pytest_twisted.ensureDeferred
async def test_a_server_that_describes_functions_otherwise_is_not_of_this_version(fake, tmp_path):
    described = {"name": "f", "signature": "f(a)", "summary": "", "parameters": {"a": "int"}}
    server = fake(lambda message: message.answer([described]))
    ended = await in_thread(lambda: run(tmp_path, "call", "--server", server.endpoint, "f", "a=1"))
    assert "another version" in errors(ended, USAGE)


def test_ctrl_c_ends_a_call(taskd, shared, gate):
    calling = subprocess.Popen(
        [BIN / "taskd", "call", "wait_for", f"path={gate.path}"], stderr=subprocess.PIPE, text=True
    )
    gate.wait_until_entered()
    calling.send_signal(signal.SIGINT)
    _, text = calling.communicate(timeout=TIMEOUT)
    assert calling.returncode not in (0, UNAVAILABLE), text
    assert "Traceback" not in text
    assert "was lost" not in text, "this process cut the connection, not the server"
    gate.release()
