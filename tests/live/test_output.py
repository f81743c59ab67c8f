"""The output of tasks in the log: which task printed a line, and how much is logged."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import (
    APPS,
    Connection,
    Daemon,
    Gate,
    bare,
    cancel,
    data_of,
    resident_bytes,
    rpc,
)

Start = Callable[..., Daemon]
MakeGate = Callable[[], Gate]
Apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "misbehaving.py"))

BURST = 1000
"""The number of lines of one worker that are logged in a burst."""

RATE = 100
"""The number of lines per second that are logged of one worker after that."""

MIB = 1024 * 1024

LEFT_OUT = r"(\d+) lines?\b.*\bleft out"
"""The log line that replaces lines left out."""


def lines(daemon: Daemon, pattern: str) -> list[str]:
    """Return the lines of a daemon's log that match."""
    return [line for line in daemon.log.splitlines() if re.search(pattern, line)]


def left_out(daemon: Daemon) -> int:
    """Return how many lines the log reports as left out."""
    return sum(int(match[1]) for line in daemon.log.splitlines() if (match := re.search(LEFT_OUT, line)))


def say_until_logged(daemon: Daemon, client: Connection, text: str) -> int:
    """Print a line again and again until it is logged; return how often."""
    for count in range(1, 100_000):
        assert client.ask(bare("say", f"{text} {count}.")) is None
        if lines(daemon, rf"\b{text} \d+\.$"):
            return count
    raise AssertionError(f"{text} is never logged:\n{daemon.log}")


def test_a_logged_line_names_the_pool_the_process_the_function_and_the_task(start: Start) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    client = daemon.connect()
    pid = client.ask(bare("pid"))
    client.ask(bare("say", "the text"))
    daemon.wait_for_log(rf"\b{daemon.name}\[{pid}\] say #2: the text$")
    client.ask(bare("say", "an error", True))
    daemon.wait_for_log(rf"\b{daemon.name}\[{pid}\] say #3: an error$")


def test_lines_are_logged_with_their_own_task_even_in_a_batch(start: Start) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    client = daemon.connect()
    count = 900  # both together: less than one burst
    client.send(*(rpc(number, "say", f"text {number}.") for number in range(1, count + 1)))
    for _ in range(count):
        assert "result" in client.receive()
    assert client.ask(bare("say", "the last")) is None
    daemon.wait_for_log("the last$")
    logged = [line.partition("] say ")[2] for line in lines(daemon, r"\btext \d+\.$")]
    assert sorted(logged) == sorted(f"#{number}: text {number}." for number in range(1, count + 1))
    assert left_out(daemon) == 0


def test_lines_over_the_rate_are_left_out_and_counted(start: Start) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    client = daemon.connect()
    count = 20_000
    assert client.ask(bare("print_lines", count, "flood")) is None
    more = say_until_logged(daemon, client, "afterwards")
    daemon.wait_for_log(LEFT_OUT)
    logged = lines(daemon, r"print_lines #1: flood \d+$")
    assert BURST <= len(logged) < count / 2
    numbers = [int(line.rpartition(" ")[2]) for line in logged]
    assert numbers[:BURST] == list(range(BURST))
    assert numbers == sorted(numbers)
    # Every missing line is counted.
    missing = count - len(logged)
    assert missing <= left_out(daemon) < missing + more


def test_each_worker_has_its_own_rate(start: Start, gate: Gate) -> None:
    daemon = start(*Apps, "--workers", "2").wait_until_ready()
    flood = daemon.connect().send(rpc("flood", "print_for_ever", gate.path))
    gate.wait_until_entered()
    daemon.wait_for_log(LEFT_OUT)
    client = daemon.connect()
    for number in range(50):
        assert client.ask(bare("say", f"text {number}.")) is None
    for number in range(50):
        daemon.wait_for_log(rf"text {number}\.$")
    flood.send(cancel("c", "flood"))
    data_of(flood.receive(), -32002)


def test_a_task_that_prints_endlessly_fills_no_memory_and_delays_no_other(start: Start, gate: Gate) -> None:
    daemon = start(*Apps, "--workers", "2").wait_until_ready()
    flood = daemon.connect().send(rpc("flood", "print_for_ever", gate.path))
    gate.wait_until_entered()
    daemon.wait_for_log(LEFT_OUT)
    before = resident_bytes(daemon.process.pid)
    client = daemon.connect()
    assert [client.ask(bare("echo", number)) for number in range(300)] == list(range(300))
    assert resident_bytes(daemon.process.pid) - before < 20 * MIB
    began = daemon.status()["uptime"]
    size = len(daemon.log)
    seconds = daemon.wait_for_status(lambda status: status["uptime"] > began + 1)["uptime"] - began
    # About a hundred lines a second, of some 300 characters each.
    assert len(daemon.log) - size < 4 * RATE * 300 * (seconds + 1)
    flood.send(cancel("c", "flood"))
    data_of(flood.receive(), -32002)
    assert flood.receive()["id"] == "c"
    assert client.ask(bare("hello")) == "Hello, World!"


def test_the_last_lines_left_out_before_a_pause_are_counted_too(start: Start) -> None:
    """The gap is reported even if no other line follows."""
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    count = 3000
    assert daemon.connect().ask(bare("print_lines", count, "flood")) is None
    daemon.wait_for_log(LEFT_OUT)
    logged = len(lines(daemon, r"flood \d+$"))
    daemon.wait_for_status(lambda _: left_out(daemon) + len(lines(daemon, r"flood \d+$")) >= count)
    assert left_out(daemon) + len(lines(daemon, r"flood \d+$")) == count
    assert logged >= BURST


@pytest.mark.parametrize("how", ["killed", "crashed"])
def test_the_output_of_a_task_before_it_was_killed_is_logged_as_its_own(
    start: Start, tmp_path: Path, gate: Gate, how: str
) -> None:
    (tmp_path / "last_words.py").write_text(
        "import os, signal, time\nfrom taskd import task\n"
        "@task(grace=0.2)\ndef last_words(path, how):\n"
        "    print('last words', flush=True)\n    os.open(path, os.O_RDONLY)\n"
        "    while how == 'killed':\n"
        "        try:\n            time.sleep(600)\n        except BaseException:\n            pass\n"
        "    os.abort()\n"
    )
    daemon = start("--app", "last_words", "--workers", "1").wait_until_ready()
    client = daemon.connect().send(rpc("a", "last_words", gate.path, how))
    gate.wait_until_entered()
    if how == "killed":
        client.send(cancel("c", "a"))
    reply: Any = client.receive()
    assert reply["error"]["code"] == (-32002 if how == "killed" else -32003)
    daemon.wait_for_log(r"\blast_words #1: last words$")


LOGGING_APP = """
import logging, os, sys, threading, warnings
from taskd import task

logging.info("imported")
log = logging.getLogger("shop")

@task
def log_levels():
    log.debug("a detail"); log.info("an info"); log.warning("a warning"); log.error("an error")
    log.critical("the worst"); logging.info("without a logger"); warnings.warn("old")
    try:
        raise ValueError("wrong")
    except ValueError:
        log.exception("it broke")

@task
def log_elsewhere():
    thread = threading.Thread(target=log.warning, args=("from a thread",))
    thread.start()
    thread.join()
    if (pid := os.fork()) == 0:
        log.error("from a child")
        os._exit(0)
    os.waitpid(pid, 0)
    sys.stderr = None
    log.warning("without stderr")

@task
def draw():
    for done in range(101):
        print(f"\\r{done}%", end="", file=sys.stdout, flush=True)
    print()
    print("\\x1b[31mred\\x1b[0m \\x1b[2J \\0 \\u202e \\x9b \\u2028.")
    raise ValueError("bad \\x1b[2J \\r news")

@task
def log_flood(count):
    for number in range(count):
        log.info("line %d", number)
    log.error("the error that matters")
"""

CONFIGURED_APP = """
import logging
from taskd import on_worker_start, task

@on_worker_start
def configure():
    logging.basicConfig(format="<%(name)s> %(message)s", level=logging.DEBUG)

@task
def log_as_configured():
    logging.getLogger("shop").debug("a detail\\nof two lines")
    logging.getLogger("shop").error("an error")
"""


def test_log_records_have_their_level_and_their_task(start: Start, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(LOGGING_APP)
    daemon = start("--app", "shop", "--workers", "1").wait_until_ready()
    client = daemon.connect()
    daemon.wait_for_log(r"\[taskd\.fork_server#info\] imported$")
    assert client.ask(bare("log_levels")) is None
    at = rf"\] {daemon.name}\[\d+\] log_levels #1: "
    for level, text in (
        ("info", "shop: an info"),
        ("warn", "shop: a warning"),
        ("error", "shop: an error"),
        ("critical", "shop: the worst"),
        ("info", "without a logger"),
        ("warn", ".*shop.py:.*UserWarning: old"),
        ("error", "shop: it broke"),
    ):
        daemon.wait_for_log(rf"\[taskd\.task#{level}{at}{text}$")
    # A traceback belongs to its record: its lines are indented, without a beginning of their own.
    daemon.wait_for_log(r"^\tTraceback \(most recent call last\):$")
    daemon.wait_for_log(r"^\tValueError: wrong$")
    assert "a detail" not in daemon.log
    assert client.ask(bare("log_elsewhere")) is None
    for level, text in ("warn", "from a thread"), ("error", "from a child"), ("warn", "without stderr"):
        daemon.wait_for_log(rf"\[taskd\.task#{level}\] .* log_elsewhere #2: shop: {text}$")


def test_printed_control_characters_do_not_reach_the_terminal_that_shows_the_log(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(LOGGING_APP)
    daemon = start("--app", "shop", "--workers", "1").wait_until_ready()
    assert "error" in daemon.connect().ask(rpc(1, "draw"))
    daemon.wait_for_log(r" draw #1: 100%$")
    assert len(lines(daemon, r" draw #1: ")) == 2
    daemon.wait_for_log(r" draw #1: red \\x1b\[2J \\x00 \\u202e \\x9b \\u2028\.$")
    daemon.wait_for_log(r"^\tValueError: bad \\x1b\[2J \\x0d news$")
    assert all(line.replace("\t", "").isprintable() for line in daemon.log.split("\n"))


def test_a_flood_of_records_is_bounded_and_hides_no_error(start: Start, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(LOGGING_APP)
    daemon = start("--app", "shop", "--workers", "1").wait_until_ready()
    count = 20_000
    assert daemon.connect().ask(bare("log_flood", count)) is None
    daemon.wait_for_log(r"#error\] .* log_flood #1: shop: the error that matters$")
    logged = len(lines(daemon, r"log_flood #1: shop: line \d+$"))
    assert BURST <= logged < count / 2
    daemon.wait_for_status(lambda _: logged + left_out(daemon) >= count)


def test_an_app_that_configures_logging_keeps_its_format(start: Start, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(CONFIGURED_APP)
    daemon = start("--app", "shop", "--workers", "1").wait_until_ready()
    assert daemon.connect().ask(bare("log_as_configured")) is None
    daemon.wait_for_log(r"#debug\] .* log_as_configured #1: <shop> a detail$")
    daemon.wait_for_log(r"^\tof two lines$")
    daemon.wait_for_log(r"#error\] .* log_as_configured #1: <shop> an error$")
