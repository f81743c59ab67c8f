"""Secrets in the file of a store, sealed anew with the newest key."""

import json

import msgspec
from cryptography.fernet import Fernet
from twisted.trial.unittest import SynchronousTestCase

from taskd.auth.sealing import Sealer
from taskd.durable.moments import RunOptions
from taskd.durable.resealing import SHOWN, Resealing
from taskd.durable.vault import Vault
from taskd.functions.secret_arguments import SecretArguments
from taskd.store import sqlite_sealed
from taskd.store.base import Changes
from taskd.store.batches import NewBatch, Rows
from taskd.store.records import New
from taskd.store.sqlite import SqliteStore
from tests.unit.durable.test_vault import NAMED, SECRET

SECRETS = SecretArguments.of(SECRET.parameters)
OLD, NEW, LOST = (Fernet.generate_key() for _ in range(3))


def sealer(*keys):
    return Sealer.parse(b"\n".join(keys), "keys")


def new(name, args=NAMED, secrets=SECRETS, function="f"):
    options = msgspec.json.encode(RunOptions(secrets=secrets))
    return New(name, function, None if args is None else json.dumps(args).encode(), options)


class ResealingTests(SynchronousTestCase):
    def setUp(self):
        self.store = SqliteStore(self.mktemp())
        self.addCleanup(self.store.close)

    def vault(self, *keys):
        vault = Vault(self.store, sealer(*keys))
        vault.use([SECRET])
        return vault

    def submit(self, *keys_and_tasks):
        key, *tasks = keys_and_tasks
        self.vault(key).write(Changes(submits=tasks), 0.0)

    def run_with(self, *keys):
        run = Resealing(sealer(*keys))
        run.run(self.store)
        return run.resealed, run.up_to_date, run.unopened, run.first_unopened

    def opened(self, name, *keys):
        return json.loads(self.vault(*keys).opened(self.store.get(name)).new.args)

    def test_everything_has_the_newest_key_then_and_a_second_run_changes_nothing(self):
        self.submit(OLD, new("1"), new("2", ["smith", "hunter2", 7]), new("3", None))
        self.submit(OLD, new("4", {"user": "smith"}), new("5", {"user": "smith"}, None, "g"))
        self.submit(NEW, new("6"))
        self.assertEqual(self.run_with(NEW, OLD), (2, 1, 0, []))
        self.assertEqual(self.opened("1", NEW), NAMED)
        self.assertEqual(self.opened("2", NEW), ["smith", "hunter2", 7])
        self.assertEqual(self.opened("6", NEW), NAMED)
        before = self.store.get("1")
        self.assertEqual(self.run_with(NEW), (0, 3, 0, []))
        self.assertEqual(self.store.get("1"), before)

    def test_so_have_the_rows_of_a_batch_that_are_no_tasks_yet(self):
        vault, rows = self.vault(OLD), [json.dumps(NAMED).encode(), b'{"user":"miller"}']
        parts = [Rows([f"{part}{row}" for row in range(2)], vault.sealed_rows("f", rows)) for part in "012"]
        self.store.batches.add(NewBatch("b", vault.sealed(new("b", None)), parts), 0.0)
        self.store.batches.unpack("b", 0.0)
        self.assertEqual(self.run_with(NEW, OLD), (3, 0, 0, []))
        for _ in range(2):
            self.store.batches.unpack("b", 0.0)
        for part in range(3):
            self.assertEqual(self.opened(f"{part}0", NEW), NAMED)
            self.assertEqual(self.opened(f"{part}1", NEW), {"user": "miller"})
        self.assertEqual(self.run_with(NEW), (0, 3, 0, []))

    def test_secrets_that_no_key_opens_are_counted_named_and_left(self):
        ids = [f"{number:02}" for number in range(SHOWN + 2)]
        self.submit(LOST, *map(new, ids))
        self.submit(OLD, new("x"))
        rows = self.vault(LOST).sealed_rows("f", [json.dumps(NAMED).encode()] * 2)
        task = self.vault(LOST).sealed(new("b", None))
        self.store.batches.add(NewBatch("b", task, [Rows(["b1", "b2"], rows)]), 0.0)
        expected = ["b", *ids[: SHOWN - 1]]
        self.assertEqual(self.run_with(NEW, OLD), (1, 0, SHOWN + 4, expected))
        self.assertEqual(self.opened("00", LOST), NAMED)
        self.assertEqual(self.opened("x", NEW), NAMED)

    def test_a_run_that_is_broken_off_keeps_what_it_has_done(self):
        self.patch(sqlite_sealed, "MAX_TASKS", 2)
        self.submit(OLD, *(new(str(number)) for number in range(7)))
        keys = sealer(NEW, OLD)
        sealed = []

        def seal_again(value):
            sealed.append(value)
            if len(sealed) == 4:
                raise KeyboardInterrupt
            return Sealer.seal_again(keys, value)

        keys.seal_again = seal_again
        self.assertRaises(KeyboardInterrupt, Resealing(keys).run, self.store)
        self.assertEqual(self.run_with(NEW, OLD), (5, 2, 0, []))

    def test_a_transaction_ends_with_the_task_that_reaches_its_bytes(self):
        self.patch(sqlite_sealed, "MAX_BYTES", 1)
        self.submit(OLD, *(new(str(number)) for number in range(3)))
        changed = []
        edge = self.store.sealed.change_tasks("", lambda *task: changed.append(task[0]))
        self.assertEqual((edge, changed), ("0", ["0"]))
        self.assertEqual(self.run_with(NEW, OLD), (3, 0, 0, []))
