"""``make conformance``: the cases of Autobahn's test suite against a gateway that sends messages back.

The suite's own fuzzing client needs Python 2.7. By default `kosoku` runs the same case files, under this
Python; ``--wstest PATH`` runs the original, if there is one. Compression (cases 12 and 13) is left out: the
gateway offers none. The exit status is 1 if a case failed.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

KOSOKU = Path(sys.executable).with_name("kosoku")

SUITE_SECONDS = 1800
"""Seconds for all cases: those of the group 9 move gigabytes."""

MAX_MESSAGE = str(32 * 1024 * 1024)
"""The longest message of the suite has 16 MiB."""

WITHOUT = ("12.*", "13.*")

GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}

APP = """
from taskd import task

@task
def nothing() -> None:
    pass
"""


def _serve(directory: Path) -> tuple[subprocess.Popen[str], int]:
    """Start the gateway; return its process and its port."""
    (directory / "nothing.py").write_text(APP)
    server = subprocess.Popen(
        [
            *(sys.executable, str(Path(__file__).with_name("echo.py"))),
            *("--nodaemon", "--pidfile=", "taskd", "--app", "nothing.py", "--workers", "0:1"),
            *("--max-message", MAX_MESSAGE, "--link", "local"),
            *("--listen", f"unix:{directory}/tasks", "--websocket", "tcp:0:interface=127.0.0.1"),
        ],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert server.stdout is not None
    seen = []
    for line in server.stdout:
        seen.append(line)
        port = re.search(r"listening on .*port=(\d+)", line)
        if port is not None:
            return server, int(port[1])
    raise SystemExit("the gateway has not started:\n" + "".join(seen))


def _run_kosoku(port: int, reports: Path, cases: list[str]) -> None:
    command = [KOSOKU, "--mode", "fuzzingclient", "--outdir", reports]
    command += [word for case in cases for word in ("--include", case)]
    command += [word for case in WITHOUT for word in ("--exclude", case)]
    subprocess.run([*command, f"127.0.0.1:{port}"], timeout=SUITE_SECONDS, check=False)


def _run_wstest(wstest: str, port: int, directory: Path, reports: Path, cases: list[str]) -> None:
    specification = directory / "fuzzingclient.json"
    specification.write_text(
        json.dumps(
            {
                "outdir": str(reports),
                "servers": [{"agent": "taskd", "url": f"ws://127.0.0.1:{port}", "options": {"version": 18}}],
                "cases": cases or ["*"],
                "exclude-cases": list(WITHOUT),
                "exclude-agent-cases": {},
            }
        )
    )
    command = [wstest, "--mode", "fuzzingclient", "--spec", specification]
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=SUITE_SECONDS, check=False)


def _judge(reports: Path) -> int:
    """Print how many cases ended in which way, and those that failed; return their number."""
    [(agent, results)] = json.loads((reports / "index.json").read_text()).items()
    groups: dict[str, Counter[str]] = {}
    failed = []
    for case, result in results.items():
        verdict, closed = result["behavior"], result["behaviorClose"]
        good = verdict in GOOD and closed in GOOD
        groups.setdefault(case.partition(".")[0], Counter())[verdict if good else "FAILED"] += 1
        if not good:
            failed.append(f"{case}: {verdict}, closing {closed}")
    for group, counts in sorted(groups.items(), key=lambda each: int(each[0])):
        print(f"group {group:3} " + ", ".join(f"{verdict} {count}" for verdict, count in counts.items()))
    total = sum((counts for counts in groups.values()), Counter[str]())
    print(f"{agent}: {len(results)} cases: " + ", ".join(f"{name} {count}" for name, count in total.items()))
    for each in failed:
        print(f"FAILED {each}")
    return len(failed) if results else 1


def main() -> int:
    """Run the suite, and print its result."""
    parser = argparse.ArgumentParser(description="Run the websocket conformance suite.")
    parser.add_argument("cases", nargs="*", help="cases, as 6.* or 1.1.1; all by default")
    parser.add_argument("--wstest", help="Autobahn's own fuzzing client, which needs Python 2.7")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        directory = Path(name)
        reports = directory / "reports"
        server, port = _serve(directory)
        try:
            if options.wstest:
                _run_wstest(options.wstest, port, directory, reports, options.cases)
            else:
                _run_kosoku(port, reports, options.cases)
            return 1 if _judge(reports) else 0
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)


if __name__ == "__main__":
    sys.exit(main())
