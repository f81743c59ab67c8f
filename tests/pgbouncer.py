"""A pgbouncer in front of a `PostgresServer`, in transaction mode unless asked otherwise.

Needs Debian's package `pgbouncer`.
"""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import Self

from tests.kept import Kept, find_program, give_to, release_port, reserve_port, unprivileged_user
from tests.postgres_server import OWNER, PASSWORD, SUPERUSER, PostgresServer


class PgBouncer:
    """As a context manager it is started, and removed at the end.

    `pool_size` is the number of its connections to the server for each database and user; `settings` are
    those of the section `[pgbouncer]`.
    """

    def __init__(
        self,
        server: PostgresServer,
        *,
        mode: str = "transaction",
        pool_size: int = 10,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.server = server
        self.program = find_program("pgbouncer", "pgbouncer")
        self.user = unprivileged_user()
        self.directory = Path(tempfile.mkdtemp(prefix="taskd-pgb-"))
        self.log_file = self.directory / "log"
        self.log_file.touch()
        self.port = reserve_port()
        self._kept: Kept | None = None
        users = self.directory / "users"
        users.write_text(f'"{OWNER}" "{PASSWORD}"\n"{SUPERUSER}" "{PASSWORD}"\n')
        values = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(users),
            "admin_users": SUPERUSER,
            "pool_mode": mode,
            "default_pool_size": str(pool_size),
            "max_client_conn": "500",
            **(settings or {}),
        }
        lines = [f"{name} = {value}\n" for name, value in values.items()]
        self.configuration = self.directory / "pgbouncer.ini"
        self.configuration.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n{''.join(lines)}"
        )
        give_to(self.user, self.directory, self.configuration, users)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self) -> Self:
        """Start it, and return when it accepts connections."""
        self._kept = Kept(
            self.program, self.configuration,
            log=self.log_file, user=self.user, number=signal.SIGTERM, directory=self.directory,
        )  # fmt: skip
        self._kept.wait_until(self._accepts)
        return self

    def _accepts(self) -> bool:
        with socket.socket() as trial:
            return trial.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Stop it at once: its clients' connections are closed."""
        if self._kept is not None:
            self._kept.signal(signal.SIGTERM)
            self._kept.wait()
            self._kept = None

    def close(self) -> None:
        """Stop it, and remove its files."""
        self.stop()
        release_port(self.port)
        shutil.rmtree(self.directory, ignore_errors=True)

    def dsn(self, database: str, *, user: str = OWNER) -> str:
        """Return the URL of a database of the server, through this."""
        return self.server.dsn(database, user=user, port=self.port)

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.log_file.read_text(errors="replace")
