"""taskd beside ampoule, Celery, Dramatiq, Huey and RQ, every result awaited."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.field import MANY, PIPELINED, Field
from bench.loads import LoadFailed, figures
from bench.processes import wait_until_quiet
from bench.results import Result, Series, Target, alternate, best
from bench.scenarios import RATE
from bench.servers import Redis, Server
from bench.settings import Settings
from bench.tools import BENCH, Missing, environment, say, version


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to run a peer. `command` starts its workers, unless its client does, with options `driver`."""

    text: str
    command: tuple[str, ...] = ()
    driver: tuple[str, ...] = ()


def _celery(text: str, processes: int, *more: str) -> Setting:
    return Setting(
        text, ("celery", "-A", "celery_tasks", "worker", "-l", "ERROR", "-c", str(processes), *more)
    )


def _dramatiq(processes: int, threads: int) -> Setting:
    text = f"{processes} processes, {threads} thread{'s' if threads > 1 else ''} each"
    return Setting(text, ("dramatiq", "dramatiq_tasks", "-p", str(processes), "-t", str(threads)))


def _huey(processes: int) -> Setting:
    text = f"{processes} processes"
    return Setting(text, ("huey_consumer", "huey_tasks.huey", "-q", "-k", "process", "-w", str(processes)))


def _rq(processes: int) -> Setting:
    simple = ("-w", "rq.worker.SimpleWorker")
    text = f"{processes} processes, SimpleWorker"
    return Setting(text, ("rq", "worker-pool", "-q", "-n", str(processes), *simple, "bench"))


def _ampoule(processes: int) -> Setting:
    return Setting(f"{processes} processes", driver=("--processes", str(processes)))


PEERS: dict[str, tuple[Setting, ...]] = {
    "ampoule": (_ampoule(4), _ampoule(8), _ampoule(MANY)),
    "celery": (
        _celery("2 processes", 2),
        _celery(
            "2 processes, prefetch 64, no gossip",
            2, "--prefetch-multiplier", "64", "--without-gossip", "--without-mingle", "--without-heartbeat",
        ),
        _celery("100 processes", MANY),
    ),
    "dramatiq": (_dramatiq(2, 8), _dramatiq(MANY, 1)),
    "huey": (_huey(2), _huey(MANY)),
    "rq": (_rq(2), _rq(MANY)),
}  # fmt: skip
"""The settings of each; all are tried, and the best takes part. The last one is left out of a quick run."""


class Workers(Server):
    """A peer's workers, as its own command starts them."""

    def __init__(self, name: str, setting: Setting, redis: str) -> None:
        command, *options = setting.command
        super().__init__([str(environment(name) / command), *options], REDIS_URL=redis, RQ_REDIS_URL=redis)

    def wait_until_ready(self) -> None:
        """Wait until all of its processes have come up; the driver waits for the first answer."""
        wait_until_quiet(self.process.pid)


def _options(settings: Settings, seconds: float) -> list[str]:
    """What every client takes."""
    in_flight, warm_up = str(settings.in_flight), str(settings.warm_up)
    return ["--in-flight", in_flight, "--seconds", str(seconds), "--warm-up", warm_up]


@contextmanager
def running(name: str, setting: Setting, settings: Settings, seconds: float) -> Iterator[Callable[[], float]]:
    """Attempt a peer; what measures its rate."""
    driver = ["window.py", f"{name}_tasks"] if setting.command else [f"{name}_client.py", *setting.driver]
    options = _options(settings, seconds)
    command = [str(environment(name) / "python"), *driver, *options]
    if not setting.command:
        yield lambda: figures(command, cwd=BENCH / "peers").per_second
        return
    with Redis() as redis, Workers(name, setting, redis.url):
        environ = {**os.environ, "REDIS_URL": redis.url}
        yield lambda: figures(command, cwd=BENCH / "peers", env=environ).per_second


def _try(name: str, setting: Setting, field: Field) -> float:
    settings = field.settings
    try:
        with running(name, setting, settings, settings.survey_seconds) as measure:
            rate = measure()
    except (LoadFailed, OSError) as failure:
        say(f"  {name}, {setting.text}: {failure}")
        return 0.0
    say(f"  {name}, {setting.text}: {rate:.0f} per second")
    return rate


def _take_part(name: str, choices: tuple[Setting, ...], field: Field, ours: Series, result: Result) -> Series:
    """Find a peer's best setting, and measure it in turn with taskd; taskd's figures of these rounds."""
    settings = field.settings
    load, port = field.timed(PIPELINED), field.taskd().port
    environment(name)
    rates = {setting: _try(name, setting, field) for setting in choices} if len(choices) > 1 else {}
    if rates:
        tried = ", ".join(f"{setting.text} {rate:.0f}" for setting, rate in rates.items())
        result.notes.append(f"Settings of {name} that were tried, per second: {tried}.")
    setting = max(rates, key=rates.__getitem__, default=choices[0])
    peer = Series(f"{name} {version(name)}", RATE, setting.text)
    beside = Series(ours.name, RATE, ours.setting)
    with running(name, setting, settings, settings.seconds) as measure:
        contestants = {name: (peer, measure), "taskd": (beside, lambda: load.run(port).per_second)}
        alternate(settings.peer_rounds, contestants)
    result.series.append(peer)
    ours.values += beside.values
    ours.failures += beside.failures
    return beside


def queues(field: Field) -> list[Result]:
    """Each peer at its best setting, in turn with taskd."""
    settings = field.settings
    ours = Series("taskd", RATE, f"{MANY} workers, 50 connections with 16 in flight each")
    own = Series(
        "taskd, its own client",
        RATE,
        f"{MANY} workers, a TaskClient with {settings.in_flight} calls in flight",
    )
    result = Result(
        "queues",
        "Beside Python's task queues, results awaited",
        f"Tasks that return their argument, {settings.in_flight} in flight; each peer through its own client "
        "in one process, at the best of the settings tried. Celery, Dramatiq, Huey and RQ keep tasks and "
        "results in Redis, which outlives their processes; ampoule and taskd keep them in memory.",
        [ours, own],
    )
    beside: dict[str, Series] = {}
    for name, choices in PEERS.items():
        try:
            some = choices if settings.many_processes else choices[:-1]
            series = _take_part(name, some, field, ours, result)
            beside[result.series[-1].name] = series
        except (Missing, OSError) as missing:
            say(f"  {name}: {missing}")
            result.notes.append(f"{name} did not take part: {missing}.")
    alternate(settings.peer_rounds, {own.name: (own, _own_client(field.taskd().port, settings))})
    if beside:
        fastest = best(*result.series[2:])
        rate = beside[fastest.name].median
        actual = rate / fastest.median if fastest.median else 0.0
        result.targets = [Target(f"5 times the fastest, {fastest.name}", 5.0, round(actual, 2), "times")]
        result.notes.insert(
            0, f"In the rounds beside {fastest.name}, taskd's median was {rate:.0f} per second."
        )
    return [result]


def _own_client(port: int, settings: Settings) -> Callable[[], float]:
    server = f"tcp:127.0.0.1:{port}"
    options = _options(settings, settings.seconds)
    command = [sys.executable, "taskd_client.py", "--server", server, *options]
    return lambda: figures(command, cwd=BENCH / "peers").per_second
