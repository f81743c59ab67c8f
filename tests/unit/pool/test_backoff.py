"""The delays after failures in a row."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.pool.backoff import FIRST_DELAY, MAX_DELAY, Backoff


class BackoffTests(SynchronousTestCase):
    def test_a_delay_doubles_with_each_failure(self):
        backoff = Backoff()
        self.assertEqual([backoff.next_delay() for _ in range(4)], [FIRST_DELAY * 2**n for n in range(4)])

    def test_a_delay_never_exceeds_the_longest(self):
        backoff = Backoff()
        delays = [backoff.next_delay() for _ in range(10_000)]
        self.assertEqual((max(delays), delays[-1]), (MAX_DELAY, MAX_DELAY))

    def test_the_delays_begin_again_after_a_success(self):
        backoff = Backoff()
        for _ in range(5):
            backoff.next_delay()
        backoff.reset()
        self.assertEqual(backoff.next_delay(), FIRST_DELAY)
