"""How long a web application waits to hand over a task: `Client.submit` beside `delay` and `enqueue`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.field import Field
from bench.loads import output
from bench.results import Result, Series, alternate
from bench.scenarios import RATE
from bench.servers import Redis, Server, Taskd, ask
from bench.stored import DISK, PEERS
from bench.tools import Missing, environment, say, version

PROGRAMS = {"celery": "celery_tasks", "rq": "rq_tasks"}
"""The peers, each with the module whose `submit` hands a task over."""


def submits(field: Field) -> list[Result]:
    """One client with one submit at a time, while no worker takes any."""
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="taskd-bench-", dir=DISK) as name, ExitStack() as stack:
        directory = Path(name)
        contestants: dict[str, tuple[Series, Callable[[], float]]] = {}
        for where, store, options in (
            ("in memory", "memory", ()),
            ("on the disk, with fsync", f"sqlite:{directory / 'taskd.db'}", _on_disk(directory)),
        ):
            taskd = stack.enter_context(Taskd("--store", store, workers=2, websocket=False))
            ask(taskd.port, "taskd.pause", "echo")
            server = f"127.0.0.1:{taskd.port}"
            measure = partial(_rate, field, sys.executable, "submit_taskd", {"TASKD_SERVER": server})
            contestants[f"taskd {where}"] = (Series("taskd: Client.submit", RATE, where), measure)
            try:
                redis: Server = stack.enter_context(Redis(*options))
                contestants |= _peers(field, redis, where)
            except (Missing, OSError) as missing:
                say(f"  {missing}")
                notes.append(f"celery and rq did not take part: {missing}.")
        alternate(field.settings.peer_rounds, contestants)
    text = (
        "One at a time, while no worker takes any. Celery and RQ keep them in Redis, which has "
        "`appendfsync always` where they are on the disk."
    )
    series = [one for one, _ in contestants.values()]
    return [Result("submits", "Handing over a task", text, series, [], notes)]


def _on_disk(directory: Path) -> tuple[str, ...]:
    """Return the options with which Redis acknowledges nothing that is not on the disk."""
    (directory / "redis").mkdir()
    return ("--dir", str(directory / "redis"), "--appendonly", "yes", "--appendfsync", "always")


def _peers(field: Field, redis: Server, where: str) -> dict[str, tuple[Series, Callable[[], float]]]:
    assert isinstance(redis, Redis)
    calls = {"celery": "delay", "rq": "enqueue"}
    return {
        f"{name} {where}": (
            Series(f"{name} {version(name)}: {calls[name]}", RATE, where),
            partial(_rate, field, str(environment(name) / "python"), module, {"REDIS_URL": redis.url}),
        )
        for name, module in PROGRAMS.items()
    }


def _rate(field: Field, python: str, module: str, environ: Mapping[str, str]) -> float:
    command = [python, "stored.py", module, "single", "--seconds", str(field.settings.stored_seconds)]
    return float(output(command, cwd=PEERS, env={**os.environ, **environ})["per_second"])
