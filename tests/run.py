"""``make test``: the unit tests under trial, live tests and contracts under pytest, and their coverage.

trial and pytest-twisted each want the reactor for themselves, and live tests
mostly wait, so several runs go on at once, each in a process of its own. Their
lines are shown as they come, behind the name of the run. The last line counts
all tests. The exit status is 1 if a test failed or too little was covered.

With ``--every-python`` the unit tests also run on each other Python that the
project promises and the machine has; with ``--pythons`` only they do. Other
arguments go to one run of pytest (files, ``-k``, ``-x``), without coverage.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from tests import pythons
from tests.pythons import ROOT

LIVE = ("tests/live", "tests/contracts")
"""The folders whose tests run under pytest."""

CORE = (
    "taskd/errors.py,taskd/model.py,taskd/printable.py,taskd/functions/*,taskd/protocol/*,taskd/scheduler/*"
)
CORE_PERCENT = 100
ALL_PERCENT = 90

SHARDS = 4
"""Runs of pytest at once: on two processors more gain nothing, and fewer leave one idle
while a test waits."""

RECORDED_SHARDS = 2
"""The first of those runs, which coverage records: its files are nearly half of all."""

SECONDS = {
    "test_bad_days.py": 25,
    "test_bad_days_of_clocks.py": 40,
    "test_bad_days_of_databases.py": 75,
    "test_bad_days_of_links.py": 130,
    "test_annotations.py": 26,
    "test_asyncio_client.py": 15,
    "test_attacks.py": 9,
    "test_batches.py": 15,
    "test_blocking_client.py": 46,
    "test_browser.py": 13,
    "test_cancel.py": 69,
    "test_cancelling.py": 18,
    "test_cli.py": 275,
    "test_client.py": 44,
    "test_clients.py": 47,
    "test_client_tokens.py": 9,
    "test_clients_with_tokens.py": 8,
    "test_clock.py": 11,
    "test_connecting.py": 3,
    "test_certificates.py": 59,
    "test_deploy.py": 1,
    "test_descriptors.py": 5,
    "test_django.py": 361,
    "test_drill.py": 120,
    "test_drill_link.py": 2,
    "test_ends.py": 83,
    "test_events.py": 35,
    "test_flow_control.py": 59,
    "test_frameworks.py": 180,
    "test_gateway.py": 84,
    "test_generators.py": 30,
    "test_holding.py": 20,
    "test_api_description.py": 15,
    "test_event_streams.py": 6,
    "test_http.py": 20,
    "test_import.py": 56,
    "test_js_client.py": 56,
    "test_labels.py": 15,
    "test_limits.py": 98,
    "test_link.py": 6,
    "test_links.py": 17,
    "test_log.py": 100,
    "test_lost.py": 12,
    "test_memory.py": 115,
    "test_mail.py": 13,
    "test_monitoring.py": 10,
    "test_mail_tasks.py": 16,
    "test_nodes.py": 25,
    "test_objects.py": 3,
    "test_operating.py": 17,
    "test_ops_page.py": 25,
    "test_output.py": 15,
    "test_packaging.py": 120,
    "test_pages.py": 45,
    "test_php_client.py": 30,
    "test_postgres_harness.py": 25,
    "test_postgres_limits.py": 10,
    "test_postgres_sql.py": 25,
    "test_postgres_store.py": 15,
    "test_postgres_transactions.py": 30,
    "test_postgres_wake.py": 25,
    "test_pool.py": 182,
    "test_pools.py": 8,
    "test_protocol_table.py": 62,
    "test_queue.py": 90,
    "test_recycling.py": 57,
    "test_reload.py": 78,
    "test_secrets.py": 15,
    "test_shared_limits.py": 40,
    "test_serve.py": 12,
    "test_short.py": 50,
    "test_store.py": 60,
    "test_store_copy.py": 60,
    "test_stored_commands.py": 104,
    "test_smoke.py": 8,
    "test_soak.py": 62,
    "test_start.py": 28,
    "test_status.py": 44,
    "test_supervisor.py": 8,
    "test_stop.py": 108,
    "test_task_server.py": 49,
    "test_testing.py": 25,
    "test_tls.py": 18,
    "test_tokens.py": 8,
    "test_top.py": 5,
    "test_transaction_pages.py": 25,
    "test_transports.py": 27,
    "test_typing.py": 10,
    "test_two_task_servers.py": 6,
    "test_unanswered.py": 11,
    "test_untidy.py": 38,
    "test_web.py": 26,
    "test_workerman.py": 1,
}
"""Seconds that each file takes by itself, roughly: only their proportions count, to share
the files out evenly. `TEST_TIMES=1 make test` prints those of a run."""

UNRECORDED = frozenset({
    "test_annotations.py", "test_attacks.py", "test_bad_days.py", "test_bad_days_of_clocks.py",
    "test_bad_days_of_databases.py", "test_bad_days_of_links.py", "test_cancel.py", "test_cli.py",
    "test_flow_control.py", "test_frameworks.py", "test_gateway.py", "test_import.py", "test_js_client.py",
    "test_limits.py", "test_link.py", "test_lost.py", "test_nodes.py", "test_objects.py", "test_output.py",
    "test_packaging.py",
    "test_php_client.py", "test_pool.py", "test_postgres_harness.py", "test_queue.py",
    "test_recycling.py", "test_reload.py", "test_short.py", "test_soak.py", "test_status.py",
    "test_stop.py", "test_task_server.py", "test_tls.py", "test_transports.py", "test_unanswered.py",
    "test_untidy.py", "test_workerman.py",
})  # fmt: skip
"""Files whose servers and commands run hardly a line that others do not: coverage does not record them.
All of them together add about three per cent."""

FAILURE_LINES = 20
"""The number of lines of each failure repeated at the end, where the log of a CI is read."""

UNKNOWN_SECONDS = 10
"""Seconds for a file that is not in the table."""


@dataclass(frozen=True)
class Counts:
    """How many tests passed, failed and were skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: tuple[str, ...] = ()
    """The name of each failed test, and the end of its failure."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
            self.failures + other.failures,
        )

    def but_not_clean(self) -> Counts:
        """Return these counts, with a failure if there is none: the run itself failed."""
        return self if self.failed else self + Counts(failed=1)


# --- running -----------------------------------------------------------------


def python(name: str, *arguments: str, interpreter: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """Run Python at the root of the project; show its lines behind `name`, and return them."""
    command = [interpreter, *arguments]
    shown = f"{name:>7} | " if name else ""
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(f"{shown}{line}", end="", flush=True)
            lines.append(line)
    if name:
        print(f"{shown}took {time.monotonic() - began:.0f} s", flush=True)
    return subprocess.CompletedProcess(command, process.returncode, "".join(lines))


def unit_tests(coverage: list[str], name: str = "unit", interpreter: str = sys.executable) -> Counts:
    """Run `tests/unit`."""
    directory = f".trial_{name}"
    arguments = ["-m", "twisted.trial", "--reporter=text", f"--temp-directory={directory}", "tests.unit"]
    ran = python(name, *coverage, *arguments, interpreter=interpreter)
    last = ran.stdout.splitlines()[-1] if ran.stdout else ""
    counted = {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", last)}
    failed = counted.get("failures", 0) + counted.get("errors", 0)
    failures = tuple(ran.stdout.split("=" * 79)[1:]) if failed else ()
    if ran.returncode and not failed:
        failures = (f"{name}: the process ended with status {ran.returncode} after\n{last[-200:]}",)
    counts = Counts(counted.get("successes", 0), failed, counted.get("skips", 0), failures)
    return counts.but_not_clean() if ran.returncode else counts


def other_pythons() -> list[str]:
    """Return the versions of Python that the project promises, except the one that runs this."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [version for version in pythons.promised() if version != own]


def unit_tests_on_other_pythons() -> Counts:
    """Run `tests/unit` on each other Python that the project promises, one after the other."""
    counts = Counts()
    for version in other_pythons():
        interpreter = pythons.find(version)
        if interpreter is None:
            continue
        try:
            prepared = pythons.environment(version, interpreter)
        except subprocess.CalledProcessError as error:
            failure = f"no environment for Python {version}\n{error.stdout}"
            counts += Counts(failed=1, failures=(failure,))
            continue
        counts += unit_tests([], f"py {version}", prepared)
    return counts


def print_pythons() -> None:
    """Print on which other Pythons the unit tests were run, and which ones this machine has not."""
    for version in other_pythons():
        what = "ran" if pythons.find(version) else "DID NOT RUN: this machine has none"
        print(f"unit tests on Python {version}: {what}")


def pytest_run(name: str, coverage: list[str], arguments: list[str]) -> Counts:
    """Run pytest once."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        options = [f"--junitxml={report}", "-p", "no:cacheprovider", "-rs"]
        ran = python(name, *coverage, "-m", "pytest", *options, *arguments)
        if not report.exists():
            return Counts(failed=1)
        suite = ET.parse(report).getroot()[0]
    if os.environ.get("TEST_TIMES"):
        print_times(suite)
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    failures = tuple(
        f"{case.get('classname')}.{case.get('name')}\n{wrong.text or wrong.get('message')}"
        for case in suite
        for wrong in [*case.findall("failure"), *case.findall("error")]
    )
    counts = Counts(total - failed - skipped, failed, skipped, failures)
    return counts.but_not_clean() if ran.returncode else counts


def print_times(suite: ET.Element) -> None:
    """Print the seconds of each file, as the table has them."""
    seconds: dict[str, float] = {}
    for case in suite:
        file = f"{case.get('classname', '').rpartition('.')[2]}.py"
        seconds[file] = seconds.get(file, 0.0) + float(case.get("time", 0))
    for file, each in sorted(seconds.items()):
        print(f'    "{file}": {max(1, round(each))},')


# --- sharing out -------------------------------------------------------------


def shards() -> list[list[str]]:
    """Share out the files under pytest: the first runs get those that coverage records.

    Then the others go, the longest first, to the run with the least to do.
    """
    files = [file for folder in LIVE for file in (ROOT / folder).glob("test_*.py")]
    shared_out: list[tuple[list[Path], list[int]]] = [([], []) for _ in range(SHARDS)]
    for file in sorted(files, key=lambda file: (file.name in UNRECORDED, -seconds_of(file), file.name)):
        among = shared_out if file.name in UNRECORDED else shared_out[:RECORDED_SHARDS]
        shard, times = min(among, key=lambda each: sum(each[1]))
        shard.append(file)
        times.append(seconds_of(file))
    return [sorted(str(file.relative_to(ROOT)) for file in shard) for shard, _ in shared_out]


def seconds_of(file: Path) -> int:
    """Return how long a file takes, according to the table."""
    return SECONDS.get(file.name, UNKNOWN_SECONDS)


# --- all of it ---------------------------------------------------------------


def is_covered() -> bool:
    """Return whether enough of the code was covered."""
    python("", "-m", "coverage", "combine", "--quiet")
    core = python("", "-m", "coverage", "report", f"--include={CORE}", f"--fail-under={CORE_PERCENT}")
    everything = python("", "-m", "coverage", "report", f"--fail-under={ALL_PERCENT}")
    return core.returncode == 0 and everything.returncode == 0


def run_everything(*, every_python: bool) -> Counts:
    """Run all tests at once, and report their coverage."""
    python("", "-m", "coverage", "erase")
    coverage = ["-m", "coverage", "run"]
    shared_out = shards()
    with ThreadPoolExecutor(len(shared_out) + 2) as threads:
        runs = [threads.submit(unit_tests, coverage)]
        if every_python:
            runs.append(threads.submit(unit_tests_on_other_pythons))
        runs += [
            threads.submit(pytest_run, f"live {number}", coverage if number <= RECORDED_SHARDS else [], shard)
            for number, shard in enumerate(shared_out, 1)
        ]
        counts = reduce(Counts.__add__, [run.result() for run in runs])
    if not is_covered():
        print("too little of the code was run by the tests: see above")
        counts += Counts(failed=1)
    return counts


def print_failure(text: str) -> None:
    """Print the name of a failed test and the last lines of its failure."""
    name, *lines = text.strip().splitlines()
    print(f"FAILED {name}")
    for line in lines[-FAILURE_LINES:]:
        print(f"    {line[:200]}")


def main() -> int:
    """Run all tests, or only those under pytest that the arguments name."""
    arguments = sys.argv[1:]
    began = time.monotonic()
    every_python, only_pythons = arguments == ["--every-python"], arguments == ["--pythons"]
    if only_pythons:
        counts = unit_tests_on_other_pythons()
    elif arguments and not every_python:
        counts = unit_tests([]) + pytest_run("live", [], arguments)
    else:
        counts = run_everything(every_python=every_python)
    for failure in counts.failures:
        print_failure(failure)
    if every_python or only_pythons:
        print_pythons()
    print(f"took {time.monotonic() - began:.0f} s")
    print(f"{counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped")
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
