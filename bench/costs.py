"""Scenarios beyond throughput: short tasks beside sleeping ones, the start, and what memory things cost."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from statistics import median

from bench.field import EACH, MANY, PIPELINED, SINGLE, Field
from bench.loads import Load, LoadFailed
from bench.processes import PAUSE, pss_kib
from bench.results import Result, Series, Target, alternate
from bench.servers import Server, Taskd, Workerman, wait_for_answer
from bench.settings import Settings
from bench.tools import say

SLEEPERS = 40
START = 0.6
MEMORY = 120.0
WAITING = 1024.0
IDLE = 6 * 1024.0
FEW = 2
"""Workers where only the daemon is looked at."""
BETWEEN_NAPS = 0.005
"""Seconds between two tasks that sleep, so that no two of them come to one process of Workerman."""
NAP_WHILE_WAITING = 8.0
"""Seconds that these sleep, so that everything else waits meanwhile."""


def connect(port: int) -> socket.socket:
    """A connection to a server of this machine."""
    return socket.create_connection(("127.0.0.1", port), 90)


def read_replies(sock: socket.socket, expected: list[int]) -> None:
    """Read a line for each number, and check it. Raises `LoadFailed`."""
    replies = sock.makefile("rb")
    for number in expected:
        line = replies.readline()
        if line != b"%d\n" % number:
            raise LoadFailed(f"got {line[:200]!r} where {number} was due")


def sleep_all(port: int, number: int, seconds: float, delay: float = 0.0) -> None:
    """Have so many tasks sleep, a connection for each, and check their replies."""
    time.sleep(delay)
    with ExitStack() as stack:
        socks = []
        for nth in range(number):
            socks.append(stack.enter_context(connect(port)))
            socks[-1].sendall(b'{"function":"nap","args":[%d,%g]}\n' % (nth, seconds))
            time.sleep(BETWEEN_NAPS)
        for nth, sock in enumerate(socks):
            read_replies(sock, [nth])


@contextmanager
def sleeping(port: int, number: int, seconds: float, delay: float = 0.0) -> Iterator[None]:
    """Have tasks sleep meanwhile; at the end wait for their replies."""
    with ThreadPoolExecutor(1) as pool:
        replies = pool.submit(sleep_all, port, number, seconds, delay)
        yield
        replies.result()


def _tail(port: int, rate: float, seconds: float, late: list[float]) -> Callable[[], float]:
    """The 99th percentile in milliseconds, at a fixed rate, while 40 tasks sleep."""
    delay, warm_up = 0.2, 0.7
    load = Load("rate", seconds=seconds, warm_up=warm_up, options={"rate": round(rate)})

    def measure() -> float:
        # The connections of the load are open before the sleepers come: nobody may choose to avoid them.
        with sleeping(port, SLEEPERS, warm_up + seconds, delay):
            figures = load.run(port)
        late.append(figures.late_p99_us / 1000)
        return figures.p99_us / 1000

    return measure


def short_beside_long(field: Field) -> list[Result]:
    """Short tasks at a tenth of what saturates the server, while 40 of 100 workers sleep."""
    seconds = field.settings.seconds
    port = field.taskd().port
    results = Result(
        "tail",
        "Short tasks while 40 of 100 workers sleep: 99th percentile of the latency",
        "Open loop: requests come at a fixed rate over 50 connections, whether replies do or not, and "
        "latency counts from when each was due. The rate is a tenth of what taskd does where named.",
    )
    contestants: dict[str, tuple[Series, Callable[[], float]]] = {}
    late: list[float] = []
    for load, name in ((SINGLE, "1 in flight"), (PIPELINED, "16 in flight")):
        rate = field.timed(load).run(port).per_second / 10
        setting = f"{rate:.0f} a second, a tenth of TCP with {name}"
        ours = Series(f"taskd, {name}", "ms, 99 %", setting)
        contestants[ours.name] = (ours, _tail(port, rate, seconds, late))
        if not field.without_workerman:
            theirs = Series(f"Workerman, {name}", "ms, 99 %", setting)
            contestants[theirs.name] = (theirs, _tail(field.workerman().port, rate, seconds, late))
    alternate(field.settings.rounds, contestants)
    results.series = [series for series, _ in contestants.values()]
    results.targets = [
        Target(f"{series.name}: 1 ms", 1.0, round(series.median, 2), "ms", at_most=True)
        for series in results.series
        if series.name.startswith("taskd")
    ]
    results.notes.append(
        f"99 % of the requests were sent within {median(late or [0.0]):.2f} ms of when they were due (median "
        "of all rounds); that is in the figures, as latency counts from when they were due."
    )
    return [results]


def _start(begin: Callable[[], Server], into: dict[str, list[float]]) -> Callable[[], float]:
    def measure() -> float:
        server = begin()
        port = server.port  # type: ignore[attr-defined]
        try:
            wait_for_answer(port, server)
            first = time.monotonic() - server.began
            server.wait_until_ready()
            into.setdefault("ready", []).append(time.monotonic() - server.began)
            everything, workers = server.weigh()
            into.setdefault("all", []).append(everything)
            into.setdefault("workers", []).append(workers)
            Load(EACH.mode, connections=MANY, seconds=1.0).run(port)
            into.setdefault("used", []).append(server.weigh()[0])
            return first
        finally:
            server.stop()

    return measure


def start(field: Field) -> list[Result]:
    """How long 100 workers take to start, and what all processes weigh."""
    weights: dict[str, dict[str, list[float]]] = {"taskd": {}}
    ours = Series("taskd", "seconds to the first answer", f"{MANY} workers, with a gateway")
    contestants = {"taskd": (ours, _start(lambda: Taskd(workers=MANY), weights["taskd"]))}
    if not field.without_workerman:
        weights["Workerman"] = {}
        theirs = Series("Workerman", ours.unit, f"{MANY} processes, without its gateway")
        contestants["Workerman"] = (theirs, _start(lambda: Workerman(MANY), weights["Workerman"]))
    alternate(field.settings.rounds, contestants)
    first = Result(
        "start",
        "100 workers: from the start to the first answer",
        "From the command to the answer of the first task, asked for every 5 ms.",
        [series for series, _ in contestants.values()],
        [Target(f"{START} s", START, round(ours.median, 3), "s", at_most=True)],
        [f"All workers of taskd were idle after {median(weights['taskd']['ready']):.2f} s."],
    )
    memory = Result(
        "memory", "100 workers: memory", "Proportional set size (PSS): what is shared counts once."
    )
    medians: dict[tuple[str, str], float] = {}
    for name, figures in weights.items():
        for kind, what in (
            ("all", "all processes"),
            ("workers", "workers"),
            ("used", "all processes, after load"),
        ):
            memory.series.append(Series(f"{name}, {what}", "MiB", f"{MANY} workers", figures[kind]))
            medians[name, kind] = memory.series[-1].median
    total = medians["taskd", "all"]
    memory.targets.append(Target(f"{MEMORY:.0f} MiB in all", MEMORY, round(total, 1), "MiB", at_most=True))
    if "Workerman" in weights:
        peer, own = medians["Workerman", "workers"], medians["taskd", "workers"]
        memory.targets.append(
            Target("workers: no more than Workerman's", round(peer, 1), round(own, 1), "MiB", at_most=True)
        )
    return [first, memory]


def _waiting(number: int) -> float:
    """Bytes of the daemon for each of so many tasks that wait."""
    connections = max(1, number // 500)
    each = number // connections
    with Taskd(workers=FEW, websocket=False) as taskd, ExitStack() as stack:
        socks = [stack.enter_context(connect(taskd.port)) for _ in range(connections)]
        with sleeping(taskd.port, FEW, NAP_WHILE_WAITING):
            _wait_until(lambda: taskd.status()["running"] == FEW)
            before = pss_kib(taskd.daemon)
            for nth, sock in enumerate(socks):
                first = nth * each
                lines = [b'{"function":"echo","args":[%d]}\n' % one for one in range(first, first + each)]
                sock.sendall(b"".join(lines))
            _wait_until(lambda: taskd.status()["waiting"] == each * connections)
            growth = pss_kib(taskd.daemon) - before
        for nth, sock in enumerate(socks):
            read_replies(sock, list(range(nth * each, (nth + 1) * each)))
    return 1024 * growth / (each * connections)


def _idle(number: int) -> float:
    """Bytes of the daemon for each of so many connections that have asked once and then say nothing."""
    ping = json.dumps({"function": "taskd.ping"}).encode() + b"\n"
    with Taskd(workers=FEW, websocket=False) as taskd, ExitStack() as stack:
        before = pss_kib(taskd.daemon)
        for _ in range(number):
            sock = stack.enter_context(connect(taskd.port))
            sock.sendall(ping)
            if sock.recv(100) != b'"pong"\n':
                raise LoadFailed("no pong")
        growth = pss_kib(taskd.daemon) - before
    return 1024 * growth / number


def _wait_until(holds: Callable[[], bool]) -> None:
    ending = time.monotonic() + 0.75 * NAP_WHILE_WAITING
    while not holds():
        if time.monotonic() > ending:
            raise LoadFailed("the tasks do not wait")
        time.sleep(PAUSE)


def held(settings: Settings) -> list[Result]:
    """What a task that waits and a connection that is idle cost the daemon."""
    results = []
    for key, title, number, measure, limit in (
        ("waiting", "Memory of a task that waits", settings.waiting, _waiting, WAITING),
        ("idle", "Memory of an idle connection", settings.idle, _idle, IDLE),
    ):
        say(f"  {number} …")
        series = Series("taskd", "bytes", f"{number} of them, growth of the daemon's PSS")
        rounds = min(3, settings.rounds)
        alternate(rounds, {key: (series, lambda measure=measure, number=number: measure(number))})  # type: ignore[misc]
        target = Target(f"{limit / 1024:.0f} KiB", limit, round(series.median), "bytes", at_most=True)
        text = "Each round starts a daemon of its own. What the kernel holds for a socket is not in it."
        results.append(Result(key, title, text, [series], [target]))
    return results
