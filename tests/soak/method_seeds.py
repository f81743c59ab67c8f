"""Valid calls of every method of the server's own, with every parameter that each of them has."""

from __future__ import annotations

import json
import re
from collections import deque
from itertools import count
from random import Random

from taskd.auth.policy import NEEDS
from taskd.protocol.stored_methods import STATES
from tests.soak.attacks.attacker import bare, rpc

__all__ = ["Known", "method_calls", "method_lines"]

_ID = re.compile(rb'"(task|batch)":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"')

NOBODYS = "01a21db2-8058-79d2-9352-569c3f87fcf5"
"""An id that no task has."""

BULK = 300
"""Rows of a large batch: more than what is started at once, and few enough for the longest message."""

_numbers = count(1)


class Known:
    """Ids of stored tasks and batches, as replies have shown them; `own` are those that must be left alone.

    Callers whose token does not cover a task may name those of `own` all the same: they learn nothing of it.
    """

    def __init__(self) -> None:
        self.tasks: deque[str] = deque([NOBODYS], maxlen=200)
        self.batches: deque[str] = deque([NOBODYS], maxlen=50)
        self.own: deque[str] = deque([NOBODYS], maxlen=50)

    def note(self, data: bytes) -> None:
        """Keep the ids in a reply."""
        for kind, found in _ID.findall(data)[-20:]:
            name = found.decode()
            if name not in self.own:
                (self.tasks if kind == b"task" else self.batches).append(name)

    def choose(self, rng: Random, *, foreign: bool) -> tuple[str, str]:
        """Return a task and a batch, with `foreign` sometimes those of somebody else."""
        if foreign and rng.random() < 0.4:
            return rng.choice(self.own), rng.choice(self.own)
        return rng.choice(self.tasks), rng.choice(self.batches)


def _submits(task: str) -> list[dict[str, object]]:
    options = [
        {"timeout": 1, "priority": 9},
        {"delay": 0.1, "deadline": 5},
        {"at": "2026-01-02T03:04:05+01:00"},
        {"at": "2126-01-02T03:04:05Z", "keep": 1},
        {"key": f"k{next(_numbers) % 7}", "keep": 1},
        {"retries": 2, "keep": 0},
        {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        {"owner": "somebody"},
    ]
    calls: list[dict[str, object]] = [
        {"function": "echo", "args": [1]},
        {"function": "kept", "args": {"value": {"a": [1, 2.5, None, "é"]}}},
        {"function": "fails", "args": ["x"]},
        {"function": "keyed", "args": {"name": "a", "value": 1}},
        {"function": "parts", "args": [5]},
        {"function": "held", "args": [5]},
        {"function": "steps", "args": [3]},
        {"function": "hush", "args": ["not to be shown"]},
        {"function": "no_such"},
        {"function": "echo", "token": f"again {next(_numbers) % 5}"},
    ]
    return calls + [{"function": "kept", "args": [task], "options": each} for each in options]


def _batches() -> list[dict[str, object]]:
    return [
        {"function": "echo", "args": [[1], [2], {"value": 3}]},
        {"function": "kept", "args": [[each] for each in range(5)], "then": "at_the_end"},
        {"function": "fails", "args": [[1], [2]], "then": "at_the_end", "options": {"retries": 0}},
        {"function": "kept", "args": [[each] for each in range(BULK)], "options": {"keep": 1}},
        {"function": "keyed", "args": [{"name": str(each % 3)} for each in range(9)]},
        {"function": "echo", "args": [[1]], "token": f"batch {next(_numbers) % 5}"},
        {"function": "echo", "args": []},
        {"function": "kept", "args": [[1], [1, 2, 3]]},
    ]


def method_calls(task: str, batch: str) -> dict[str, list[object]]:
    """Return the parameters of a few calls of each method, by its name without the namespace."""
    one, all_of = {"task": task}, {"batch": batch}
    either: list[object] = [one, all_of]
    filters: list[object] = [{}, {"newest": True, "limit": 5, "before": task}, {"batches": True, "limit": 3}]
    filters += [{"state": each} for each in STATES]
    filters += [
        {"function": "kept", "after": task, "limit": 2},
        {"batch": batch},
        {"batch": "", "limit": 1000},
        {"key": "k1"},
        {"like": task[:6]},
        {"like": task[-4:]},
        {"owner": "jwt:probe"},
        {"error": "so it is"},
        {"error": "%_\\", "state": "failed", "function": "fails", "batch": batch, "newest": True},
    ]
    found: dict[str, list[object]] = {
        **{name: [[], {}] for name in ("ping", "whoami", "functions", "status", "queue", "reload", "nodes")},
        "auth": [["x"], {"token": "a.b.c"}],
        "cancel": [one, {"task": batch}, {"id": 3}, {"task": 1}],
        "submit": [*_submits(task)],
        "submit_batch": [*_batches()],
        "get": [*either, one | {"with_args": True}, [task]],
        "wait": [each | {"timeout": 0.05} for each in (one, all_of)],
        "list": filters,
        "attach": [*either, one | {"after": 4294967296}, one | {"after": -1}, all_of | {"after": 2}],
        "detach": either,
        "events": [*either, one | {"after": 1, "limit": 1}, all_of | {"after": 1, "limit": 1000}],
        "retry": [one],
        "why": [one, [task]],
        "pause": [["held"], {"function": "no_such"}],
        "resume": [["held"], {"function": "fails"}],
        "drain": [{"drained": False}, {"node": 99, "drained": False}],
        "stacks": [[], {"worker": 1}, {"worker": 999}],
        "history": [
            *([], {"period": "hour"}, {"function": "*"}),
            {"function": "kept", "since": 0},
            {"period": "minute", "since": 1e10},
        ],
        "audit": [[], {"after": 5, "limit": 1}, {"owner": "jwt:probe", "action": "submit", "limit": 1000}],
    }
    if missing := NEEDS.keys() ^ found.keys():
        raise LookupError(f"the fuzzer calls other methods than there are: {sorted(missing)}")
    return found


def method_lines(rng: Random, task: str, batch: str) -> list[bytes]:
    """Return lines with calls of every method, in both dialects, some of them in a batch of JSON-RPC."""
    lines = []
    for name, calls in method_calls(task, batch).items():
        lines += [rpc(rng.randrange(9), f"taskd.{name}", json.dumps(params)) for params in calls]
        lines.append(bare(f"taskd.{name}", json.dumps(rng.choice(calls))))
    lines += [rpc(1, "kept", "[1]", '{"track":true}'), bare("kept", "[2]"), rpc(2, "parts", "[3]")]
    lines.append(rpc(3, "kept", "[1]", '{"on_disconnect":"cancel"}'))
    members = [each.rstrip() for each in rng.sample(lines, 8) if each.startswith(b'{"jsonrpc"')]
    return [*lines, b"[" + b",".join(members) + b"]\n"]
