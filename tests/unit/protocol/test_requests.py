"""The two dialects, by docs/protocol.md and the specification of JSON-RPC 2.0."""

import json

from hypothesis import assume, example, given
from hypothesis import strategies as st
from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import InvalidRequest, MethodNotFound, ParseError, TooLarge
from taskd.model import Failure, Options, Progress, Result
from taskd.protocol.dialects import Dialect
from taskd.protocol.framing import LineSplitter
from taskd.protocol.nesting import MAX_NESTING
from taskd.protocol.replies import batch_reply, parse_bare_reply, parse_reply, progress_line, reply_line
from taskd.protocol.request_lines import request_line
from taskd.protocol.requests import (
    LONG,
    Batch,
    BatchMember,
    BatchReplies,
    Invalid,
    Request,
    parse,
    parse_in_steps,
    parse_member,
)
from tests.unit.texts import (
    containers,
    has_surrogate_escape,
    id_texts,
    is_json,
    loads,
    raw,
    scalars,
    shown,
    text_of,
    values,
)

PARSE_ERROR, INVALID_REQUEST = -32700, -32600

TOKENS = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b"-",
        b".",
        b"e",
        b"0",
        b"1",
        b" ",
        b"\n",
        b"\r",
        b"\t",
    ),
    *(b"nul", b"null", b"true", b"false", b"NaN", b"-Infinity", b"1e5", b"1e999", b"\xef\xbb\xbf"),
    *(
        b'"function"',
        b'"args"',
        b'"options"',
        b'"jsonrpc"',
        b'"method"',
        b'"params"',
        b'"id"',
        b'"2.0"',
        b'"f"',
    ),
    *(b'"\\ud800"', b'"\\u00e9"', b'"\xc3\xa9"', b'"\xc3"', b'"\x00"'),
    *(b'"function":"f"', b'"jsonrpc":"2.0"', b'"method":"f"', b'"id":1', b'"args":[]', b'"params":{}'),
]

lines_of_tokens = st.lists(st.sampled_from(TOKENS), max_size=14).map(b"".join)

near_requests = st.fixed_dictionaries(
    {},
    optional={
        "function": st.text() | scalars,
        "args": values,
        "jsonrpc": st.sampled_from(["2.0", "2.0", "2.0", "1.0", 2.0, None]),
        "method": st.text() | scalars,
        "params": values,
        "id": values,
        "options": scalars
        | st.fixed_dictionaries({}, optional={"progress": st.booleans() | scalars, "colour": scalars}),
        "extra": values,
    },
)
"""Draw objects with the members of requests, sometimes well-formed and mostly not."""

requests = st.builds(
    Request,
    dialect=st.just(Dialect.BARE),
    function=st.text(),
    args=(st.none() | text_of(containers)).map(raw),
    options=st.builds(Options, progress=st.booleans()),
) | st.builds(
    Request,
    dialect=st.just(Dialect.JSON_RPC),
    function=st.text(),
    args=(st.none() | text_of(containers)).map(raw),
    id=(st.none() | id_texts).map(raw),
    options=st.builds(Options, progress=st.booleans()),
)


def line_of(request):
    """Return the line of a request."""
    return request_line(request, request.id, request.dialect)


failures = st.builds(
    Failure,
    code=st.integers(-(2**53), 2**53),
    message=st.text(),
    data=values.filter(lambda data: data is not None) | st.none(),
)


@st.composite
def damaged_requests(draw):
    """Draw the line of a request with some bytes changed, removed or inserted."""
    line = bytearray(line_of(draw(requests)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(line)))
        line[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2) | st.sampled_from(TOKENS))
    return bytes(line)


def has_options(request):
    """Return whether the options are well-formed, as far as these tests know them."""
    options = request.get("options", {})
    if not isinstance(options, dict):
        return False
    return set(options) <= {"progress"} and isinstance(options.get("progress", False), bool)


def dialect_by_the_protocol(request):
    """Return the dialect in which this JSON value is a well-formed request, or None."""
    if not isinstance(request, dict) or not has_options(request):
        return None
    if set(request) <= {"function", "args", "options"}:
        fits = isinstance(request.get("function"), str) and isinstance(request.get("args", []), list | dict)
        return Dialect.BARE if fits else None
    if set(request) <= {"jsonrpc", "id", "method", "params", "options"}:
        request_id = request.get("id", 0)
        fits = (
            request.get("jsonrpc") == "2.0"
            and isinstance(request.get("method"), str)
            and isinstance(request.get("params", []), list | dict)
            and (request_id is None or isinstance(request_id, str | int | float))
            and not isinstance(request_id, bool)
        )
        return Dialect.JSON_RPC if fits else None
    return None


def repeats_a_name(line):
    """Return whether an object in this JSON has a name twice, which the protocol leaves undefined."""
    repeated = []

    def check(pairs):
        repeated.append(len(dict(pairs)) < len(pairs))
        return dict(pairs)

    json.loads(line.decode(), object_pairs_hook=check)
    return any(repeated)


def parse_slices(line):
    """Parse a line as a long one, in steps with slices of a few bytes each."""
    steps = parse_in_steps(line, 7)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


class ParseTests(SynchronousTestCase):
    def check(self, line):
        """Check that `parse` agrees with `json.loads` and the protocol about one line."""
        self.check_parsed(line, parse(line))
        self.check_parsed(line, parse_slices(line))

    def check_parsed(self, line, parsed):
        self.assertIsInstance(parsed, Request | Batch | Invalid)
        if has_surrogate_escape(line):
            return
        if not is_json(line):
            self.assertIsInstance(parsed, Invalid)
            self.assertIsInstance(parsed.error, ParseError)
            self.assertEqual((parsed.id, parsed.error.code), (None, PARSE_ERROR))
            self.assertLessEqual(set(parsed.error.data), {"at"})
            self.assertTrue(0 <= parsed.error.data.get("at", 0) <= len(line), parsed.error.data)
        elif not repeats_a_name(line):
            self.check_json(parsed, loads(line))

    def check_json(self, parsed, value):
        if isinstance(value, list) and value:
            self.assertIsInstance(parsed, Batch)
            self.assertEqual(len(parsed.members), len(value))
            for item, element in zip(map(parse_member, parsed.members), value, strict=True):
                if dialect_by_the_protocol(element) is Dialect.BARE:  # a batch is JSON-RPC's
                    self.assert_invalid_request(item)
                else:
                    self.check_object(item, element)
        else:
            self.check_object(parsed, value)

    def check_object(self, parsed, value):
        dialect = dialect_by_the_protocol(value)
        if dialect is None:
            self.assert_invalid_request(parsed)
            return
        self.assertIsInstance(parsed, Request)
        named, given = ("function", "args") if dialect is Dialect.BARE else ("method", "params")
        self.assertIs(parsed.dialect, dialect)
        self.assertEqual(parsed.function, value[named])
        self.assertEqual(parsed.args is not None, given in value)
        if parsed.args is not None:
            self.assertEqual(loads(bytes(parsed.args)), value[given])
        self.assertEqual(parsed.id is not None, "id" in value)
        if parsed.id is not None:
            self.assertEqual(loads(bytes(parsed.id)), value["id"])
        self.assertEqual(parsed.is_notification, dialect is Dialect.JSON_RPC and "id" not in value)
        self.assertEqual(parsed.options, Options(**value.get("options", {})))

    def assert_invalid_request(self, parsed):
        self.assertIsInstance(parsed, Invalid)
        self.assertIsInstance(parsed.error, InvalidRequest)
        self.assertEqual(parsed.error.code, INVALID_REQUEST)

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes_are_read_as_the_protocol_says(self, line):
        self.check(line)

    @given(lines_of_tokens)
    @example(b'{"jsonrpc":"2.0","method":"f","id":1,"x":1e999}')
    @example(b'[{"jsonrpc":"2.0","method":"f","params":[1e999]}]')
    @example(b"1e999")
    @example(b'{"function":"f","args":[1e999]}')
    @example(b'\xef\xbb\xbf{"function":"f"}')
    @example(b'{"function":"f"}\x00')
    def test_tokens_in_any_order_are_read_as_the_protocol_says(self, line):
        self.check(line)

    @given(damaged_requests())
    def test_damaged_requests_are_read_as_the_protocol_says(self, line):
        self.check(line)

    @given(text_of(near_requests))
    def test_objects_that_are_nearly_requests_are_read_as_the_protocol_says(self, line):
        self.check(line)

    @given(text_of(values | st.lists(near_requests, max_size=4)))
    def test_any_json_is_read_as_the_protocol_says(self, line):
        self.check(line)

    @given(requests)
    def test_a_request_is_read_back_from_its_line(self, call):
        parsed = parse(line_of(call))
        self.assertIsInstance(parsed, Request)
        self.assertEqual(
            (parsed.dialect, parsed.function, shown(parsed.id), parsed.options),
            (call.dialect, call.function, shown(call.id), call.options),
        )
        self.assertEqual(parsed.args is None, call.args is None)
        if call.args is not None:
            self.assertEqual(loads(bytes(parsed.args)), loads(bytes(call.args)))
            if not set(bytes(call.args)) & set(b"\r\n"):  # it is passed on unchanged
                self.assertEqual(bytes(parsed.args), bytes(call.args))

    @given(requests)
    def test_the_line_of_a_request_is_one_line(self, call):
        line = line_of(call)
        self.assertEqual(LineSplitter().receive(line + b"\n"), [line])

    @given(id_texts, st.booleans())
    def test_an_id_is_kept_byte_for_byte(self, id_text, in_a_batch):
        line = b'{"jsonrpc":"2.0", "id" : %b , "method":"f"}' % id_text
        if in_a_batch:
            line = b"[ " + line + b" ]"
        parsed = parse(line)
        call = parse_member(parsed.members[0]) if isinstance(parsed, Batch) else parsed
        self.assertEqual(bytes(call.id), id_text)
        self.assertFalse(call.is_notification)

    @given(id_texts)
    def test_an_invalid_request_keeps_its_id(self, id_text):
        parsed = parse(b'{"jsonrpc":"2.0", "id": %b, "method": 5}' % id_text)
        self.assertEqual(bytes(parsed.id), id_text)
        self.assertIs(parsed.dialect, Dialect.JSON_RPC)

    @given(st.binary(max_size=20), st.binary(max_size=20))
    def test_the_error_about_invalid_utf8_gives_its_position(self, before, after):
        line = b'{"function":"' + before + b'\xff"}' + after
        try:
            line.decode()
        except UnicodeDecodeError as error:
            self.assertEqual(parse(line).error.data, {"at": error.start})

    def test_the_error_about_invalid_json_gives_its_position(self):
        self.assertEqual(parse(b"{'function': 1}").error.data, {"at": 1})
        self.assertEqual(parse(b'{"function":"f","args":[1 2]}').error.data, {"at": 26})
        self.assertEqual(parse(b'{"function":"f","args":[NaN]}').error.data, {"at": 24})

    def test_the_error_about_trailing_data_gives_its_position(self):
        self.assertEqual(parse(b'{"function":"f"}x').error.data, {"at": 16})
        self.assertEqual(parse(b'{"function":"f"} x').error.data, {"at": 17})

    def test_truncated_json_is_refused(self):
        line = b'{"jsonrpc":"2.0","id":"\\u00e9","method":"f","params":[{"a":[1.5,true,null]}]}'
        self.assertIsInstance(parse(line), Request)
        for end in range(len(line)):
            self.assertEqual(parse(line[:end]).error.code, PARSE_ERROR, line[:end])

    def test_nesting_beyond_the_limit_is_refused_in_every_form(self):
        for opened, closed in (b"[", b"]"), (b'{"a":', b"}"), (b"[[{},", b"]]"):
            for count in 256, 500, 1000, 5000, 100_000:
                deep = opened * count + b"1" + closed * count
                for form in b"[%b]", b'{"function":"f","args":%b}', b'{"x":%b}', b"[%b,1]", b"[ %b]", b"[%b":
                    error = parse(form % deep).error
                    self.assertEqual((error.code, error.data), (PARSE_ERROR, {"limit": MAX_NESTING}))

    def test_nesting_up_to_the_limit_is_allowed(self):
        for form, own in (
            (b'{"function":"f","args":%b}', 1),
            (b'{"jsonrpc":"2.0","method":"f","params":%b}', 1),
        ):
            depth = MAX_NESTING - own
            self.assertIsInstance(parse(form % (b"[" * depth + b"]" * depth)), Request)

    def test_brackets_inside_strings_do_not_nest(self):
        for text in b"[" * 10_000, b'\\"[' * 5000, b"\\\\[{" * 5000:
            self.assertIsInstance(parse(b'{"function":"f","args":["%b"]}' % text), Request)

    def test_moderate_nesting_is_allowed(self):
        line = b'{"function":"f","args":' + b"[" * 200 + b"]" * 200 + b"}"
        self.assertIsInstance(parse(line), Request)

    def test_numbers_of_any_size_are_passed_on(self):
        for number in b"1e999", b"-1e999", b"1e-999", b"9" * 5000, b"0." + b"1" * 5000:
            for line in b'{"function":"f","args":[%b]}', b'{"jsonrpc":"2.0","method":"f","params":[%b]}':
                self.assertEqual(bytes(parse(line % number).args), b"[%b]" % number)

    def test_numbers_of_any_size_are_passed_on_from_a_batch(self):
        line = b'[{"jsonrpc":"2.0","id":1,"method":"f","params":[1e999]}]'
        parsed = parse(line)
        self.assertIsInstance(parsed, Batch)
        self.assertEqual(bytes(parse_member(parsed.members[0]).args), b"[1e999]")

    def test_the_error_names_the_mistake_and_the_id_whatever_numbers_there_are(self):
        parsed = parse(b'{"jsonrpc":"2.0","id":1,"method":"f","x":1e999}')
        self.assertEqual((shown(parsed.id), parsed.error.data), (b"1", {"member": "x"}))

    def test_the_size_of_a_call_is_that_of_its_name_and_arguments(self):
        self.assertEqual(parse(b'{"function":"name"}').size, 4)
        self.assertEqual(parse(b'{"function":"name","args":[1, 2]}').size, 10)

    def test_empty_arguments_differ_from_no_arguments(self):
        self.assertIsNone(parse(b'{"function":"f"}').args)
        self.assertEqual(bytes(parse(b'{"function":"f","args":{}}').args), b"{}")
        self.assertEqual(bytes(parse(b'{"function":"f","args":[ ]}').args), b"[ ]")

    def test_escapes_in_names_are_read(self):
        parsed = parse(b'{"\\u0066unction":"\\u0066"}')
        self.assertEqual((parsed.dialect, parsed.function), (Dialect.BARE, "f"))
        parsed = parse(b'{"jsonrpc":"2\\u002e0","method":"f"}')
        self.assertEqual((parsed.dialect, parsed.function), (Dialect.JSON_RPC, "f"))

    def test_a_request_with_a_null_id_is_not_a_notification(self):
        call = parse(b'{"jsonrpc":"2.0","id":null,"method":"f"}')
        self.assertFalse(call.is_notification)
        self.assertTrue(parse(b'{"jsonrpc":"2.0","method":"f"}').is_notification)
        self.assertFalse(parse(b'{"function":"f"}').is_notification)

    def test_each_mistake_is_reported_with_its_member(self):
        for line, member in {
            b"{}": "function",
            b'{"args":[]}': "function",
            b'{"function":5}': "function",
            b'{"function":null}': "function",
            b'{"function":"f","args":null}': "args",
            b'{"function":"f","args":"x"}': "args",
            b'{"function":"f","args":3,"options":{}}': "args",
            b'{"function":"f","id":1}': "id",
            b'{"function":"f","params":[]}': "params",
            b'{"function":"f","what":1}': "what",
            b'{"function":"f","options":null}': "options",
            b'{"function":"f","options":[]}': "options",
            b'{"function":"f","options":{"colour":1}}': "options.colour",
            b'{"method":"f"}': "jsonrpc",
            b'{"jsonrpc":"1.0","method":"f"}': "jsonrpc",
            b'{"jsonrpc":2.0,"method":"f"}': "jsonrpc",
            b'{"jsonrpc":"2.0","id":1}': "method",
            b'{"jsonrpc":"2.0","method":1}': "method",
            b'{"jsonrpc":"2.0","method":"f","params":null}': "params",
            b'{"jsonrpc":"2.0","method":"f","params":"x"}': "params",
            b'{"jsonrpc":"2.0","method":"f","id":[]}': "id",
            b'{"jsonrpc":"2.0","method":"f","id":{}}': "id",
            b'{"jsonrpc":"2.0","method":"f","id":true}': "id",
            b'{"jsonrpc":"2.0","method":"f","args":[]}': "args",
            b'{"jsonrpc":"2.0","method":"f","function":"g"}': "function",
            b'{"jsonrpc":"2.0","method":"f","what":1}': "what",
            b'{"jsonrpc":"2.0","method":"f","options":{"colour":1}}': "options.colour",
            b'{"jsonrpc":"2.0","method":"f","options":5}': "options",
        }.items():
            parsed = parse(line)
            self.assert_invalid_request(parsed)
            self.assertEqual(parsed.error.data, {"member": member}, line)

    def test_an_option_of_the_wrong_type_is_reported(self):
        parsed = parse(b'{"function":"f","options":{"progress":"yes"}}')
        self.assert_invalid_request(parsed)
        self.assertIn(parsed.error.data["member"], ("options", "options.progress"))

    def test_the_error_of_an_invalid_bare_request_is_a_bare_reply(self):
        for line in b'{"function":5}', b'{"function":"f","id":1}', b'{"function":"f","args":5}':
            parsed = parse(line)
            self.assertIs(parsed.dialect, Dialect.BARE)
            self.assertIsNone(parsed.id)

    def test_a_repeated_member_does_no_harm(self):
        for line in (
            b'{"function":5,"function":"f"}',
            b'{"function":"f","args":null,"args":[]}',
            b'{"function":"f","options":{"progress":1,"progress":true}}',
            b'{"function":"f","options":{},"options":{}}',
            b'{"jsonrpc":1,"jsonrpc":"2.0","method":"f"}',
        ):
            parsed = parse(line)
            self.assertTrue(isinstance(parsed, Request) or parsed.error.code == INVALID_REQUEST, line)

    def test_json_that_is_not_an_object_is_not_a_request(self):
        for line in b"null", b"1", b'"function"', b"true", b"[]", b" [ ] ":
            parsed = parse(line)
            self.assert_invalid_request(parsed)
            self.assertIsNone(parsed.id)

    def test_each_element_of_a_batch_is_judged_alone(self):
        parsed = parse(
            b'[1, {"jsonrpc":"2.0","id":1,"method":"f"}, [], {"function":"f"}, {"jsonrpc":"2.0","id":2},'
            b' {"jsonrpc":"2.0","method":"g"}, [{"jsonrpc":"2.0","id":3,"method":"f"}]]'
        )
        items = [parse_member(member) for member in parsed.members]
        kinds = [type(item) for item in items]
        self.assertEqual(kinds, [Invalid, Request, Invalid, Invalid, Invalid, Request, Invalid])
        self.assertEqual(shown(items[4].id), b"2")
        self.assertTrue(all(item.dialect is Dialect.JSON_RPC for item in items))
        for item in items:
            if isinstance(item, Invalid):
                self.assert_invalid_request(item)


class LongMessageTests(SynchronousTestCase):
    def test_long_options_are_refused(self):
        for line in (
            b'{"function":"f","args":[1],"options":{"x":"%b"}}',
            b'{"jsonrpc":"2.0","id":7,"method":"f","options":{"x":"%b"}}',
        ):
            parsed = parse_slices(line % (b"x" * LONG))
            self.assertEqual(
                (parsed.function, parsed.error.data), ("f", {"member": "options", "limit": LONG})
            )
            self.assertIn("at most 65536 bytes", parsed.error.message)
        self.assertEqual(bytes(parsed.id), b"7")

    def test_a_mistake_has_the_same_place_as_in_a_short_message(self):
        for line in b"{'function': 1}", b'{"function":"f","args":[1 2]}', b'{"function":"f"} x', b"1 x", b'"':
            self.assertEqual(parse_slices(line).error.data, parse(line).error.data)

    def test_a_member_of_a_batch_is_refused_as_a_short_one_is(self):
        batch = parse(b'[[1],{"function":"f"},{"jsonrpc":"2.0","method":"f","params":[1,2]}]')
        members = [parse_slices(BatchMember(text, BatchReplies(3))) for text in batch.members]
        self.assertEqual(
            [member.error.message for member in members[:2]],
            [parse_member(text).error.message for text in batch.members[:2]],
        )
        self.assertEqual(bytes(members[2].args), b"[1,2]")


class ReplyTests(SynchronousTestCase):
    @given(id_texts, text_of(values))
    def test_a_result_is_read_back(self, id_text, value):
        reply = parse_reply(reply_line(Dialect.JSON_RPC, Raw(id_text), Result(Raw(value))))
        self.assertEqual(shown(reply.id), None if id_text == b"null" else id_text)
        self.assertIsInstance(reply.body, Result)
        self.assertEqual(loads(bytes(reply.body.value)), loads(value))

    @given(id_texts, failures)
    def test_a_failure_is_read_back(self, id_text, failure):
        reply = parse_reply(reply_line(Dialect.JSON_RPC, Raw(id_text), failure))
        self.assertEqual(shown(reply.id), None if id_text == b"null" else id_text)
        self.assertEqual(reply.body, failure)

    @given(id_texts, text_of(values, line_ends=False))
    def test_id_and_result_are_passed_on_byte_for_byte(self, id_text, value):
        line = reply_line(Dialect.JSON_RPC, Raw(id_text), Result(Raw(value)))
        self.assertEqual(line, b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id_text, value))
        self.assertEqual(reply_line(Dialect.BARE, None, Result(Raw(value))), value)

    def test_an_unknown_id_is_null(self):
        for outcome in Result(Raw(b"1")), Failure(1, "m"):
            line = reply_line(Dialect.JSON_RPC, None, outcome)
            self.assertIn(b'"id":null', line)
            self.assertIsNone(parse_reply(line).id)

    @given(text_of(values))
    def test_a_bare_result_is_read_back(self, value):
        assume(not is_error(loads(value)))
        outcome = parse_bare_reply(reply_line(Dialect.BARE, None, Result(Raw(value))))
        self.assertIsInstance(outcome, Result)
        self.assertEqual(loads(bytes(outcome.value)), loads(value))

    @given(st.dictionaries(st.sampled_from(["error", "jsonrpc", "id", "result"]), values, max_size=3))
    def test_a_result_that_resembles_an_error_is_read_as_a_result(self, value):
        assume(not is_error(value))
        outcome = parse_bare_reply(json.dumps(value).encode())
        self.assertIsInstance(outcome, Result)
        self.assertEqual(loads(bytes(outcome.value)), value)

    @given(failures)
    def test_a_bare_failure_is_read_back(self, failure):
        line = reply_line(Dialect.BARE, None, failure)
        self.assertEqual(parse_bare_reply(line), failure)
        self.assertEqual(set(loads(line)), {"error"})

    @given(failures)
    def test_an_error_about_an_unreadable_line_is_read_in_both_dialects(self, failure):
        line = reply_line(Dialect.JSON_RPC, None, failure)
        self.assertEqual(parse_bare_reply(line), failure)
        self.assertEqual(parse_reply(line).body, failure)

    # A worker sends everything on one line (tests/unit/worker), including the result.
    @given(st.sampled_from(Dialect), id_texts, text_of(values, line_ends=False), failures)
    def test_a_reply_is_one_line(self, dialect, id_text, value, failure):
        for outcome in Result(Raw(value)), failure:
            self.assertNotIn(b"\n", reply_line(dialect, Raw(id_text), outcome))

    @given(id_texts, st.text())
    def test_a_progress_report_is_one_line(self, id_text, text):
        self.assertNotIn(b"\n", progress_line(Raw(id_text), Progress(1, None, text)))

    def test_the_error_object_has_the_documented_form(self):
        line = reply_line(Dialect.BARE, None, Failure.of(MethodNotFound("no such function: f")))
        self.assertEqual(loads(line), {"error": {"code": -32601, "message": "no such function: f"}})
        line = reply_line(Dialect.JSON_RPC, Raw(b"7"), Failure.of(TooLarge("too large", limit=5)))
        error = {"code": -32006, "message": "too large", "data": {"limit": 5}}
        self.assertEqual(loads(line), {"jsonrpc": "2.0", "id": 7, "error": error})

    @given(
        id_texts | st.none(),
        st.integers(0, 2**53) | st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.integers(0, 2**53) | st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.text(),
    )
    def test_progress_is_read_back(self, id_text, done, total, message):
        line = progress_line(raw(id_text), Progress(done, total, message))
        reply = parse_reply(line)
        self.assertEqual(reply.body, Progress(done, total, message))
        self.assertEqual(shown(reply.id), None if id_text == b"null" else id_text)
        self.assertEqual(parse_bare_reply(line), Progress(done, total, message))

    def test_a_progress_report_has_the_documented_form(self):
        line = progress_line(Raw(b"7"), Progress(3, 10, "…"))
        params = {"id": 7, "done": 3, "total": 10, "message": "…"}
        self.assertEqual(loads(line), {"jsonrpc": "2.0", "method": "taskd.progress", "params": params})
        params = {"id": None, "done": 3}
        line = progress_line(None, Progress(3))
        self.assertEqual(loads(line), {"jsonrpc": "2.0", "method": "taskd.progress", "params": params})

    @given(st.lists(st.tuples(id_texts, text_of(values)), max_size=4))
    def test_the_replies_to_a_batch_are_one_array(self, replies):
        lines = [reply_line(Dialect.JSON_RPC, Raw(id_text), Result(Raw(value))) for id_text, value in replies]
        self.assertEqual(loads(batch_reply(lines)), [loads(line) for line in lines])

    @given(st.binary(max_size=100) | lines_of_tokens)
    @example(b'"\xff"')
    @example(b'{"a":"\xff"}')
    @example(b'{"error":{"code":1,"message":"m","data":1e999}}')
    @example(b"1e999")
    @example(b'{"error":')
    @example(b'{"error":{"code":1,"message":"m","data":[NaN]}}')
    @example(b"[" * 5000)
    @example(b'{"error":' * 5000)
    @example(b'{"jsonrpc":"2.0","method":"taskd.progress"}')
    def test_a_bare_reply_is_refused_only_if_it_is_not_json(self, line):
        try:
            outcome = parse_bare_reply(line)
        except ParseError:
            progress = line.startswith(b'{"jsonrpc":"2.0","method":"taskd.progress"')
            self.assertTrue(progress or has_surrogate_escape(line) or not is_json(line), line)
        else:
            self.assertTrue(is_json(line), line)
            if isinstance(outcome, Result):
                self.assertEqual(bytes(outcome.value), line.strip(b" \t\r\n"))

    @given(st.binary(max_size=100) | lines_of_tokens)
    @example(b'{"jsonrpc":"2.0","id":1,"result":"\xff"}')
    @example(b'{"jsonrpc":"2.0","id":1}')
    @example(b'{"jsonrpc":"2.0","method":"taskd.progress"}')
    @example(b'{"jsonrpc":"2.0","method":"other","params":{"id":1,"done":1}}')
    @example(b'{"jsonrpc":"2.0","id":' + b"[" * 5000)
    def test_anything_but_a_reply_is_refused(self, line):
        try:
            reply = parse_reply(line)
        except ParseError as error:
            self.assertEqual(error.code, PARSE_ERROR)
        else:
            self.assertTrue(is_json(line), line)
            self.assertTrue(reply.id is None or is_json(bytes(reply.id)))


def is_error(value):
    """Return whether a bare reply of this value is an error object."""
    if not isinstance(value, dict) or not set(value) <= {"error", "jsonrpc", "id"}:
        return False
    error = value.get("error")
    return isinstance(error, dict) and "code" in error and "message" in error
