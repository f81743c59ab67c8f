"""One suite of tokens for every client: shown ahead of the first call, and replaced when one has expired."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import pytest_twisted
from msgspec import Raw
from twisted.internet.defer import Deferred

from taskd.client.link import Link
from taskd.client.per_call import PerCallLink
from taskd.client.pooled import PooledLink
from taskd.client.slots import ConnectionSlots
from taskd.client.tokens import Credentials
from taskd.errors import Cancelled, MethodNotFound, NotAllowed
from taskd.model import Call, Failure, Result
from taskd.protocol.dialects import BARE
from tests.contracts.test_clients import Tried, failure
from tests.live.peers import FakeTaskServer, Received, within

KINDS = ["blocking", "asyncio", "twisted, per-call", "twisted, pooled"]

GOOD, OLD, BAD = "good", "old", "bad"

NOT_ALLOWED = -32008


class TokenServer:
    """A task server that knows two tokens, of which one has expired.

    If it `is_silent`, it answers a token when the next request comes.
    """

    def __init__(self) -> None:
        self.put_off: Received | None = None
        self.tokens: list[str] = []
        self.is_silent = False
        self._owners: dict[Any, str] = {}

    def __call__(self, message: Received) -> None:
        if message.function != "taskd.auth":
            if self.put_off is not None:
                self._answer_token(self.put_off)
                self.put_off = None
            self._answer_call(message)
        elif self.is_silent:
            self.put_off = message
        else:
            self._answer_token(message)

    def _answer_token(self, message: Received) -> None:
        token = message.content["params"]["token"]
        self.tokens.append(token)
        if token == GOOD:
            self._owners[message.connection] = "ann"
            message.answer({"owner": "ann", "role": "submit", "expires": time.time() + 3600})
        elif token == OLD:
            message.fail(NOT_ALLOWED, "the token has expired", {"reason": "expired"})
        else:
            message.fail(NOT_ALLOWED, "the token is unknown", {"reason": "unknown"})

    def _answer_call(self, message: Received) -> None:
        if message.connection not in self._owners:
            message.fail(NOT_ALLOWED, "a token is needed here", {"reason": "no token"})
        elif message.function == "taskd.attach":
            message.answer({"task": "t1", "seq": 1, "state": "running"})
            for number, event in ((1, "queued"), (2, "cancelled")):
                message.connection.sendLine(
                    b'{"jsonrpc":"2.0","method":"taskd.event","params":'
                    b'{"task":"t1","seq":%d,"at":0,"event":"%s"}}' % (number, event.encode())
                )
        elif message.function != "taskd.cancel":
            message.answer([message.function, message.content.get("params", [])])


class Tokens:
    """A function for tokens, which returns the next of some, and the last for ever."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        return self.tokens[min(self.asked, len(self.tokens)) - 1]


@pytest.fixture
def server() -> Iterator[FakeTaskServer]:
    fake = FakeTaskServer(TokenServer())
    yield fake
    pytest_twisted.blockon(within(fake.close()))


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, server: FakeTaskServer) -> Iterator[Callable[[Any], Tried]]:
    """Make a client of a kind with a token; each is closed at the end."""
    opened: list[Tried] = []

    def make(token: Any) -> Tried:
        opened.append(_client(request.param, server.endpoint, token))
        return opened[-1]

    yield make
    for each in opened:
        pytest_twisted.blockon(within(each.close()))


def _client(kind: str, server: str, token: Any) -> Tried:
    from twisted.internet import reactor
    from twisted.internet.defer import maybeDeferred
    from twisted.internet.threads import deferToThread

    from taskd.client import AsyncClient, Client, TaskClient
    from tests.contracts.test_clients import (
        _in_a_task,
        _listed_by_a_coroutine,
        _listed_by_a_task,
        _listed_in_a_thread,
    )

    if kind == "blocking":
        return Tried(Client(server, token=token), deferToThread, _listed_in_a_thread)
    if kind == "asyncio":
        return Tried(AsyncClient(server, token=token), _in_a_task, _listed_by_a_task)
    link: Any = kind.partition(", ")[2]
    return Tried(TaskClient(reactor, server, token=token, link=link), maybeDeferred, _listed_by_a_coroutine)


@pytest_twisted.ensureDeferred
async def test_a_token_costs_no_round_trip(client, server):
    """The server answers neither before it has both."""
    server.behave.is_silent = True
    assert await within(client(GOOD).call("f", 1)) == ["f", [1]]
    assert [message.function for message in server.messages] == ["taskd.auth", "f"]


@pytest_twisted.ensureDeferred
async def test_without_a_token_the_server_says_that_it_needs_one(client, server):
    error = await failure(client(None).call("f"), NotAllowed)
    assert error.data["reason"] == "no token"
    assert server.behave.tokens == []


@pytest_twisted.ensureDeferred
async def test_a_token_comes_from_the_environment_if_the_program_gives_none(client, server, monkeypatch):
    monkeypatch.setenv("TASKD_TOKEN", f" {GOOD}\n")
    await within(client(None).call("f"))
    assert server.behave.tokens == [GOOD]


@pytest_twisted.ensureDeferred
async def test_a_refused_token_fails_the_calls_behind_it_and_is_shown_once(client, server):
    tokens = Tokens(BAD)
    error = await failure(client(tokens).call("f"), NotAllowed)
    assert (error.message, error.data["reason"]) == ("the token is unknown", "unknown")
    assert (tokens.asked, server.behave.tokens) == (1, [BAD])


@pytest_twisted.ensureDeferred
async def test_after_a_refusal_the_next_call_shows_a_token_again(client):
    tokens = Tokens(BAD, GOOD)
    made = client(tokens)
    await failure(made.call("f"), NotAllowed)
    assert await within(made.call("f")) == ["f", []]


@pytest_twisted.ensureDeferred
async def test_a_function_is_asked_again_for_a_token_that_has_expired(client, server):
    assert await within(client(Tokens(OLD, GOOD)).call("f")) == ["f", []]
    assert server.behave.tokens == [OLD, GOOD]


@pytest_twisted.ensureDeferred
async def test_a_function_that_returns_one_expired_token_after_the_other_is_asked_once_more(client):
    tokens = Tokens(OLD)
    error = await failure(client(tokens).call("f"), NotAllowed)
    assert (error.data["reason"], tokens.asked) == ("expired", 2)


@pytest_twisted.ensureDeferred
async def test_a_text_that_has_expired_is_shown_once(client, server):
    error = await failure(client(OLD).call("f"), NotAllowed)
    assert (error.data["reason"], server.behave.tokens) == ("expired", [OLD])


@pytest_twisted.ensureDeferred
async def test_all_rows_of_a_map_are_sent_with_the_new_token(client):
    found = await within(client(Tokens(OLD, GOOD)).map("f", [1, 2]))
    assert sorted(found) == [(1, ["f", [1]]), (2, ["f", [2]])]


@pytest.mark.parametrize("wrong", [None, "", "a b", 7])
@pytest_twisted.ensureDeferred
async def test_a_function_that_returns_no_token_fails_the_call_before_anything_is_sent(client, server, wrong):
    error = await failure(client(lambda: wrong).call("f"), NotAllowed)
    assert error.data["reason"] in ("no token", "malformed")
    assert "a b" not in error.message
    assert server.messages == []


@pytest_twisted.ensureDeferred
async def test_a_function_that_raises_fails_the_call_with_its_reason(client):
    def token() -> str:
        raise LookupError("nobody has signed in")

    error = await failure(client(token).call("f"), NotAllowed)
    assert error.message == (
        "there is no token: the function for it has raised LookupError: nobody has signed in"
    )


@pytest_twisted.ensureDeferred
async def test_events_are_watched_with_the_new_token_after_one_has_expired(client):
    events = await within(client(Tokens(OLD, GOOD)).task("t1").events())
    assert [event.event for event in events] == ["queued", "cancelled"]


@pytest.mark.parametrize("wrong", ["a b", "ä", "", 7])
def test_a_wrong_token_is_reported_when_the_client_is_made_and_not_quoted(client, wrong):
    with pytest.raises(ValueError, match=r"a token is a text of letters, digits and") as caught:
        client(wrong)
    assert "a b" not in str(caught.value)


@pytest.mark.parametrize("kind", ["asyncio", "twisted, per-call", "twisted, pooled"])
@pytest_twisted.ensureDeferred
async def test_a_function_for_tokens_may_be_a_coroutine_function(kind, server):
    async def token() -> str:
        return GOOD

    client = _client(kind, server.endpoint, token)
    assert await within(client.call("f")) == ["f", []]
    await within(client.close())


@pytest_twisted.ensureDeferred
async def test_a_client_that_blocks_awaits_no_function(server):
    async def token() -> str:
        return GOOD

    client = _client("blocking", server.endpoint, token)
    error = await failure(client.call("f"), NotAllowed)
    assert error.message == "there is no token: a client that blocks awaits no function"


# --- links, whose calls may be bare ---


@pytest.fixture(params=[PerCallLink, PooledLink])
def link(request: pytest.FixtureRequest, server: FakeTaskServer) -> Iterator[Callable[..., Link]]:
    """Make a link of a kind with a token; each is closed at the end."""
    from twisted.internet import reactor

    opened: list[Link] = []

    def make(token: Any, **more: Any) -> Link:
        if request.param is PooledLink:
            more["alone"] = 0  # so that each call gets a connection of its own, in its dialect
        opened.append(request.param(reactor, server.endpoint, credentials=Credentials(token), **more))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def bare(link: Link) -> Deferred[Any]:
    """Make a bare call; return its outcome."""
    return within(link.call(Call("f", Raw(b"[1]")), None, BARE).outcome)


@pytest_twisted.ensureDeferred
async def test_the_answer_to_a_token_is_not_taken_for_the_reply_to_a_bare_call(link, server):
    assert await bare(link(GOOD)) == Result(Raw(b'["f", []]'))
    assert [(message.function, message.is_bare) for message in server.messages] == [
        *(("taskd.auth", False), ("f", True))
    ]


@pytest_twisted.ensureDeferred
async def test_a_refused_token_fails_a_bare_call(link):
    outcome = await bare(link(BAD))
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.message) == (NOT_ALLOWED, "the token is unknown")


@pytest_twisted.ensureDeferred
async def test_a_server_that_knows_no_tokens_answers_a_bare_call(link, server):
    def answer(message: Received) -> None:
        if message.function == "taskd.auth":
            message.fail(MethodNotFound.code, "there is no function taskd.auth")
        else:
            message.answer(7)

    server.behave = answer
    assert await bare(link(GOOD)) == Result(Raw(b"7"))


@pytest.mark.parametrize("result", [{"jsonrpc": "2.0", "id": "auth", "result": {}}, {"jsonrpc": "2.0"}, 7])
@pytest_twisted.ensureDeferred
async def test_a_bare_call_ends_with_its_result_whatever_is_answered_to_tokens_and_pings(
    link, server, result
):
    """A second token is shown meanwhile, since the first one expires soon."""
    held: list[Received] = []

    def answer(message: Received) -> None:
        if message.is_bare:
            held.append(message)
            message.connection.sendLine(b'{"jsonrpc":"2.0","id":"ping","result":"pong"}')
        else:
            message.answer({"expires": time.time() + (3600 if held else 0.1)})
            if held:
                held.pop().answer(result)

    server.behave = answer
    outcome = await bare(link(lambda: GOOD, beats=True))
    assert isinstance(outcome, Result)
    assert msgspec.json.decode(outcome.value) == result
    assert [message.function for message in server.messages] == ["taskd.auth", "f", "taskd.auth"]


@pytest_twisted.ensureDeferred
async def test_a_call_without_a_token_gives_its_slot_back(link):
    slots, asked = ConnectionSlots(1), []

    def token() -> Deferred[str]:
        asked.append(Deferred[str]())
        return asked[-1]

    made = link(token, slots=slots)
    pending = made.call(Call("f", Raw(b"[1]")))
    assert slots.used == 1
    pending.cancel()
    outcome = await within(pending.outcome)
    assert (outcome.code, slots.used) == (Cancelled.code, 0)
    pending = made.call(Call("f", Raw(b"[1]")))
    asked[-1].errback(LookupError("nobody has signed in"))
    assert (await within(pending.outcome)).code == NOT_ALLOWED
    assert slots.used == 0
