"""Tests of ``taskd token``: tokens are made, listed and revoked in a file."""

import json
import os
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from taskd.auth.token_file import read_tokens
from taskd.cli.main import main


class TokenCommandTests(SynchronousTestCase):
    def setUp(self):
        self.path = self.mktemp()

    def run_command(self, *arguments, path=None, **variables):
        more = () if path == "" else ("--tokens", path or self.path)
        with patch.dict(os.environ, variables):
            return CliRunner().invoke(main, ["token", *arguments, *more])

    def made(self, *arguments):
        result = self.run_command("new", *arguments)
        self.assertEqual(result.exit_code, 0, result.output)
        return result.stdout.strip()

    def refused(self, *arguments, **more):
        result = self.run_command(*arguments, **more)
        self.assertNotEqual(result.exit_code, 0)
        return result.output

    def test_a_new_token_is_printed_once_and_accepted(self):
        token = self.made("ci")
        self.assertNotIn(token, Path(self.path).read_text())
        self.assertEqual(read_tokens(self.path).verify(token, 0).name, "ci")

    def test_a_token_is_limited_by_options(self):
        token = self.made(
            *("ci", "--role", "watch", "--for-function", "mail.*", "--for-function", "x", "--rate", "9/h"),
            *("--waiting", "0", "--running", "2", "--bytes", "1K", "--expires", "30d"),
        )
        caller = read_tokens(self.path).verify(token, 0)
        self.assertEqual((caller.grant.functions, caller.rate.count), (("mail.*", "x"), 9))
        grant = caller.grant
        self.assertEqual((grant.role, grant.waiting, grant.running, grant.bytes), ("watch", 0, 2, 1024))
        self.assertIsNotNone(caller.expires)

    def test_a_token_may_end_at_a_date(self):
        for text in "2999-01-31", "2999-01-31T00:00:00Z":
            self.made(text.replace(":", ""), "--expires", text)
        ends = {entry.expires.isoformat() for entry in read_tokens(self.path).entries.values()}
        self.assertEqual(ends, {"2999-01-31T00:00:00+00:00"})

    def test_an_impossible_token_is_refused_and_nothing_is_written(self):
        wrong = {
            ("a b",): "a token's name is 1 to 64 letters",
            ("ci", "--rate", "often"): "a rate is NUMBER/s",
            ("ci", "--bytes", "much"): "an amount of memory is like",
            ("ci", "--expires", "soon"): "write 30d, 12h",
            ("ci", "--expires", "2020-01-01"): "is over already",
            ("ci", "--for-function", "[a]"): "in which * and ? stand for others",
            ("ci", "--running", "0"): "0 is not in the range",
        }
        for arguments, why in wrong.items():
            self.assertIn(why, self.refused("new", *arguments))
        self.assertFalse(os.path.exists(self.path))

    def test_tokens_are_listed_without_their_hashes(self):
        self.assertIn("no such", self.refused("list").lower())
        Path(self.path).touch()
        self.assertIn("no tokens", self.run_command("list").output)
        self.made("ci", "--rate", "9/h")
        self.made("old", "--expires", "1m")
        text = Path(self.path).read_text().replace("expires = 2", "expires = 1")
        Path(self.path).write_text(text)
        output = self.run_command("list").output
        for shown in "ci", "rate 9/h", "never", "over since":
            self.assertIn(shown, output)
        self.assertNotIn("sha256", output)
        rows = json.loads(self.run_command("list", "--json").stdout)
        self.assertEqual(
            rows[0], {"name": "ci", "role": "submit", "functions": ["*"], "expires": None, "rate": "9/h"}
        )

    def test_revoked_tokens_are_gone_from_the_file(self):
        self.made("ci")
        self.made("cd")
        self.assertIn("has no token ce", self.refused("revoke", "ci", "ce"))
        self.assertIn("SIGHUP", self.run_command("revoke", "ci").output)
        self.assertEqual(list(read_tokens(self.path).entries), ["cd"])

    def test_the_file_is_that_of_the_server_unless_it_is_named(self):
        path = os.path.abspath(self.path)
        self.assertEqual(self.run_command("new", "ci", path="", TASKD_TOKENS=path).exit_code, 0)
        self.assertEqual(list(read_tokens(path).entries), ["ci"])
        self.assertIn("Name it with --tokens FILE", self.refused("list", path="", TASKD_TOKENS=""))
        self.assertIn("TASKD_NONSENSE", self.refused("list", path="", TASKD_NONSENSE="1"))
