"""The figures of a task server in Prometheus' format, as its own parser reads them."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from taskd.scheduler import FunctionStats
from taskd.scheduler.histograms import Histogram
from taskd.server.counters import Counters
from taskd.server.figures import Commits, ServerFigures, Workers
from taskd.server.status import StoreStatus
from taskd.web.server_metrics import MAX_FUNCTIONS, OTHER, server_metrics


def figures(*functions, **more):
    workers = Workers({"idle": 2}, {"crashed": 1}, 4, 1000)
    given = {
        "name": "TaskWorker",
        "functions": functions,
        "counters": Counters(),
        "workers": workers,
        "running": 0,
        "max_queue": 100,
        "oldest_waiting": 0.0,
        "connections": 1,
        "log_lines_lost": 0,
        "generation": 1,
        "store": None,
        "commits": None,
    }
    return ServerFigures(**{**given, **more})


def read(given):
    """Return the samples of figures by their names and labels, as a Prometheus server reads them."""

    class Collector:
        def collect(self):
            return server_metrics(given)

    registry = CollectorRegistry()
    registry.register(Collector())
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def seen(name, *runs, **more):
    stats = FunctionStats(name, **more)
    for seconds in runs:
        stats.add(seconds, failed=False, printed=False)
    return stats


class ServerMetricsTests(SynchronousTestCase):
    def test_tasks_are_counted_by_function_and_outcome(self):
        stats = seen("f", 0.0001, 0.002, 3.0)
        stats.timed_out = 2
        samples = read(figures(stats))
        self.assertEqual(samples["taskd_tasks_total", "f", "succeeded"], 3)
        self.assertEqual(samples["taskd_tasks_total", "f", "timed_out"], 2)
        self.assertEqual(samples["taskd_tasks_total", "f", "lost"], 0)

    def test_run_times_are_a_cumulative_histogram(self):
        samples = read(figures(seen("f", 0.0001, 0.002, 3.0)))
        name = "taskd_task_run_seconds"
        found = [samples[f"{name}_bucket", *sorted(["f", le])] for le in ("0.0005", "0.005", "2.5", "10.0")]
        self.assertEqual(found, [1, 2, 2, 3])
        self.assertEqual(samples[f"{name}_bucket", "+Inf", "f"], 3)
        self.assertEqual(samples[f"{name}_count", "f"], 3)
        self.assertAlmostEqual(samples[f"{name}_sum", "f"], 3.0021)

    def test_only_so_many_functions_have_series_of_their_own(self):
        functions = [seen(f"f{number}", 1.0) for number in range(MAX_FUNCTIONS + 10)]
        samples = read(figures(*functions))
        counted = [key for key in samples if key[0] == "taskd_tasks_total" and "succeeded" in key]
        self.assertEqual(len(counted), MAX_FUNCTIONS + 1)
        self.assertEqual(samples["taskd_tasks_total", OTHER, "succeeded"], 10)
        self.assertEqual(samples["taskd_task_run_seconds_count", OTHER], 10)

    def test_a_function_with_the_name_of_the_others_is_counted_with_them(self):
        samples = read(figures(seen(OTHER, 1.0)))
        self.assertEqual(samples["taskd_tasks_total", OTHER, "succeeded"], 1)

    def test_workers_are_counted_by_state_and_cause(self):
        samples = read(figures())
        self.assertEqual(samples["taskd_workers", "idle"], 2)
        self.assertEqual(samples["taskd_worker_ends_total", "crashed"], 1)
        self.assertEqual(samples["taskd_workers_limit",], 4)

    def test_the_store_is_measured_if_there_is_one(self):
        seconds = Histogram((0.1, 1.0))
        seconds.add(0.05)
        store = StoreStatus(lasting=True, claimed=3, fault="no space", paused=["f"])
        samples = read(figures(store=store, commits=Commits(seconds, 7)))
        self.assertEqual(samples["taskd_store_up",], 0)
        self.assertEqual(samples["taskd_store_claimed",], 3)
        self.assertEqual(samples["taskd_functions_paused",], 1)
        self.assertEqual(samples["taskd_store_failures_total",], 7)
        self.assertEqual(samples["taskd_store_commit_seconds_bucket", "0.1"], 1)
        self.assertNotIn(("taskd_store_up",), read(figures()))
