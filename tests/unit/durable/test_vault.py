"""Secret arguments in the store: sealed there, opened for the worker alone, and masked in what is shown."""

import json

import msgspec
from cryptography.fernet import Fernet, InvalidToken

from taskd.durable import batch_methods
from taskd.durable.methods import StoredMethods
from taskd.durable.tasks import DurableTasks
from taskd.durable.vault import Vault
from taskd.functions.descriptions import ParameterInfo
from taskd.functions.durability import Durability
from taskd.functions.kinds import Kind
from taskd.functions.retries import Verdict
from taskd.functions.secret_arguments import ALL_SECRET
from taskd.store.memory import MemoryStore
from taskd.store.records import New, Record, State
from tests.unit.durable.test_methods import StoredCase
from tests.unit.pools import LoggingCase, function

TEXT = [Kind("string")]
SECRET = msgspec.structs.replace(
    function("f"),
    parameters={
        "user": ParameterInfo(TEXT),
        "password": ParameterInfo(TEXT, secret=True),
        "code": ParameterInfo([Kind("integer")], secret=True),
    },
    durable=Durability(retries=3, backoff=0.0),
)
PLAIN = msgspec.structs.replace(function("g"), parameters={"user": ParameterInfo(TEXT)})
NAMED = {"user": "smith", "password": "hunter2"}


class Keys:
    """A stand-in for `taskd.auth.sealing.Sealer`."""

    def __init__(self):
        self.key = Fernet(Fernet.generate_key())

    def seal(self, secret):
        return self.key.encrypt(secret)

    def open(self, sealed):
        try:
            return self.key.decrypt(sealed)
        except InvalidToken:
            raise ValueError("no key opens it") from None


class LastingStore(MemoryStore):
    """A store in memory that passes for a lasting one."""

    is_lasting = True


class VaultCase(StoredCase, LoggingCase):
    keys = True

    def setUp(self):
        super().setUp()
        self.sealing = Keys() if self.keys else None
        self.make()

    def make(self):
        super().make()
        self.store = LastingStore()
        self.tasks = DurableTasks(
            self.clock, self.server, self.store, self.execute, self.clock.seconds, sealing=self.sealing
        )
        self.server.stored = StoredMethods(self.clock, self.tasks, lambda: self.server.functions)

    def load(self, *functions):
        self.pool.load(*functions or (SECRET, PLAIN))
        self.turn()
        self.pool.ready()
        self.turns()

    def ask(self, method, **params):
        client = self.connect()
        client.call(f"taskd.{method}", params=params)
        self.turns()
        [reply] = client.received()
        return reply

    def submit(self, args, function="f", **options):
        return self.ask("submit", function=function, args=args, options=options)["result"]["task"]

    def args(self, task):
        """Return the arguments that `taskd.get` shows."""
        return self.ask("get", task=task, with_args=True)["result"]["args"]

    def stored(self, task):
        """Return the arguments that are in the store, and all that is there of the task."""
        record = self.store.get(task)
        return json.loads(record.new.args or b"null"), repr(record)

    def given(self):
        """Return the arguments that a worker has got."""
        return [json.loads(bytes(each.args)) for each in self.pool.workers[1].attempts]


class SealedTests(VaultCase):
    def test_a_secret_is_sealed_in_the_store_and_open_for_the_worker(self):
        self.load()
        task = self.submit(NAMED)
        args, everything = self.stored(task)
        self.assertEqual(args["user"], "smith")
        self.assertTrue(args["password"].startswith("gAAAA"), args)
        self.assertNotIn("hunter2", everything)
        self.assertEqual(self.given(), [NAMED])
        self.assertEqual(self.args(task), {"user": "smith", "password": "[secret]"})

    def test_so_are_those_that_are_given_by_their_places(self):
        self.load()
        task = self.submit(["smith", "hunter2", 1234])
        self.assertNotIn("hunter2", self.stored(task)[1])
        self.assertNotIn("1234", str(self.stored(task)[0]))
        self.assertEqual(self.given(), [["smith", "hunter2", 1234]])
        self.assertEqual(self.args(task), ["smith", "[secret]", "[secret]"])

    def test_so_are_those_of_an_ordinary_call(self):
        self.load()
        client = self.connect()
        client.call("f", params=NAMED)
        self.turns()
        [task] = [each["task"] for each in self.ask("list")["result"]]
        self.assertNotIn("hunter2", self.stored(task)[1])
        self.assertEqual(self.given(), [NAMED])

    def test_so_are_the_rows_of_a_batch(self):
        self.patch(batch_methods, "SEALED_AT_ONCE", 1)
        self.load()
        rows = [NAMED, ["smith", "hunter2"], {"user": "miller", "password": "hunter3"}]
        answer = self.ask("submit_batch", function="f", args=rows)
        tasks = answer["result"]["tasks"]
        for task in tasks:
            self.assertNotIn("hunter", self.stored(task)[1])
        self.assertEqual(self.args(tasks[1]), ["smith", "[secret]"])

    def test_tasks_without_secrets_are_stored_as_ever(self):
        self.load()
        task = self.submit({"user": "smith"}, "g")
        self.assertEqual(self.store.get(task).new.options, b"{}")
        self.assertEqual(self.args(task), {"user": "smith"})
        task = self.submit(None)
        self.assertEqual(self.args(task), [])

    def test_a_secret_stays_sealed_from_attempt_to_attempt(self):
        self.load()
        task = self.submit(NAMED)
        self.pool.fail(1, verdict=Verdict(may_retry=True))
        self.turns(1.0)
        self.assertEqual(self.given(), [NAMED])
        self.assertNotIn("hunter2", self.stored(task)[1])

    def test_a_function_without_the_mark_gets_what_was_sealed_for_it_before(self):
        self.load()
        self.ask("pause", function="f")
        task = self.submit(NAMED)
        parameters = {"user": ParameterInfo(TEXT), "password": ParameterInfo(TEXT)}
        self.tasks.use([msgspec.structs.replace(SECRET, parameters=parameters)])
        self.assertEqual(self.args(task)["password"], "[secret]")
        self.ask("resume", function="f")
        self.turns()
        self.assertEqual(self.given()[-1], NAMED)

    def test_a_task_whose_key_is_gone_fails_and_can_be_put_back_when_it_is_there_again(self):
        self.load()
        self.ask("pause", function="f")
        task = self.submit(NAMED)
        before, self.sealing.key = self.sealing.key, Keys().key
        self.ask("resume", function="f")
        self.turns()
        view = self.ask("get", task=task)["result"]
        self.assertEqual((view["state"], view["error"]["data"]["type"]), ("failed", "taskd.SealedSecret"))
        self.assertIn("--secret-key", view["error"]["message"])
        self.assertEqual(self.args(task)["password"], "[secret]")
        self.sealing.key = before
        self.ask("retry", task=task)
        self.turns()
        self.assertEqual(self.given(), [NAMED])

    def test_arguments_that_come_before_the_functions_are_known_are_all_sealed(self):
        task = self.submit(NAMED)
        plain = self.submit({"user": "miller"}, "g")
        self.assertNotIn("smith", self.stored(task)[1])
        self.assertEqual(self.args(plain), {"user": "[secret]"})
        self.load()
        self.turns()
        self.assertEqual(self.given()[0], NAMED)
        self.assertEqual(self.args(task), {"user": "smith", "password": "[secret]"})
        self.assertEqual(self.args(plain), {"user": "miller"})
        self.sealing.key = Keys().key
        self.assertEqual(self.args(plain), {"user": "[secret]"})

    def test_a_mask_is_refused_as_the_value_of_a_secret(self):
        self.load()
        reply = self.ask("submit", function="f", args={"password": "[secret]"})
        self.assertIn("in the place of the real value", reply["error"]["message"])

    def test_the_error_of_another_value_does_not_quote_it(self):
        self.load()
        reply = self.ask("submit", function="f", args={"code": 1.5})
        self.assertEqual(reply["error"]["data"]["got"], "another value, which is secret")


class OpenTests(VaultCase):
    keys = False

    def test_without_keys_a_secret_is_stored_as_it_is_and_the_log_warns_once(self):
        self.load()
        self.tasks.use([SECRET, PLAIN])
        [line] = [each for each in self.logged if "--secret-key" in each]
        self.assertIn("secret arguments of f are stored as they are", line)
        task = self.submit(NAMED)
        self.assertEqual(self.stored(task)[0], NAMED)
        self.assertEqual(self.args(task), {"user": "smith", "password": "[secret]"})
        self.assertEqual(self.given(), [NAMED])

    def test_nothing_is_logged_if_nothing_is_secret(self):
        self.load(PLAIN)
        self.assertEqual([each for each in self.logged if "--secret-key" in each], [])

    def test_a_sealed_task_stays_sealed_without_keys(self):
        self.sealing = Keys()
        self.make()
        self.load()
        sealed = self.tasks.vault.sealed(New("a", "f", b'["smith","hunter2"]', b'{"secrets":{"places":[1]}}'))
        record = Record(sealed, State.WAITING, 0.0)
        self.assertIs(Vault(self.store).opened(record), record)
        self.assertIs(self.tasks.vault.sealed(sealed), sealed)


class PlaceTests(VaultCase):
    def test_a_value_that_was_sealed_for_one_argument_is_not_opened_for_another(self):
        self.load()
        vault = self.tasks.vault
        options = msgspec.json.encode({"secrets": ALL_SECRET})
        one = vault.sealed(New("a", "f", b'{"password":"hunter2"}', options))
        other = msgspec.structs.replace(one, args=one.args.replace(b"password", b"user"))
        for new, is_open in ((one, True), (other, False)):
            opened = vault.opened(Record(new, State.WAITING, 0.0))
            self.assertEqual(b"hunter2" in opened.new.args, is_open)
        broken = msgspec.structs.replace(one, args=b'{"password":1}')
        self.assertEqual(vault.opened(Record(broken, State.WAITING, 0.0)).new, broken)
