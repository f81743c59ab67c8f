"""Connections that watch stored tasks: every event once and in order, however slowly they read."""

from taskd.durable import attaching, events
from taskd.store.records import Event
from tests.unit.durable.test_methods import StoredCase

ATTEMPT = 1 << 32


class AttachCase(StoredCase):
    def setUp(self):
        super().setUp()
        self.make()
        self.load()

    def submit(self, **options):
        return self.ask("submit", "g", [1], options)["task"]

    def attach(self, client, task, after=0):
        client.call("taskd.attach", params={"task": task, "after": after})
        self.turns()
        reply, *pushed = client.received()
        return reply.get("result", reply.get("error")), [each["params"] for each in pushed]

    def pushed(self, client):
        return [each["params"] for each in client.received()]

    def names(self, client):
        return [each["event"] for each in self.pushed(client)]

    def report(self, *progress, seconds=0.0):
        self.clock.advance(seconds)
        [number] = [number for number, worker in self.pool.workers.items() if worker.attempts]
        self.pool.report(number, *progress)


class AttachTests(AttachCase):
    def test_events_are_pushed_from_the_first_to_the_last(self):
        task = self.submit()
        client = self.connect()
        reply, early = self.attach(client, task)
        self.assertEqual(reply, {"state": "running", "seq": ATTEMPT})
        self.assertEqual(
            early,
            [
                {"task": task, "seq": 1, "event": "queued", "at": 1000.0},
                {"task": task, "seq": ATTEMPT, "event": "started", "at": 1000.0, "attempt": 1},
            ],
        )
        self.report(1, 2, "half")
        [half] = self.pushed(client)
        self.assertEqual(
            (half["event"], half["done"], half["total"], half["message"]), ("progress", 1, 2, "half")
        )
        self.finish()
        [last] = self.pushed(client)
        self.assertEqual((last["event"], last["result"]), ("succeeded", 1))
        self.assertGreater(last["seq"], half["seq"])
        self.assertEqual(self.ask("detach", task), {"was": "not attached"})

    def test_an_attached_connection_gets_what_follows_and_not_what_it_has_seen(self):
        task = self.submit()
        client = self.connect()
        _, early = self.attach(client, task, after=1)
        self.assertEqual([each["event"] for each in early], ["started"])
        self.attach(client, task, after=ATTEMPT)
        self.finish()
        self.assertEqual(self.names(client), ["succeeded"])

    def test_the_end_of_a_task_that_has_ended_is_pushed_and_nothing_is_kept_for_it(self):
        task = self.submit()
        self.finish()
        client = self.connect()
        reply, early = self.attach(client, task)
        self.assertEqual(
            (reply["state"], [each["event"] for each in early]),
            ("succeeded", ["queued", "started", "succeeded"]),
        )
        self.assertEqual(client.protocol.client.watches, 0)
        reply, early = self.attach(client, task, after=reply["seq"])
        self.assertEqual((reply["state"], early, client.protocol.client.watches), ("succeeded", [], 0))

    def test_a_connection_that_detaches_or_is_gone_gets_nothing_more(self):
        task = self.submit()
        client, gone = self.connect(), self.connect()
        self.attach(client, task)
        self.attach(gone, task)
        client.call("taskd.detach", params={"task": task})
        self.assertEqual(client.reply(), {"was": "attached"})
        gone.disconnect()
        self.report(1)
        self.finish()
        self.assertEqual((client.received(), gone.received()), ([], []))
        self.assertEqual((client.protocol.client.watches, gone.protocol.client.watches), (0, 0))

    def test_many_connections_watch_one_task(self):
        task = self.submit()
        clients = [self.connect() for _ in range(20)]
        for client in clients:
            self.attach(client, task)
        self.finish()
        self.assertEqual([self.names(client) for client in clients], [["succeeded"]] * 20)

    def test_many_connections_get_progress_four_times_a_second(self):
        self.patch(events, "CROWD", 2)
        task = self.submit()
        clients = [self.connect() for _ in range(3)]
        for client in clients:
            self.attach(client, task)
        for number in range(100):
            self.report(number, seconds=0.01)
            self.turns()
        got = [[each.get("done") for each in self.pushed(client)] for client in clients]
        self.assertEqual(got[0], got[2])
        self.assertLessEqual(len(got[0]), 4)
        self.report(100)
        self.finish()
        last = [self.pushed(client) for client in clients]
        self.assertEqual([each["event"] for each in last[0]], ["progress", "succeeded"])
        self.assertEqual(last[0][0]["done"], 100)
        self.clock.advance(1.0)
        self.assertEqual(clients[0].received(), [])

    def test_the_first_progress_to_many_connections_is_pushed_at_once(self):
        self.patch(events, "CROWD", 2)
        task = self.submit()
        clients = [self.connect() for _ in range(3)]
        for client in clients:
            self.attach(client, task)
        for number in range(4):
            self.report(number)
            self.assertEqual([each["done"] for each in self.pushed(clients[2]) if "done" in each], [number])
            self.clock.advance(1.0)

    def test_a_second_watcher_gets_progress_that_is_pushed_and_not_stored_yet(self):
        task = self.submit()
        first, second = self.connect(), self.connect()
        self.attach(first, task)
        self.report(1)
        self.report(2)
        self.assertEqual([each["done"] for each in self.pushed(first) if "done" in each], [1, 2])
        _, early = self.attach(second, task)
        self.assertEqual(early[-1]["done"], 2)
        self.clock.advance(1.0)
        self.turns()
        self.assertEqual([self.pushed(client) for client in (first, second)], [[], []])

    def test_events_follow_the_reply_to_the_batch_with_the_attach(self):
        tasks = [self.submit(), self.submit()]
        client = self.connect()
        methods = [("attach", task) for task in tasks] + [("attach", tasks[0]), ("wait", tasks[0])]
        client.send([
            {"jsonrpc": "2.0", "id": number, "method": f"taskd.{method}", "params": [task]}
            for number, (method, task) in enumerate(methods)
        ])  # fmt: skip
        self.turns()
        self.report(1)
        self.assertEqual(client.received(), [])
        self.finish()
        self.turns()
        replies, *pushed = client.received()
        self.assertEqual([each["id"] for each in replies], [0, 1, 2, 3])
        events = [each["params"] for each in pushed]
        of_first = [each["event"] for each in events if each["task"] == tasks[0]]
        self.assertEqual(of_first, ["queued", "started", "progress", "succeeded"])
        of_second = [each["event"] for each in events if each["task"] == tasks[1]]
        self.assertEqual(of_second[0], "queued")
        self.assertEqual(client.protocol.client.watches, 1)

    def test_a_batch_whose_connection_is_gone_begins_no_push(self):
        task = self.submit()
        client = self.connect()
        client.send([
            {"jsonrpc": "2.0", "id": number, "method": f"taskd.{method}", "params": [task]}
            for number, method in enumerate(["attach", "wait"])
        ])  # fmt: skip
        self.turns()
        client.disconnect()
        self.finish()
        self.turns()
        self.assertEqual(client.protocol.client.watches, 0)

    def test_only_new_events_can_be_asked_for(self):
        task = self.submit()
        client = self.connect()
        reply, early = self.attach(client, task, after=-1)
        self.assertEqual((reply["seq"], early), (ATTEMPT, []))
        self.finish()
        self.assertEqual(self.names(client), ["succeeded"])

    def test_a_connection_that_watches_a_task_is_not_idle(self):
        task = self.submit()
        client = self.connect()
        self.attach(client, task)
        self.assertIsNone(client.protocol.client.idle_handle)

    def test_wrong_parameters_are_named(self):
        self.patch(attaching, "MAX_WATCHES", 1)
        for method, params, text in (
            ("attach", {}, "either a task or a batch"),
            ("attach", {"task": "x", "batch": "y"}, "either a task or a batch"),
            ("attach", {"task": "none"}, "there is no task none"),
            ("attach", {"batch": "none"}, "there is no batch none"),
            ("attach", {"task": "x", "after": -2}, "after is the sequence number"),
            ("events", {"task": "none"}, "there is no task none"),
            ("events", {"task": "x", "limit": 0}, "limit is 1 to 1000"),
            ("detach", {}, "either a task or a batch"),
        ):  # fmt: skip
            client = self.connect()
            client.call(f"taskd.{method}", params=params)
            self.turns()
            error = client.reply()
            self.assertEqual(error["code"], -32602, (method, params))
            self.assertIn(text, error["message"])
        client = self.connect()
        self.attach(client, self.submit())
        error, _ = self.attach(client, self.submit())
        self.assertIn("at most 1 tasks", error["message"])

    def test_a_notification_attaches_nothing(self):
        task = self.submit()
        client = self.connect()
        client.send({"jsonrpc": "2.0", "method": "taskd.attach", "params": [task]})
        self.turns()
        self.finish()
        self.assertEqual(client.received(), [])

    def test_a_log_that_cannot_be_read_is_an_error(self):
        task = self.submit()
        client = self.connect()
        self.fails = True
        error, _ = self.attach(client, task)
        self.assertIn("the disk is full", error["message"])
        self.assertIn("the disk is full", self.ask("events", task)["message"])
        self.assertEqual(client.protocol.client.watches, 0)

    def test_the_events_of_a_task_can_be_read(self):
        task = self.submit()
        self.finish()
        read = self.ask("events", task)
        self.assertEqual([each["event"] for each in read], ["queued", "started", "succeeded"])
        self.assertEqual(read[-1]["result"], 1)
        self.assertEqual(self.ask("events", task, None, 1, 1), read[1:2])
        self.assertEqual(self.ask("events", task, None, read[-1]["seq"]), [])

    def test_a_task_that_is_tried_again_by_hand_is_still_watched(self):
        task = self.submit()
        client = self.connect()
        self.attach(client, task)
        [number] = [number for number, worker in self.pool.workers.items() if worker.attempts]
        self.pool.fail(number)
        self.turns()
        self.assertEqual(self.names(client), ["failed"])
        self.tasks.writer.put_back(task, lambda state: None)
        self.turns()
        self.tasks.use(self.server.functions)
        self.turns()
        self.finish()
        self.assertEqual(self.names(client), ["queued", "started", "succeeded"])


class SlowReaderTests(AttachCase):
    def slow(self):
        client = self.connect()
        return client, client.protocol.client.sender

    def test_a_connection_that_does_not_read_costs_nothing_and_then_gets_all_but_old_progress(self):
        task = self.submit()
        client, sender = self.slow()
        other = self.connect()
        self.attach(client, task)
        self.attach(other, task)
        sender.pauseProducing()
        for number in range(50):
            self.report(number, 50, seconds=0.3)
        self.turns()
        self.assertEqual(len(self.pushed(other)), 50)
        self.assertEqual((client.received(), sender.unsent), ([], sender.unsent))
        sender.resumeProducing()
        self.turns()
        [newest] = self.pushed(client)
        self.assertEqual((newest["event"], newest["done"]), ("progress", 49))
        sender.pauseProducing()
        self.finish()
        self.assertEqual(client.received(), [])
        sender.resumeProducing()
        self.turns()
        self.assertEqual(self.names(client), ["succeeded"])

    def test_a_log_of_many_pages_is_read_in_many_turns(self):
        self.patch(events, "PAGE", 1)
        task = self.submit()
        for number in range(1, 1000):
            self.tasks.writer.event(Event(task, ATTEMPT + number, "partial", 1.0))
        self.turns()
        client, gone = self.connect(), self.connect()
        self.attach(gone, task)
        _, early = self.attach(client, task)
        gone.disconnect()
        for _ in range(1000):
            self.turn()
        seen = [each["seq"] for each in early + self.pushed(client)]
        self.assertEqual(seen, [1, *range(ATTEMPT, ATTEMPT + 1000)])
        self.finish()
        self.assertEqual(self.names(client), ["succeeded"])

    def test_a_long_log_is_read_as_the_connection_reads_it(self):
        self.patch(events, "PAGE", 3)
        task = self.submit()
        self.finish()
        whole = self.ask("events", task)
        client, sender = self.slow()
        sender.pauseProducing()
        client.call("taskd.attach", params=[task])
        self.turns()
        self.assertEqual(client.received(), [])
        sender.resumeProducing()
        self.turns()
        self.assertEqual([each["params"] for each in client.received()[1:]], whole)
