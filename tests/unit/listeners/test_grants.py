"""What a gateway tells its task servers of its callers, and which events its websockets get."""

import json

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import InvalidParams, NotAllowed, Unreachable
from taskd.listeners import remote_backend
from taskd.listeners.gateway import GatewayConfig
from taskd.listeners.remote_backend import RemoteBackend
from taskd.listeners.remote_events import RemoteEvents
from taskd.model import OPERATOR, Failure, Grant, Options, Result
from taskd.protocol.dialects import JSON_RPC
from taskd.protocol.requests import Request
from taskd.scheduler.budget import Budget
from taskd.scheduler.parties import Lane, Parties
from taskd.server.unanswered import Unanswered

LONGEST = 100_000
SERVER = "tcp:127.0.0.1:1"
ALICE, BOB = Grant("alice"), Grant("bob", waiting=3, args={"tenant": Raw(b"7")})


class Requester:
    """A websocket, as far as a backend needs it."""

    def __init__(self, grant, party="192.0.2.7"):
        self.grant = grant
        self.may_name_callers = grant.has("operate")
        self.lane = Lane(Parties().party(party), "ab-1")
        self.watches = 0
        self.is_congested = False
        self.takes_events = True
        self.outcomes = []
        self.lines = []

    def task_ended(self, request, outcome):
        self.outcomes.append(outcome)

    def wants_result(self, request, size):
        return self.takes_events

    def notify(self, line):
        self.lines.append(json.loads(line)["params"])

    def flush(self):
        pass

    @property
    def outcome(self):
        [outcome] = self.outcomes
        self.outcomes = []
        return outcome


class Link:
    """A link to a task server, which keeps what it is to send."""

    def __init__(self, *_):
        self.calls = []

    def call(self, call, *_):
        self.calls.append(call)
        pending = Deferred()
        pending.outcome = pending
        return pending

    def close(self):
        pass


class PassingCase(SynchronousTestCase):
    def make(self, *, has_tokens):
        self.link = Link()
        self.patch(remote_backend, "BalancedLink", lambda *_: self.link)
        clock = Clock()
        config = GatewayConfig([SERVER], max_message=LONGEST)
        self.backend = RemoteBackend(clock, config, Unanswered(clock), Budget(), has_tokens=has_tokens)

    def passed(self, requester, options=None, args=None, function="f"):
        """Have a request passed on, and return the options that a task server gets; None if it is refused."""
        request = Request(function, args, Options(**(options or {})), JSON_RPC, Raw(b"1"))
        self.backend.submit([request], requester)
        calls, self.link.calls = self.link.calls, []
        return json.loads(msgspec.json.encode(calls[0].options)) if calls else None


class PassingTests(PassingCase):
    def test_a_task_server_learns_what_a_token_grants(self):
        self.make(has_tokens=True)
        self.assertEqual(
            self.passed(Requester(BOB, "owner bob")),
            {
                "caller": "owner bob ab-1",
                "grant": {"owner": "bob", "waiting": 3, "args": {"tenant": 7}},
            },
        )

    def test_a_task_server_learns_which_functions_a_token_covers(self):
        self.make(has_tokens=True)
        few = Requester(Grant("alice", functions=("f", "mail.*")), "owner alice")
        self.assertEqual(self.passed(few)["grant"], {"owner": "alice", "functions": ["f", "mail.*"]})

    def test_the_callers_and_grants_that_a_browser_sends_are_replaced(self):
        forged = {"caller": "owner root x", "grant": OPERATOR, "priority": 3}
        self.make(has_tokens=True)
        found = self.passed(Requester(ALICE, "owner alice"), forged)
        self.assertEqual(found, {"caller": "owner alice ab-1", "grant": {"owner": "alice"}, "priority": 3})
        self.make(has_tokens=False)
        self.assertEqual(self.passed(Requester(Grant()), forged), {"caller": "192.0.2.7 ab-1", "priority": 3})

    def test_an_operator_passes_on_whom_it_speaks_for(self):
        self.make(has_tokens=True)
        root = Requester(Grant("root", "operate"), "owner root")
        self.assertEqual(self.passed(root)["grant"], {"owner": "root", "role": "operate"})
        found = self.passed(root, {"caller": "owner bob 9", "grant": BOB})
        self.assertEqual((found["caller"], found["grant"]["owner"]), ("owner bob 9", "bob"))
        self.assertEqual(self.passed(root, {"caller": "192.0.2.1 9"})["grant"], {})

    def test_a_message_without_room_for_whose_it_is_is_refused(self):
        for has_tokens in (True, False):
            self.make(has_tokens=has_tokens)
            for owner in ("alice", "é" * 200, '"' * 200):
                requester = Requester(Grant(owner), f"owner {owner}")
                for size in range(LONGEST - 3000, LONGEST - 2, 50):
                    options = self.passed(requester, args=Raw(b'["%b"]' % (b"x" * size)))
                    if options is None:
                        outcome = requester.outcome
                        self.assertEqual(outcome.code, -32006)
                        self.assertLess(outcome.data["limit"], LONGEST)
                    else:
                        self.assertLess(size + len(msgspec.json.encode(options)), LONGEST - 100)
                        self.assertIn("caller", options)
                        self.assertEqual("grant" in options, has_tokens)

    def test_a_token_is_never_passed_on(self):
        for has_tokens in (True, False):
            self.make(has_tokens=has_tokens)
            requester = Requester(Grant())
            for function, args in (("taskd.auth", b'["root"]'), ("taskd.whoami", None)):
                self.assertIsNone(self.passed(requester, args=args and Raw(args), function=function))
                self.assertTrue(json.loads(bytes(requester.outcome.value))["anonymous"])

    def test_only_an_operator_cancels_by_number_through_a_gateway(self):
        self.make(has_tokens=True)
        alice = Requester(ALICE)
        self.assertIsNone(self.passed(alice, {"grant": OPERATOR}, Raw(b'{"task":5}'), "taskd.cancel"))
        self.assertEqual(alice.outcome.code, NotAllowed.code)
        root = Requester(Grant("root", "operate"))
        self.assertIsNotNone(self.passed(root, None, Raw(b'{"task":5}'), "taskd.cancel"))


class EventServer:
    """A task server as its `EventLink` shows it: tasks with their owners."""

    def __init__(self, **owners):
        self.owners = owners
        self.calls = []
        self.server = SERVER
        self.is_reachable = True
        self.held = None

    def call(self, method, params, grant=None):
        task = params["task"]
        self.calls.append((method.removeprefix("taskd."), task, grant and grant.owner))
        answer = Deferred()
        if self.held is not None:
            self.held.append((answer, method, task, grant))
        else:
            self.answer(answer, method, task, grant)
        return answer

    def answer(self, answer, method, task, grant):
        if not self.is_reachable:
            answer.errback(Unreachable("gone"))
        elif task not in self.owners:
            answer.callback(Failure.of(InvalidParams("no such task")))
        elif not (grant or Grant()).sees(self.owners[task]):
            answer.callback(Failure.of(NotAllowed("another's", reason="owner")))
        elif method == "taskd.events":
            answer.callback(Result(Raw(b"[]")))
        else:
            answer.callback(Result(Raw(b'{"state":"running","seq":0}')))

    def release(self):
        held, self.held = self.held, None
        for each in held:
            self.answer(*each)

    def close(self):
        pass


class AttachTests(SynchronousTestCase):
    def make(self, *servers, has_tokens=True):
        self.events = RemoteEvents(Clock(), [], LONGEST, set(), has_tokens=has_tokens)
        self.events.links = list(servers)

    def attach(self, requester, task, method="attach"):
        request = Request(
            f"taskd.{method}", Raw(json.dumps({"task": task}).encode()), Options(), JSON_RPC, Raw(b"1")
        )
        self.events.handle(request, requester)

    def test_a_websocket_watches_the_tasks_of_its_owner(self):
        self.make(EventServer(), EventServer(t="alice"))
        alice = Requester(ALICE)
        self.attach(alice, "t")
        self.assertEqual(json.loads(bytes(alice.outcome.value))["state"], "running")
        self.assertEqual(alice.watches, 1)

    def test_anothers_task_is_refused_even_while_its_owner_watches_it(self):
        self.make(EventServer(t="alice"))
        alice, bob, root = Requester(ALICE), Requester(BOB), Requester(Grant("root", "operate"))
        self.attach(bob, "t")
        self.assertEqual(bob.outcome.data, {"reason": "owner"})
        for each in (alice, root):
            self.attach(each, "t")
            self.assertIsInstance(each.outcome, Result)
        self.attach(bob, "t")
        self.assertEqual((bob.outcome.data, bob.watches), ({"reason": "owner"}, 0))

    def test_a_task_server_is_asked_once_for_each_owner_that_watches(self):
        server = EventServer(t="alice")
        self.make(server)
        for _ in range(5):
            self.attach(Requester(ALICE), "t")
        self.assertEqual([call for call in server.calls if call[0] == "get"], [("get", "t", "alice")])

    def test_a_task_that_no_task_server_knows_is_an_error(self):
        server = EventServer()
        self.make(server, EventServer())
        alice = Requester(ALICE)
        self.attach(alice, "t")
        self.assertEqual(alice.outcome.code, InvalidParams.code)
        server.is_reachable = False
        self.attach(alice, "t")
        self.assertEqual(alice.outcome.code, Unreachable.code)

    def test_nothing_is_pushed_to_a_websocket_that_was_refused_or_lost_meanwhile(self):
        server = EventServer(t="alice")
        self.make(server)
        alice = Requester(ALICE)
        server.held = []
        self.attach(alice, "t")
        alice.takes_events = False
        server.release()
        self.assertEqual((alice.outcomes, alice.watches), ([], 0))

    def test_attaching_names_one_thing(self):
        self.make(EventServer())
        alice = Requester(ALICE)
        request = Request("taskd.attach", Raw(b"{}"), Options(), JSON_RPC, Raw(b"1"))
        self.events.handle(request, alice)
        self.assertEqual(alice.outcome.code, InvalidParams.code)

    def test_without_tokens_a_gateway_sees_what_belongs_to_nobody(self):
        server = EventServer(mine="", t="alice")
        self.make(server, has_tokens=False)
        anybody = Requester(Grant())
        self.attach(anybody, "mine")
        self.assertIsInstance(anybody.outcome, Result)
        self.attach(anybody, "t")
        self.assertEqual(anybody.outcome.data, {"reason": "owner"})
        self.attach(anybody, "mine", "detach")
        self.assertEqual(json.loads(bytes(anybody.outcome.value)), {"was": "attached"})
