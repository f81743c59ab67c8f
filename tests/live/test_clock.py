"""Functions with a schedule, while somebody sets the machine's clock by an hour."""

import time
from pathlib import Path

from tests.live.support import APPS, TIMEOUT, Connection, Daemon, rpc

SET_CLOCK = Path(__file__).parent / "set_clock"


def set_clock(directory: Path, seconds: float) -> None:
    new = directory / "clock.new"
    new.write_text(str(seconds))
    new.rename(directory / "clock")


def marks(directory: Path, name: str) -> list[float]:
    file = directory / "marks"
    lines = file.read_text().splitlines() if file.exists() else []
    return [float(line.split()[1]) for line in lines if line.startswith(f"{name} ")]


def wait_for_marks(directory: Path, name: str, count: int) -> None:
    ending = time.monotonic() + TIMEOUT
    while len(marks(directory, name)) < count:
        assert time.monotonic() < ending, f"{name} was not run"
        time.sleep(0.02)


def submit(client: Connection, name: str, **options: object) -> str:
    call = {"function": "mark", "args": [name], "options": options}
    reply = client.ask({"jsonrpc": "2.0", "id": 1, "method": "taskd.submit", "params": call})
    return reply["result"]["task"]


def wait(client: Connection, task: str) -> str:
    return client.ask(rpc(2, "taskd.wait", task, TIMEOUT))["result"]["state"]


def test_a_clock_that_is_set_by_an_hour_neither_stalls_nor_hastens_anything(tmp_path: Path) -> None:
    set_clock(tmp_path, 0.0)
    files = {"CLOCK": str(tmp_path / "clock"), "MARKS": str(tmp_path / "marks")}
    daemon = Daemon(
        "--app", str(APPS / "scheduled.py"), "--workers", "2", "--store", "sqlite:tasks.db",
        directory=tmp_path, env={**files, "PYTHONPATH": str(SET_CLOCK)},
    )  # fmt: skip
    try:
        daemon.wait_for_log("functions: ")
        client = daemon.connect()
        began = time.monotonic()
        wait_for_marks(tmp_path, "each_second", 2)
        for name, offset, sign in (("forward", 3600.0, r"\+"), ("back", 0.0, "-")):
            submitted = time.monotonic()
            delayed, later = submit(client, name, delay=2.0), submit(client, "never", delay=600.0)
            due = submit(client, f"{name}-at", at="2020-01-01T00:00:00Z")
            seen = len(marks(tmp_path, "each_second"))
            set_clock(tmp_path, offset)
            daemon.wait_for_log(rf"the machine's clock has been set by {sign}3600\.0 s")
            assert wait(client, delayed) == wait(client, due) == "succeeded"
            [ran] = marks(tmp_path, name)
            assert ran - submitted >= 1.95
            wait_for_marks(tmp_path, "each_second", seen + 3)
            assert client.ask(rpc(3, "taskd.get", later))["result"]["state"] == "scheduled"
        # One for each second, and one more for the second that is not over.
        assert len(marks(tmp_path, "each_second")) <= time.monotonic() - began + 2
        first, second = client.ask(rpc(4, "taskd.status"))["result"]["schedules"]
        assert (first["function"], first["schedule"]) == ("each_second", "every 1 s")
        assert (second["function"], second["last"]) == ("at_night", None)
        assert second["next"] > time.time()
    finally:
        daemon.stop()
    daemon.wait_until_gone()
    assert "a bug in taskd" not in daemon.log
