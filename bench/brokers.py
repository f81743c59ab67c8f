"""Starts RabbitMQ and PostgreSQL as their packages set them up, each with a directory of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.processes import free_port, wait_for_port
from bench.servers import Server
from bench.tools import Missing, postgres, rabbitmq_server


class RabbitMQ(Server):
    """A broker with its queues on the disk in `directory`."""

    def __init__(self, directory: Path) -> None:
        program = rabbitmq_server()
        directory.mkdir()
        self.port = free_port()
        self._names = str(free_port())
        (directory / "plugins").write_text("[].\n")
        super().__init__(
            [program],
            HOME=str(directory),
            ERL_EPMD_PORT=self._names,
            RABBITMQ_CONF_ENV_FILE=os.devnull,
            RABBITMQ_NODENAME="bench@localhost",
            RABBITMQ_NODE_IP_ADDRESS="127.0.0.1",
            RABBITMQ_NODE_PORT=str(self.port),
            RABBITMQ_DIST_PORT=str(free_port()),
            RABBITMQ_MNESIA_BASE=str(directory / "data"),
            RABBITMQ_LOG_BASE=str(directory / "log"),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(directory / "plugins"),
            RABBITMQ_PID_FILE=str(directory / "pid"),
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    def wait_until_ready(self) -> None:
        """Wait until it listens, which is the last thing that its start does."""
        wait_for_port(self.port, self.process)

    def stop(self) -> None:
        """End it, and the server of names that it has started."""
        super().stop()
        kill = ["epmd", "-port", self._names, "-kill"]
        subprocess.run(kill, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class PostgreSQL(Server):
    """A database with its files in `directory`, as `initdb` makes it."""

    def __init__(self, directory: Path) -> None:
        programs = postgres()
        directory.mkdir()
        self.port = free_port()
        self._psql = str(programs / "psql")
        # It refuses to run as root.
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        if os.geteuid() != 0:
            prefix = []
        else:
            shutil.chown(directory, "postgres", "postgres")
        data = str(directory / "data")
        init = [*prefix, str(programs / "initdb"), "-D", data, "-U", "postgres", "-A", "trust"]
        done = subprocess.run(init, check=False, capture_output=True, text=True, cwd="/")
        if done.returncode:
            raise Missing(f"initdb has failed: {done.stderr.strip().splitlines()[-1]}")
        where = ["-p", str(self.port), "-k", str(directory), "-h", "127.0.0.1"]
        super().__init__([*prefix, str(programs / "postgres"), "-D", data, *where])

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def wait_until_ready(self) -> None:
        """Wait until it listens."""
        wait_for_port(self.port, self.process)
