"""Files of tokens and keys of a running daemon: read again in a thread, one reading at a time."""

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import current_thread
from typing import Any

from cryptography.fernet import Fernet
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from taskd.auth.access_config import AccessConfig
from taskd.auth.tokens import hash_of, new_token
from taskd.daemon.access import open_sealer, open_server_token, open_verifier
from taskd.daemon.access_files import AccessFiles, in_thread
from taskd.errors import NotAllowed


class Threads:
    """Threads that run a function when the test lets them."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def __call__(self, function: Callable[[], Any]) -> Deferred[Any]:
        self.waiting.append((function, Deferred()))
        return self.waiting[-1][1]

    def go_on(self) -> None:
        function, fires = self.waiting.pop(0)
        fires.callback(function())


class RecordingGate:
    def __init__(self) -> None:
        self.audit = self
        self.noted: list[str] = []

    def tokens_changed(self) -> None:
        self.noted.append("changed")

    def note(self, grant: object, action: str) -> None:
        self.noted.append(action)


class Broken:
    """A verifier with a bug."""

    def read(self) -> int:
        return 1 // 0


class AccessFilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.tokens, self.keys, self.shown = (folder / name for name in ("tokens", "keys", "shown"))
        self.old, self.new = new_token(), new_token()
        self.old_key, self.new_key = Fernet.generate_key(), Fernet.generate_key()
        self.write(self.old)
        self.keys.write_bytes(self.old_key)
        self.shown.write_text(f"{self.old}\n")
        self.threads = Threads()
        self.files = AccessFiles(
            self.threads,
            open_verifier(AccessConfig(str(self.tokens))),
            open_sealer(str(self.keys)),
            open_server_token(str(self.shown)),
        )
        self.files.gate = self.gate = RecordingGate()

    def write(self, token: str) -> None:
        self.tokens.write_text(f'[tokens.ci]\nhash = "{hash_of(token)}"\n')

    def is_accepted(self, token: str) -> bool:
        try:
            return self.files.verifier.verify(token, 0).name == "ci"
        except NotAllowed:
            return False

    def read_again(self) -> list[str]:
        """Have everything read again; return what is logged."""
        done = self.files.read_again()
        with capturedLogs() as events:
            self.threads.go_on()
        self.successResultOf(done)
        return [formatEvent(event) for event in events]

    def test_tokens_and_keys_are_used_once_a_thread_has_read_them(self) -> None:
        sealed = self.files.sealer.seal(b"secret")
        self.write(self.new)
        self.keys.write_bytes(self.new_key + b"\n" + self.old_key)
        self.shown.write_text(self.new)
        done = self.files.read_again()
        self.assertNoResult(done)
        self.assertTrue(self.is_accepted(self.old))
        self.threads.go_on()
        self.successResultOf(done)
        self.assertEqual((self.is_accepted(self.old), self.is_accepted(self.new)), (False, True))
        self.assertEqual(self.gate.noted, ["changed", "tokens"])
        self.assertEqual(Fernet(self.new_key).decrypt(self.files.sealer.seal(b"x")), b"x")
        self.assertEqual((self.files.sealer.open(sealed), len(self.files.sealer)), (b"secret", 2))
        self.assertEqual(self.files.server_token(), self.new)

    def test_a_wrong_file_keeps_what_it_had_and_holds_up_no_other(self) -> None:
        self.tokens.write_text(f'[tokens.good]\nhash = "{hash_of(self.new)}"\n[tokens.ci]\nhash = 3\n')
        self.keys.write_text("# keys\nwrong\n")
        self.shown.write_text("two tokens")
        tokens, keys, shown = self.read_again()
        self.assertIn(f"tokens are not read again: {self.tokens}:3: token ci: Expected", tokens)
        self.assertIn(f"--secret-key are not read again: {self.keys}:2: a key is", keys)
        self.assertIn(f"{self.shown} has something else in it than one token", shown)
        self.assertTrue(all("the old ones stay in use" in line for line in (tokens, keys, shown)))
        self.assertEqual((self.is_accepted(self.old), self.gate.noted), (True, []))
        self.assertEqual(Fernet(self.old_key).decrypt(self.files.sealer.seal(b"x")), b"x")
        self.assertEqual(self.files.server_token(), self.old)
        self.write(self.new)
        self.read_again()
        self.assertTrue(self.is_accepted(self.new))

    def test_a_reading_that_is_asked_for_during_another_follows_it_once(self) -> None:
        first = self.files.read_again()
        found, _ = self.threads.waiting[0][0](), self.write(self.new)
        others = [self.files.read_again(), self.files.read_again()]
        self.assertEqual(len(self.threads.waiting), 1)
        self.threads.waiting.pop(0)[1].callback(found)
        self.successResultOf(first)
        self.assertTrue(self.is_accepted(self.old))
        for each in others:
            self.assertNoResult(each)
        self.threads.go_on()
        for each in others:
            self.successResultOf(each)
        self.assertTrue(self.is_accepted(self.new))
        self.assertEqual(self.threads.waiting, [])

    def test_a_bug_in_a_reading_is_logged_and_ends_it(self) -> None:
        self.files.gate.tokens_changed = lambda: 1 // 0
        for files in self.files, AccessFiles(self.threads, Broken()):
            done = files.read_again()
            self.threads.go_on()
            self.successResultOf(done)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(self.is_accepted(self.old))

    def test_without_files_nothing_is_read(self) -> None:
        files = AccessFiles(self.threads)
        self.assertEqual(len(files), 0)
        self.successResultOf(files.read_again())
        self.assertEqual(self.threads.waiting, [])


@implementer(IReactorFromThreads)
class Queue:
    """A reactor that is called from one thread, whose calls the test runs."""

    def __init__(self) -> None:
        self.calls: Any = SimpleQueue()

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.calls.put((function, arguments))

    def run_one(self) -> None:
        function, arguments = self.calls.get(timeout=30)
        function(*arguments)


class InThreadTests(SynchronousTestCase):
    def test_a_result_and_a_failure_come_back_into_the_reactor(self) -> None:
        reactor = Queue()
        named = in_thread(reactor, current_thread)
        self.assertNoResult(named)
        reactor.run_one()
        thread = self.successResultOf(named)
        self.assertEqual((thread.daemon, thread is current_thread()), (True, False))
        failed = in_thread(reactor, lambda: 1 // 0)
        reactor.run_one()
        self.failureResultOf(failed, ZeroDivisionError)
