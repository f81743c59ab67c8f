"""``make test``: the unit tests under trial, the live tests under pytest, and their coverage.

trial and pytest-twisted each want the reactor for themselves: two processes.
The last line counts the tests of both. Exit status 1 where a test failed or
less is covered than must be.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CORE = "taskd/errors.py,taskd/model.py,taskd/functions/*,taskd/protocol/*,taskd/scheduler/*"
CORE_PERCENT = 100
ALL_PERCENT = 90

SHARDS = 2
"""Runs of pytest at once, for the live tests."""

Counts = tuple[int, int, int]


def python(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python at the root of the project; what it prints is shown, and returned."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return subprocess.CompletedProcess(command, process.returncode, "".join(lines))


def unit_tests(coverage: list[str]) -> Counts:
    """Passed, failed and skipped tests of `tests/unit`."""
    ran = python(*coverage, "-m", "twisted.trial", "--reporter=text", "--temp-directory=.trial", "tests.unit")
    counts = {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", ran.stdout.splitlines()[-1])}
    failed = counts.get("failures", 0) + counts.get("errors", 0)
    if ran.returncode and not failed:
        failed = 1  # trial itself could not run
    return counts.get("successes", 0), failed, counts.get("skips", 0)


def shards() -> list[list[str]]:
    """The files of the live tests, shared out: these tests mostly wait, so several runs go on at once."""
    files = sorted((ROOT / "tests" / "live").glob("test_*.py"), key=lambda file: -file.stat().st_size)
    shared_out: list[list[Path]] = [[] for _ in range(SHARDS)]
    for file in files:
        min(shared_out, key=lambda shard: sum(each.stat().st_size for each in shard)).append(file)
    return [sorted(str(file.relative_to(ROOT)) for file in shard) for shard in shared_out]


def live_tests(coverage: list[str], arguments: list[str]) -> Counts:
    """Passed, failed and skipped tests of `tests/live`."""
    runs = [arguments] if arguments else shards()
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(len(runs)) as threads:
        reports = [Path(directory, f"report-{number}.xml") for number in range(len(runs))]
        counts = list(threads.map(lambda run: live_run(coverage, *run), zip(reports, runs, strict=True)))
    passed, failed, skipped = (sum(column) for column in zip(*counts, strict=True))
    return passed, failed, skipped


def live_run(coverage: list[str], report: Path, arguments: list[str]) -> Counts:
    """Passed, failed and skipped tests of one run of pytest."""
    ran = python(
        *coverage, "-m", "pytest", f"--junitxml={report}", "-p", "no:cacheprovider", "-rs", *arguments
    )
    if not report.exists():
        return 0, 1, 0
    suite = ET.parse(report).getroot()[0]
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    if ran.returncode and not failed:
        failed = 1
    return total - failed - skipped, failed, skipped


def is_covered() -> bool:
    """Whether enough of the code ran."""
    python("-m", "coverage", "combine", "--quiet")
    core = python("-m", "coverage", "report", f"--include={CORE}", f"--fail-under={CORE_PERCENT}")
    everything = python("-m", "coverage", "report", f"--fail-under={ALL_PERCENT}")
    return core.returncode == 0 and everything.returncode == 0


def main() -> int:
    """Run everything; arguments go to pytest, and leave coverage alone."""
    arguments = sys.argv[1:]
    coverage = [] if arguments else ["-m", "coverage", "run"]
    python("-m", "coverage", "erase")
    counts = [unit_tests(coverage), live_tests(coverage, arguments)]
    covered = bool(arguments) or is_covered()
    passed, failed, skipped = (sum(column) for column in zip(*counts, strict=True))
    if not covered:
        print("too little of the code was run by the tests: see above")
        failed += 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
