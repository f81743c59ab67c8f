"""The choice of a task server: the least busy, and none that failed lately if there is another."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from twisted.trial.unittest import SynchronousTestCase

from taskd.client.balancer import Balancer

FIRST, LONGEST = 1.0, 30.0
"""Seconds of a server's penalty: after its first failure, and at most."""


class BalancerTests(SynchronousTestCase):
    def setUp(self):
        self.balancer = Balancer(["a", "b", "c"])
        self.a, self.b, self.c = self.balancer.servers

    def start(self, now=0.0):
        server = self.balancer.choose(now)
        self.balancer.started(server)
        return server

    def make_fail(self, server, now):
        self.balancer.started(server)
        self.balancer.failed(server, now)

    def test_calls_go_to_the_least_busy_server(self):
        self.assertEqual({self.start() for _ in range(3)}, {self.a, self.b, self.c})
        self.balancer.answered(self.b)
        self.assertIs(self.start(), self.b)
        self.assertEqual([server.in_flight for server in self.balancer.servers], [1, 1, 1])

    def test_a_call_that_nobody_waits_for_is_not_in_flight(self):
        first = self.start()
        self.start()
        self.start()
        self.balancer.abandoned(first)
        self.assertIs(self.start(), first)

    def test_a_server_that_was_tried_is_not_chosen_again(self):
        self.assertIs(self.balancer.choose(0.0, [self.a]), self.b)
        self.assertIs(self.balancer.choose(0.0, [self.a, self.b]), self.c)
        self.assertIsNone(self.balancer.choose(0.0, [self.a, self.b, self.c]))

    def test_a_server_that_failed_is_left_alone_for_a_second(self):
        self.make_fail(self.a, 10.0)
        for _ in range(2):
            self.assertIsNot(self.start(10.0 + FIRST - 0.01), self.a)
        self.assertIs(self.start(10.0 + FIRST), self.a)

    def test_the_penalty_of_a_server_grows_with_each_failure_up_to_half_a_minute(self):
        now, waits = 0.0, []
        for _ in range(8):
            self.make_fail(self.a, now)
            waits.append(self.a.left_alone_until - now)
            now = self.a.left_alone_until
        self.assertEqual(waits, [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST, LONGEST, LONGEST])

    def test_calls_that_fail_together_count_as_one_failure(self):
        for _ in range(50):
            self.balancer.started(self.a)
        for _ in range(50):
            self.balancer.failed(self.a, 5.0)
        self.assertEqual(self.a.left_alone_until, 5.0 + FIRST)
        self.assertEqual(self.a.in_flight, 0)

    def test_an_answer_ends_the_penalty_and_forgets_the_failures(self):
        self.make_fail(self.a, 0.0)
        self.make_fail(self.a, 1.0)
        self.balancer.started(self.a)
        self.balancer.answered(self.a)
        self.assertIs(self.balancer.choose(1.5), self.a)
        self.make_fail(self.a, 10.0)
        self.assertEqual(self.a.left_alone_until, 10.0 + FIRST)

    def test_if_all_failed_the_one_whose_penalty_ends_first_is_tried(self):
        self.make_fail(self.a, 3.0)
        self.make_fail(self.b, 1.0)
        self.make_fail(self.c, 2.0)
        self.assertIs(self.balancer.choose(3.0, ()), self.b)
        self.assertIs(self.balancer.choose(3.0, [self.b]), self.c)

    def test_a_server_under_a_penalty_is_better_than_none(self):
        self.make_fail(self.a, 0.0)
        self.assertIs(self.balancer.choose(0.5, [self.b, self.c]), self.a)

    def test_a_failure_of_long_ago_does_not_overflow(self):
        now = 0.0
        for _ in range(5000):
            self.make_fail(self.a, now)
            now = self.a.left_alone_until
        self.assertEqual(self.a.left_alone_until - now, 0.0)

    def test_two_servers_of_the_same_name_are_distinct(self):
        balancer = Balancer(["same", "same"])
        first = balancer.choose(0.0)
        self.assertIsNot(balancer.choose(0.0, [first]), first)
        self.assertIsNotNone(balancer.choose(0.0, [first]))

    def test_a_balancer_without_servers_chooses_none(self):
        self.assertIsNone(Balancer([]).choose(0.0))


class BalancerMachine(RuleBasedStateMachine):
    """Any order of calls and their ends, against a model."""

    def __init__(self):
        super().__init__()
        self.balancer = Balancer(["a", "b", "c"])
        self.now = 0.0
        self.in_flight = []

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 5.0, 40.0]))
    def pass_time(self, seconds):
        self.now += seconds

    @rule(tried=st.sets(st.integers(0, 2)))
    def call(self, tried):
        servers = self.balancer.servers
        tried = [servers[number] for number in tried]
        chosen = self.balancer.choose(self.now, tried)
        left = [server for server in servers if server not in tried]
        if not left:
            assert chosen is None
            return
        assert chosen in left
        free = [server for server in left if server.left_alone_until <= self.now]
        if free:
            assert chosen in free
            assert chosen.in_flight == min(server.in_flight for server in free)
        self.balancer.started(chosen)
        self.in_flight.append(chosen)

    @precondition(lambda self: self.in_flight)
    @rule(end=st.sampled_from(["answered", "abandoned", "failed"]), data=st.data())
    def end(self, end, data):
        server = data.draw(st.sampled_from(self.in_flight))
        self.in_flight.remove(server)
        if end == "failed":
            self.balancer.failed(server, self.now)
            assert self.now < server.left_alone_until <= self.now + LONGEST
        else:
            getattr(self.balancer, end)(server)

    @invariant()
    def counts_what_is_under_way(self):
        for server in self.balancer.servers:
            assert server.in_flight == self.in_flight.count(server)


class MachineTests(SynchronousTestCase):
    def test_any_order_of_calls_and_their_ends_agrees_with_the_model(self):
        run_machine(BalancerMachine)
