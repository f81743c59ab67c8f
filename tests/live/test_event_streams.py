"""Server-Sent Events of real daemons, as a browser reads them, with each kind of gateway."""

import http.client
import json

import pytest

from tests.live.support import APPS, TIMEOUT, Gate

APP = str(APPS / "watched.py")


class EventSource:
    """What a browser's EventSource does: it reads events, and connects again behind the last one."""

    def __init__(self, port, path):
        self._port = port
        self._path = path
        self.last = ""
        self.open()

    def open(self):
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": self.last} if self.last else {})}
        self._connection.request("GET", self._path, headers=headers)
        self.response = self._connection.getresponse()

    def receive(self):
        """Return the next event: its name and its data. None at the end of the stream."""
        members = {}
        while line := self.response.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                members[name] = value
            elif "data" in members:
                self.last = members["id"]
                data = json.loads(members["data"])
                assert (str(data["seq"]), data["event"]) == (members["id"], members["event"])
                return data
        return None

    def until(self, **last):
        events = [self.receive()]
        while not last.items() <= events[-1].items():
            events.append(self.receive())
        return events

    def close(self):
        self.response.close()
        self._connection.close()


@pytest.fixture(params=["local", "pooled"])
def daemon(request, clean_start):
    return clean_start("--app", APP, "--workers", "2", "--store", "memory", "--link", request.param)


def submit(port, function, *args):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    body = json.dumps({"function": function, "args": args})
    connection.request("POST", "/api/v1/tasks", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 202, response.read()
    return response.getheader("Location")


def test_a_browser_gets_every_event_once_over_several_connections(daemon, tmp_path):
    daemon.wait_until_ready()
    port = daemon.port(2)
    gate = Gate(tmp_path / "steps")
    source = EventSource(port, submit(port, "steps", gate.path) + "/events")
    assert source.response.status == 200
    assert source.response.getheader("Content-Type").startswith("text/event-stream")
    gate.wait_until_entered()
    events = source.until(event="started")
    source.close()
    source.open()
    gate.release("1\n2\nend\n")
    events += source.until(event="succeeded")
    assert source.receive() is None, "the stream ends behind the last event"
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers))
    names = [event["event"] for event in events if event["event"] != "progress"]
    assert (names, events[-1]["result"]) == (["queued", "started", "succeeded"], 2)
    source.open()
    assert source.response.status == 204, "which tells a browser not to come back"
    source.close()


def test_a_stream_ends_in_order_when_the_daemon_stops(daemon, tmp_path):
    daemon.wait_until_ready()
    port = daemon.port(2)
    gate = Gate(tmp_path / "steps")
    source = EventSource(port, submit(port, "steps", gate.path) + "/events")
    gate.wait_until_entered()
    source.until(event="started")
    daemon.process.terminate()
    gate.release("end\n")
    while (event := source.receive()) is not None:
        assert event["event"] in {"progress", "succeeded", "returned"}
    source.close()
    assert daemon.stop() == -15
