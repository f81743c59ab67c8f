"""The figures of a task server, as Prometheus has them. Pure: plain counters in, families of metrics out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from taskd.scheduler import FunctionStats
from taskd.scheduler.histograms import TASK_BOUNDS, Histogram, coarse
from taskd.server.figures import ServerFigures

__all__ = ["MAX_FUNCTIONS", "OTHER", "histogram", "server_metrics"]

MAX_FUNCTIONS = 50
"""Functions with series of their own, some thirty each: their names come from the app, or, until it is
imported, from anybody."""

OTHER = "other"
"""The label of all further functions."""

Buckets = list[tuple[str, float]]


def buckets(bounds: Sequence[float], counts: Sequence[int]) -> Buckets:
    """Return how many values are at most as large as each bound, as Prometheus counts them."""
    names = [*(floatToGoString(bound) for bound in bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(counts)), strict=True))


def histogram(name: str, text: str, values: Histogram) -> Metric:
    """Return one histogram without labels."""
    return HistogramMetricFamily(
        name, text, buckets=buckets(values.bounds, values.counts), sum_value=values.total
    )


class _Sum:
    """The statistics of one function, or of several together."""

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.waiting = 0
        self.runs = [0] * (len(TASK_BOUNDS) + 1)
        self.run_seconds = 0.0
        self.waits = [0] * (len(TASK_BOUNDS) + 1)
        self.wait_seconds = 0.0

    def add(self, stats: FunctionStats) -> None:
        outcomes = {
            "succeeded": stats.done,
            "failed": stats.failed,
            "invalid": stats.invalid,
            "timed_out": stats.timed_out,
            "expired": stats.expired,
            "cancelled": stats.cancelled,
            "lost": stats.lost,
        }
        for outcome, count in outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count
        self.waiting += stats.waiting
        self.runs = [mine + more for mine, more in zip(self.runs, coarse(stats.runs), strict=True)]
        self.run_seconds += stats.seconds
        self.waits = [mine + more for mine, more in zip(self.waits, coarse(stats.waits), strict=True)]
        self.wait_seconds += stats.waited


def _by_function(functions: Sequence[FunctionStats]) -> Mapping[str, _Sum]:
    """Return the statistics by label: those of the first functions, and of all others together."""
    sums: dict[str, _Sum] = {}
    for number, stats in enumerate(functions):
        label = stats.name if number < MAX_FUNCTIONS and stats.name != OTHER else OTHER
        sums.setdefault(label, _Sum()).add(stats)
    return sums


def server_metrics(figures: ServerFigures) -> Iterable[Metric]:
    """Return the families of metrics for the figures of a task server."""
    yield from _functions(figures)
    yield from _queue(figures)
    yield from _workers(figures)
    yield from _store(figures)
    yield CounterMetricFamily(
        "taskd_log_lines_lost", "Lines that the log did not take in time.", figures.log_lines_lost
    )


def _functions(figures: ServerFigures) -> Iterable[Metric]:
    tasks = CounterMetricFamily("taskd_tasks", "Tasks that have ended.", labels=["function", "outcome"])
    waiting = GaugeMetricFamily("taskd_tasks_waiting", "Tasks in the queue.", labels=["function"])
    runs = HistogramMetricFamily("taskd_task_run_seconds", "Run times of functions.", labels=["function"])
    waits = HistogramMetricFamily(
        "taskd_task_wait_seconds", "Times from the acceptance of a task to its start.", labels=["function"]
    )
    for label, stats in _by_function(figures.functions).items():
        for outcome, count in stats.outcomes.items():
            tasks.add_metric([label, outcome], count)
        waiting.add_metric([label], stats.waiting)
        runs.add_metric([label], buckets(TASK_BOUNDS, stats.runs), stats.run_seconds)
        waits.add_metric([label], buckets(TASK_BOUNDS, stats.waits), stats.wait_seconds)
    yield from (tasks, waiting, runs, waits)


def _queue(figures: ServerFigures) -> Iterable[Metric]:
    yield GaugeMetricFamily("taskd_tasks_running", "Tasks that workers have.", figures.running)
    yield GaugeMetricFamily("taskd_queue_limit", "Tasks that may wait (--max-queue).", figures.max_queue)
    yield GaugeMetricFamily(
        "taskd_oldest_waiting_seconds", "For how long the oldest waiting task waits.", figures.oldest_waiting
    )
    yield CounterMetricFamily(
        "taskd_tasks_refused", "Calls refused since the server was full.", figures.counters.refused
    )


def _workers(figures: ServerFigures) -> Iterable[Metric]:
    workers = figures.workers
    states = GaugeMetricFamily("taskd_workers", "Worker processes by state.", labels=["state"])
    for state, count in workers.states.items():
        states.add_metric([state], count)
    ends = CounterMetricFamily("taskd_worker_ends", "Workers that have ended, by cause.", labels=["cause"])
    for cause, count in workers.ends.items():
        ends.add_metric([cause], count)
    yield from (states, ends)
    yield GaugeMetricFamily("taskd_workers_limit", "Workers that there may be (--workers).", workers.most)
    yield CounterMetricFamily(
        "taskd_workers_started", "Workers that were started.", figures.counters.workers_started
    )
    yield GaugeMetricFamily(
        "taskd_workers_resident_bytes",
        "Resident memory of the workers together.",
        workers.memory,
    )
    yield GaugeMetricFamily("taskd_generation", "The number of the import of the app.", figures.generation)


def _store(figures: ServerFigures) -> Iterable[Metric]:
    store, commits = figures.store, figures.commits
    if store is not None:
        yield GaugeMetricFamily("taskd_store_up", "Whether the store works.", float(store.fault is None))
        yield GaugeMetricFamily(
            "taskd_store_claimed", "Stored tasks that are claimed: started soon, or running.", store.claimed
        )
        yield GaugeMetricFamily(
            "taskd_functions_paused", "Functions of which no stored task is started.", len(store.paused)
        )
    if commits is not None:
        yield histogram("taskd_store_commit_seconds", "Times of the store's transactions.", commits.seconds)
        yield CounterMetricFamily("taskd_store_failures", "Transactions that have failed.", commits.failed)
