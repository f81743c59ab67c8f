"""Pages of the documentation, as the tests follow them: they write the files, and run the commands.

A fenced block whose first line is a comment with a file's name is that file. A block of `console`
is a session: each line after ``$`` is a command, and what follows is what it prints, in which ``…``
stands for anything. A session with the one command of a server starts that, and lets it run; one that
installs something is skipped, since the tests have installed it. Nothing is changed but the numbers
of the ports, so that pages can be followed at the same time.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.live.support import SOON, TIMEOUT, Daemon, ServedDaemon
from tests.pythons import METADATA

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

ENVIRONMENT = ROOT / ".venv-frameworks"

PACKAGES = (
    "celery[redis]>=5.3",
    "django>=4.2",
    "fastapi>=0.110",
    "flask>=3.0",
    "gunicorn>=22",
    "psycopg[binary]>=3.2",
    "pyjwt>=2.8",
    "rq>=1.16",
    "sqlalchemy>=2.0",
    "uvicorn>=0.29",
)
"""What the pages tell their readers to install, with the oldest versions that these tests were run with."""

PORTS = {"12345": "task server", "8080": "gateway", "5000": "", "8000": "", "3000": "", "6379": ""}
"""The ports in the pages."""

SERVERS = ("celery", "flask", "gunicorn", "node", "php", "python", "redis-server", "rq", "twistd", "uvicorn")
"""The programs that a session may leave running: alone in it, at the end of a block without output."""

LINES = 14
"""The most lines of the reader's own that a page may need besides `tasks.py`, blank ones not counted."""

_PART = re.compile(
    r"^## (?P<heading>.*?)$|^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_NAME = re.compile(r"^(?:<\?php |<!doctype html> )?(?:#|//|<!--) ([\w./-]+\.\w+)(?: -->)?$")


@dataclass(frozen=True)
class Session:
    """The commands of a block, and what they print."""

    commands: tuple[str, ...]
    output: str
    section: str
    """The heading above it: what was started in another section is ended before."""

    @property
    def is_server(self) -> bool:
        """Whether it starts something that goes on."""
        words = shlex.split(self.commands[0])
        is_server = words[0] in SERVERS or words[:2] == ["taskd", "serve"]
        return len(self.commands) == 1 and not self.output and is_server


class Page:
    """A page: the files and sessions in it, in order, without those in sections that are left out."""

    def __init__(self, name: str, *left_out: str) -> None:
        text = (DOCS / name).read_text()
        self.files: dict[str, str] = {}
        self.sessions: list[Session] = []
        section = ""
        for part in _PART.finditer(text):
            if part["heading"] is not None:
                section = part["heading"]
            elif section in left_out:
                continue
            elif part["language"] == "console":
                self.sessions.append(_session(part["body"], section))
            elif match := _NAME.match(part["body"].partition("\n")[0]):
                self.files[match[1]] = part["body"]

    def own_lines(self) -> int:
        """Return how many lines the reader writes besides `tasks.py`, without the names of the files."""
        others = [body for name, body in self.files.items() if name != "tasks.py"]
        lines = [line for body in others for line in body.splitlines()]
        return sum(1 for line in lines if line.strip() and not _NAME.match(line))


def _session(body: str, section: str) -> Session:
    commands, output = [], []
    for line in body.splitlines():
        if line.startswith("$ "):
            commands.append(line[2:])
        else:
            output.append(line)
    return Session(tuple(commands), "\n".join(output), section)


def environment() -> Path:
    """Return the environment with the frameworks, made or brought up to date if need be."""
    done = ENVIRONMENT / ".done"
    metadata = [(ROOT / name).read_text() for name in METADATA]
    wanted = "\n".join([*PACKAGES, *metadata])
    if not done.exists() or done.read_text() != wanted:
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        for command in (
            [sys.executable, "-m", "venv", str(ENVIRONMENT)],
            [*pip, "--disable-pip-version-check", "-e", str(ROOT), *PACKAGES],
        ):
            subprocess.run(command, check=True)
        done.write_text(wanted)
    return ENVIRONMENT


def missing(*programs: str) -> str:
    """Return which program is not installed here, "" if all are."""
    for program in programs:
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return ""


class Reader:
    """Somebody who follows a page in a directory."""

    def __init__(self, page: Page, directory: Path) -> None:
        self.page = page
        self._directory = directory
        self._ports = {port: str(_free_port()) for port in PORTS}
        self._servers: list[subprocess.Popen[bytes]] = []
        self._daemons: list[Daemon] = []
        self.environ = {
            **os.environ,
            "PATH": f"{environment() / 'bin'}:{os.environ['PATH']}",
            "TASKD_SERVER": f"127.0.0.1:{self._ports['12345']}",
            "PYTHONUNBUFFERED": "1",
        }

    def with_ports(self, text: str) -> str:
        """Return a text of the page with the ports that stand for those in it."""
        return re.sub(r"\b(" + "|".join(PORTS) + r")\b", lambda match: self._ports[match[1]], text)

    def write_files(self) -> None:
        """Write the files of the page."""
        for name, body in self.page.files.items():
            path = self._directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.with_ports(body))

    def follow(self, *, but: Session | None = None) -> None:
        """Run the sessions of the page, but one if that is given, and compare what they print."""
        section = None
        for session in self.page.sessions:
            if section not in (None, session.section):
                self.leave()
            section = session.section
            if session is but or any(" install " in command for command in session.commands):
                continue
            if session.is_server:
                self.start(session.commands[0])
            else:
                self.run(session)

    def start(self, command: str) -> None:
        """Start a server, and return once it listens."""
        words = shlex.split(self.with_ports(command))
        if "taskd" in words:
            at = words.index("taskd")
            options = [*words[at + 1 :], *self._listening(words)]
            kind = ServedDaemon if words[at + 1] == "serve" else Daemon
            options = [option for option in options if option != "serve"]
            self._daemons.append(kind(*options, directory=self._directory))
            self._daemons[-1].wait_until_ready()
            return
        self._servers.append(
            subprocess.Popen(
                words, cwd=self._directory, env=self.environ, start_new_session=True, stdin=subprocess.DEVNULL
            )
        )
        text = "".join([command, *(body for name, body in self.page.files.items() if name in words)])
        for port, own in self._ports.items():
            if re.search(rf"\b{port}\b", text):
                self._wait_for(own)

    def _listening(self, words: list[str]) -> list[str]:
        given = " ".join(words)
        own = {"--listen": "12345", "--websocket": "8080"}
        return [
            part
            for option, port in own.items()
            if option not in given
            for part in (option, f"tcp:{self._ports[port]}:interface=127.0.0.1")
        ]

    def _wait_for(self, port: str) -> None:
        ending = time.monotonic() + TIMEOUT
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(port)), SOON):
                return
            ended = self._servers[-1].poll()
            assert ended is None, f"the server ended with status {ended}"
            assert time.monotonic() < ending, f"nothing listens on {port}"
            time.sleep(0.02)  # nothing else says that a process of somebody else's listens

    def run(self, session: Session) -> None:
        """Run the commands of a session in one shell, and compare what they print with the page."""
        script = self.with_ports("\n".join(session.commands))
        ended = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self._directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=2 * TIMEOUT,
            text=True,
        )
        assert ended.returncode == 0, f"{script}\n{ended.stdout}"
        # What ends without a line end is followed by the next prompt: a page does not show that.
        expected = self.with_ports(session.output).replace("\n", "").strip()
        printed = ended.stdout.replace("\n", "").strip()
        pattern = re.escape(expected).replace("…", ".*?")
        assert re.fullmatch(pattern, printed), f"{script}\nprinted\n{printed}\nand not\n{expected}"

    def leave(self) -> None:
        """End everything that was started."""
        while self._servers:
            server = self._servers.pop()
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(SOON)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait(TIMEOUT)
        while self._daemons:
            daemon = self._daemons.pop()
            daemon.stop()
            daemon.wait_until_gone()


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
