"""The protocol as a table: what is sent on one connection, and what must come back (docs/protocol.md).

Three suites run it: `tests/unit/protocol/test_table.py` on a session alone,
`tests/contracts/test_protocol_table.py` over TCP and over a gateway's
websocket, against a server with `tests/live/apps/plain.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from taskd.protocol.nesting import MAX_NESTING, MAX_VALUE_NESTING
from tests.protocol_rows import (
    ANY,
    SESSION,
    TCP,
    WEBSOCKET,
    Bare,
    BareError,
    BatchReply,
    ErrorReply,
    Has,
    OneOf,
    Reply,
    Row,
    Unreadable,
    call,
    notification,
    request,
    row,
)

__all__ = ["MAX_MESSAGE", "rows_on"]

MAX_MESSAGE = 20_000
"""Bytes: the limit of messages and results with which the table's servers are started."""

INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32600, -32601, -32602
TASK_FAILED, TIMED_OUT, CANCELLED, WORKER_LOST, TOO_LARGE = -32000, -32001, -32002, -32003, -32006
NOT_ALLOWED = -32008

BAD_DATA, TOO_BIG = 1007, 1009
"""Codes with which a websocket is closed (RFC 6455, 7.4.1)."""

NO_SUCH = "no such function: helo"
HELLO = "Hello, World!"
DONE = {"was": "done"}
STOPPED = Has(was=OneOf("waiting", "running"))
"""The answers to a request that cancels another one: whether that had been started is a race."""
RUNS = (TCP, WEBSOCKET)
"""The places for rows that need a server that really runs, times and stops tasks."""


def _dialects() -> list[Row]:
    return [
        row("bare, arguments by name", call("add", {"a": 2, "b": 3}), Bare(5)),
        row("bare, arguments by position", call("add", [2, 3]), Bare(5)),
        row("bare, a default left out", call("add", {"a": 2}), Bare(3)),
        row("bare, no arguments", call("hello"), Bare(HELLO)),
        row("bare, an empty object of arguments", call("hello", {}), Bare(HELLO)),
        row("bare, an empty array of arguments", call("hello", []), Bare(HELLO)),
        row("bare, members in another order", b'{"args": ["Ann"], "function": "hello"}', Bare("Hello, Ann!")),
        row("bare, white space", b' {\t"function" : "hello" } ', Bare(HELLO)),
        row("JSON-RPC, params by name", request(1, "add", {"a": 2, "b": 3}), Reply("1", 5)),
        row("JSON-RPC, params by position", request(1, "add", [2, 3]), Reply("1", 5)),
        row("JSON-RPC, no params", request(1, "hello"), Reply("1", HELLO)),
        row("JSON-RPC, options", request(1, "hello", timeout=20, priority=0), Reply("1", HELLO)),
        row("bare, options", call("hello", deadline=20, on_disconnect="finish"), Bare(HELLO)),
        row(
            "both dialects on one connection",
            [call("echo", [1]), request(1, "echo", [2]), call("echo", [3])],
            Bare(1),
            Bare(3),
            Reply("1", 2),
        ),
        row("an escaped name", b'{"function": "hell\\u006f"}', Bare(HELLO)),
        row("text beyond ASCII", {"function": "hello", "args": ["ไทย😀"]}, Bare("Hello, ไทย😀!")),
        row("UTF-8 as it is", '{"function": "hello", "args": ["é"]}'.encode(), Bare("Hello, é!")),
        row(
            "the last of two arguments of a name",
            b'{"function": "echo", "args": {"value": 1, "value": 2}}',
            Bare(2),
        ),
        row("a result of null", call("echo", [None]), Bare(None)),
        row("a JSON-RPC result of null", request(1, "echo", [None]), Reply("1", None)),
        row("an object for a result", request(1, "echo", [{"a": [1]}]), Reply("1", {"a": [1]})),
        row("an own method, bare", call("taskd.ping"), Bare("pong")),
        row("an own method, JSON-RPC", request("p", "taskd.ping"), Reply('"p"', "pong")),
        row("an own method, empty params", request("p", "taskd.ping", {}), Reply('"p"', "pong")),
    ]


_IDS = [
    "0",
    "7",
    "-7",
    "1.5",
    "1.50",
    "1e3",
    "1E+3",
    "-0",
    "12345678901234567890123",
    '""',
    '"a"',
    '"7"',
    '"null"',
    '"\\u0061"',
    '"a\\nb"',
    '"\\"\\\\"',
    '"é"',
    "null",
]
"""JSON texts of ids: a reply repeats them character by character."""

_NO_IDS = ["true", "false", "[]", "[1]", "{}"]
"""JSON texts that cannot be an id."""


def _ids() -> list[Row]:
    rows = []
    for text in _IDS:
        line = b'{"jsonrpc": "2.0", "id": %b, "method": "%%b"}' % text.encode()
        rows += [
            row(f"id {text}", line % b"hello", Reply(text, HELLO)),
            row(f"id {text}, an error", line % b"helo", ErrorReply(text, METHOD_NOT_FOUND, None, NO_SUCH)),
        ]
        batch = b'[{"jsonrpc": "2.0", "id": %b, "method": "hello"}]' % text.encode()
        rows.append(row(f"id {text}, in a batch", batch, BatchReply((Reply(text, HELLO),))))
    for text in _NO_IDS:
        line = b'{"jsonrpc": "2.0", "id": %b, "method": "hello"}' % text.encode()
        rows.append(row(f"no id: {text}", line, Unreadable(code=INVALID_REQUEST, data={"member": "id"})))
    rows += [
        row(
            "one id twice",
            [request(1, "echo", ["a"]), request(1, "echo", ["b"])],
            Reply("1", "a"),
            Reply("1", "b"),
        ),
        row(
            "an id that is the number 1 and one that is the text",
            [request(1, "hello"), request("1", "hello")],
            Reply("1", HELLO),
            Reply('"1"', HELLO),
        ),
    ]
    return rows


def _notifications() -> list[Row]:
    return [
        row("a notification", notification("hello")),
        row("a notification that fails", notification("boom")),
        row("a notification of no function", notification("helo")),
        row("a notification whose params do not fit", notification("add", ["x"])),
        row("a notification of an own method", notification("taskd.ping")),
        row("a notification that cancels nothing", notification("taskd.cancel", {"id": 7})),
        row("a notification that cancels in no known form", notification("taskd.cancel", {"why": 7})),
        row("a notification that wants progress", notification("count", [2], progress=True), at=RUNS),
        row(
            "a notification between two requests",
            [call("echo", [1]), notification("hello"), call("echo", [2])],
            Bare(1),
            Bare(2),
        ),
        row(
            "an id of null is a request and no notification",
            [b'{"jsonrpc":"2.0","id":null,"method":"hello"}', notification("hello")],
            Reply("null", HELLO),
        ),
        row(
            "an invalid notification is answered",
            {"jsonrpc": "2.0", "method": "hello", "params": 5},
            Unreadable(code=INVALID_REQUEST, data={"member": "params"}),
        ),
    ]


_INVALID = Unreadable(code=INVALID_REQUEST)
_NO_JSON = Unreadable()

_STRANGERS = {
    "HTTP": [b"POST / HTTP/1.1\r", b"Host: a\r", b"\r"],
    "HTTP with a method in small letters": [b"post / HTTP/1.1\r", b"Host: a\r", b"\r"],
    "HTTP with a method that is JSON": [b"null / HTTP/1.1\r", b"\r"],
    "HTTP/0.9": [b"GET /"],
    "SMTP": [b"EHLO localhost\r"],
    "TLS": [b"\x16\x03\x01\x00\x10"],
    "JSON that is no request": [b"true"],
}


def _batches() -> list[Row]:
    one, two = Reply("1", HELLO), Reply("2", 5)
    return [
        row("a batch of one", [[request(1, "hello")]], BatchReply((one,))),
        row("a batch of two", [[request(1, "hello"), request(2, "add", [2, 3])]], BatchReply((one, two))),
        row(
            "a batch with a notification",
            [[request(1, "hello"), notification("hello"), request(2, "add", [2, 3])]],
            BatchReply((one, two)),
        ),
        row("a batch of notifications", [[notification("hello"), notification("boom")]]),
        row(
            "a batch in which one fails",
            [[request(1, "hello"), request(2, "boom"), request(3, "helo"), request(4, "add", ["x"])]],
            BatchReply(
                (
                    one,
                    ErrorReply("2", TASK_FAILED),
                    ErrorReply("3", METHOD_NOT_FOUND, None),
                    ErrorReply("4", INVALID_PARAMS),
                )
            ),
        ),
        row(
            "a batch with what is no request",
            [[1, request(1, "hello"), "x", None, {}, [], {"jsonrpc": "2.0", "id": 9}]],
            BatchReply((*[_INVALID] * 5, one, ErrorReply("9", INVALID_REQUEST, {"member": "method"}))),
        ),
        row("a batch of nothing valid", [[1, 2]], BatchReply((_INVALID, _INVALID))),
        row(
            "a batch with a bare request",
            [[call("hello"), request(1, "hello")]],
            BatchReply((Unreadable(code=INVALID_REQUEST, data={"member": "function"}), one)),
        ),
        row(
            "a batch within a batch",
            [[[request(1, "hello")], request(1, "hello")]],
            BatchReply((_INVALID, one)),
        ),
        row(
            "a batch of own methods",
            [[request(1, "taskd.ping"), request(2, "taskd.ping")]],
            BatchReply((Reply("1", "pong"), Reply("2", "pong"))),
        ),
        row("an empty batch", [[]], _INVALID),
        row(
            "a batch of 200",
            [[request(n, "taskd.ping") for n in range(200)]],
            BatchReply(tuple(Reply(str(n), "pong") for n in range(200))),
        ),
        row(
            "a batch of more than 1000",
            [b"[" + b",".join([b"1"] * 1001) + b"]"],
            Unreadable(code=INVALID_REQUEST, data={"limit": 1000}),
        ),
        row(
            "a batch with bare requests around it",
            [call("echo", ["a"]), [request(1, "hello")], call("echo", ["b"])],
            Bare("a"),
            Bare("b"),
            BatchReply((one,)),
        ),
        row("a batch that is broken off", b'[{"jsonrpc": "2.0", "id": 1, "method": "hello"}', Unreadable()),
    ]


def _order() -> list[Row]:
    return [
        row(
            "bare replies come in the order of their requests",
            [call("echo", [number]) for number in range(20)],
            *[Bare(number) for number in range(20)],
        ),
        row(
            "a slow one holds back the bare replies behind it",
            [call("nap", [0.05]), call("echo", ["quick"]), call("boom"), call("helo")],
            Bare(0.05),
            Bare("quick"),
            BareError(TASK_FAILED),
            BareError(METHOD_NOT_FOUND, NO_SUCH),
            at=RUNS,
        ),
        row(
            "unreadable messages keep their place among the bare replies",
            [call("echo", [1]), b"nonsense", call("echo", [2]), b"{}", b"[]", call("echo", [3])],
            Bare(1),
            Unreadable(),
            Bare(2),
            _INVALID,
            _INVALID,
            Bare(3),
        ),
        row(
            "bare requests that are refused keep their place",
            [call("echo", [1]), call("hello", None, colour="red"), call("helo"), call("echo", [2])],
            Bare(1),
            BareError(INVALID_REQUEST, data={"member": "options.colour"}),
            BareError(METHOD_NOT_FOUND, NO_SUCH),
            Bare(2),
        ),
    ]


def _unreadable() -> list[Row]:
    parse = {
        "no JSON": b"nonsense",
        "half an object": b'{"function":',
        "half a string": b'"abc',
        "two values": b"1 2",
        "an object and more": b'{"function": "hello"} x',
        "a number without an end": b"1e",
        "NaN": b"NaN",
        "a NUL": b"\x00",
        "a trailing comma": b'{"function": "hello",}',
        "single quotes": b"{'function': 'hello'}",
        "a byte order mark": b'\xef\xbb\xbf{"function": "hello"}',
        "half of a surrogate pair in a name": b'{"function": "\\ud800"}',
        "half of a surrogate pair in an argument": b'{"function": "echo", "args": ["a\\ud800"]}',
        "the other half of a surrogate pair": b'{"function": "echo", "args": ["\\udc00"]}',
        "half of a surrogate pair in an id": b'{"jsonrpc":"2.0","id":"\\ud800","method":"hello"}',
        "a number with a leading zero": b'{"function": "echo", "args": [01]}',
    }
    rows = [row(f"unreadable: {name}", line, Unreadable()) for name, line in parse.items()]
    not_utf8 = {
        "a byte of no text": b'"\xff"',
        "a half character": b'{"function": "hello", "args": ["\xc3"]}',
    }
    for name, line in not_utf8.items():
        rows += [
            row(f"not UTF-8: {name}", line, Unreadable(), at=(SESSION, TCP)),
            row(f"not UTF-8 on a websocket: {name}", line, at=(WEBSOCKET,), closes=BAD_DATA),
        ]
    rows += [
        row("where the mistake is", b"nonsense", Unreadable(data={"at": 1})),
        row("an empty message", b"", Unreadable(), at=(WEBSOCKET,)),
    ]
    invalid: dict[str, tuple[bytes, object]] = {
        "a number": (b"1", None),
        "null": (b"null", None),
        "a text": (b'"hello"', None),
        "true": (b"true", None),
        "an empty object": (b"{}", {"member": "function"}),
        "no method": (b'{"jsonrpc": "2.0"}', {"member": "method"}),
        "no jsonrpc": (b'{"method": "hello"}', {"member": "jsonrpc"}),
        "another jsonrpc": (b'{"jsonrpc": "1.0", "method": "hello"}', {"member": "jsonrpc"}),
        "a jsonrpc that is a number": (b'{"jsonrpc": 2.0, "method": "hello"}', {"member": "jsonrpc"}),
        "a method that is a number": (b'{"jsonrpc": "2.0", "method": 5}', {"member": "method"}),
        "params that are a number": (b'{"jsonrpc":"2.0","method":"hello","params":5}', {"member": "params"}),
        "params that are null": (b'{"jsonrpc":"2.0","method":"hello","params":null}', {"member": "params"}),
        "both dialects": (b'{"jsonrpc": "2.0", "function": "hello"}', ANY),
        "an unknown member": (b'{"jsonrpc": "2.0", "method": "hello", "more": 1}', {"member": "more"}),
    }  # fmt: skip
    rows += [
        row(f"invalid: {name}", line, Unreadable(code=INVALID_REQUEST, data=data))
        for name, (line, data) in invalid.items()
    ]
    rows.append(
        row(
            "invalid, with an id",
            {"jsonrpc": "2.0", "id": 7, "method": 5},
            ErrorReply("7", INVALID_REQUEST, {"member": "method"}),
        )
    )
    bare: dict[str, tuple[dict[str, object], str]] = {
        "a function that is a number": ({"function": 5}, "function"),
        "args that are a text": ({"function": "hello", "args": "Ann"}, "args"),
        "args that are null": ({"function": "hello", "args": None}, "args"),
        "an unknown member": ({"function": "hello", "arg": []}, "arg"),
        "an id": ({"function": "hello", "id": 7}, "id"),
        "options that are an array": ({"function": "hello", "options": []}, "options"),
    }
    return rows + [
        row(f"invalid bare request: {name}", sent, BareError(INVALID_REQUEST, data={"member": member}))
        for name, (sent, member) in bare.items()
    ]


def _nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def _nesting() -> list[Row]:
    """The limit is that of the protocol, whatever the interpreter's is."""
    bare = b'{"function": "echo", "args": [%b]}'
    named = b'{"jsonrpc": "2.0", "id": 1, "method": "echo", "params": [%b]}'
    value: object = []
    for _ in range(MAX_VALUE_NESTING - 1):
        value = [value]
    deep = Unreadable(data={"limit": MAX_NESTING})
    rows = [
        row("nested up to the limit, bare", bare % _nested(MAX_VALUE_NESTING), Bare(value)),
        row("nested up to the limit, JSON-RPC", named % _nested(MAX_VALUE_NESTING), Reply("1", value)),
        row("brackets in a string", bare % (b'"\\"%b"' % (b"[" * 300)), Bare('"' + "[" * 300)),
        row(
            "nested too deeply, and what follows",
            [bare % _nested(MAX_VALUE_NESTING + 1), call("echo", [2])],
            deep,
            Bare(2),
        ),
        row(
            "a result nested up to the limit",
            request(1, "nest", [MAX_VALUE_NESTING]),
            Reply("1", value),
            at=RUNS,
        ),
    ]
    for levels in MAX_VALUE_NESTING + 1, 1200, 9000, 20_000:
        error = Has(limit=MAX_VALUE_NESTING)
        rows.append(
            row(
                f"a result of {levels} levels",
                call("nest", [levels]),
                BareError(TASK_FAILED, data=error),
                at=RUNS,
            )
        )
    forms = {
        "an array": b"[%b]",
        "JSON-RPC": named,
        "an id": b'{"jsonrpc": "2.0", "id": %b, "method": "hello"}',
        "options": b'{"function": "hello", "options": %b}',
        "an unknown member": b'{"function": "hello", "more": %b}',
        "a batch": b'[{"jsonrpc": "2.0", "id": 1, "method": "echo", "params": [%b]}]',
        "a notification": b'{"jsonrpc": "2.0", "method": "echo", "params": [%b]}',
    }
    for levels in MAX_NESTING, 1200, 9000:
        rows += [
            row(f"{levels} levels in {name}", form % _nested(levels), deep) for name, form in forms.items()
        ]
    return rows


def _numbers() -> list[Row]:
    """Numbers that fit no type of every language; the longest integer has 4300 digits, as in Python."""
    echo = b'{"function": "echo", "args": [%b]}'
    rows = [
        row("an integer of 4300 digits", echo % (b"9" * 4300), Bare(10**4300 - 1)),
        row(
            "an integer of 30 digits for an int",
            b'{"function": "add", "args": [%b]}' % (b"9" * 30),
            Bare(10**30),
        ),
    ]
    for number in b"9" * 4301, b"-" + b"9" * 9000, b"1e999", b"-1e999":
        name = number[:10].decode()
        rows += [
            row(
                f"a number that is too large for an argument: {name}",
                echo % number,
                BareError(INVALID_PARAMS),
            ),
            row(
                f"a number that is too large for an option: {name}",
                b'{"function": "hello", "options": {"timeout": %b}}' % number,
                BareError(INVALID_REQUEST, data={"member": "options.timeout"}),
            ),
            row(
                f"a number of any size for an id: {name}",
                b'{"jsonrpc": "2.0", "id": %b, "method": "hello"}' % number,
                Reply(number.decode(), HELLO),
            ),
        ]
    return rows


def _options() -> list[Row]:
    wrong: list[tuple[str, object]] = [
        ("colour", "red"),
        ("timeout", 0),
        ("timeout", "1"),
        ("deadline", -1),
        ("priority", 10),
        ("priority", 1.5),
        ("progress", 1),
        ("on_disconnect", "stay"),
    ]
    rows = []
    for option, value in wrong:
        data = {"member": f"options.{option}"}
        name = f"option {option} of {value!r}"
        rows += [
            row(f"{name}, bare", call("hello", **{option: value}), BareError(INVALID_REQUEST, data=data)),
            row(
                f"{name}, JSON-RPC",
                request(1, "hello", **{option: value}),
                ErrorReply("1", INVALID_REQUEST, data),
            ),
        ]
    return rows


def _failures() -> list[Row]:
    lost, boom = Has(status=7, seconds=ANY), {"type": "ValueError", "message": "no paper"}
    misfit = {"argument": "a", "expected": ANY, "got": ANY}
    failures: list[tuple[str, str, object, int, object, Sequence[str], dict[str, object]]] = [
        ("no such function", "helo", None, METHOD_NOT_FOUND, None, (), {}),
        ("no such own method", "taskd.helo", None, METHOD_NOT_FOUND, None, RUNS, {}),
        ("an argument that is missing", "add", {"b": 1}, INVALID_PARAMS, ANY, (), {}),
        ("an argument too many", "add", [1, 2, 3], INVALID_PARAMS, ANY, (), {}),
        ("an argument of no parameter", "add", {"a": 1, "c": 1}, INVALID_PARAMS, ANY, (), {}),
        ("an argument of another type", "add", {"a": "1"}, INVALID_PARAMS, misfit, (), {}),
        ("an own method with an argument", "taskd.ping", [1], INVALID_PARAMS, ANY, RUNS, {}),
        ("a function that raises", "boom", ["no paper"], TASK_FAILED, boom, (), {}),
        ("a result that is no JSON", "not_json", None, TASK_FAILED, ANY, RUNS, {}),
        ("a function that exits", "leave", [3], TASK_FAILED, ANY, RUNS, {}),
        ("a time limit", "nap", [30], TIMED_OUT, ANY, RUNS, {"timeout": 0.05}),
        ("a worker that ends", "vanish", [7], WORKER_LOST, lost, RUNS, {}),
        ("a worker that is killed", "die", [9], WORKER_LOST, ANY, RUNS, {}),
        ("a result over the limit", "big", [MAX_MESSAGE], TOO_LARGE, {"limit": MAX_MESSAGE}, RUNS, {}),
    ]
    rows = []
    for name, function, args, code, data, at, options in failures:
        rows += [
            row(f"{name}, bare", call(function, args, **options), BareError(code, data=data), at=at),
            row(
                f"{name}, JSON-RPC",
                request(1, function, args, **options),
                ErrorReply("1", code, data),
                at=at,
            ),
        ]
    rows += [
        row(
            "what a bare failure says",
            [call("boom", ["no paper"]), call("helo")],
            BareError(TASK_FAILED, "ValueError: no paper", boom),
            BareError(METHOD_NOT_FOUND, NO_SUCH, None),
        ),
        row(
            "a result just below the limit",
            call("big", [MAX_MESSAGE - 3]),
            Bare("x" * (MAX_MESSAGE - 3)),
            at=RUNS,
        ),
    ]
    return rows


def _cancels() -> list[Row]:
    """Calls of `taskd.cancel`, with parameters by name and by position; null is like a parameter left out."""
    nothing: list[tuple[str, object]] = [
        ("an id", {"id": 7}),
        ("an id that is a text", {"id": "seven"}),
        ("an id by position", [7]),
        ("an id, and a task of null", {"id": 7, "task": None}),
        ("an id, and a task of null, by position", [7, None]),
        ("a task", {"task": 999_999}),
        ("a task, and an id of null", {"id": None, "task": 999_999}),
        ("a task by position", [None, 999_999]),
    ]
    misfits: list[tuple[str, object]] = [
        ("no params", None),
        ("empty params", {}),
        ("an empty array", []),
        ("an id and a task", {"id": 7, "task": 7}),
        ("an id and a task, by position", [7, 7]),
        ("an id of null", {"id": None}),
        ("a task of null", {"task": None}),
        ("an id of true", {"id": True}),
        ("an id that is an array", {"id": [7]}),
        ("an id that is an object", [{}]),
        ("a task that is a text", {"task": "7"}),
        ("a task that is no whole number", {"task": 1.5}),
        ("an unknown parameter", {"ids": 7}),
        ("an unknown parameter beside an id", {"id": 7, "why": 1}),
        ("three parameters", [7, None, 1]),
    ]
    rows = []
    for name, params in nothing:
        asked, bare = request(8, "taskd.cancel", params), call("taskd.cancel", params)
        is_task = name.startswith("a task")
        rows += [
            row(f"cancel of nothing, by {name}", asked, Reply("8", DONE), at=(TCP,) if is_task else RUNS),
            row(f"cancel of nothing, bare, by {name}", bare, Bare(DONE), at=(TCP,) if is_task else RUNS),
        ]
        if is_task:  # whose number is no handle for a websocket
            rows += [
                row(
                    f"cancel over a websocket, by {name}",
                    asked,
                    ErrorReply("8", NOT_ALLOWED),
                    at=(WEBSOCKET,),
                ),
                row(
                    f"cancel over a websocket, bare, by {name}", bare, BareError(NOT_ALLOWED), at=(WEBSOCKET,)
                ),
            ]
    for name, params in misfits:
        rows += [
            row(
                f"cancel with {name}",
                request(8, "taskd.cancel", params),
                ErrorReply("8", INVALID_PARAMS),
                at=RUNS,
            ),
            row(
                f"cancel, bare, with {name}", call("taskd.cancel", params), BareError(INVALID_PARAMS), at=RUNS
            ),
        ]
    for name, params in nothing[:5]:
        request_id = params["id"] if isinstance(params, dict) else params[0]  # type: ignore[index]
        text = json.dumps(request_id)
        napping = request(request_id, "nap", [30])
        rows += [
            row(
                f"cancel by {name}",
                [napping, request(8, "taskd.cancel", params)],
                ErrorReply(text, CANCELLED, STOPPED),
                Reply("8", STOPPED),
                at=RUNS,
            ),
            row(
                f"cancel by a notification with {name}",
                [napping, notification("taskd.cancel", params)],
                ErrorReply(text, CANCELLED, STOPPED),
                at=RUNS,
            ),
        ]
    rows += [
        row(
            "cancel by a bare request",
            [request(7, "nap", [30]), call("taskd.cancel", {"id": 7})],
            ErrorReply("7", CANCELLED, STOPPED),
            Bare(STOPPED),
            at=RUNS,
        ),
        row(
            "cancel twice",
            [request(7, "nap", [30]), request(8, "taskd.cancel", [7]), request(9, "taskd.cancel", {"id": 7})],
            ErrorReply("7", CANCELLED, STOPPED),
            Reply("8", STOPPED),
            Reply("9", Has(was=OneOf("waiting", "running", "done"))),
            at=RUNS,
        ),
        row(
            "cancel in a batch, of a request outside it",
            [request(7, "nap", [30]), [request(8, "taskd.cancel", [7]), request(9, "hello")]],
            ErrorReply("7", CANCELLED, STOPPED),
            BatchReply((Reply("8", STOPPED), Reply("9", HELLO))),
            at=RUNS,
        ),
        row(
            "cancel by an id that is written otherwise",
            [
                b'{"jsonrpc": "2.0", "id": 7.0, "method": "nap", "params": [0.2]}',
                request(8, "taskd.cancel", [7]),
            ],
            Reply("7.0", 0.2),
            Reply("8", DONE),
            at=RUNS,
        ),
    ]
    return rows


def _framing() -> list[Row]:
    long = b'{"function": "hello", "args": ["' + b"x" * MAX_MESSAGE + b'"]}'
    return [
        row("empty lines", [b"", b"\r", call("hello"), b"", b"\r\r"], Bare(HELLO), at=(TCP,)),
        row(
            "CRs before the LF",
            [b'{"function": "hello"}\r', b'{"function": "hello"}\r\r'],
            Bare(HELLO),
            Bare(HELLO),
            at=(TCP,),
        ),
        row("line ends between the tokens", b'{\n"function":\r\n"hello"\n}', Bare(HELLO), at=(WEBSOCKET,)),
        row(
            "a message over the limit",
            [call("hello"), long, call("hello")],
            Bare(HELLO),
            Unreadable(code=TOO_LARGE, data={"limit": MAX_MESSAGE}),
            at=(TCP,),
            ends=True,
        ),
        row("a websocket message over the limit", long, at=(WEBSOCKET,), closes=TOO_BIG),
        *(
            row(
                f"{protocol} as the first thing on the connection",
                [*lines, call("hello")],
                _INVALID,
                at=(TCP,),
                ends=True,
                is_first=True,
            )
            for protocol, lines in _STRANGERS.items()
        ),
        row("the same later", [*_STRANGERS["SMTP"], call("hello")], _NO_JSON, Bare(HELLO), at=(TCP,)),
        row(
            "blank lines and white space before the first request",
            [b"", b"\r", b" \t" + json.dumps(call("hello")).encode()],
            Bare(HELLO),
            at=(TCP,),
            is_first=True,
        ),
        row(
            "a first message that is malformed", [b"{x", call("hello")], _NO_JSON, Bare(HELLO), is_first=True
        ),
    ]


ROWS: list[Row] = [
    *_dialects(),
    *_ids(),
    *_notifications(),
    *_batches(),
    *_order(),
    *_unreadable(),
    *_nesting(),
    *_numbers(),
    *_options(),
    *_failures(),
    *_cancels(),
    *_framing(),
]


def rows_on(place: str) -> list[Row]:
    """Return the rows that hold in this place."""
    return [each for each in ROWS if place in each.places]
