"""The scenarios that are measured beside Workerman: naps, websockets, TCP, and one request at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median

from bench.field import EACH, MANY, PIPELINED, SINGLE, WEBSOCKET, Field
from bench.loads import Figures, Load, LoadFailed, nap, output
from bench.processes import cpu_seconds
from bench.results import Result, Series, Target, alternate, best
from bench.servers import Taskd
from bench.tools import BENCH, program

NAP = 0.02
IDEAL = MANY / NAP
RATE = "per second"

Contestants = dict[str, tuple[Series, Callable[[], float]]]
Measured = Callable[[Taskd], tuple[Callable[[], float], list[Figures]]]


def _rate(load: Load, port: int, seen: list[Figures]) -> Callable[[], float]:
    def measure() -> float:
        seen.append(load.run(port))
        return seen[-1].per_second

    return measure


class _Costed:
    """A measurement of taskd's that also counts the processor time of its daemon for each request, in µs."""

    def __init__(self, measure: Callable[[], float], taskd: Taskd, seen: list[Figures]) -> None:
        self._measure = measure
        self._taskd = taskd
        self._seen = seen
        self.costs: list[float] = []

    def __call__(self) -> float:
        before = cpu_seconds([self._taskd.daemon])
        rate = self._measure()
        used = cpu_seconds([self._taskd.daemon]) - before
        self.costs.append(1e6 * used / self._seen[-1].sent)
        return rate


def _beside(
    field: Field, contestants: Contestants, ours: Series, link: str, measured: Measured
) -> Callable[[], list[str]]:
    """Let the other taskd take part, if there is one; the notes that compare the two, round by round.

    `measured` makes the measurement of one taskd, and the list of figures that it fills.
    """
    if not field.settings.beside:
        return list
    theirs = Series(f"{ours.name}, the other", RATE, ours.setting)
    costed = []
    for series, taskd in ((ours, field.taskd(link)), (theirs, field.other(link))):
        measure, seen = measured(taskd)
        costed.append(_Costed(measure, taskd, seen))
        contestants[series.name] = (series, costed[-1])

    def notes() -> list[str]:
        rates = [mine / other for mine, other in zip(ours.values, theirs.values, strict=False)]
        costs = [mine / other for mine, other in zip(costed[0].costs, costed[1].costs, strict=False)]
        if not rates:
            return []
        sentence = (
            f"{ours.name} beside the other: {median(rates):.3f} times the rate, round by round; "
            f"{median(costs):.3f} times the daemon's processor time for a request "
            f"({median(costed[0].costs):.1f} and {median(costed[1].costs):.1f} µs)."
        )
        return [sentence]

    return notes


def _over(title: str, ours: Series, theirs: Series, factor: float) -> Target:
    """So many times as fast as a peer's series, median by median."""
    times = "as fast as" if factor == 1 else f"{factor:g} times"
    actual = ours.median / theirs.median if theirs.median else 0.0
    return Target(f"{title}: {times} {theirs.name}", factor, round(actual, 3), "times")


def _generator(seen: list[Figures]) -> str:
    share = max((figures.generator_cpu for figures in seen), default=0.0)
    return f"The load generator used at most {100 * share:.0f} % of one processor."


def naps(field: Field) -> list[Result]:
    """100 connections that sleep 20 ms at a time, on 100 workers: 5 000 a second is all there is."""
    results = []
    for key, mode, how, share in (
        ("naps-kept", "pipelined", "kept open", 0.97),
        ("naps-each", "each", "a connection for each request", 0.95),
    ):
        load = field.timed(Load(mode, connections=MANY, request=nap(NAP)))
        ours = Series("taskd", RATE, f"{MANY} workers")
        seen: list[Figures] = []
        contestants: Contestants = {"taskd": (ours, _rate(load, field.taskd().port, seen))}
        if not field.without_workerman:
            theirs = Series("Workerman", RATE, f"{MANY} processes")
            contestants["Workerman"] = (theirs, _rate(load, field.workerman().port, seen))
        alternate(field.settings.rounds, contestants)
        target = Target(f"{share:.0%} of {IDEAL:.0f}", share * IDEAL, ours.median, RATE)
        results.append(
            Result(
                key,
                f"Tasks that sleep 20 ms, 100 connections {how}",
                f"100 workers can do {IDEAL:.0f} of them in a second.",
                [series for series, _ in contestants.values()],
                [target],
                [_generator(seen)],
            )
        )
    return results


class _Counted:
    """A load of websockets on taskd, where every message must have become one task that was done."""

    def __init__(self, load: Load, port: int, taskd: Taskd, seen: list[Figures]) -> None:
        self._measure = _rate(load, port, seen)
        self._taskd = taskd
        self._seen = seen

    def __call__(self) -> float:
        before = self._taskd.done()
        rate = self._measure()
        done = self._taskd.done() - before
        if done != self._seen[-1].sent:
            raise LoadFailed(f"{self._seen[-1].sent} messages became {done} tasks")
        return rate


def websockets(field: Field) -> list[Result]:
    """A websocket message to `task complete`, 50 clients with one in flight each."""
    load = field.timed(WEBSOCKET)
    seen: list[Figures] = []
    contestants: Contestants = {}
    ours: dict[str, list[Series]] = {}
    here = Series("taskd, local", RATE, f"{MANY} workers, --link local")
    contestants[here.name] = (
        here,
        _Counted(load, field.taskd("local").websocket, field.taskd("local"), seen),
    )
    notes: dict[str, Callable[[], list[str]]] = {}
    for link in ("pooled", "per-message"):
        one = field.taskd(link)
        together = Series(f"taskd, {link}", RATE, f"{MANY} workers, --link {link}")
        apart = Series(
            f"taskd, {link}, two processes",
            RATE,
            f"{MANY} workers; the gateway another twistd, --link {link}",
        )
        ours[link] = [together, apart]
        contestants[together.name] = (together, _Counted(load, one.websocket, one, seen))

        def counted(taskd: Taskd) -> tuple[Callable[[], float], list[Figures]]:
            figures: list[Figures] = []
            return _Counted(load, taskd.websocket, taskd, figures), figures

        notes[link] = _beside(field, contestants, together, link, counted)
        contestants[apart.name] = (
            apart,
            _Counted(load, field.gateway(link).websocket, field.taskd(), seen),
        )
    pooled = Result(
        "websocket-pooled",
        "Websocket message to “task complete”, `--link pooled`",
        "50 websockets, one message in flight on each.",
        list(ours["pooled"]),
    )
    each = Result(
        "websocket-each",
        "Websocket message to “task complete”, `--link per-message`",
        "The same, with a connection to the task server for each message, as Workerman has it.",
        list(ours["per-message"]),
    )
    if field.without_workerman:
        alternate(field.settings.rounds, contestants)
    else:
        many = Series(f"Workerman at {MANY}", RATE, f"{MANY} processes, 1 gateway")
        count, gateways = field.best("websocket")
        chosen = Series("Workerman at its best", RATE, f"{count} processes, {gateways} gateway(s)")
        contestants["Workerman"] = (many, _rate(load, field.site().websocket, seen))
        contestants["Workerman at its best"] = (
            chosen,
            _rate(load, field.site(count, gateways).websocket, seen),
        )
        alternate(field.settings.rounds, contestants)
        top = best(many, chosen)
        pooled.series += [many, chosen]
        each.series += [many, chosen]
        ahead = best(*ours["pooled"])
        pooled.targets = [_over(ahead.name, ahead, many, 8), _over(ahead.name, ahead, top, 1.5)]
        ahead = best(*ours["per-message"])
        each.targets = [_over(ahead.name, ahead, many, 3)]
    local = Result(
        "websocket-local",
        "Websocket message to “task complete”, `--link local`",
        "The same, with a gateway that calls the task server of its own process.",
        [here, ours["pooled"][0]],
        [_over(here.name, here, ours["pooled"][0], 1.5)],
    )
    pooled.notes += [_generator(seen), *notes["pooled"]()]
    each.notes += notes["per-message"]()
    return [pooled, each, local]


TCP = (
    ("each", EACH, "TCP, a connection for each request, 50 at a time", ((MANY, 4.0), (0, 1.0))),
    ("pipelined", PIPELINED, "TCP, 50 connections, 16 requests in flight on each", ((0, 1.5),)),
    ("single", SINGLE, "TCP, 50 connections, 1 request in flight on each", ((0, 1.0),)),
)
"""Key, load, title, and the targets: times Workerman at so many processes; 0 is its best count."""


def tcp(field: Field, key: str) -> list[Result]:
    """Tasks that return their argument, over TCP."""
    _, load, title, required = next(one for one in TCP if one[0] == key)
    load = field.timed(load)
    seen: list[Figures] = []
    ours = Series("taskd", RATE, f"{MANY} workers")
    contestants: Contestants = {"taskd": (ours, _rate(load, field.taskd().port, seen))}

    def rated(taskd: Taskd) -> tuple[Callable[[], float], list[Figures]]:
        figures: list[Figures] = []
        return _rate(load, taskd.port, figures), figures

    notes = _beside(field, contestants, ours, "pooled", rated)
    targets = []
    if field.without_workerman:
        alternate(field.settings.rounds, contestants)
    else:
        many = Series(f"Workerman at {MANY}", RATE, f"{MANY} processes")
        count, _ = field.best(key)
        chosen = Series("Workerman at its best", RATE, f"{count} processes")
        contestants[many.name] = (many, _rate(load, field.workerman().port, seen))
        contestants[chosen.name] = (chosen, _rate(load, field.workerman(count).port, seen))
        alternate(field.settings.rounds, contestants)
        peers = {MANY: many, 0: best(many, chosen)}
        targets = [_over("taskd", ours, peers[count], factor) for count, factor in required]
    text = "Tasks that return their argument."
    return [
        Result(
            key,
            title,
            text,
            [series for series, _ in contestants.values()],
            targets,
            [_generator(seen), *notes()],
        )
    ]


def latency(field: Field) -> list[Result]:
    """One connection with one request at a time, beside two round trips between bare processes."""
    load = field.timed(Load("pipelined", connections=1))
    rounds = str(field.settings.latency_rounds)
    tails: dict[str, list[float]] = {}

    def of(name: str, port: int) -> Callable[[], float]:
        def measure() -> float:
            figures = load.run(port)
            tails.setdefault(name, []).append(figures.p99_us)
            return figures.p50_us

        return measure

    def bare(command: list[str]) -> Callable[[], float]:
        return lambda: float(output([*command, rounds])["two"]["p50_us"])

    unit = "µs, median"
    ours = Series("taskd", unit, f"{MANY} workers")
    in_c = Series("two ping-pongs, in C", unit, "bench/pingpong.c")
    in_python = Series("two ping-pongs, in Python", unit, "bench/pingpong.py")
    contestants: Contestants = {
        "taskd": (ours, of("taskd", field.taskd().port)),
        "C": (in_c, bare([str(program("pingpong"))])),
        "Python": (in_python, bare([sys.executable, str(BENCH / "pingpong.py")])),
    }
    if not field.without_workerman:
        theirs = Series("Workerman", unit, f"{MANY} processes")
        contestants["Workerman"] = (theirs, of("Workerman", field.workerman().port))
    alternate(field.settings.rounds, contestants)
    actual = ours.median / in_c.median if in_c.median else 0.0
    return [
        Result(
            "latency",
            "One connection, one request in flight: median latency",
            "Held against two ping-pongs between two processes over socketpairs: a process sends a line to a "
            "second one, that one to a third, and it comes back the same way. A client, a dispatcher and a "
            "worker cannot do with less.",
            [series for series, _ in contestants.values()],
            [Target("1.5 times two ping-pongs in C", 1.5, round(actual, 2), "times", at_most=True)],
            [
                f"It is {ours.median / (in_python.median or 1):.2f} times two ping-pongs in Python.",
                *(f"99th percentile of {name}: {median(tail):.0f} µs." for name, tail in tails.items()),
            ],
        )
    ]
