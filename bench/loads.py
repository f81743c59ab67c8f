"""Runs the load generators, and reads what they print."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.tools import program

ECHO = '{"function":"echo","args":[#]}'
PATIENCE = 150.0
"""Seconds after which a load that has not ended will not end: it gives up itself after 60 without a reply."""


class LoadFailed(Exception):
    """A reply was wrong or missing, or the server went away."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a load generator has counted; latencies are in microseconds."""

    per_second: float
    replies: int
    p50_us: float = 0.0
    p90_us: float = 0.0
    p99_us: float = 0.0
    p999_us: float = 0.0
    max_us: float = 0.0
    sent: int = 0
    seconds: float = 0.0
    late_p99_us: float = 0.0
    generator_cpu: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """A kind of load on one port. `mode` and `options` are those of bench/load.c."""

    mode: str
    connections: int = 50
    in_flight: int = 1
    request: str = ECHO
    seconds: float = 2.0
    warm_up: float = 0.5
    options: dict[str, float] = field(default_factory=dict)

    def command(self, port: int) -> list[str]:
        """The command that drives the server there."""
        options = {
            "port": port,
            "connections": self.connections,
            "in-flight": self.in_flight,
            "request": self.request,
            "seconds": self.seconds,
            "warm-up": self.warm_up,
            **self.options,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return [str(program("load")), self.mode, *words]

    def run(self, port: int) -> Figures:
        """Drive the server that listens there. Raises `LoadFailed`."""
        return figures(self.command(port))


def nap(seconds: float) -> str:
    """A request to sleep."""
    return f'{{"function":"nap","args":[#,{seconds:g}]}}'


def output(command: list[str], **environ: Any) -> Any:
    """What a command prints, which is JSON. Raises `LoadFailed` with its last words."""
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            **environ,
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"{Path(command[0]).name} has not ended after {PATIENCE:.0f} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()
        raise LoadFailed(last[-1] if last else f"exit status {done.returncode}")
    return json.loads(done.stdout)


def figures(command: list[str], **environ: Any) -> Figures:
    """The figures that a driver prints. Raises `LoadFailed`."""
    return Figures(**output(command, **environ))
