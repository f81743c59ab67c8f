"""A real PostgreSQL for the tests: a cluster of its own in a temporary directory, on a port of its own.

Needs the server's programs: Debian's package `postgresql`. Nothing of a cluster that
the machine has is touched.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.kept import (
    TIMEOUT,
    Kept,
    environment,
    find_program,
    give_to,
    release_port,
    reserve_port,
    run_as,
    unprivileged_user,
)

PACKAGE = "postgresql"

DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian has the programs, in a folder for each version."""

OWNER = "taskd"
"""The role that owns the databases of the tests; it may log in, and is no superuser."""

SUPERUSER = "postgres"

PASSWORD = "not-a-secret"
"""The password of both, by TCP; by the unix socket none is asked for."""

STOPS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

IMMEDIATE_SECONDS = 8.0
"""Seconds after which an immediate stop has failed: a postmaster before version 16 may hang in the handler of
the signal, and kills what does not end after 5 seconds otherwise."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "32MB",
    "log_line_prefix": "%m [%p] %a ",
    # Not fast only: a shutdown of a test's server must not wait for a write of everything.
    "checkpoint_timeout": "1h",
}


class SqlError(Exception):
    """PostgreSQL refused a statement; the text is its own."""


def postgres_bin() -> Path:
    """Return the folder with PostgreSQL's programs: Debian's newest, or that of `pg_config` on the path.

    Raises `MissingProgram` if there is none with a server.
    """
    versions = [path for path in DEBIAN.glob("*/bin") if (path / "initdb").exists()]
    if versions:
        return max(versions, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parent.name)])
    folders = []
    config = shutil.which("pg_config")
    if config:
        folders = [Path(subprocess.run([config, "--bindir"], capture_output=True, text=True).stdout.strip())]
    return find_program("initdb", PACKAGE, folders).resolve().parent


class PostgresServer:
    """One cluster with its server. As a context manager it is started, and removed at the end.

    `fsync` has it write through to the disk: needed only where the machine loses power, since what
    a killed server has written is in the kernel. `settings` are those of `postgresql.conf`.
    """

    running: ClassVar[set[PostgresServer]] = set()
    """The servers of this process that are not closed, for the logs of a failed test."""

    def __init__(
        self, *, fsync: bool = False, max_connections: int = 100, settings: dict[str, str] | None = None
    ) -> None:
        self.bin = postgres_bin()
        self.user = unprivileged_user()
        # Short: the path of a unix socket has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="taskd-pg-"))
        give_to(self.user, self.directory)
        self.data = self.directory / "data"
        self.log_file = self.directory / "log"
        self.log_file.touch()
        self.port = reserve_port()
        self.settings = {
            **SETTINGS,
            "fsync": "on" if fsync else "off",
            "max_connections": str(max_connections),
            **(settings or {}),
        }
        self._kept: Kept | None = None
        self._made = False
        self._standbys: list[Standby] = []
        self._numbers = itertools.count(1)

    # --- running -------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self) -> Self:
        """Start the server, and return when it accepts connections; the first time the cluster is made."""
        assert not self.is_running, "it has been started already"
        self.running.add(self)
        if self._made:
            self._run()
        else:
            self._make()
            self._made = True
            self._run()
            self._fill()
        return self

    def _make(self) -> None:
        """Make the files of the cluster."""
        password = self.directory / "password"
        password.write_text(PASSWORD)
        give_to(self.user, password)
        run_as(
            self.user, self.bin / "initdb", f"--pgdata={self.data}", "--no-sync", "--encoding=UTF8",
            "--locale=C", f"--username={SUPERUSER}", f"--pwfile={password}", "--auth-local=trust",
            "--auth-host=scram-sha-256",
        )  # fmt: skip
        self._write_settings()

    def _fill(self) -> None:
        """Make what every new cluster has."""
        self.sql(f"CREATE ROLE {OWNER} LOGIN PASSWORD '{PASSWORD}'")

    def _write_settings(self) -> None:
        """Write the settings into the cluster's files; they hold from the next start."""
        own = {**self.settings, "port": str(self.port), "unix_socket_directories": str(self.directory)}
        lines = [f"{name} = '{value}'\n" for name, value in own.items()]
        (self.data / "tests.conf").write_text("".join(lines))
        give_to(self.user, self.data / "tests.conf")
        main = self.data / "postgresql.conf"
        if "include 'tests.conf'" not in main.read_text():
            with main.open("a") as file:
                file.write("include 'tests.conf'\n")

    def _run(self) -> None:
        self._kept = Kept(
            self.bin / "postgres", "-D", self.data,
            log=self.log_file, user=self.user, number=STOPS["immediate"], directory=self.directory,
        )  # fmt: skip
        self._kept.wait_until(self._is_ready)

    def _is_ready(self) -> bool:
        """Whether the server has noted that it accepts connections, as `pg_ctl -w` asks."""
        assert self._kept is not None
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self._kept.pid) and lines[7].strip() in ("ready", "standby")

    @property
    def is_running(self) -> bool:
        """Whether the server has been started and has not ended."""
        return self._kept is not None and self._kept.is_running

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        assert self._kept is not None, "it has not been started"
        return self._kept.pid

    def stop(self, mode: str = "fast") -> None:
        """Stop the server, and wait for its end.

        `mode` is PostgreSQL's: "fast" aborts transactions, "immediate" is as after a crash, "smart" waits
        for clients to go.
        """
        if self._kept is not None:
            self._kept.signal(STOPS[mode])
            if mode == "immediate":
                self._kept.wait_or_kill(IMMEDIATE_SECONDS)
            else:
                self._kept.wait()
            self._kept = None

    def kill(self) -> None:
        """Kill all its processes by SIGKILL, and wait until they are gone."""
        if self._kept is not None:
            self._kept.kill()
            self._kept = None

    def restart(self, mode: str = "fast") -> None:
        """Stop and start it; the port and the data stay."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """End the server and its standbys, and remove the clusters. Nothing happens the second time."""
        for standby in self._standbys:
            standby.close()
        if self not in self.running:
            shutil.rmtree(self.directory, ignore_errors=True)
            return
        self.stop("immediate")
        self.running.discard(self)
        release_port(self.port)
        shutil.rmtree(self.directory)

    # --- using ---------------------------------------------------------------

    def dsn(
        self,
        database: str = SUPERUSER,
        *,
        user: str = OWNER,
        port: int | None = None,
        other_ports: Sequence[int] = (),
    ) -> str:
        """Return the URL of a database, over TCP with a password.

        `port` may be that of a proxy in front. With `other_ports`, those of standbys, clients go to
        whichever of all accepts writes.
        """
        hosts = ",".join(f"127.0.0.1:{each}" for each in (port or self.port, *other_ports))
        query = "?target_session_attrs=read-write" if other_ports else ""
        return f"postgresql://{user}:{PASSWORD}@{hosts}/{database}{query}"

    def sql(self, text: str, database: str = SUPERUSER) -> list[tuple[str, ...]]:
        """Run statements as the superuser, each a transaction; return their rows, as text ("" for NULL).

        Raises `SqlError` with the first error.
        """
        ran = subprocess.run(
            [
                str(self.bin / "psql"), "--no-psqlrc", "--quiet", "--csv", "--tuples-only",
                "--set=ON_ERROR_STOP=1", f"--host={self.directory}", f"--port={self.port}",
                f"--username={SUPERUSER}", f"--dbname={database}", "--file=-",
            ],
            input=text, capture_output=True, text=True, env=environment(), timeout=TIMEOUT, check=False,
        )  # fmt: skip
        if ran.returncode:
            raise SqlError(ran.stderr.strip())
        return [tuple(row) for row in csv.reader(io.StringIO(ran.stdout))]

    def value(self, text: str, database: str = SUPERUSER) -> str:
        """Return the one value that a query gives."""
        [[found]] = self.sql(text, database)
        return found

    def create_database(self, name: str | None = None) -> str:
        """Make an empty database that belongs to `OWNER`; return its name."""
        name = name or f"test_{next(self._numbers)}"
        self.sql(f'CREATE DATABASE "{name}" OWNER {OWNER}')
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, and end whoever is connected to it."""
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def configure(self, **settings: Any) -> None:
        """Change settings of the running server; those that need a restart hold from the next one."""
        for name, value in settings.items():
            self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")

    def standby(self, *, synchronous: bool = False, through: int | None = None) -> Standby:
        """Start a standby that follows this server, with a replication slot; it is closed with this one.

        With `synchronous` each commit waits for it from now on: without that a promoted standby may lack the
        last commits. `through` is the port of a link, by which it follows instead of directly.
        """
        standby = Standby(self, through or self.port)
        self._standbys.append(standby)
        standby.start()
        standby.wait_until_caught_up()
        if synchronous:
            self.configure(synchronous_standby_names="*")
        return standby

    @property
    def log(self) -> str:
        """What all runs of the server have logged."""
        return self.log_file.read_text(errors="replace")


class Standby(PostgresServer):
    """A server that follows another by streaming replication, and only reads until it is promoted.

    Made by `PostgresServer.standby`.
    """

    def __init__(self, primary: PostgresServer, port: int) -> None:
        super().__init__(settings=primary.settings)
        self.primary = primary
        self._primary_port = port

    def _make(self) -> None:
        """Copy the primary's cluster, by the way that it is followed."""
        run_as(
            self.user, self.bin / "pg_basebackup", f"--pgdata={self.data}", "--no-sync",
            "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--create-slot",
            f"--slot=standby_{self.port}",
            f"--dbname={self.primary.dsn('', user=SUPERUSER, port=self._primary_port)}",
        )  # fmt: skip
        self._write_settings()

    def _fill(self) -> None:
        """Make nothing: all is copied."""

    def wait_until_caught_up(self) -> None:
        """Return when it has replayed what the primary has committed until now."""
        assert self._kept is not None
        end = self.primary.value("SELECT pg_current_wal_lsn()")
        self._kept.wait_until(lambda: self.value(f"SELECT pg_last_wal_replay_lsn() >= '{end}'") == "t")

    def promote(self) -> None:
        """Make it a primary; return when it accepts writes. The other one must be gone by then."""
        assert self.value("SELECT pg_promote()") == "t"


@dataclass(frozen=True)
class Database:
    """A database of its own for one test."""

    server: PostgresServer
    name: str

    @property
    def dsn(self) -> str:
        """The URL for clients, over TCP."""
        return self.server.dsn(self.name)

    def sql(self, text: str) -> list[tuple[str, ...]]:
        """Run statements in it as the superuser; return their rows (`PostgresServer.sql`)."""
        return self.server.sql(text, self.name)

    def value(self, text: str) -> str:
        """Return the one value that a query gives."""
        return self.server.value(text, self.name)


@contextmanager
def fresh_database(server: PostgresServer) -> Iterator[Database]:
    """Make a database on a running server; remove it at the end, if the server runs."""
    database = Database(server, server.create_database())
    yield database
    if server.is_running:
        with suppress(SqlError):  # it is starting, or full: the cluster is removed anyway
            server.drop_database(database.name)
