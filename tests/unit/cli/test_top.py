"""`taskd top`: when the server is asked, what is drawn, and what the keys do."""

from click.testing import CliRunner
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli import console
from taskd.cli.main import main
from taskd.cli.running import USAGE
from taskd.cli.top import INTERVAL, Top
from taskd.errors import NotAllowed, Unreachable, WaitTimeout
from tests.unit.cli.test_status_view import answer


class TopTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.asked = []
        self.drawn = []
        self.top = Top(self.clock, self.ask, self.draw)
        self.ended = Deferred.fromCoroutine(self.top.run())

    def ask(self):
        self.asked.append(Deferred())
        return self.asked[-1]

    def draw(self, history, order, problem):
        self.drawn.append((history.last and history.last["uptime"], order, problem))

    def answer(self, uptime):
        self.asked[-1].callback(answer(uptime=uptime))

    def test_the_server_is_asked_each_second_and_each_answer_is_drawn(self):
        self.assertEqual(len(self.asked), 1)
        self.answer(5.0)
        self.assertEqual(self.drawn[-1], (5.0, "rate", None))
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.asked), 2)
        self.answer(6.0)
        self.assertEqual(self.drawn[-1], (6.0, "rate", None))
        self.assertNoResult(self.ended)

    def test_a_slow_server_is_not_asked_again_before_it_has_answered(self):
        self.answer(5.0)
        self.clock.pump([INTERVAL] * 4)
        self.assertEqual(len(self.asked), 2)
        self.assertEqual(len(self.drawn), 6)

    def test_q_ends_it(self):
        self.top.pressed("xQ")
        self.successResultOf(self.ended)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.top.pressed("q")
        self.answer(5.0)

    def test_s_takes_the_next_order_and_draws_at_once(self):
        self.answer(5.0)
        orders = []
        for _ in range(4):
            self.top.pressed("s")
            orders.append(self.drawn[-1][1])
        self.assertEqual(orders, ["mean", "failures", "name", "rate"])

    def test_a_server_that_is_being_restarted_is_asked_again_and_its_figures_are_called_old(self):
        self.answer(100.0)
        for problem in (Unreachable("gone"), WaitTimeout("slow")):
            self.clock.advance(INTERVAL)
            self.asked[-1].errback(problem)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.drawn[-1], (100.0, "rate", "these figures are 3.0 s old: slow"))
        self.answer(1.0)
        self.assertEqual(self.drawn[-1], (1.0, "rate", None))

    def test_a_server_that_was_never_reached_ends_it(self):
        self.asked[-1].errback(Unreachable("gone"))
        self.failureResultOf(self.ended, Unreachable)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_refusal_ends_it(self):
        self.answer(5.0)
        self.clock.advance(INTERVAL)
        self.asked[-1].errback(NotAllowed("no"))
        self.failureResultOf(self.ended, NotAllowed)

    def test_a_picture_that_cannot_be_drawn_ends_it_with_the_reason(self):
        def fail(*_):
            raise ZeroDivisionError

        top = Top(self.clock, self.ask, fail)
        self.failureResultOf(Deferred.fromCoroutine(top.run()), ZeroDivisionError)

    def test_without_a_terminal_it_refuses_and_says_what_would_do(self):
        printed = []
        self.patch(console.err, "print", lambda text, **_: printed.append(text))
        self.assertEqual(CliRunner().invoke(main, ["top"]).exit_code, USAGE)
        self.assertIn("taskd top --once", printed[0])
