"""What a run was made with, and on what."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.tools import ROOT, Missing, workerman


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""


def _of_file(path: str, pattern: str) -> str:
    try:
        found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1].strip() if found else ""


def _workerman() -> str:
    try:
        source = Path(workerman()["WORKERMAN_DIR"], "src", "Worker.php")
    except Missing as missing:
        return f"not measured: {missing}"
    php = _first_line("php", "-r", "echo PHP_VERSION;")
    release = _of_file(str(source), r"VERSION = .([0-9.]+)")
    return f"{release or 'unknown'}, PHP {php}, its own select loop"


def about(settings: str) -> dict[str, str]:
    """Names and values, for people to read."""
    memory = _of_file("/proc/meminfo", r"^MemTotal:\s+(\d+)")
    processor = _of_file("/proc/cpuinfo", r"^model name\s*:\s*(.*)$")
    revision = _first_line("git", "describe", "--always", "--dirty")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "taskd": f"{version('taskd')}{f', revision {revision}' if revision else ''}",
        "Python": platform.python_version(),
        "Twisted, Autobahn": f"{version('twisted')}, {version('autobahn')}",
        "Workerman": _workerman(),
        "Redis": _of_first_version(_first_line("redis-server", "--version")),
        "RabbitMQ, PostgreSQL": ", ".join(
            _debian(package) or "not there" for package in ("rabbitmq-server", "postgresql")
        ),
        "processor": f"{processor}, {os.cpu_count()} processors",
        "memory": f"{int(memory or 0) / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "load before": f"{os.getloadavg()[0]:.2f}, mean of a minute",
        "run": settings,
    }


def _debian(package: str) -> str:
    return _first_line("dpkg-query", "--show", "--showformat", "${Version}", package)


def _of_first_version(line: str) -> str:
    found = re.search(r"v=([0-9.]+)", line)
    return found[1] if found else "not there"
