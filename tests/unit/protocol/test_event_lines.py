"""Events as they go over a connection, and as a gateway reads them."""

import json

from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import ParseError
from taskd.protocol.event_lines import (
    ParsedEvent,
    event_line,
    event_params,
    parse_event,
)


class EventLineTests(SynchronousTestCase):
    def test_an_event_has_its_own_members_and_those_of_its_data(self):
        line = event_line(event_params("task", "id", 7, "progress", 1.5, b'{"done":1,"total":2}'))
        self.assertEqual(
            json.loads(line),
            {
                "jsonrpc": "2.0",
                "method": "taskd.event",
                "params": {"task": "id", "seq": 7, "event": "progress", "at": 1.5, "done": 1, "total": 2},
            },
        )
        bare = event_params("batch", 'a"b', 7, "ended", 1.5, b"{}")
        self.assertEqual(json.loads(bare), {"batch": 'a"b', "seq": 7, "event": "ended", "at": 1.5})

    def test_an_event_is_read_as_it_was_encoded(self):
        for kind, data in (("task", b"{}"), ("batch", b'{"done":1,"error":{"x":[1,2]}}')):
            params = event_params(kind, "id", 7, "started", 2.0, data)
            self.assertEqual(parse_event(params), ParsedEvent(kind, "id", 7, "started", 2.0, data))

    def test_anything_but_an_event_is_refused(self):
        for params in (
            b"",
            b"[]",
            b"{",
            b'{"task":"x"}',
            b'{"task":1,"seq":1,"event":"e","at":1}',
            b'{"task":"x","seq":"1","event":"e","at":1}',
            b'{"task":"x","seq":1,"event":"e","at":null}',
            b'{"task":"\xff","seq":1,"event":"e","at":1}',
        ):
            self.assertRaises(ParseError, parse_event, params)
