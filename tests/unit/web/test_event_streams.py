"""Events over HTTP: as a stream that a browser reads, and as a list."""

import json

from taskd.errors import InvalidParams
from taskd.web.sse import HEARTBEAT_SECONDS
from tests.unit.web.gateways import GatewayCase, http

ID = "01a21f98-f31d-7287-9310-be3e4baaffea"
STREAM = f"/api/v1/tasks/{ID}/events"


def notification(seq, event, kind="task", **more):
    params = {kind: ID, "seq": seq, "event": event, "at": 1.5, **more}
    return json.dumps({"jsonrpc": "2.0", "method": "taskd.event", "params": params}).encode()


class StreamCase(GatewayCase):
    def begin(self, *lines, state="running", seq=1, path=STREAM, version="1.1"):
        """Ask for a stream, which the server lets begin."""
        self.client.send(http("GET", path, None, *lines, version=version))
        [(self.request, self.requester)] = self.backend.waiting
        self.assertEqual(self.request.function, "taskd.attach")
        self.backend.reply({"state": state, "seq": seq})

    def push(self, *events):
        for each in events:
            self.requester.notify(each)
        self.requester.flush()
        self.client.turns()

    @property
    def body(self):
        """What has come of the stream, without the marks of the chunks."""
        head, _, rest = self.client.socket.sent.partition(b"\r\n\r\n")
        if b"chunked" not in head:
            return rest.decode()
        body = b""
        self.is_whole = False
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            if size == b"0":
                self.is_whole = True
                break
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return body.decode()

    @property
    def events(self):
        """The events that have come: the members of each, with its data decoded."""
        found = []
        for block in self.body.split("\n\n")[:-1]:
            members = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            if "data" in members:
                found.append((members["id"], members["event"], json.loads(members["data"])))
        return found


class StreamTests(StreamCase):
    def test_each_event_has_its_number_as_id_and_its_name(self):
        self.begin()
        self.push(notification(1, "queued"), notification(2, "progress", done=1, message="a\nb"))
        first = {"task": ID, "seq": 1, "event": "queued", "at": 1.5}
        second = {"task": ID, "seq": 2, "event": "progress", "at": 1.5, "done": 1, "message": "a\nb"}
        self.assertEqual(self.events, [("1", "queued", first), ("2", "progress", second)])
        head = self.client.socket.sent.partition(b"\r\n\r\n")[0].lower()
        self.assertIn(b"content-type: text/event-stream; charset=utf-8", head)
        self.assertIn(b"x-accel-buffering: no", head)
        self.assertIn(b"cache-control: no-store", head)

    def test_the_stream_ends_behind_the_last_event(self):
        self.begin()
        self.push(notification(2, "succeeded", result=5))
        self.assertEqual([event for _, event, _ in self.events], ["succeeded"])
        self.assertTrue(self.is_whole)
        self.assertEqual(list(self.peers), [])

    def test_the_end_of_an_attempt_before_the_present_one_does_not_end_it(self):
        self.begin(state="waiting", seq=3)
        self.push(notification(2, "failed"), notification(3, "queued"))
        self.assertEqual(len(self.events), 2)
        self.assertFalse(self.is_whole)
        self.push(notification(9, "failed"))
        self.assertEqual(len(self.events), 3)
        self.assertTrue(self.is_whole)

    def test_events_of_a_batch_are_asked_for_and_sent_in_the_same_way(self):
        self.begin(path=f"/api/v1/batches/{ID}/events?after=1")
        self.assertEqual(json.loads(bytes(self.request.args)), {"batch": ID, "after": 1})
        self.push(notification(3, "progress", "batch", done=3), notification(4, "ended", "batch"))
        self.assertEqual([event for _, event, _ in self.events], ["progress", "ended"])
        self.assertTrue(self.is_whole)

    def test_a_client_that_connects_again_goes_on_behind_its_last_event(self):
        self.begin("Last-Event-ID: 7", path=STREAM + "?after=2")
        self.assertEqual(json.loads(bytes(self.request.args)), {"task": ID, "after": 7})

    def test_a_client_that_has_the_last_event_need_not_connect_again(self):
        for state in ("succeeded", "failed", "cancelled", "expired", "set_aside"):
            client = self.client = self.connect()
            self.begin("Last-Event-ID: 7", state=state, seq=7)
            self.assertEqual((client.answer.status, client.answer.body), (204, b""))

    def test_a_client_that_has_not_gets_the_rest_of_a_task_that_has_ended(self):
        self.begin("Last-Event-ID: 6", state="succeeded", seq=7)
        self.push(notification(7, "succeeded"))
        self.assertEqual([number for number, _, _ in self.events], ["7"])

    def test_an_id_that_is_no_number_is_refused(self):
        for wrong in ("x", "-1", "1.5", "1" * 19, ""):
            answer = self.asked("GET", STREAM, None, f"Last-Event-ID: {wrong}")
            self.assertEqual((answer.status, answer.body["argument"]), (400, "Last-Event-ID"))

    def test_an_unknown_task_is_not_found(self):
        self.client.send(http("GET", STREAM))
        self.backend.reply(InvalidParams("there is no task", argument="task"))
        self.assertEqual(self.client.answer.status, 404)

    def test_comments_are_sent_now_and_then_until_the_client_is_gone(self):
        self.begin()
        self.assertRegex(self.body, r"^retry: \d{4}\n\n$")
        for _ in range(3):
            self.reactor.advance(HEARTBEAT_SECONDS)
        self.client.turns()
        self.assertEqual(self.body.count(":\n\n"), 3)
        self.client.leave()
        self.assertEqual(list(self.peers), [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_client_of_http_1_0_gets_the_stream_up_to_the_end_of_the_connection(self):
        self.begin(version="1.0")
        self.push(notification(2, "succeeded"))
        self.assertEqual([event for _, event, _ in self.events], ["succeeded"])
        self.assertTrue(self.client.is_closed)

    def test_a_stream_ends_in_order_when_the_gateway_stops(self):
        self.begin()
        self.push(notification(1, "queued"))
        self.peers.stop_accepting()
        self.peers.close()
        self.client.turns()
        self.assertEqual(len(self.events), 1)
        self.assertTrue(self.is_whole)

    def test_a_head_request_is_answered_without_a_stream(self):
        self.client.send(http("HEAD", STREAM))
        self.backend.reply([])
        self.assertEqual(self.client.answer.status, 200)
        self.assertIn("text/event-stream", self.client.answer.headers["content-type"])

    def test_a_long_event_reaches_a_slow_client_whole_whatever_comments_are_due(self):
        self.begin()
        self.client.socket.room = 0
        self.push(notification(2, "partial", value="x" * 300_000))
        self.push(notification(3, "partial", value="y" * 300_000))
        while len(self.client.socket.sent) < 600_000:
            before = len(self.client.socket.sent)
            self.reactor.advance(HEARTBEAT_SECONDS)
            self.client.read(80_000)
            self.assertGreater(len(self.client.socket.sent), before)
        self.client.read(100_000)
        self.assertEqual([data["value"][:1] for _, _, data in self.events], ["x", "y"])
        self.assertEqual({len(data["value"]) for _, _, data in self.events}, {300_000})


class ListTests(GatewayCase):
    def test_events_are_a_list_for_those_who_name_json(self):
        for accept in ("application/json", "application/json, text/plain, */*"):
            client = self.connect()
            client.send(http("GET", f"{STREAM}?after=3&limit=2", None, f"Accept: {accept}"))
            self.assertEqual(self.backend.asked, [("taskd.events", {"task": ID, "after": 3, "limit": 2})])
            self.backend.reply([{"task": ID, "seq": 5}, {"task": ID, "seq": 8}])
            body = {"events": [{"task": ID, "seq": 5}, {"task": ID, "seq": 8}], "next": 8}
            self.assertEqual((client.answer.status, client.answer.body), (200, body))

    def test_a_list_without_events_goes_on_where_it_was(self):
        self.client.send(http("GET", f"{STREAM}?after=3", None, "Accept: application/json"))
        self.backend.reply([])
        self.assertEqual(self.client.answer.body, {"events": [], "next": 3})

    def test_everybody_else_gets_a_stream(self):
        for accept in ("text/event-stream", "*/*", "application/json, text/event-stream"):
            self.connect().send(http("GET", STREAM, None, f"Accept: {accept}"))
            [(request, _)] = self.backend.waiting
            self.assertEqual(request.function, "taskd.attach")
            self.backend.reply({"state": "running", "seq": 0})
