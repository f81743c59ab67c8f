"""One suite for every link: how calls end, and what cancel, detach and close do to them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any

import pytest
import pytest_twisted
from msgspec import Raw
from twisted.internet.defer import Deferred, gatherResults

from taskd.client.balanced import BalancedLink
from taskd.client.per_call import PerCallLink
from taskd.client.pooled import MAX_CALLS_PER_CONNECTION, PooledLink
from taskd.client.slots import ConnectionSlots
from taskd.client.websocket import MAX_CALLS_PER_WEBSOCKET, WebSocketLink
from taskd.errors import Unreachable
from taskd.listeners.no_room import BUSY_LINE
from taskd.model import Call, Failure, Options, Result
from taskd.protocol.dialects import BARE
from taskd.protocol.framing import MAX_MESSAGE
from tests.live.peers import entered, in_thread, within
from tests.live.support import APPS, TIMEOUT, Daemon, kept_daemon

TASK_FAILED, TIMED_OUT, CANCELLED, BUSY = -32000, -32001, -32002, -32004
NOT_FOUND, UNREACHABLE = -32601, -32007
NO_REPLY = Result(Raw(b"null"))

KINDS = ("per-call", "pooled", "websocket", "balanced")


def call_of(function: str, *args: Any, **options: Any) -> Call:
    return Call(function, Raw(json.dumps(args).encode()), Options(**options))


def value(outcome: Any) -> Any:
    """Return the value of a successful outcome."""
    assert isinstance(outcome, Result), outcome
    return json.loads(bytes(outcome.value))


async def ended(pending: Any) -> Any:
    """Wait for the outcome of a pending call."""
    return await within(pending.outcome, TIMEOUT)


async def failure(pending: Any) -> Failure:
    """Wait for the failure of a pending call; `Unreachable` is converted to its form on the wire."""
    try:
        outcome = await ended(pending)
    except Unreachable as error:
        return Failure.of(error)
    assert isinstance(outcome, Failure), outcome
    return outcome


class Service:
    """A task server of the suite, and a factory of links of one kind to it."""

    def __init__(self, kind: str, server: Daemon, links: list[Any]) -> None:
        self.kind = kind
        self.server = server
        self._links = links
        self._counted: dict[str, int] = {}
        """The server's counts before the test began."""

    async def begin(self) -> None:
        """Wait until the tasks of other tests have ended, and count from here."""

        def is_idle(status: dict[str, Any]) -> bool:
            return not status["running"] and {each["state"] for each in status["workers"]} == {"idle"}

        self._counted = (await self.until(is_idle))["counts"]

    def link(self) -> Any:
        """Open another link."""
        self._links.append(self._make())
        return self._links[-1]

    def _make(self) -> Any:
        from twisted.internet import reactor

        return link_to(self.kind, self.server.ws if self.kind == "websocket" else self.server.tcp, reactor)

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for the server's status, with counts since `begin`, until the condition holds."""
        link = self.link()
        while True:
            status = value(await ended(link.call(call_of("taskd.status"))))
            counts = status["counts"]
            since = {name: number - self._counted.get(name, 0) for name, number in counts.items()}
            if holds(status | {"counts": since}):
                return status


def link_to(kind: str, address: str, reactor: Any, **more: Any) -> Any:
    """A link of a kind to a task server, or to its gateway."""
    if kind == "balanced":
        return BalancedLink(reactor, [address], lambda server: PooledLink(reactor, server, **more))
    return {"per-call": PerCallLink, "pooled": PooledLink, "websocket": WebSocketLink}[kind](
        reactor, address, **more
    )


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int, int], Daemon]]:
    """The servers of this suite, by their numbers of workers and of tasks that may wait."""
    with ExitStack() as stack:

        @cache
        def started(workers: int, max_queue: int) -> Daemon:
            options = (
                "--app",
                str(APPS / "plain.py"),
                "--workers",
                str(workers),
                "--max-queue",
                str(max_queue),
            )
            return stack.enter_context(kept_daemon(*options, directory=tmp_path_factory.mktemp("links")))

        yield started


@pytest.fixture
def serve(kind: str, daemons: Callable[[int, int], Daemon]) -> Iterator[Callable[..., Deferred[Service]]]:
    """Return a service with the given numbers of workers and of tasks that may wait."""
    links: list[Any] = []

    async def start(workers: int = 1, max_queue: int = 10_000) -> Service:
        service = Service(kind, await in_thread(daemons, workers, max_queue), links)
        await service.begin()
        return service

    yield start
    for link in links:
        link.close()


# --- outcomes ----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_calls_end_with_what_their_functions_return_or_raise(serve):
    link = (await serve()).link()
    pending = [
        link.call(call_of("hello", "Ann")),
        link.call(call_of("boom", "no paper")),
        link.call(call_of("no_such_function")),
        link.call(Call("hello")),
        link.call(call_of("taskd.ping")),
    ]
    outcomes = [await ended(each) for each in pending]
    assert value(outcomes[0]) == "Hello, Ann!"
    assert (outcomes[1].code, outcomes[1].data["message"]) == (TASK_FAILED, "no paper")
    assert (outcomes[2].code, outcomes[2].message) == (NOT_FOUND, "no such function: no_such_function")
    assert [value(outcome) for outcome in outcomes[3:]] == ["Hello, World!", "pong"]


@pytest_twisted.ensureDeferred
async def test_concurrent_calls_each_get_their_own_result(serve):
    link = (await serve(2)).link()
    count = 2 * MAX_CALLS_PER_WEBSOCKET
    calls = [link.call(call_of("echo", number)).outcome for number in range(count)]
    assert [value(outcome) for outcome in await within(gatherResults(calls), TIMEOUT)] == list(range(count))


@pytest_twisted.ensureDeferred
async def test_a_call_of_any_size_is_answered(serve):
    link = (await serve()).link()
    text = "x" * (MAX_MESSAGE // 5)
    assert value(await ended(link.call(call_of("echo", text)))) == text


@pytest_twisted.ensureDeferred
async def test_an_outcome_callback_may_make_the_next_call(serve):
    link = (await serve()).link()
    done = link.call(call_of("add", 1)).outcome
    for _ in range(3):
        done.addCallback(lambda outcome: link.call(call_of("add", value(outcome))).outcome)
    assert value(await within(done, TIMEOUT)) == 5


@pytest_twisted.ensureDeferred
async def test_a_call_to_a_server_with_a_full_queue_fails_as_busy(serve, gate):
    link = (await serve(max_queue=0)).link()
    held = link.call(call_of("wait_for", gate.path))
    await entered(gate)
    refused = await failure(link.call(call_of("hello")))
    assert (refused.code, refused.data["retry_after"] > 0) == (BUSY, True)
    gate.release("done")
    assert value(await ended(held)) == "done"


# --- progress ----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_progress_arrives_in_order_before_the_outcome_and_always_includes_the_last_report(serve):
    link = (await serve()).link()
    seen: list[Any] = []
    pending = link.call(call_of("count", 5, progress=True), lambda progress: seen.append(progress.done))
    pending.outcome.addCallback(lambda outcome: seen.append(outcome))
    await ended(pending)
    assert value(seen.pop()) == 5
    assert seen == sorted(seen)
    assert seen[-1] == 5


@pytest_twisted.ensureDeferred
async def test_a_progress_callback_that_raises_affects_no_call(serve):
    link = (await serve()).link()
    assert value(await ended(link.call(call_of("count", 2, progress=True), lambda _: 1 / 0))) == 2
    assert value(await ended(link.call(call_of("count", 2, progress=True)))) == 2


# --- cancel ------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_cancelling_a_running_task_stops_it_and_the_outcome_is_cancelled(serve, gate):
    service = await serve()
    link = service.link()
    pending = link.call(call_of("wait_for", gate.path))
    await entered(gate)
    pending.cancel()
    pending.cancel()
    cancelled = await failure(pending)
    assert (cancelled.code, cancelled.data["was"]) == (CANCELLED, "running")
    pending.cancel()
    pending.detach()
    assert value(await ended(link.call(call_of("hello")))) == "Hello, World!"


@pytest_twisted.ensureDeferred
async def test_cancelling_a_waiting_task_drops_it(serve, gate):
    service = await serve()
    link = service.link()
    held = link.call(call_of("wait_for", gate.path))
    await entered(gate)
    pending = link.call(call_of("hello"))
    await service.until(lambda status: status["waiting"] == 1)
    pending.cancel()
    cancelled = await failure(pending)
    assert (cancelled.code, cancelled.data) == (CANCELLED, {"was": "waiting"})
    gate.release("done")
    assert value(await ended(held)) == "done"


@pytest_twisted.ensureDeferred
async def test_a_call_cancelled_right_away_is_reported_as_waiting(serve, gate):
    service = await serve()
    link = service.link()
    held = link.call(call_of("wait_for", gate.path))
    await entered(gate)
    pending = service.link().call(call_of("hello"))
    pending.cancel()
    cancelled = await failure(pending)
    assert (cancelled.code, cancelled.data) == (CANCELLED, {"was": "waiting"})
    gate.release("done")
    assert value(await ended(held)) == "done"


@pytest_twisted.ensureDeferred
async def test_cancel_after_the_end_has_no_effect(serve):
    link = (await serve()).link()
    pending = link.call(call_of("hello"))
    outcome = await ended(pending)
    pending.cancel()
    pending.detach()
    assert value(outcome) == "Hello, World!"
    assert value(await ended(link.call(call_of("hello")))) == "Hello, World!"


@pytest_twisted.ensureDeferred
async def test_cancelling_one_call_cancels_no_other(serve, make_gate):
    link = (await serve(2)).link()
    gates = make_gate(), make_gate()
    calls = [link.call(call_of("wait_for", gate.path)) for gate in gates]
    for gate in gates:
        await entered(gate)
    calls[0].cancel()
    assert (await failure(calls[0])).code == CANCELLED
    gates[1].release("done")
    assert value(await ended(calls[1])) == "done"


@pytest.mark.parametrize("kind", ["per-call", "pooled", "balanced"], indirect=True)  # see docs/protocol.md
@pytest_twisted.ensureDeferred
async def test_a_task_can_be_cancelled_by_its_number_over_its_own_link(serve, gate):
    service = await serve()
    link = service.link()
    pending = link.call(call_of("wait_for", gate.path))
    await entered(gate)
    number = (await service.until(lambda status: status["running"] == 1))["workers"][0]["task"]
    asking = link.call(Call("taskd.cancel", Raw(b'{"task":%d}' % number)))
    assert (await failure(pending)).code == CANCELLED
    assert value(await ended(asking))["was"] == "running"
    unknown = link.call(Call("taskd.cancel", Raw(b'{"id":"unknown"}')))
    assert value(await ended(unknown)) == {"was": "done"}


# --- detach ------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_detached_call_ends_without_a_reply_and_its_task_goes_on(serve, gate):
    service = await serve()
    link = service.link()
    pending = link.call(call_of("wait_for", gate.path))
    await entered(gate)
    pending.detach()
    assert pending.outcome.called, "it was sent"
    pending.detach()
    pending.cancel()
    assert await ended(pending) == NO_REPLY
    gate.release("nobody waits")
    await service.until(lambda status: status["counts"]["done"] == 1)
    assert value(await ended(link.call(call_of("hello")))) == "Hello, World!"


@pytest_twisted.ensureDeferred
async def test_a_call_detached_right_away_is_still_run(serve):
    service = await serve()
    link = service.link()
    pending = [link.call(call_of("hello")) for _ in range(3)]
    for each in pending:
        each.detach()
    assert [await ended(each) for each in pending] == [NO_REPLY] * 3
    await service.until(lambda status: status["counts"]["done"] == 3)


@pytest_twisted.ensureDeferred
async def test_cancel_then_detach_cancels_the_task(serve, gate):
    service = await serve()
    pending = service.link().call(call_of("wait_for", gate.path))
    await entered(gate)
    pending.cancel()
    pending.detach()
    assert await ended(pending) == NO_REPLY
    await service.until(lambda status: status["counts"]["cancelled"] == 1)


@pytest_twisted.ensureDeferred
async def test_a_detached_task_that_must_not_outlive_its_connection_is_cancelled_with_it(serve, gate):
    service = await serve()
    link = service.link()
    pending = link.call(call_of("wait_for", gate.path, on_disconnect="cancel"))
    await entered(gate)
    pending.detach()
    if service.kind != "per-call":  # if the connection belongs to the call
        await service.until(lambda status: status["counts"]["cancelled"] == 0)
        link.close()
    await service.until(lambda status: status["counts"]["cancelled"] == 1)


# --- close -------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_closing_a_link_fails_its_calls_and_their_tasks_run_on_unless_their_options_forbid_it(
    serve, make_gate
):
    service = await serve(2)
    link = service.link()
    stays, goes = make_gate(), make_gate()
    calls = [
        link.call(call_of("wait_for", stays.path)),
        link.call(call_of("wait_for", goes.path, on_disconnect="cancel")),
    ]
    for gate in (stays, goes):
        await entered(gate)
    link.close()
    for pending in calls:
        failed = await failure(pending)
        assert (failed.code, failed.data["sent"]) == (UNREACHABLE, True)
        assert failed.message.endswith("this client closed the connection")
        pending.cancel()
        pending.detach()
    await service.until(lambda status: status["counts"]["cancelled"] == 1)
    stays.release("nobody waits")
    await service.until(lambda status: status["counts"]["done"] == 1)
    link.close()


@pytest_twisted.ensureDeferred
async def test_closing_a_link_from_an_outcome_callback_fails_the_other_calls(serve, gate):
    link = (await serve(2)).link()
    held = link.call(call_of("wait_for", gate.path))
    await entered(gate)
    done = link.call(call_of("hello"))
    done.outcome.addCallback(lambda outcome: link.close() or outcome)
    assert value(await ended(done)) == "Hello, World!"
    assert (await failure(held)).code == UNREACHABLE
    gate.release("nobody waits")


# --- the server goes ---------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_call_fails_as_unreachable_but_sent_when_its_server_is_killed(kind, start, gate):
    daemon = start("--workers", "1")
    await in_thread(daemon.wait_until_ready)
    links: list[Any] = []
    pending = Service(kind, daemon, links).link().call(call_of("wait_for", gate.path))
    await entered(gate)
    await in_thread(daemon.stop, signal.SIGKILL)
    failed = await failure(pending)
    assert (failed.code, failed.data["sent"]) == (UNREACHABLE, True)
    links[0].close()


@pytest_twisted.ensureDeferred
async def test_without_a_listening_server_a_call_fails_as_unreachable_and_unsent(kind, refusing):
    from twisted.internet import reactor

    address = refusing.replace("tcp:", "ws://") if kind == "websocket" else refusing
    link = link_to(kind, address, reactor)
    pending = link.call(call_of("hello"))
    detached = link.call(call_of("hello"))
    detached.detach()
    for each in (pending, detached):
        failed = await failure(each)
        assert (failed.code, failed.data["sent"]) == (UNREACHABLE, False)


@pytest.mark.parametrize("kind", ["per-call", "pooled", "balanced"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_an_unsent_call_is_cancelled_or_closed_at_once(kind, silent):
    from twisted.internet import reactor

    link = link_to(kind, silent, reactor)
    pending, closed = link.call(call_of("hello")), link.call(call_of("hello"))
    pending.cancel()
    assert pending.outcome.called
    assert (await failure(pending)).data == {"was": "waiting"}
    link.close()
    assert closed.outcome.called
    failed = await failure(closed)
    assert (failed.code, failed.data["sent"]) == (UNREACHABLE, False)


# --- replies that cannot be read ---------------------------------------------


@pytest.mark.parametrize("kind", ["per-call", "pooled", "balanced"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_a_reply_over_the_limit_fails_the_call_but_not_the_next_connection(kind, fake):
    from twisted.internet import reactor

    server = fake(lambda message: message.answer("x" * 2000 if message.function == "big" else "fine"))
    link = link_to(kind, server.endpoint, reactor, max_reply=1000)
    failed = await failure(link.call(call_of("big")))
    assert (failed.code, failed.data["sent"]) == (UNREACHABLE, True)
    assert failed.message.endswith("its reply is over 1000 bytes")
    assert value(await ended(link.call(call_of("small")))) == "fine"
    link.close()


@pytest.mark.parametrize("kind", ["per-call", "pooled", "balanced"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_a_reply_over_the_limit_leaves_the_calls_beside_it_alone(kind, fake):
    from twisted.internet import reactor

    server = fake(lambda message: message.answer("x" * 2000) if message.function == "big" else None)
    link = link_to(kind, server.endpoint, reactor, max_reply=1000)
    beside = link.call(call_of("beside"))
    message = await server.received()
    assert "its reply is over 1000 bytes" in (await failure(link.call(call_of("big")))).message
    message.answer("fine")
    assert value(await ended(beside)) == "fine"
    link.close()


@pytest.mark.parametrize("kind", ["per-call", "pooled", "balanced"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_speak_the_protocol_counts_as_unreachable(kind, fake):
    from twisted.internet import reactor

    server = fake(lambda message: message.connection.sendLine(b"220 mail.example ESMTP"))
    link = link_to(kind, server.endpoint, reactor)
    failed = await failure(link.call(call_of("hello")))
    assert (failed.code, failed.data["sent"]) == (UNREACHABLE, True)
    assert "it is no task server" in failed.message
    link.close()


# --- what links differ in ----------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_bare_call_on_its_own_connection_is_sent_without_an_id(fake):
    from twisted.internet import reactor

    server = fake()
    link = PerCallLink(reactor, server.endpoint)
    pending = link.call(call_of("held", 1, progress=True), print, BARE)
    message = await server.received()
    assert message.content == {"function": "held", "args": [1], "options": {"progress": True}}
    pending.cancel()
    message.answer("done")
    assert value(await ended(pending)) == "done"
    pending = link.call(call_of("held"), None, BARE)
    message = await server.received()
    pending.detach()
    await server.lost()
    assert await server.lost() is message.connection
    assert [message.function for message in server.messages] == ["held", "held"]


@pytest_twisted.ensureDeferred
async def test_a_cancel_is_sent_before_the_connection_is_closed(fake):
    from twisted.internet import reactor

    server = fake()
    pending = PerCallLink(reactor, server.endpoint).call(call_of("held"))
    message = await server.received()
    pending.cancel()
    pending.detach()
    cancel = await server.received()
    assert (cancel.function, cancel.content["params"]) == ("taskd.cancel", {"id": message.content["id"]})
    assert await server.lost() is message.connection


@pytest_twisted.ensureDeferred
async def test_a_pooled_link_sends_json_rpc_and_opens_a_connection_when_all_are_full(fake):
    from twisted.internet import reactor

    server = fake()
    link = PooledLink(reactor, server.endpoint, alone=1000)
    calls = [link.call(call_of("held"), None, BARE) for _ in range(MAX_CALLS_PER_CONNECTION + 1)]
    for _ in calls:
        assert not (await server.received()).is_bare
    assert server.open_connections == 2
    large = link.call(call_of("large", "x" * 1000), None, BARE)
    message = await server.received()
    assert (message.is_bare, server.open_connections) == (True, 3)
    message.answer("done")
    assert value(await ended(large)) == "done"
    link.close()
    for pending in calls:
        assert (await failure(pending)).code == UNREACHABLE


@pytest_twisted.ensureDeferred
async def test_calls_that_wait_for_a_connection_keep_their_order_and_their_rights(fake):
    from twisted.internet import reactor

    server = fake()
    slots = ConnectionSlots(1, max_waiting=4)
    link = PerCallLink(reactor, server.endpoint, slots=slots)
    first = link.call(call_of("held"))
    message = await server.received()
    late = link.call(call_of("late", deadline=0.01))
    unwanted = link.call(call_of("unwanted"))
    detached = link.call(call_of("detached"))
    in_time = link.call(call_of("in_time", deadline=1000.0))
    assert (await failure(link.call(call_of("too many")))).code == BUSY
    refused = await failure(late)
    assert (refused.code, refused.data) == (TIMED_OUT, {"limit": "deadline", "seconds": 0.01})
    unwanted.cancel()
    assert (await failure(unwanted)).data == {"was": "waiting"}
    detached.detach()
    assert server.open_connections == 1
    message.answer("done")
    assert value(await ended(first)) == "done"
    assert await ended(detached) == NO_REPLY
    assert (await server.received()).function == "detached"
    message = await server.received()
    assert message.function == "in_time"
    assert 0 < message.content["options"]["deadline"] < 1000
    message.answer("done")
    assert value(await ended(in_time)) == "done"
    assert (slots.used, slots.waiting) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_a_connection_that_cannot_be_made_gives_its_slot_back(refusing):
    from twisted.internet import reactor

    slots = ConnectionSlots(1)
    link = PerCallLink(reactor, refusing, slots=slots)
    for pending in [link.call(call_of("hello")) for _ in range(3)]:
        assert (await failure(pending)).code == UNREACHABLE
    waiting = [link.call(call_of("hello", deadline=1000.0)) for _ in range(3)]
    link.close()
    for pending in waiting:
        assert (await failure(pending)).code == UNREACHABLE
    assert (slots.used, slots.waiting) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_a_shared_connection_that_is_refused_ends_its_calls_as_busy(fake):
    from twisted.internet import reactor

    server = fake(lambda message: message.connection.sendLine(BUSY_LINE.rstrip()))
    link = PooledLink(reactor, server.endpoint)
    for pending in [link.call(call_of("hello")) for _ in range(3)]:
        assert (await failure(pending)).code == BUSY
    link.close()


@pytest_twisted.ensureDeferred
async def test_a_balanced_link_sends_an_unsent_call_to_the_next_server(fake, refusing):
    from twisted.internet import reactor

    server = fake(lambda message: message.answer("here"))
    link = BalancedLink(reactor, [refusing, server.endpoint], lambda address: PerCallLink(reactor, address))
    assert [value(await ended(link.call(call_of("hello")))) for _ in range(3)] == ["here"] * 3
    with suppress(Unreachable):
        link.close()
