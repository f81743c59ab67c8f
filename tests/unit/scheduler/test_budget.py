"""The byte budget: shares, slots, refusals; and what no course of events may break."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from taskd.scheduler.arrivals import DRAINED, WAIT
from taskd.scheduler.budget import (
    GUARANTEED,
    MAX_BUFFERED,
    MIN_BUFFERED,
    MIN_MESSAGES,
    RESERVED,
    SLOT_SECONDS,
    STUCK_SECONDS,
    TICK,
    Budget,
    least_limit,
)

KIB, MIB = 1024, 1024 * 1024
LONGEST = 10 * MIB
READ, SMALL_READ = 65536, 4096
"""Bytes of one read, while there is plenty and while memory is scarce."""


class Connection:
    """A connection that reads when it may, and holds what it has read until the test releases it."""

    def __init__(self, budget, party="party"):
        self.budget = budget
        self.account = budget.account(party, self)
        self.unfinished = self.complete = self.replies = 0
        self.looks = self.refusals = 0
        self.is_working = False

    @property
    def held(self):
        return self.unfinished + self.complete + self.replies

    def budget_changed(self):
        self.looks += 1

    def refuse_unfinished(self):
        self.refusals += 1
        self.unfinished = 0
        self.count()

    def count(self):
        self.account.update(self.held, self.replies, self.unfinished, is_working=self.is_working)
        if not (self.account.may_receive and self.account.may_reply):
            self.account.wait()

    def read(self, size=READ):
        """Read a piece of a message, if that is allowed; return whether it was."""
        if not self.account.may_receive:
            return False
        self.unfinished += size
        self.count()
        return True

    def read_all(self, size):
        """Read a message for as long as that is allowed; return how much of it was read."""
        while self.unfinished < size:
            piece = SMALL_READ if self.budget.is_scarce else READ
            if not self.read(min(piece, size - self.unfinished)):
                break
        return self.unfinished

    def finish_message(self):
        """Hold the message as the arguments of a task."""
        self.account.message_completed()
        self.complete += self.unfinished
        self.unfinished = 0
        self.is_working = True
        self.count()

    def end_task(self, reply=0):
        self.complete, self.is_working = 0, False
        self.replies += reply
        self.count()

    def is_read_by_client(self):
        self.replies = 0
        self.count()


class BudgetCase(SynchronousTestCase):
    def setUp(self):
        self.budget = Budget()
        self.now = 0.0

    def connect(self, party="party"):
        return Connection(self.budget, party)

    def pass_time(self, seconds):
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            self.budget.tick(self.now)


class ShareTests(BudgetCase):
    def test_a_connection_that_is_alone_may_hold_a_sixth_of_what_is_shared(self):
        alone = self.connect()
        alone.read_all(MAX_BUFFERED)
        self.assertLess(abs(alone.held - self.budget.shared / 6), READ)
        self.assertEqual(self.budget.held, alone.held)

    def test_the_connections_of_one_party_hold_no_more_than_half(self):
        for number in (10, 100):
            budget = Budget()
            for connection in [Connection(budget) for _ in range(number)]:
                connection.read_all(MAX_BUFFERED)
            self.assertLessEqual(budget.held, budget.shared / 2 + number * READ)

    def test_a_newcomer_gets_a_small_call_in_however_many_hold_their_share(self):
        for parties in (1, 100, 2000):
            budget = Budget()
            attackers = [Connection(budget, f"party {number % parties}") for number in range(2000)]
            for attacker in attackers:
                attacker.read_all(LONGEST)
            for party in ("party 0", "another"):
                newcomer = Connection(budget, party)
                self.assertEqual(newcomer.read_all(GUARANTEED), GUARANTEED)
                newcomer.finish_message()
                self.assertTrue(newcomer.account.may_reply)
            self.assertFalse(budget.is_spent)

    def test_arguments_stop_the_reading_but_not_the_tasks(self):
        connection = self.connect()
        connection.read_all(MAX_BUFFERED)
        connection.finish_message()
        self.assertFalse(connection.account.may_receive)
        self.assertTrue(connection.account.may_reply)

    def test_replies_over_the_share_stop_the_tasks(self):
        connection = self.connect()
        connection.end_task(reply=60 * MIB)
        self.assertFalse(connection.account.may_reply)
        connection.is_read_by_client()
        self.assertTrue(connection.account.may_reply)

    def test_a_waiting_connection_is_called_when_there_is_room(self):
        first, second = self.connect("a"), self.connect("a")
        first.read_all(MAX_BUFFERED)
        first.finish_message()
        second.end_task(reply=MAX_BUFFERED // 2)
        self.assertTrue(self.budget.is_waited_for)
        self.pass_time(1)
        self.assertEqual((first.looks, second.looks), (0, 0))
        first.end_task()
        second.is_read_by_client()
        self.pass_time(1)
        self.assertEqual((first.looks, second.looks), (1, 1))
        self.assertFalse(self.budget.is_waited_for)

    def test_the_whole_is_spent_only_by_what_cannot_be_refused(self):
        connection = self.connect()
        connection.end_task(reply=MAX_BUFFERED)
        self.assertFalse(self.budget.is_spent)
        connection.end_task(reply=1)
        self.assertTrue(self.budget.is_spent)

    def test_scarcity_begins_above_half_and_ends_well_below(self):
        changes = []
        self.budget.on_scarcity.append(lambda: changes.append(self.budget.is_scarce))
        connection = self.connect()
        for reply in (MAX_BUFFERED // 2, 1, -MAX_BUFFERED // 16, MAX_BUFFERED // 16, -MAX_BUFFERED // 4):
            connection.end_task(reply=reply)
        self.assertEqual(changes, [True, False])

    def test_the_parties_that_hold_most_are_shown(self):
        for party in range(20):
            for _ in range(2):
                self.connect(str(party)).end_task(reply=party)
        self.assertEqual(self.budget.biggest(2), [("19", 38, 2), ("18", 36, 2)])
        self.assertEqual(len(self.budget.biggest()), 10)
        self.assertNotIn("0", [name for name, _, _ in self.budget.biggest(20)])

    def test_the_smallest_budget_holds_several_messages(self):
        self.assertEqual(least_limit(64), MIN_BUFFERED)
        self.assertEqual(least_limit(100 * MIB), MIN_MESSAGES * 100 * MIB)
        alone = Connection(Budget(least_limit(LONGEST), LONGEST))
        self.assertEqual(alone.read_all(LONGEST), LONGEST)

    def test_the_hook_is_called_when_somebody_begins_to_wait(self):
        calls = []
        self.budget.begin_to_tick = lambda: calls.append(self.budget.waiting)
        for connection in (self.connect(), self.connect()):
            connection.read_all(MAX_BUFFERED)
        self.assertEqual(calls[0], 0)
        self.assertEqual(self.budget.waiting, 2)


class EndTests(BudgetCase):
    def test_a_closed_account_holds_nothing_and_waits_for_nothing(self):
        connection = self.connect()
        connection.read_all(MAX_BUFFERED)
        connection.account.close()
        connection.account.close()
        self.assertEqual((self.budget.held, self.budget.waiting, self.budget.biggest()), (0, 0, []))
        connection.account.look()
        connection.account.refuse()
        self.assertEqual((connection.looks, connection.refusals), (0, 0))

    def test_the_arguments_of_tasks_that_go_on_are_held_for_the_party_until_they_end(self):
        heir, other = self.budget.account("party", None), self.connect()
        heir.update(3 * MIB)
        self.assertEqual(self.budget.biggest(), [("party", 3 * MIB, 2)])
        heir.release(2 * MIB)
        self.assertEqual(self.budget.held, MIB)
        heir.release(MIB)
        self.assertEqual(self.budget.held, 0)
        other.end_task(reply=1)
        self.assertEqual(self.budget.biggest(), [("party", 1, 1)])


class SlotTests(BudgetCase):
    def fill(self, number, size=LONGEST - 1):
        connections = [self.connect(f"party {n}") for n in range(number)]
        for connection in connections:
            connection.read_all(size)
        return connections

    def test_every_connection_gets_a_message_of_the_greatest_length_in_at_last(self):
        connections = self.fill(100)
        for _ in range(2000):
            for connection in [each for each in connections if each.unfinished]:
                if connection.read_all(LONGEST) == LONGEST:
                    connection.finish_message()
                    connection.end_task()
            self.assertLessEqual(self.budget.held, self.budget.limit)
            self.pass_time(TICK)
            if not any(connection.unfinished for connection in connections):
                break
        self.assertEqual([connection.unfinished for connection in connections], [0] * 100)

    def test_a_slot_is_for_one_message(self):
        connections = self.fill(100)
        self.pass_time(TICK)
        lucky = next(each for each in connections if each.account.may_receive)
        self.assertEqual(lucky.read_all(LONGEST), LONGEST)
        lucky.finish_message()
        lucky.unfinished = 1
        lucky.count()
        self.assertFalse(lucky.account.may_receive)

    def test_a_slot_does_not_allow_more_than_the_longest_message(self):
        connections = self.fill(100)
        self.pass_time(TICK)
        lucky = next(each for each in connections if each.account.may_receive)
        lucky.unfinished = LONGEST + 1
        lucky.count()
        self.assertFalse(lucky.account.may_receive)
        self.pass_time(TICK)

    def test_a_message_that_takes_more_than_the_longest_one_gets_no_slot(self):
        """A websocket's message in pieces takes more than its bytes."""
        self.connect("holder").end_task(reply=self.budget.limit)
        connection = self.connect()
        connection.unfinished = LONGEST + 1
        connection.count()
        self.pass_time(TICK)
        self.assertFalse(connection.account.may_receive)

    def test_slots_promise_nothing_while_what_they_were_given_for_is_held(self):
        connections = self.fill(100)
        for _ in range(400):
            for connection in connections:
                if connection.unfinished and connection.read_all(LONGEST) == LONGEST:
                    connection.finish_message()  # and its task takes long
            self.pass_time(TICK)
        usable = self.budget.limit - self.budget.limit // RESERVED
        self.assertLessEqual(self.budget.held, usable + 100 * SMALL_READ)

    def test_slots_never_promise_more_than_there_is(self):
        connections = self.fill(100)
        self.pass_time(TICK)
        for connection in connections:
            connection.read_all(LONGEST)
        self.assertLessEqual(
            self.budget.held, self.budget.limit - self.budget.limit // RESERVED + 100 * SMALL_READ
        )

    def test_a_slot_of_one_that_does_not_get_on_goes_to_another(self):
        connections = self.fill(100)
        for connection in connections:
            connection.is_working = True  # or they would be refused before
            connection.count()
        self.pass_time(TICK)
        lucky = [each for each in connections if each.account.may_receive]
        self.assertTrue(lucky)
        self.pass_time(SLOT_SECONDS + 1)
        self.assertNotEqual([each for each in connections if each.account.may_receive], lucky)


class RefusalTests(BudgetCase):
    def test_a_connection_that_stands_still_in_the_middle_of_a_message_is_refused(self):
        connections = [self.connect() for _ in range(200)]
        for connection in connections:
            connection.read_all(LONGEST - 1)
        self.pass_time(STUCK_SECONDS - 1)
        self.assertEqual(sum(connection.refusals for connection in connections), 0)
        self.pass_time(2)
        self.assertGreater(sum(connection.refusals for connection in connections), 100)

    def test_a_connection_that_gets_a_little_now_and_then_is_refused_and_one_that_gets_on_is_not(self):
        for piece, refused in ((LONGEST // 1000, True), (LONGEST // 14, False)):
            self.setUp()
            holder = self.connect("holder")
            holder.end_task(reply=self.budget.limit)
            *others, slow = (self.connect(str(number)) for number in range(20))
            for each in (*others, slow):  # the others have all slots
                each.unfinished, each.is_working = GUARANTEED + 1, each is not slow
                each.count()
            self.pass_time(TICK)
            for _ in range(12):
                slow.unfinished += piece
                slow.count()
                self.pass_time(STUCK_SECONDS / 10)
            self.assertEqual(bool(slow.refusals), refused)

    def test_a_connection_whose_own_tasks_run_is_not_refused(self):
        connections = [self.connect() for _ in range(200)]
        for connection in connections:
            connection.is_working = True
            connection.read_all(LONGEST - 1)
        self.pass_time(STUCK_SECONDS + 1)
        self.assertEqual(sum(connection.refusals for connection in connections), 0)

    def test_a_connection_that_another_ones_look_has_closed_is_passed_over(self):
        holder = self.connect("holder")
        holder.end_task(reply=self.budget.limit)
        connections = [self.connect() for _ in range(2)]
        for connection in connections:
            connection.end_task(reply=MIB)
        connections[0].budget_changed = connections[1].account.close
        holder.is_read_by_client()
        self.pass_time(TICK)
        self.assertEqual(connections[1].looks, 0)

    def test_a_connection_that_anothers_refusal_closes_is_passed_over(self):
        connections = [self.connect() for _ in range(200)]
        for connection in connections:
            connection.read_all(LONGEST - 1)
        stuck = [each for each in connections if not each.account.may_receive]

        def refuse():
            for each in stuck:
                each.account.close()

        stuck[0].refuse_unfinished = refuse
        self.pass_time(STUCK_SECONDS + 1)
        self.assertEqual(self.budget.waiting, 0)


class ArrivalTests(BudgetCase):
    """Long results that come from workers."""

    def setUp(self):
        super().setUp()
        self.read_on, self.dropped = [], []
        self.is_needed = False

    def arrive(self, connection, size=0):
        arrival = connection.account.arrival(
            lambda: self.read_on.append(arrival), lambda: self.drop(arrival), lambda: self.is_needed
        )
        return arrival, arrival.grow(size)

    def drop(self, arrival):
        self.dropped.append(arrival)
        arrival.end()

    def test_results_within_the_share_are_read(self):
        connection = self.connect()
        arrival, goes_on = self.arrive(connection, 10 * MIB)
        self.assertTrue(goes_on)
        self.assertEqual(self.budget.held, 10 * MIB)
        arrival.end()
        self.assertEqual(self.budget.held, 0)

    def test_one_result_goes_on_in_any_case_and_then_the_next_one(self):
        connection = self.connect()
        arrivals = [self.arrive(connection, MIB) for _ in range(50)]
        waiting = [arrival for arrival, goes_on in arrivals if not goes_on]
        self.assertGreater(len(waiting), 10)
        self.pass_time(TICK)
        self.assertEqual(self.read_on, waiting[:1])
        self.assertTrue(waiting[0].grow(MIB))
        waiting[0].end()
        self.assertEqual(self.read_on, waiting[:2])

    def test_the_results_for_a_client_that_reads_nothing_are_dropped_after_a_time(self):
        connection = self.connect()
        connection.end_task(reply=60 * MIB)
        arrival, goes_on = self.arrive(connection, MIB)
        self.assertFalse(goes_on)
        self.pass_time(WAIT - 1)
        connection.replies -= MIB  # the client reads: the time begins again
        connection.count()
        self.pass_time(WAIT - 1)
        self.assertEqual(self.dropped, [])
        self.pass_time(2)
        self.assertEqual((self.dropped, self.read_on), ([arrival], []))
        self.assertEqual(len(self.budget.arrivals), 0)

    def test_only_the_clients_own_reading_lets_its_results_wait_for_longer(self):
        connections = [self.connect(party) for party in "ab"]
        for connection in connections:
            connection.end_task(reply=100 * MIB)
        _, (second, _) = [self.arrive(connection, MIB) for connection in connections]
        self.pass_time(WAIT - 1)
        connections[0].replies -= MIB
        connections[0].count()
        self.pass_time(2)
        self.assertEqual(self.dropped, [second])

    def test_a_result_is_read_on_when_there_is_room(self):
        connection = self.connect()
        connection.end_task(reply=60 * MIB)
        arrival, _ = self.arrive(connection, MIB)
        connection.is_read_by_client()
        self.pass_time(TICK)
        self.assertEqual(self.read_on, [arrival])

    def test_a_first_result_that_does_not_get_on_makes_room_for_another(self):
        connection = self.connect()
        for _ in range(50):
            self.arrive(connection, MIB)
        self.pass_time(TICK)
        first = self.read_on[0]
        connection.is_read_by_client()
        self.pass_time(WAIT - 1)
        self.assertTrue(first.grow(1))
        self.pass_time(1.5)
        self.assertGreater(len(self.read_on) + len(self.dropped), 1)

    def test_the_results_of_a_connection_that_is_gone_are_read_and_not_waited_with(self):
        connection = self.connect()
        connection.end_task(reply=60 * MIB)
        arrival, _ = self.arrive(connection, MIB)
        connection.account.close()
        self.assertEqual(self.read_on, [arrival])
        arrival.end()
        self.assertEqual(self.budget.held, 0)

    def test_a_result_that_another_ones_end_has_ended_is_passed_over(self):
        connection = self.connect()
        connection.end_task(reply=60 * MIB)
        arrivals = []

        def drop_all():
            for arrival in arrivals:
                arrival.end()

        for _ in range(3):
            arrivals.append(connection.account.arrival(lambda: None, drop_all, lambda: False))
            arrivals[-1].grow(MIB)
        self.pass_time(WAIT + 1)
        self.assertEqual(len(self.budget.arrivals), 0)
        self.assertEqual(self.budget.held, connection.held)

    def test_a_result_that_others_wait_for_goes_on_over_the_share(self):
        connection = self.connect()
        connection.end_task(reply=60 * MIB)
        arrival, _ = self.arrive(connection, MIB)
        self.is_needed = True
        self.pass_time(TICK)
        self.assertEqual(self.read_on, [arrival])
        self.assertTrue(arrival.grow(MIB))

    def test_no_result_goes_on_while_the_whole_is_spent(self):
        connection, other = self.connect("a"), self.connect("b")
        other.end_task(reply=self.budget.limit - 2 * MIB)
        arrival, _ = self.arrive(connection, MIB)
        self.is_needed = True
        self.pass_time(TICK)
        self.assertEqual(self.read_on, [arrival])
        self.assertFalse(arrival.grow(MIB))
        self.pass_time(WAIT - 1)
        self.assertEqual(self.read_on, [arrival])
        self.pass_time(2)
        self.assertEqual(self.dropped, [arrival])
        self.assertEqual(len(self.budget.arrivals), 0)

    def test_a_client_that_reads_is_one_that_leaves_little_unread(self):
        self.assertLessEqual(DRAINED, GUARANTEED)


class BudgetMachine(RuleBasedStateMachine):
    """Connections that read, finish, run and are read in any order."""

    LIMIT, LONGEST_MESSAGE = 16 * MIB, MIB

    def __init__(self):
        super().__init__()
        self.budget = Budget(self.LIMIT, self.LONGEST_MESSAGE)
        self.connections = []
        self.now = 0.0
        self.unrefusable = 0

    @rule(party=st.integers(0, 3), count=st.integers(1, 40))
    def connect(self, party, count):
        self.connections += [Connection(self.budget, str(party)) for _ in range(count)]

    @rule(data=st.data(), size=st.integers(1, MIB), count=st.integers(1, 40))
    def read(self, data, size, count):
        for connection in (
            data.draw(st.lists(st.sampled_from(self.connections), max_size=count)) if self.connections else ()
        ):
            connection.read_all(min(size, self.LONGEST_MESSAGE))

    @rule(data=st.data())
    def finish(self, data):
        if self.connections:
            connection = data.draw(st.sampled_from(self.connections))
            if connection.unfinished:
                connection.finish_message()

    @rule(data=st.data(), size=st.integers(0, MIB))
    def end_task(self, data, size):
        if self.connections:
            connection = data.draw(st.sampled_from(self.connections))
            if connection.account.may_reply:
                connection.end_task(size)

    @rule(data=st.data())
    def read_replies(self, data):
        if self.connections:
            data.draw(st.sampled_from(self.connections)).is_read_by_client()

    @rule(data=st.data())
    def close(self, data):
        if self.connections:
            connection = data.draw(st.sampled_from(self.connections))
            self.connections.remove(connection)
            connection.account.close()

    @rule(seconds=st.floats(0.05, 15))
    def wait(self, seconds):
        for _ in range(3):
            self.now += seconds / 3
            self.budget.tick(self.now)

    @invariant()
    def what_is_counted_is_what_is_held(self):
        assert self.budget.held == sum(connection.held for connection in self.connections)

    @invariant()
    def the_limit_holds_but_for_one_read_and_one_reply_of_each(self):
        replies = sum(connection.replies for connection in self.connections)
        reads = len(self.connections) * (READ + GUARANTEED)
        assert self.budget.held - replies <= self.LIMIT - self.LIMIT // RESERVED + reads

    @invariant()
    def a_newcomer_gets_a_small_call_in(self):
        for party in ("0", "newcomer"):
            newcomer = Connection(self.budget, party)
            assert newcomer.read_all(GUARANTEED) == GUARANTEED
            newcomer.account.close()

    def teardown(self):
        """Whatever waits gets on in the end: every message is complete or refused, every task may run."""
        for _ in range(20_000):
            busy = [each for each in self.connections if each.held]
            if not busy:
                break
            for connection in busy:
                if (
                    connection.unfinished
                    and connection.read_all(self.LONGEST_MESSAGE) >= self.LONGEST_MESSAGE
                ):
                    connection.finish_message()
                if connection.complete and connection.account.may_reply:
                    connection.end_task(1000)
                connection.is_read_by_client()
            self.now += TICK
            self.budget.tick(self.now)
        assert not [each for each in self.connections if each.held]
        assert self.budget.held == 0


class AnyCourseTests(SynchronousTestCase):
    def test_no_course_of_events_exceeds_the_limit_or_stands_still(self):
        run_state_machine_as_test(
            BudgetMachine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
        )

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=60), st.integers(1, 60))
    def test_any_attackers_leave_room_for_a_newcomer(self, sizes, parties):
        budget = Budget()
        attackers = [Connection(budget, str(number % parties)) for number in range(len(sizes))]
        for attacker, size in zip(attackers, sizes, strict=True):
            attacker.read_all(size)
            attacker.finish_message()
        newcomer = Connection(budget, "newcomer")
        self.assertGreaterEqual(
            newcomer.read_all(LONGEST), min(LONGEST, budget.shared // (len(sizes) + 6)) - READ
        )
        self.assertLessEqual(budget.held, budget.shared + READ * (len(sizes) + 1))
