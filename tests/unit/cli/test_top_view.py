"""The screen of `taskd top`: rates, orders, and what fits into a terminal."""

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.top_view import ORDERS, History, Screen, screen
from tests.unit.cli.test_status_view import answer


def function(name, done=0, failed=0, mean=0.001, **more):
    counts = {"done": done, "failed": failed, "timed_out": 0, "cancelled": 0, "lost": 0}
    return {"name": name, **counts, "mean": mean, "longest": mean, "timeout": None, "short": False, **more}


def worker(number, task=None):
    busy = {"state": "busy", "function": "f", "task": task, "tasks": 1}
    idle = {"state": "idle", "function": None, "task": None, "tasks": 0}
    shared = {"number": number, "pid": 1000 + number, "seconds": 1.0, "stopping": None, "done": 0}
    return {**shared, "memory_kib": None, **(idle if task is None else busy)}


class HistoryTests(SynchronousTestCase):
    def setUp(self):
        self.history = History()

    def add(self, uptime, done, name="f"):
        self.history.add(answer(uptime=uptime, counts={"done": done}, functions=[function(name, done)]))

    def test_one_answer_has_no_rate(self):
        self.assertEqual(self.history.rate("done"), 0)
        self.add(10.0, 500)
        self.assertEqual(self.history.rate("done"), 0)
        self.assertEqual(self.history.function_rate("f", "done"), 0)

    def test_rates_are_taken_between_answers_by_the_clock_of_the_server(self):
        self.add(10.0, 500)
        self.add(12.0, 800)
        self.assertEqual(self.history.rate("done"), 150)
        self.assertEqual(self.history.rate("done", "failed"), 150)
        self.assertEqual(self.history.function_rate("f", "done"), 150)
        self.assertEqual(self.history.function_rate("unknown", "done"), 0)

    def test_a_function_that_was_not_called_before_began_with_none(self):
        self.add(10.0, 500, "f")
        self.add(11.0, 20, "g")
        self.assertEqual(self.history.function_rate("g", "done"), 20)

    def test_old_answers_do_not_count(self):
        self.add(0.0, 1_000_000)
        for second in range(1, 7):
            self.add(second, 1_000_000 + second)
        self.assertEqual(self.history.rate("done"), 1)

    def test_a_restarted_server_has_a_history_of_its_own(self):
        self.add(100.0, 5000)
        self.add(1.0, 10)
        self.assertEqual(self.history.rate("done"), 0)
        self.add(2.0, 30)
        self.assertEqual(self.history.rate("done"), 20)


class ScreenTests(SynchronousTestCase):
    def lines(self, *answers, order="rate", width=100, **more):
        history = History()
        for each in answers:
            history.add(each)
        console = Console(width=width, highlight=False)
        with console.capture() as capture:
            console.print(screen(history, Screen(order, **more)))
        return [line.rstrip() for line in capture.get().splitlines()]

    def test_before_the_first_answer_the_server_is_being_asked(self):
        self.assertEqual(self.lines(), ["asking the server …"])

    def test_the_screen_has_the_server_its_use_its_functions_and_its_workers(self):
        first = answer(uptime=10.0, counts={"done": 0, "failed": 0})
        last = answer(
            uptime=12.0,
            counts={"done": 1000, "failed": 5, "lost": 1},
            functions=[function("f", 1000, 5)],
            workers=[worker(1), worker(2, task=7)],
        )
        shown = "\n".join(self.lines(first, last))
        for text in (
            "TaskWorker: taskd 1.0, up 12.0 s",
            "1 of 4 busy",
            "3 waiting",
            "0.0 MiB held for clients",
            "500 done, 3.0 failed each second",
            "1000 done, 5 failed, 1 lost",
            "q ends this, s sorts the functions (by rate now)",
        ):
            self.assertIn(text, shown)
        self.assertRegex(shown, r"\nf +500 +2\.5 +1000 +5 +1\.0 ms +1\.0 ms\n")
        self.assertRegex(shown, r"\n +2 +1002 +busy +1\.0 s +f +#7 .*\n +1 +1001 +idle ")
        self.assertNotIn("not shown", shown)

    def test_functions_are_sorted_as_asked(self):
        first = answer(uptime=0.0)
        functions = [function("slow", 1, mean=9.0), function("bad", 2, failed=50), function("fast", 500)]
        last = answer(uptime=1.0, functions=functions)
        expected = {"rate": "fast", "mean": "slow", "failures": "bad", "name": "bad"}
        self.assertEqual(set(expected), set(ORDERS))
        for order, name in expected.items():
            lines = self.lines(first, last, order=order)
            at = next(number for number, line in enumerate(lines) if line.startswith("function"))
            self.assertEqual(lines[at + 1].split()[0], name, order)

    def test_a_low_terminal_has_as_many_rows_as_fit_and_the_number_of_the_others(self):
        many = answer(
            functions=[function(f"f{number}") for number in range(20)],
            workers=[worker(number, task=number + 1) for number in range(30)],
        )
        for height in (24, 25, 40, 60):
            lines = self.lines(many, height=height)
            self.assertEqual(len(lines), height)
            self.assertRegex(lines[-1], r"not shown: (\d+ functions, )?\d+ workers$")
        self.assertEqual(len(self.lines(many, height=5)), len(self.lines(many, height=6)))

    def test_a_table_gets_the_rows_that_the_other_does_not_need(self):
        few = answer(functions=[function("f")], workers=[worker(number) for number in range(12)])
        self.assertNotIn("not shown", "".join(self.lines(few, height=24)))
        few = answer(functions=[function(f"f{number}") for number in range(12)], workers=[worker(1)])
        self.assertNotIn("not shown", "".join(self.lines(few, height=24)))

    def test_a_server_without_functions_and_workers_has_no_tables(self):
        self.assertNotIn("function", "".join(self.lines(answer(), keys=False)))

    def test_a_problem_comes_first_on_one_line_and_cannot_harm_the_terminal(self):
        lines = self.lines(answer(), problem="gone\x1b[2J\n" + "x" * 200)
        self.assertTrue(lines[0].startswith("gone\\x1b[2J xxx"))
        self.assertTrue(lines[0].endswith("…"))
        self.assertTrue(lines[1].startswith("TaskWorker"))

    def test_names_of_functions_cannot_harm_the_terminal(self):
        self.assertIn("\\x1b[2J", "".join(self.lines(answer(functions=[function("\x1b[2J")]))))
