"""The table of the protocol on a session alone: no connection, no server, no clock."""

import re

import msgspec
from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import InvalidParams, MethodNotFound, TaskFailed
from taskd.functions.registry import Registry
from taskd.model import Failure, Result
from taskd.protocol.replies import task_complete
from taskd.protocol.session import Session
from tests.protocol_rows import SESSION, TCP, WEBSOCKET, mismatch, seen_on_tcp, seen_on_websocket
from tests.protocol_table import rows_on


def hello(name: str = "World"):
    return f"Hello, {name}!"


def echo(value: object = None):
    return value


def add(a: int, b: int = 1):
    return a + b


def boom(message: str = "boom"):
    raise ValueError(message)


functions = Registry()
for each in (hello, echo, add, boom):
    functions.add(each)


def outcome_of(call):
    """Return the outcome of the call at a task server with these functions."""
    if call.function == "taskd.ping":
        return Result(Raw(b'"pong"'))
    if call.function not in functions:
        return Failure.of(MethodNotFound(f"no such function: {call.function}"))
    function = functions[call.function]
    try:
        args, named = function.parameters.bind(call.args)
        return Result(Raw(msgspec.json.encode(function.callable(*args, **named))))
    except InvalidParams as error:
        return Failure.of(error)
    except ValueError as error:
        return Failure.of(TaskFailed(f"ValueError: {error}", type="ValueError", message=str(error)))


def replies_of(session, lines):
    """Return what a session sends when its requests are answered in reverse order."""
    session.receive(lines)
    sent = []
    while requests := session.requests():
        for request in reversed(requests):
            session.answer(request, outcome_of(request))
            sent += session.take()
    return sent + session.take()


def for_each_row(case):
    """Give a test case a test for each row, which calls `check`."""
    for number, row in enumerate(rows_on(SESSION)):

        def test(self, row=row):
            self.check(row)

        name = re.sub(r"\W+", "_", row.name)
        setattr(case, f"test_{number:03}_{name}", test)
    return case


@for_each_row
class TcpTests(SynchronousTestCase):
    """A session whose bare replies are results."""

    def check(self, row):
        replies = [seen_on_tcp(reply) for reply in replies_of(Session(begins_as_json=True), row.sent_on_tcp)]
        self.assertIsNone(mismatch(row, TCP, replies))


@for_each_row
class WebsocketTests(SynchronousTestCase):
    """A session whose bare replies say that the task is complete."""

    def check(self, row):
        session = Session(bare_reply=task_complete)
        replies = [seen_on_websocket(reply.decode()) for reply in replies_of(session, row.sent)]
        self.assertIsNone(mismatch(row, WEBSOCKET, replies))
