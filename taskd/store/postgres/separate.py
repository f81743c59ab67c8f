"""A database beside another one, on the same server: for whatever must not touch the tasks of that one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from taskd.store.base import StoreError
from taskd.store.postgres.connection import Database

__all__ = ["SeparateDatabase"]

_CREATE = sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0")
_DROP = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
_MAY_CREATE = "SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"


@dataclass(frozen=True, slots=True)
class SeparateDatabase:
    """A database `name`, made on the server that a description names by the user that it names.

    `host` and `port` are where that server was reached: `host` is the folder of its socket if it begins
    with a slash.
    """

    name: str
    host: str
    port: int
    _beside: Database

    @classmethod
    def make(cls, description: str, name: str) -> SeparateDatabase:
        """Make it. Raises `StoreError` if the server cannot be reached, or its user may not."""
        beside = Database(description)
        try:
            with beside.connect("drill") as connection:
                row = connection.execute(_MAY_CREATE).fetchone()
                if row is None or not row[0]:
                    user = connection.info.user
                    raise StoreError(
                        f"{beside.name}: the user {user} may not make a database of its own for this: "
                        f"ALTER ROLE {user} CREATEDB, or name another user"
                    )
                connection.execute(_CREATE.format(sql.Identifier(name)))
                info = connection.info
                host = info.host if info.host.startswith("/") else info.hostaddr or info.host
                return cls(name, host, info.port, beside)
        except psycopg.Error as error:
            raise beside.error("opened", error) from error

    def description(self, **changed: str) -> str:
        """Return its description for ``--store``, with some of libpq's parameters changed."""
        given: dict[str, Any] = {**conninfo_to_dict(self._beside.dsn), "dbname": self.name, **changed}
        return f"postgres:{make_conninfo(**{each: value for each, value in given.items() if value})}"

    def through(self, host: str, port: int) -> str:
        """Return the description for whoever reaches the server by another way.

        That is a port of an address, or a socket in the folder `host`. The certificate of the
        server is still that of its own name.
        """
        named = conninfo_to_dict(self._beside.dsn).get("host")
        is_socket = host.startswith("/")
        at = {"host": host, "hostaddr": ""} if is_socket else {"host": str(named or host), "hostaddr": host}
        return self.description(**at, port=str(port))

    def drop(self) -> None:
        """Remove it, whoever is connected. Raises `StoreError`."""
        try:
            with self._beside.connect("drill") as connection:
                connection.execute(_DROP.format(sql.Identifier(self.name)))
        except psycopg.Error as error:
            raise self._beside.error("written", error) from error

    @property
    def shown(self) -> str:
        """Names the database to people, without a password."""
        return Database(self.description()).name
