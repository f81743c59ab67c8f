"""The token that a gateway shows its task servers: what becomes of their answers to it."""

from pathlib import Path

import msgspec
from msgspec import Raw
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from taskd.auth.files import AccessFileError
from taskd.client.file_token import FileToken
from taskd.client.tokens import ShownToken
from taskd.errors import MethodNotFound, NotAllowed, Unreachable
from taskd.listeners.server_credentials import server_credentials
from taskd.model import Failure, Result


def accepted(**answer):
    return Result(Raw(msgspec.json.encode({"owner": "gate", "expires": None, **answer})))


class ServerCredentialsTests(SynchronousTestCase):
    def denial(self, answer, *, passes_on=True):
        """Return what calls end with behind a token that got this answer, and what is logged."""
        credentials = server_credentials(Clock(), lambda: "taskd_x", passes_on=passes_on)
        self.assertEqual(credentials.next(), "taskd_x")
        shown = ShownToken(is_renewable=credentials.is_renewable, judge=credentials.judge)
        shown.first("taskd_x")
        with capturedLogs() as events:
            denial = shown.answered(answer)
        self.assertFalse(shown.awaits_answer)
        return denial, "".join(map(formatEvent, events))

    def test_an_operators_token_lets_calls_through(self):
        for answer in accepted(role="operate"), accepted(role="submit", anonymous=True):
            self.assertEqual(self.denial(answer), (None, ""))
        self.assertEqual(self.denial(accepted(role="submit"), passes_on=False), (None, ""))

    def test_a_server_that_knows_no_tokens_needs_none(self):
        self.assertEqual(self.denial(Failure.of(MethodNotFound("taskd.auth"))), (None, ""))

    def test_a_refusal_is_no_matter_of_the_callers_own_tokens_and_is_logged(self):
        denial, line = self.denial(Failure.of(NotAllowed("this token has expired", reason="expired")))
        self.assertEqual((denial.code, denial.data), (Unreachable.code, {"sent": False}))
        self.assertIn("--task-server-token: this token has expired", line)

    def test_another_role_than_an_operators_does_not_speak_for_callers(self):
        denial, line = self.denial(accepted(role="submit"))
        self.assertEqual(denial.code, Unreachable.code)
        self.assertIn("it has the role submit, and must have operate", line)


class FileTokenTests(SynchronousTestCase):
    def test_a_file_has_one_token_on_one_line(self):
        path = Path(self.mktemp())
        path.write_text(" taskd_x\n")
        self.assertEqual(FileToken(str(path))(), "taskd_x")
        for content, why in (
            (b"\n", "has no token in it"),
            (b"two tokens", "has something else in it than one token"),
            (b"\xff", "has something else in it than one token"),
        ):
            path.write_bytes(content)
            error = self.assertRaises(AccessFileError, FileToken, str(path))
            self.assertIn(why, str(error))
            self.assertNotIn("two", str(error))
