"""The PostgreSQL that other tests run against does what they count on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.kept import Kept, MissingProgram, find_program, unprivileged_user
from tests.live.support import TIMEOUT, parent_of, wait_for_exit
from tests.pgbouncer import PgBouncer
from tests.postgres_server import PASSWORD, Database, PostgresServer, SqlError, fresh_database, postgres_bin

StartPostgres = Callable[..., PostgresServer]


def fill(database: Database, count: int) -> None:
    database.sql(f"CREATE TABLE a (n int); INSERT INTO a SELECT generate_series(1, {count})")


def ask(dsn: str, query: str) -> subprocess.CompletedProcess[str]:
    psql = [postgres_bin() / "psql", "-XAtq", "-c", query, dsn]
    return subprocess.run(psql, capture_output=True, text=True, timeout=TIMEOUT)


def test_a_test_has_an_empty_database_that_it_owns(database: Database) -> None:
    fill(database, 2)
    assert database.sql("SELECT * FROM a ORDER BY n") == [("1",), ("2",)]
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    assert database.value(owner) == "taskd"


def test_the_next_test_has_another(database: Database) -> None:
    assert database.value("SELECT to_regclass('a') IS NULL") == "t"


def test_clients_come_in_by_tcp_with_a_password(database: Database) -> None:
    query = "SELECT current_user, current_database()"
    assert ask(database.dsn, query).stdout == f"taskd|{database.name}\n"
    assert "password authentication failed" in ask(database.dsn.replace(PASSWORD, "wrong"), query).stderr


def test_an_error_of_a_statement_is_raised_in_the_words_of_postgresql(postgres: PostgresServer) -> None:
    with pytest.raises(SqlError, match='column "nonsense" does not exist'):
        postgres.sql("SELECT nonsense")


def test_a_killed_server_keeps_what_was_committed(start_postgres: StartPostgres) -> None:
    server = start_postgres()
    with fresh_database(server) as database:
        fill(database, 1000)
        before = server.pid
        server.kill()
        assert not server.is_running
        with pytest.raises(SqlError):
            database.sql("SELECT 1")
        server.start()
        assert database.value("SELECT count(*) FROM a") == "1000"
        server.stop("immediate")
        server.start()
        assert database.value("SELECT count(*) FROM a") == "1000"
        assert server.pid != before
    assert "automatic recovery in progress" in server.log


def test_settings_are_those_asked_for(start_postgres: StartPostgres) -> None:
    server = start_postgres(fsync=True, max_connections=20, settings={"deadlock_timeout": "50ms"})
    shown = [server.value(f"SHOW {name}") for name in ("fsync", "max_connections", "deadlock_timeout")]
    assert shown == ["on", "20", "50ms"]
    server.configure(statement_timeout="5s", max_connections="30")
    assert server.value("SHOW statement_timeout") == "5s"
    assert server.value("SHOW max_connections") == "20"
    server.restart()
    assert server.value("SHOW max_connections") == "30"


def test_servers_do_not_share_a_port_or_a_directory(start_postgres: StartPostgres) -> None:
    first, second = start_postgres(), start_postgres()
    assert first.port != second.port
    assert first.directory != second.directory


KILLED = """
import os, signal
from tests.live.support import parent_of
from tests.postgres_server import PostgresServer

with PostgresServer() as server:
    print(server.pid, parent_of(server.pid), server.directory, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_ends_with_the_process_of_the_tests_although_that_is_killed() -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=TIMEOUT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    pid, keeper, directory = killed.stdout.split()
    wait_for_exit(int(pid))
    wait_for_exit(int(keeper))
    assert not Path(directory).exists()


def test_a_server_ends_although_what_watches_it_is_killed() -> None:
    kept = Kept(
        "/bin/cat", "/dev/zero", log=Path(os.devnull), user=unprivileged_user(), number=signal.SIGQUIT
    )
    os.kill(parent_of(kept.pid), signal.SIGKILL)
    wait_for_exit(kept.pid)
    kept.wait()


def test_a_program_that_is_missing_is_named_with_the_package_to_install() -> None:
    with pytest.raises(MissingProgram, match="install Debian's packages postgresql, pgbouncer"):
        find_program("no-such-program", "postgresql")


FAILS = """
from tests.postgres_fixtures import database, postgres, pytest_runtest_makereport, pytest_runtest_setup

def test_that_fails(database):
    database.sql("SELECT nonsense")
"""


def test_the_log_of_the_server_is_shown_with_a_failed_test(tmp_path: Path) -> None:
    # The hooks of a test file are not called: a conftest's are.
    (tmp_path / "conftest.py").write_text(FAILS.split("def ")[0])
    (tmp_path / "test_fails.py").write_text("def " + FAILS.split("def ")[1])
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True,
    )  # fmt: skip
    assert "log of PostgreSQL at port" in ran.stdout
    assert "STATEMENT:  SELECT nonsense" in ran.stdout


def test_a_standby_follows_and_is_promoted_when_the_primary_is_gone(start_postgres: StartPostgres) -> None:
    primary = start_postgres()
    with fresh_database(primary) as database:
        fill(database, 10)
        standby = primary.standby(synchronous=True)
        [[slot, active]] = primary.sql("SELECT slot_name, active FROM pg_replication_slots")
        assert (slot, active) == (f"standby_{standby.port}", "t")
        database.sql("INSERT INTO a VALUES (11)")
        standby.wait_until_caught_up()
        assert standby.value("SELECT count(*) FROM a", database.name) == "11"
        insert = "INSERT INTO a VALUES (12)"
        assert "read-only transaction" in ask(standby.dsn(database.name, user="postgres"), insert).stderr
        database.sql(insert)
        primary.kill()
        standby.promote()
        standby.sql("INSERT INTO a VALUES (13)", database.name)
        assert standby.value("SELECT count(*) FROM a", database.name) == "13"


def test_a_pgbouncer_gives_one_connection_to_many_in_turn(database: Database) -> None:
    with PgBouncer(database.server, pool_size=1, settings={"query_wait_timeout": "20"}) as bouncer:
        dsn = bouncer.dsn(database.name)
        with psycopg.connect(dsn, autocommit=True) as one, psycopg.connect(dsn, autocommit=True) as two:
            backends = [
                each.execute("SELECT pg_backend_pid()", prepare=False).fetchone() for each in (one, two, one)
            ]
            assert len(set(backends)) == 1
        bouncer.stop()
        assert "refused" in ask(dsn, "SELECT 1").stderr
        bouncer.start()
        assert ask(dsn, "SELECT 1").stdout == "1\n"
        assert "SASL authentication failed" in ask(dsn.replace(PASSWORD, "wrong"), "SELECT 1").stderr
