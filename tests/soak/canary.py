"""A caller with a right token of its own, whose answers must be right and in time whatever others send.

What it sends and gets contains a mark, which nobody else may see but operators.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.soak.attacks.attacker import TEXT, Attacker, Connection, Target, frame, rpc
from tests.soak.http_seeds import http_request
from tests.soak.method_seeds import Known
from tests.soak.one_reply import cut_responses
from tests.soak.token_seeds import right_token

__all__ = ["CANARY_SECONDS", "Canary"]

CANARY_SECONDS = 30.0
"""Seconds within which each of its answers must come: others may have taken both workers, for 2 s each."""

PAUSE_SECONDS = 0.2
"""Seconds between two rounds."""

SHUTTING_DOWN = -32005

OWNER = "canary"


class _Wrong(Exception):
    """An answer is not what it must be."""


_WRONG = (OSError, _Wrong, ValueError, LookupError, TypeError, asyncio.IncompleteReadError)
"""What an answer that is missing, or not what it must be, is raised as."""


class Canary:
    """One caller, over TCP, a websocket and HTTP in turn.

    It is an operator, so that it can undo a ``taskd.drain`` of others. It notes the ids of its tasks
    in `known`.
    """

    def __init__(self, target: Target, known: Known, mark: str, find: Callable[[str], None]) -> None:
        self.counts: Counter[str] = Counter()
        self.worst = 0.0
        self._known = known
        self._mark = mark
        self._find = find
        self._attacker = Attacker(target)
        self._token = right_token(OWNER, role="operate")
        self._number = 0
        self._is_stopping = False

    async def stop(self, running: asyncio.Task[None]) -> None:
        """End `run` with the round that it is in."""
        self._is_stopping = True
        await running

    async def run(self) -> None:
        """Ask until `stop`."""
        ways = (self._over_tcp, self._over_websocket, self._over_http)
        try:
            while not self._is_stopping:
                for way in ways:
                    began = time.monotonic()
                    try:
                        async with asyncio.timeout(CANARY_SECONDS):
                            await way()
                    except TimeoutError:
                        what = f"has no answer after {CANARY_SECONDS:g} s"
                        self._find(f"the canary{way.__name__} {what}")
                    except _WRONG as error:
                        self._find(f"the canary{way.__name__}: {error!r}")
                    self.worst = max(self.worst, time.monotonic() - began)
                    self.counts["rounds"] += 1
                    self._attacker.close()
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._attacker.close()

    # --- the ways ---

    async def _over_tcp(self) -> None:
        connection = await self._attacker.connect()
        who = await self._ask(connection, "taskd.auth", [self._token])
        self._check(who["owner"].endswith(OWNER), who)
        await self._rounds(connection, websocket=False)

    async def _over_websocket(self) -> None:
        connection = await self._attacker.websocket(
            headers=f"Sec-WebSocket-Protocol: taskd, taskd.token.{self._token}\r\n"
        )
        await self._rounds(connection, websocket=True)

    async def _rounds(self, connection: Connection, *, websocket: bool) -> None:
        """Call, and submit, wait, look and list."""

        async def ask(method: str, params: object) -> Any:
            return await self._ask(connection, method, params, websocket=websocket)

        value = self._value()
        answer = await ask("canary", [value])
        self._check(answer == value, answer)
        task = (await ask("taskd.submit", {"function": "canary", "args": [value]}))["task"]
        self._known.own.append(task)
        ended = await ask("taskd.wait", {"task": task, "timeout": CANARY_SECONDS})
        self._check(ended["state"] == "succeeded" and ended["result"] == value, ended)
        shown = await ask("taskd.get", {"task": task, "with_args": True})
        self._check(shown["args"] == [value], shown)
        who = await ask("taskd.whoami", [])
        self._check(who["owner"].endswith(OWNER) and who["role"] == "operate", who)
        listed = await ask("taskd.list", {"owner": who["owner"], "newest": True, "limit": 3})
        self._check(listed[0]["task"] == task, listed)
        batch = await ask("taskd.submit_batch", {"function": "canary", "args": [[value], [value]]})
        self._known.own.extend([*batch["tasks"], batch["batch"]])
        done = await ask("taskd.wait", {"batch": batch["batch"], "timeout": CANARY_SECONDS})
        self._check((done["state"], done["done"]) == ("succeeded", 2), done)

    async def _over_http(self) -> None:
        connection = await self._attacker.connect(self._attacker.target.web_port)
        value = self._value()
        body = json.dumps({"function": "canary", "args": [value]}).encode()
        task = await self._request(connection, b"POST", f"tasks?wait={CANARY_SECONDS:g}", body)
        self._check(task["state"] == "succeeded" and task["result"] == value, task)
        self._known.own.append(task["task"])
        shown = await self._request(connection, b"GET", f"tasks/{task['task']}?with_args=true")
        self._check(shown["args"] == [value], shown)

    # --- asking ---

    def _value(self) -> str:
        self._number += 1
        return f"{self._mark} {self._number}"

    @staticmethod
    def _check(is_right: bool, answer: object) -> None:
        if not is_right:
            raise _Wrong(f"a wrong answer: {answer}")

    async def _ask(
        self, connection: Connection, method: str, params: object, *, websocket: bool = False
    ) -> Any:
        """Return a result; if somebody has drained the server, have it take tasks again, and ask again."""
        while True:
            self._number += 1
            line = rpc(self._number, method, json.dumps(params))
            await connection.send(frame(TEXT, line.rstrip()) if websocket else line)
            reply = json.loads(await (self._text(connection) if websocket else connection.reader.readline()))
            self._check(reply.get("id") == self._number, reply)
            self.counts["answers"] += 1
            if reply.get("error", {}).get("code") != SHUTTING_DOWN:
                break
            self.counts["drains"] += 1
            await self._undrain()
        self._check("result" in reply, reply)
        return reply["result"]

    async def _undrain(self) -> None:
        connection = await self._attacker.connect()
        await self._ask(connection, "taskd.auth", [self._token])
        await self._ask(connection, "taskd.drain", [False])
        self._attacker.drop(connection)

    @staticmethod
    async def _text(connection: Connection) -> bytes:
        """Return the next text message, without the pings before it."""
        while True:
            head = await connection.reader.readexactly(2)
            length = head[1]
            if length == 126:
                length = int.from_bytes(await connection.reader.readexactly(2))
            elif length == 127:
                length = int.from_bytes(await connection.reader.readexactly(8))
            payload = await connection.reader.readexactly(length)
            if head[0] & 0x0F == TEXT:
                return payload

    async def _request(
        self, connection: Connection, method: bytes, path: str, body: bytes | None = None
    ) -> dict[str, Any]:
        headers = f"Authorization: Bearer {self._token}\r\nContent-Type: application/json\r\n".encode()
        while True:
            await connection.send(http_request(method, f"/api/v1/{path}".encode(), headers, body))
            received = b""
            while not (cut := cut_responses(received, [method])).found:
                new = await connection.reader.read(65536)
                self._check(bool(new), "the end")
                received += new
            self.counts["answers"] += 1
            status = cut.found[0][0]
            if status != 503:
                break
            self.counts["drains"] += 1
            await self._undrain()
        self._check(status in (200, 202), received)
        answer: dict[str, Any] = json.loads(received.partition(b"\r\n\r\n")[2])
        return answer
