"""taskd's own clients with many calls in flight, beside the load generator."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec

from bench.field import MANY, PIPELINED, Field
from bench.loads import Load, figures
from bench.results import Result, Series, Target, alternate
from bench.scenarios import RATE
from bench.tools import BENCH

IN_FLIGHT = 1000
SHARE = 0.5
"""Of the load generator's rate, what a program in Python should reach."""


def many_in_flight(field: Field) -> list[Result]:
    """Tasks that return their argument, 1000 at a time from one process."""
    settings = field.settings
    port = field.taskd().port
    contestants: dict[str, tuple[Series, Callable[[], float]]] = {}

    def generator(name: str, load: Load) -> Series:
        series = Series(name, RATE, f"{load.connections} connections, {load.in_flight} in flight on each")
        contestants[name] = (series, lambda: field.timed(load).run(port).per_second)
        return series

    def program(name: str, setting: str, driver: str, server: str, *more: str) -> Series:
        series = Series(name, RATE, setting)
        command = [
            sys.executable, driver, "--server", server, *more, "--in-flight", str(IN_FLIGHT),
            "--seconds", str(settings.seconds), "--warm-up", str(settings.warm_up),
        ]  # fmt: skip
        contestants[name] = (series, lambda: figures(command, cwd=BENCH / "peers").per_second)
        return series

    address = f"127.0.0.1:{port}"
    pipelined = generator("the load generator, in C", PIPELINED)
    generator("the same on 2 connections", Load("pipelined", connections=2, in_flight=IN_FLIGHT // 2))
    ours = program("AsyncClient", "asyncio", "asyncio_client.py", address)
    if find_spec("uvloop") is not None:
        program("AsyncClient, uvloop", "uvloop", "asyncio_client.py", address, "--uvloop")
    program("TaskClient", "Twisted, pooled", "taskd_client.py", f"tcp:{address}")
    alternate(settings.rounds, contestants)
    actual = ours.median / pipelined.median if pipelined.median else 0.0
    return [
        Result(
            "in-flight",
            f"{IN_FLIGHT} calls in flight from one Python program",
            f"Tasks that return their argument. The {MANY} workers share the processors with the program.",
            [series for series, _ in contestants.values()],
            [Target(f"AsyncClient: {SHARE:g} times {pipelined.name}", SHARE, round(actual, 3), "times")],
        )
    ]
