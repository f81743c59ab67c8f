"""Files that cannot be a store, and what their errors say."""

import os
import sqlite3
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.opening import open_store
from taskd.store import sqlite_claims as claims_module
from taskd.store.base import Changes, Filter, StoreError
from taskd.store.memory import MemoryStore
from taskd.store.records import New, Start, State
from taskd.store.sqlite import SqliteStore
from taskd.store.sqlite_file import check_file
from taskd.store.sqlite_schema import VERSION, migrate


class SqliteCase(SynchronousTestCase):
    def setUp(self):
        self.path = os.path.join(self.mktemp(), "tasks.db")
        os.makedirs(os.path.dirname(self.path))

    def open(self):
        store = SqliteStore(self.path)
        self.addCleanup(store.close)
        return store

    def refusal(self):
        return str(self.assertRaises(StoreError, SqliteStore, self.path))


class RefusalTests(SqliteCase):
    def test_a_file_of_another_daemon_is_refused_with_its_pid(self):
        self.open()
        self.assertIn(f"used by another daemon, with pid {os.getpid()}", self.refusal())

    def test_a_file_can_be_used_again_once_it_is_closed(self):
        store = self.open()
        store.close()
        store.close()
        self.open()

    def test_a_file_that_is_not_sqlites_is_refused_and_kept(self):
        Path(self.path).write_bytes(b"my precious notes\n" * 100)
        self.assertIn("no SQLite file", self.refusal())
        self.assertEqual(Path(self.path).read_bytes(), b"my precious notes\n" * 100)

    def test_a_file_of_another_program_is_refused(self):
        other = sqlite3.connect(self.path)
        other.execute("CREATE TABLE notes (text)")
        other.commit()
        other.close()
        self.assertIn("of another program", self.refusal())

    def test_a_file_of_a_newer_version_is_refused(self):
        self.open().close()
        newer = sqlite3.connect(self.path)
        newer.execute(f"PRAGMA user_version = {VERSION + 1}")
        newer.close()
        self.assertIn(f"schema {VERSION + 1}", self.refusal())

    def test_a_directory_that_is_not_there_is_named(self):
        self.path = os.path.join(os.path.dirname(self.path), "missing", "tasks.db")
        self.assertIn("No such file or directory", self.refusal())

    def test_a_directory_in_place_of_the_file_is_refused(self):
        os.makedirs(self.path)
        self.assertIn("unable to open", self.refusal())


class FailureTests(SqliteCase):
    def test_a_full_file_raises_and_nothing_of_the_batch_is_written(self):
        store = self.open()
        store.write(Changes([New("1", "f")]), 1.0)
        store._database.execute("PRAGMA max_page_count = 20")
        large = [New(str(number), "f", b"x" * 4000) for number in range(2, 50)]
        error = self.assertRaises(StoreError, store.write, Changes(large), 1.0)
        self.assertIn("the disk is full", str(error))
        self.assertEqual(len(store.find(Filter(), "", 100)), 1)
        store._database.execute("PRAGMA max_page_count = 100000")
        store.write(Changes(large), 1.0)
        self.assertEqual(len(store.find(Filter(), "", 100)), 49)

    def test_a_trial_fails_while_the_file_cannot_be_written(self):
        store = self.open()
        store._database.execute("PRAGMA query_only = 1")
        self.assertRaises(StoreError, store.write, Changes(is_trial=True), 1.0)
        store._database.execute("PRAGMA query_only = 0")
        store.write(Changes(is_trial=True), 1.0)

    def test_a_file_that_is_locked_by_a_reader_is_still_written(self):
        store = self.open()
        store.write(Changes([New("1", "f")]), 1.0)
        reader = sqlite3.connect(self.path)
        self.addCleanup(reader.close)
        reader.execute("BEGIN")
        self.assertEqual(reader.execute("SELECT count(*) FROM task").fetchone(), (1,))
        store.write(Changes([New("2", "f")]), 1.0)
        self.assertEqual(len(store.find(Filter(), "", 100)), 2)

    def test_a_file_that_was_removed_or_replaced_is_not_written(self):
        store = self.open()
        store.write(Changes([New("1", "f")]), 1.0)
        os.rename(self.path, f"{self.path}.old")
        self.assertRaises(StoreError, store.write, Changes([New("2", "f")]), 1.0)
        Path(self.path).touch()
        self.assertRaises(StoreError, store.write, Changes([New("2", "f")]), 1.0)
        os.rename(f"{self.path}.old", self.path)
        store.write(Changes([New("2", "f")]), 1.0)


class ClaimTests(SqliteCase):
    def test_a_claim_ends_with_the_task_whose_arguments_reach_its_limit(self):
        self.patch(claims_module, "CLAIM_BYTES", 20)
        store = self.open()
        store.write(Changes([New(str(number), "f", b"x" * 9) for number in range(5)]), 1.0)
        for expected in (["0", "1", "2"], ["3", "4"], []):
            claims = store.write(Changes(want={"f": 9}), 1.0).claims
            self.assertEqual([each.new.id for each in claims], expected)

    def test_a_store_that_is_closed_reads_nothing(self):
        store = self.open()
        store.close()
        self.assertIn("closed", str(self.assertRaises(StoreError, store.get, "1")))


class AcknowledgedTests(SqliteCase):
    def test_written_tasks_are_there_after_the_file_is_opened_again(self):
        store = self.open()
        claims = store.write(Changes([New("1", "f", b"[1]"), New("2", "f")], want={"f": 1}), 1.0).claims
        store.write(Changes(starts=[Start(claims[0].new.id, 1)]), 2.0)
        store.close()
        store = self.open()
        self.assertEqual(store.rescue(3.0), 1)
        self.assertEqual([each.state for each in store.find(Filter(), "", 9)], [State.WAITING] * 2)
        self.assertEqual(store.get("1").losses, 1)


class DescriptionTests(SqliteCase):
    def test_descriptions_of_stores(self):
        self.assertIsInstance(open_store("memory"), MemoryStore)
        store = open_store(f"sqlite:{self.path}")
        self.addCleanup(store.close)
        self.assertEqual(store.path, self.path)
        for wrong in ("", "memory:", "sqlite:", "sqlite", "redis://localhost"):
            self.assertIn(
                "memory:LIMITS, sqlite:PATH or postgres:DATABASE", str(self.assertRaises(StoreError, open_store, wrong))
            )


class MigrationTests(SqliteCase):
    def make_old(self, version=1):
        """Make a file of an older version, with a task."""
        database = sqlite3.connect(self.path, isolation_level=None)
        migrate(database, 0, version)
        database.execute(
            "INSERT INTO task (id, function, args, options, priority, wanted, keep, state, created, due) "
            "VALUES ('1', 'f', '[1]', '{}', 5, 0, 1, 1, 1, 1)"
        )
        database.close()

    def test_a_file_of_every_older_version_is_copied_and_migrated(self):
        for version in range(1, VERSION):
            self.make_old(version)
            store = self.open()
            self.assertEqual(store.copy, f"{self.path}.v{version}")
            self.assertIs(store.get("1").state, State.WAITING)
            store.close()
            self.assertEqual(check_file(store.copy).version, version)
            self.assertEqual(check_file(self.path).version, VERSION)
            os.unlink(self.path)

    def test_a_new_file_and_one_of_this_version_are_not_copied(self):
        for _ in range(2):
            store = self.open()
            store.close()
            self.assertIsNone(store.copy)

    def test_a_file_that_cannot_be_copied_is_not_migrated(self):
        self.make_old()
        os.makedirs(f"{self.path}.v1.part")
        self.assertIn("cannot be copied", self.refusal())
        self.assertEqual(check_file(self.path).version, 1)

    def test_a_migration_that_fails_leaves_the_file_as_it_was(self):
        self.make_old()
        database = sqlite3.connect(self.path)
        database.execute("CREATE TABLE paused (something)")
        database.close()
        self.assertIn("is left at schema 1", self.refusal())
        self.assertEqual(check_file(self.path).version, 1)
        self.assertEqual(check_file(self.path).counts, {"waiting": 1})


class CheckTests(SqliteCase):
    def problem(self):
        return str(self.assertRaises(StoreError, check_file, self.path))

    def test_a_file_in_use_is_checked(self):
        store = self.open()
        store.write(Changes([New("1", "f"), New("2", "f")]), 1.0)
        store.write(Changes(cancels=["2"]), 1.0)
        health = check_file(self.path)
        self.assertEqual((health.problems, health.counts), ([], {"waiting": 1, "cancelled": 1}))
        self.assertGreater(health.log_size, 0)

    def test_tasks_without_an_end_and_events_without_a_task_are_problems(self):
        store = self.open()
        store.write(Changes([New("1", "f"), New("2", "f")]), 1.0)
        store.close()
        database = sqlite3.connect(self.path)
        database.execute("UPDATE task SET state = 3 WHERE id = '1'")
        database.execute("DELETE FROM task WHERE id = '2'")
        database.commit()
        database.close()
        self.assertEqual(
            check_file(self.path).problems,
            ["task 1 has ended, but its last event is no end", "task 2 has events, and is lost"],
        )

    def test_a_damaged_file_is_reported_and_not_used(self):
        store = self.open()
        store.write(Changes([New(f"{number:09}", "f", b"x" * 100) for number in range(500)]), 1.0)
        store.close()
        content = bytearray(Path(self.path).read_bytes())
        content[4096 * 30 : 4096 * 40] = os.urandom(4096 * 10)
        Path(self.path).write_bytes(content)
        self.assertTrue(check_file(self.path).problems)

    def test_missing_empty_and_other_files_are_named(self):
        self.assertIn("there is no file", self.problem())
        Path(self.path).touch()
        self.assertIn("no daemon has used it", self.problem())
        Path(self.path).write_text("notes")
        self.assertIn("no SQLite file", self.problem())
