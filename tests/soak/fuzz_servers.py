"""The servers of the fuzzer: one daemon, or a task server with a gateway in front of it; and their logs."""

from __future__ import annotations

import argparse
import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tests.soak.fuzz_inputs import shown_tokens
from tests.soak.server import Server
from tests.soak.token_seeds import SECRET

__all__ = ["FRONTS", "LogCheck", "Servers"]

FRONTS = ("none", "taskd", "web")
"""What listens for websockets and HTTP: the daemon itself, another one, or ``twistd web``."""

MESSAGE = 65536
"""Bytes of the longest message: inputs over it are frequent."""

PORT = "tcp:0:interface=127.0.0.1"

OPTIONS = ("--workers", "2", "--timeout", "2", "--max-message", str(MESSAGE), "--max-outstanding", "100")

SECRET_WORD = "not to be shown"
"""The secret argument of the fuzzer's calls (`tests.soak.method_seeds`)."""


class LogCheck:
    """A file for `Server`, which looks in what is written for tokens and texts that must not be logged."""

    def __init__(self, find: Callable[[str], None], mark: str, file: IO[str] | None) -> None:
        self._find = find
        self._hidden = (mark, SECRET_WORD)
        self._file = file

    def write(self, text: str) -> int:
        """Check a line, and write it to the file."""
        if any(each in text for each in self._hidden):
            self._find(f"an argument is in the log: {text[:2000]}")
        if "." in text and (found := shown_tokens(text.encode())):
            self._find(f"a token is in the log: {found[0]!r} in {text[:2000]}")
        if self._file is not None:
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is closed."""


class Servers:
    """The servers, and where to send what: `ports` are those of the task server and of the gateway."""

    def __init__(
        self, directory: Path, options: argparse.Namespace, find: Callable[[str], None], mark: str
    ) -> None:
        self._directory = directory
        self._options = options
        log: IO[str] = LogCheck(find, mark, options.log)  # type: ignore[assignment]
        twistd = [options.twistd] if options.twistd else None
        self.back = Server(directory, find, log, twistd)
        self.all = [self.back]
        if options.front != "none":
            below = directory / "front"
            below.mkdir()
            front = Server(below, find, log, twistd)
            front.name += "-front"
            self.all.append(front)

    @property
    def ports(self) -> list[int]:
        """The task server's port, and the gateway's."""
        return [self.back.ports[0], self.all[-1].ports[-1]]

    async def start(self) -> None:
        """Start the servers."""
        options = self._options
        key, seal = self._directory / "key", self._directory / "seal"
        key.write_text(SECRET)
        seal.write_bytes(base64.urlsafe_b64encode(os.urandom(32)) + b"\n")
        here = Path(__file__).parent
        keys = ("--jwt-key", str(key)) if options.tokens else ()
        apps = ("--app", str(here / "app.py"), "--app", str(here / "fuzz_app.py"))
        env = {"SOAK_MARKS": str(self._directory / "marks"), "PYTHONDONTWRITEBYTECODE": "1"}
        if not options.twistd:  # the code of this checkout, whatever is installed
            env["PYTHONPATH"] = str(here.parent.parent)
        unix = f"unix:{self._directory / 'socket'}"
        is_alone = options.front == "none"
        web = ("--websocket", PORT, "--compression", "--link", options.link)
        edges = web if is_alone else ("--listen", unix, "--websocket", "none")
        more = (*OPTIONS, "--secret-key", str(seal), "--listen", PORT, *edges, *keys)
        await self.back.start(*apps, *more, *options.options.split(), env=env)
        if is_alone:
            return
        front = self.all[-1]
        if options.front == "web":
            env |= {"TASKD_TASK_SERVER": unix, "TASKD_LINK": options.link, "TASKD_COMPRESSION": "true"}
            env |= {
                "TASKD_MAX_MESSAGE": str(MESSAGE),
                **({"TASKD_JWT_KEY": str(key)} if options.tokens else {}),
            }
            await front.start_plugin(
                "web", "--port", PORT, "--class", "taskd.web.Root", env=env, started=r"Site starting on \d+"
            )
        else:
            await front.start_plugin(
                *("taskd", "--name", front.name, "--listen", "none", "--task-server", unix, *web, *keys),
                *("--max-message", str(MESSAGE)),
                env=env,
                started="listening on ",
            )

    @property
    def gone(self) -> str:
        """The exit statuses of those that have ended by themselves; "" if there are none."""
        statuses = [each.process.returncode for each in self.all if each.process is not None]
        return ", ".join(str(each) for each in statuses if each is not None)

    def descriptors(self) -> int:
        """Return how many descriptors they have."""
        return sum(each.descriptors().total() for each in self.all)

    def memory(self) -> list[int]:
        """Return the resident memory of each, in bytes."""
        return [each.memory() for each in self.all]

    async def stop(self) -> list[str]:
        """Stop them, the gateway first; return what is left over."""
        for each in reversed(self.all):
            await each.stop()
        return [left for each in self.all for left in each.left_over()]

    def kill(self) -> None:
        """Kill whatever remains."""
        for each in self.all:
            each.kill_all()
