"""Tests of the file of tokens: its contents, its changes, and mistakes in it."""

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.auth.caller import Rate
from taskd.auth.files import MAX_FILE, AccessFileError, read_access_file
from taskd.auth.limits import parse_rate, show_rate
from taskd.auth.token_editing import add_token, remove_tokens
from taskd.auth.token_file import TokenEntry, TokenFile, parse_tokens, read_tokens
from taskd.auth.tokens import hash_of, new_token
from taskd.errors import NotAllowed
from taskd.model import Grant

TOKEN = "taskd_" + "a" * 43
NOW = 1_800_000_000.0


def parsed(text: str) -> TokenFile:
    return parse_tokens(text.encode(), "tokens.toml")


def table(more: str = "", name: str = "ci", token: str = TOKEN) -> str:
    return f'[tokens.{name}]\nhash = "{hash_of(token)}"\n{more}\n'


class TokenFileTests(SynchronousTestCase):
    def why(self, text: str | bytes) -> str:
        content = text.encode() if isinstance(text, str) else text
        return str(self.assertRaises(AccessFileError, parse_tokens, content, "tokens.toml"))

    def test_a_token_with_only_its_hash_submits_and_covers_every_function(self) -> None:
        caller = parsed(table()).verify(TOKEN, NOW)
        self.assertEqual(caller.grant, Grant("token:ci", "submit"))
        self.assertEqual(
            (caller.name, caller.grant.functions, caller.rate, caller.expires), ("ci", None, None, None)
        )

    def test_a_token_may_have_a_role_functions_limits_and_an_end(self) -> None:
        more = (
            'role = "operate"\nfunctions = ["mail.*"]\nrate = "5/s"\nwaiting = 3\nrunning = 2\nbytes = 10\n'
        )
        caller = parsed(table(more + "expires = 2030-01-02T00:00:00Z")).verify(TOKEN, NOW)
        self.assertEqual(caller.grant, Grant("token:ci", "operate", 3, 2, 10, functions=("mail.*",)))
        self.assertEqual(caller.rate, Rate(5, 1.0))
        self.assertEqual(caller.expires, datetime(2030, 1, 2, tzinfo=UTC).timestamp())

    def test_a_pattern_for_every_function_makes_the_others_mean_nothing(self) -> None:
        caller = parsed(table('functions = ["mail.*", "*"]')).verify(TOKEN, NOW)
        self.assertIsNone(caller.grant.functions)

    def test_patterns_that_are_too_long_together_are_refused(self) -> None:
        patterns = ", ".join(f'"{number:0199}"' for number in range(200))
        why = self.why(table(f"functions = [{patterns}]"))
        self.assertIn("token ci: functions: the patterns take more than 32768 bytes", why)

    def test_a_date_alone_ends_a_token_when_the_day_begins_in_utc(self) -> None:
        caller = parsed(table("expires = 2030-01-02")).verify(TOKEN, NOW)
        self.assertEqual(caller.expires, datetime(2030, 1, 2, tzinfo=UTC).timestamp())

    def test_a_token_that_is_not_there_is_unknown_and_one_that_is_over_has_expired(self) -> None:
        tokens = parsed(table("expires = 2027-01-01"))
        error = self.assertRaises(NotAllowed, tokens.verify, new_token(), NOW)
        self.assertEqual(error.data, {"reason": "unknown"})
        error = self.assertRaises(NotAllowed, tokens.verify, TOKEN, NOW)
        self.assertEqual(error.data, {"reason": "expired"})

    def test_the_hash_is_not_shown_by_a_caller(self) -> None:
        self.assertNotIn(hash_of(TOKEN)[10:], repr(parsed(table()).verify(TOKEN, NOW)))

    def test_an_empty_file_has_no_tokens(self) -> None:
        self.assertEqual(parsed("").entries, {})

    def test_a_mistake_in_the_file_is_named_with_the_right_form(self) -> None:
        wrong = {
            "[tokens.ci]": "token ci: Object missing required field `hash`",
            "[token.ci]": "there is nothing called 'token'; write [tokens.NAME]",
            "tokens = 3": "tokens has a table for each token",
            "[tokens]\nci = 3": "token ci: this is a table",
            '[tokens."a b"]': "a token's name is 1 to 64 letters",
            '[tokens.ci]\nhash = "abc"': "hash is sha256: and 64 digits of hex; taskd token new writes it",
            table('roles = "watch"'): "there is no 'roles'; did you mean role?",
            table("zzz = 1"): "there is no 'zzz'; there are hash, role",
            table('role = "admin"'): "Invalid enum value 'admin' - at `$.role`",
            table('functions = "mail"'): "Expected `array`, got `str` - at `$.functions`",
            table("functions = []"): "Expected `array` of length >= 1",
            table('rate = "often"'): "a rate is NUMBER/s, NUMBER/min or NUMBER/h, as in 100/min, not 'often'",
            table("running = 0"): "Expected `int` >= 1",
            table('expires = "soon"'): "expires is a date or a date-time of TOML",
            table("expires = 2030-01-02T00:00:00"): "expires needs its offset, Z for UTC",
            table() + table(name="other"): "ci and other have the same hash",
            "a = ": "is not TOML",
            "a = " + "[" * 5000: "is not TOML",
            "a = " + "1" * 5000: "is not TOML",
        }
        for text, why in wrong.items():
            with self.subTest(text=text[:60]):
                self.assertIn(why, self.why(text))
        self.assertIn("byte 0 is not UTF-8", self.why(b"\xff"))

    def test_a_mistake_in_the_file_is_named_with_its_line(self) -> None:
        for written in "[tokens.bad]", ' [ tokens . "bad" ] # bad', "[tokens.'bad']":
            text = f"# tokens\n{table()}\n{written}\nhash = 3\n"
            line = text[: text.index(written)].count("\n") + 1
            self.assertIn(f"tokens.toml:{line}: token bad: Expected `str`", self.why(text))
        text = table() + table(name="other")
        line = text[: text.index("[tokens.other]")].count("\n") + 1
        self.assertIn(f"tokens.toml:{line}: ci and other have the same hash", self.why(text))

    def test_files_that_cannot_be_read_or_are_too_long_are_refused(self) -> None:
        for path, why in ((self.mktemp(), "No such file"), (".", "Is a directory"), ("a\0b", "is no path")):
            self.assertIn(why, str(self.assertRaises(AccessFileError, read_access_file, path)))
        path = Path(self.mktemp())
        path.write_bytes(b"#" * (MAX_FILE + 1))
        self.assertIn("longer than", str(self.assertRaises(AccessFileError, read_tokens, str(path))))

    def test_a_rate_is_shown_as_it_is_written(self) -> None:
        for text in "1/s", "100/min", "999999999/h":
            self.assertEqual(show_rate(parse_rate(text)), text)

    @given(st.binary() | st.text().map(str.encode) | st.text().map(lambda text: table(text).encode()))
    def test_any_content_is_a_file_of_tokens_or_refused_with_the_name_of_the_file(
        self, content: bytes
    ) -> None:
        try:
            parse_tokens(content, "tokens.toml")
        except AccessFileError as error:
            self.assertTrue(str(error).startswith("tokens.toml"))


class EditingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = self.mktemp()

    def test_a_new_file_is_for_its_owner_alone(self) -> None:
        add_token(self.path, "ci", TokenEntry(hash_of(TOKEN)))
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        self.assertEqual(read_tokens(self.path).verify(TOKEN, NOW).name, "ci")

    def test_everything_that_a_token_may_have_is_read_as_it_was_written(self) -> None:
        end = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
        entry = TokenEntry(hash_of(TOKEN), "watch", ("a.*", 'q"\\ü'), "5/min", 0, 1, 2, end)
        add_token(self.path, "ci", entry)
        self.assertEqual(read_tokens(self.path).entries, {"ci": entry})

    def test_a_token_is_added_once(self) -> None:
        add_token(self.path, "ci", TokenEntry(hash_of(TOKEN)))
        error = self.assertRaises(
            AccessFileError, add_token, self.path, "ci", TokenEntry(hash_of(new_token()))
        )
        self.assertIn("has a token ci already", str(error))

    def test_comments_the_mode_and_other_tokens_stay_when_one_is_revoked(self) -> None:
        one, two, three = (table(name=name, token=new_token()) for name in ("one", "two", "three"))
        Path(self.path).write_text(
            f"# ours\n{one}\n# the second\n{two}# of two\nrole = 'watch'\n\n# the third\n{three}"
        )
        os.chmod(self.path, 0o640)
        remove_tokens(self.path, ["two"])
        self.assertEqual(list(read_tokens(self.path).entries), ["one", "three"])
        self.assertEqual(Path(self.path).read_text(), f"# ours\n{one}\n# the second\n# the third\n{three}")
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o640)

    def test_nothing_is_changed_if_one_of_the_tokens_to_be_revoked_is_not_there(self) -> None:
        Path(self.path).write_text(table())
        error = self.assertRaises(AccessFileError, remove_tokens, self.path, ["ci", "cd"])
        self.assertIn("has no token cd", str(error))
        self.assertEqual(Path(self.path).read_text(), table())

    def test_a_file_that_is_written_in_another_way_is_left_to_an_editor(self) -> None:
        text = f'tokens = {{ci = {{hash = "{hash_of(TOKEN)}"}}}}\n'
        Path(self.path).write_text(text)
        error = self.assertRaises(AccessFileError, remove_tokens, self.path, ["ci"])
        self.assertIn("change it with an editor", str(error))
        self.assertEqual(Path(self.path).read_text(), text)

    def test_a_link_to_the_file_stays_a_link(self) -> None:
        link = self.mktemp()
        os.symlink(os.path.abspath(self.path), link)
        add_token(link, "ci", TokenEntry(hash_of(TOKEN)))
        self.assertTrue(os.path.islink(link))
        self.assertEqual(list(read_tokens(self.path).entries), ["ci"])

    def test_a_file_whose_directory_is_not_there_is_not_made(self) -> None:
        path = os.path.join(self.path, "tokens.toml")
        error = self.assertRaises(AccessFileError, add_token, path, "ci", TokenEntry(hash_of(TOKEN)))
        self.assertIn("its directory cannot be opened", str(error))
