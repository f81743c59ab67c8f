"""Long results on their way to whoever asked, and the refusal of calls when the memory is spent."""

import json

from msgspec import Raw

from taskd.scheduler.arrivals import WAIT
from taskd.worker.messages import Dropped
from tests.unit.pools import ServerCase

MIB = 1024 * 1024


class LongResultTests(ServerCase):
    def ask(self, connection, *functions):
        for function in functions:
            connection.send(b'{"function":"%b"}\n' % function.encode())
        self.turn()

    def test_a_result_counts_for_whom_it_is_until_it_is_complete(self):
        self.make()
        client = self.connect()
        self.ask(client, "f")
        self.assertTrue(self.pool.observer.result_grows(1, MIB))
        self.assertTrue(self.pool.observer.result_grows(1, 3 * MIB))
        self.assertEqual(self.server.budget.held, 3 * MIB)
        self.pool.observer.result_arrived(1)
        self.assertEqual(self.server.budget.held, 0)
        self.pool.finish(1)
        self.turn()
        self.assertEqual(client.lines(), [b"1"])
