"""The mail app without a server: the form of mails, and the refusal of arguments and URLs."""

from __future__ import annotations

import os
import re
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.apps import mail
from taskd.apps.mail import ConfigError, delivery_to
from taskd.apps.mail_message import Mail, compose
from taskd.functions.registry import registry

ONE_LINE = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), max_size=120)
INJECTED = "=?utf-8?q?x=0d=0aBcc=3a_eve=40example.org?="


def read(sent: Mail) -> EmailMessage:
    parsed = message_from_bytes(sent.as_bytes("\n"), policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def the_recipient(sent: Mail) -> Address:
    header: Any = read(sent)["To"]
    (address,) = header.addresses
    return address


class FunctionTests(SynchronousTestCase):
    def test_a_mail_is_stored_and_tried_again_only_for_what_may_pass(self):
        function = registry["send_mail"]
        assert function.durable is not None
        self.assertEqual((function.durable.retries, function.durable.once), (8, False))
        self.assertTrue(issubclass(mail.RefusedForNowError, function.retry_for))
        self.assertTrue(issubclass(mail.ServerAwayError, function.retry_for))
        for lasting in mail.RefusedError, mail.OutcomeUnknownError, mail.LoginError, mail.ConfigError:
            self.assertFalse(issubclass(lasting, function.retry_for), lasting)


class ComposeTests(SynchronousTestCase):
    def test_the_message_id_is_unique_and_in_the_domain_of_the_sender(self):
        first = compose("Ann <ann@mail.example.org>", "bob@example.org", "x")
        second = compose("Ann <ann@mail.example.org>", "bob@example.org", "x")
        self.assertRegex(first.message_id, r"^<[^@<>\s]+@mail\.example\.org>$")
        self.assertNotEqual(first.message_id, second.message_id)
        self.assertEqual(read(first)["Message-ID"], first.message_id)

    def test_the_message_id_is_made_from_what_is_unique_so_that_a_second_attempt_has_the_same(self):
        sent = [
            compose("Ann <ann@mail.example.org>", "bob@example.org", "x", unique="0192-ab") for _ in range(2)
        ]
        self.assertEqual([each.message_id for each in sent], ["<0192-ab@mail.example.org>"] * 2)
        self.assertEqual(read(sent[0])["Message-ID"], "<0192-ab@mail.example.org>")

    def test_a_mail_has_a_date(self):
        header: Any = read(compose("ann@example.org", "bob@example.org", "x"))["Date"]
        self.assertIsNotNone(header.datetime.utcoffset())

    def test_a_mail_has_exactly_the_headers_that_it_should(self):
        sent = compose(
            f"{INJECTED} <ann@example.org>", f'"{INJECTED}" <bob@example.org>', "x", f"re: {INJECTED}"
        )
        names = ["From", "To", "Subject", "Date", "Message-ID", "Content-Type"]
        self.assertEqual(read(sent).keys(), [*names, "Content-Transfer-Encoding", "MIME-Version"])
        self.assertNotIn(b"\nBcc", sent.as_bytes("\n"))

    def test_a_mail_without_a_subject_has_no_subject_header(self):
        self.assertNotIn("Subject", read(compose("ann@example.org", "bob@example.org", "x")))

    @given(ONE_LINE)
    @example("häh\t!" + "ö" * 200)
    @example(INJECTED)
    @example("a" * 2000)
    @example("word " * 100)
    @example("two  spaces ")
    def test_a_subject_is_read_as_it_was_given(self, subject: str):
        sent = compose("ann@example.org", "bob@example.org", "x", subject)
        raw = sent.as_bytes("\r\n").partition(b"\r\n\r\n")[0]
        self.assertTrue(raw.isascii())
        self.assertLessEqual(max(map(len, raw.split(b"\r\n"))), 200)
        # Stripped, as every header's value is when it is sent.
        self.assertEqual(str(read(sent)["Subject"] or "").strip(), subject.strip())

    @given(ONE_LINE)
    @example("Doe, Jane")
    @example("Doe " + "x" * 70 + ", Jane <eve@example.com>")
    @example('Bobby "Tables"')
    @example("Jürgen Groß (Büro)")
    def test_a_display_name_is_never_read_as_an_address(self, name: str):
        quoted = re.sub(r'([\\"])', r"\\\1", name)
        sent = compose("ann@example.org", f'"{quoted}" <bob@example.org>', "x")
        self.assertEqual(sent.recipient, "bob@example.org")
        self.assertEqual(the_recipient(sent).addr_spec, "bob@example.org")
        # Not read with the parser above, which puts spaces between encoded words.
        phrase, _, _ = message_from_bytes(sent.as_bytes("\n"))["To"].rpartition("<bob@")
        self.assertEqual(str(make_header(decode_header(phrase))).split(), name.split())

    @given(st.text(st.sampled_from('aä.@<>"\\,;:()[] \xa0\t=?-'), max_size=16))
    @example("John Q. Public <john@example.org>")
    @example("Ann (work) <ann@example.org>")
    @example('"a b"@example.org')
    @example("ann@[127.0.0.1]")
    @example("a@b\xa0c")
    @example("=@ä")
    def test_an_accepted_address_is_read_back_unchanged(self, text: str):
        try:
            sent = compose("ann@example.org", text, "x")
        except ValueError as error:
            self.assertRegex(str(error), "^to: ")
            return
        self.assertIn(sent.recipient, text)
        # Python's parser does not decode some unusual addresses that are right on the wire.
        spec = the_recipient(sent).addr_spec.encode("utf-8", "surrogateescape").decode()
        self.assertEqual(spec, sent.recipient)

    def test_text_and_html_are_alternatives_in_that_order(self):
        parsed = read(compose("ann@example.org", "bob@example.org", "grün\n", "x", "<p>grün</p>"))
        self.assertEqual(parsed.get_content_type(), "multipart/alternative")
        parts: Any = list(parsed.iter_parts())
        self.assertEqual([part.get_content_type() for part in parts], ["text/plain", "text/html"])
        self.assertEqual([part.get_content() for part in parts], ["grün\n", "<p>grün</p>\n"])

    def test_the_html_may_be_empty(self):
        parsed = read(compose("ann@example.org", "bob@example.org", "x", html=""))
        self.assertEqual(parsed.get_content_type(), "multipart/alternative")

    @given(st.text(st.characters(codec="utf-8"), max_size=200))
    @example("a\r.\rb\n.\n..\nc")
    @example("x" * 2000)
    @example("")
    def test_the_content_is_7_bit_and_has_only_crlf_line_ends(self, contents: str):
        raw = compose("ann@example.org", "bob@example.org", contents).as_bytes("\r\n")
        self.assertTrue(raw.endswith(b"\r\n"))
        self.assertTrue(raw.isascii())
        self.assertNotRegex(raw, rb"\r(?!\n)|(?<!\r)\n")
        self.assertLessEqual(max(map(len, raw.split(b"\r\n"))), 998)

    def test_an_international_address_is_written_unencoded(self):
        sent = compose("Änn <änn@bücher.example>", "bob@example.org", "x")
        self.assertIn("<änn@bücher.example>".encode(), sent.as_bytes("\r\n"))
        self.assertTrue(sent.message_id.endswith("@bücher.example>"))


class RefusedArgumentsTests(SynchronousTestCase):
    good = {"from_": "ann@example.org", "to": "bob@example.org", "contents": "x", "subject": "x"}

    def refused(self, argument: str, value: str) -> str:
        error = self.assertRaises(ValueError, compose, **{**self.good, argument: value})
        self.assertTrue(str(error).startswith(argument.rstrip("_") + ": "), str(error))
        return str(error)

    def test_line_breaks_and_control_characters_are_refused_in_addresses_and_subject(self):
        for argument in ("from_", "to", "subject"):
            for broken in "\r\n\0\x0b\x1b\x85\u2028":
                for value in (f"x{broken}Bcc: eve@example.org", f"bob@example.org{broken}", f"{broken}"):
                    with self.subTest(argument=argument, value=value):
                        self.assertIn(repr(broken), self.refused(argument, value))

    def test_anything_but_one_address_is_refused(self):
        several = [
            "a@b.c, d@e.f",
            "a@b.c; d@e.f",
            "a@b.c d@e.f",
            "<a@b.c> <d@e.f>",
            "team: a@b.c, d@e.f;",
            "a@b.c,",
        ]
        none = ["", " ", "<>", "ann", "@", "a@", "@b", "Ann <>", "Ann <ann>", "undisclosed-recipients:;"]
        malformed = [
            "a b@c",
            "a@b c",
            "a@b@c",
            "a..b@c",
            ".a@b",
            "a@b.",
            "<a@b",
            "a@b>",
            "a@b <c@d>",
            "a@b\xa0c",
        ]
        unquoted = ["Doe, Jane <a@b>", "x: <a@b>", 'a" <a@b>', "<@x:a@b>", "a\u3000b@c", "(" * 200 + "a@b"]
        for argument in ("from_", "to"):
            for value in several + none + malformed + unquoted:
                with self.subTest(argument=argument, value=value):
                    self.assertIn("ann@example.org", self.refused(argument, value))

    def test_an_overlong_address_is_refused(self):
        self.assertLess(len(self.refused("to", "a" * 100_000 + "@example.org")), 300)

    def test_a_lone_surrogate_is_refused(self):
        for argument in ("from_", "to", "subject", "contents", "html"):
            with self.subTest(argument=argument):
                self.refused(argument, "\ud800")


class UrlTests(SynchronousTestCase):
    def server(self, url: str) -> Any:
        delivery: Any = delivery_to(url)
        return delivery.server

    def test_each_scheme_has_its_default_port(self):
        for url, port in (
            ("smtp://mail.example.org", 25),
            ("smtp://mail.example.org?starttls=required", 25),
            ("smtp://ann:secret@mail.example.org", 587),
            ("smtps://mail.example.org", 465),
            ("smtps://ann:secret@mail.example.org/", 465),
            ("SMTP://mail.example.org:2525", 2525),
        ):
            with self.subTest(url=url):
                self.assertEqual(self.server(url).port, port)

    def test_user_and_password_are_percent_decoded(self):
        server = self.server("smtps://ann%40example.org:p%3Aa%2Fs%25s@mail.example.org")
        self.assertEqual((server.user, server.password), ("ann@example.org", "p:a/s%s"))

    def test_the_url_decides_about_tls(self):
        found = [
            self.server(url).tls
            for url in ("smtp://h", "smtp://h?starttls=required", "smtp://h/?starttls=never", "smtps://h")
        ]
        self.assertEqual(found, ["offered", "required", "never", "implicit"])

    def test_a_server_is_named_without_its_password(self):
        server = self.server("smtp://ann:secret@[::1]:2525")
        self.assertEqual(str(server), "smtp://[::1]:2525")
        self.assertNotIn("secret", repr(server))

    def test_a_maildir_is_relative_to_the_working_directory_when_the_url_is_read(self):
        for url, path in (
            ("maildir:./outbox", os.path.abspath("outbox")),
            ("maildir:out box/ä%20", os.path.abspath("out box/ä%20")),
            ("maildir:/var/mail/out", "/var/mail/out"),
            ("maildir:///var/mail/out", "/var/mail/out"),
        ):
            with self.subTest(url=url):
                delivery: Any = delivery_to(url)
                self.assertEqual(delivery.path, path)

    def test_an_invalid_url_is_refused_with_a_valid_form_and_without_the_password(self):
        for url in (
            "",
            "secret",
            "secret@mail.example.org",
            "ann:secret@mail.example.org",
            "http://ann:secret@mail.example.org",
            "smtp:",
            "smtp:mail.example.org",
            "smtp://",
            "smtp://:25",
            "smtp://ann:secret@",
            "smtp://ann@mail.example.org",
            "smtp://:secret@mail.example.org",
            "smtp://mail.example.org:port",
            "smtp://mail.example.org:0",
            "smtp://mail.example.org:70000",
            "smtp://mail..example.org",
            "smtp://[::1",
            "smtp://ann:se/secret@mail.example.org",
            "smtp://ann:12/secret@mail.example.org",
            "smtp://ann:12?secret@mail.example.org",
            "smtp://ann:12#secret@mail.example.org",
            "smtp://ann:s%C3%A4secret@mail.example.org",
            "smtp://ann:sec%0Aret@mail.example.org",
            "smtp://mail.example.org?starttls=maybe",
            "smtp://mail.example.org/?secret",
            "smtps://mail.example.org?starttls=required",
            "maildir:",
            "maildir://outbox",
        ):
            with self.subTest(url=url):
                text = str(self.assertRaises(ConfigError, delivery_to, url))
                self.assertIn("TASKD_MAIL_URL", text)
                for right in ("maildir:PATH", "smtp://user:password@host:port", "smtps://"):
                    self.assertIn(right, text)
                self.assertNotIn("sec", text)

    def test_an_unknown_scheme_is_named(self):
        self.assertIn("'http'", str(self.assertRaises(ConfigError, delivery_to, "http://mail.example.org")))


class LoopbackTests(SynchronousTestCase):
    def test_only_loopback_addresses_and_local_sockets_count(self):
        class Connection:
            def __init__(self, address: str) -> None:
                self.sock = self
                self.address = address

            def getpeername(self) -> tuple[str, int]:
                return (self.address, 25)

        addresses = ["127.0.0.1", "127.8.8.8", "::1", "192.168.1.1", "0.0.0.0", "fe80::1%eth0", "2001:db8::1"]
        connections: list[Any] = [Connection(address) for address in addresses]
        self.assertEqual([mail.is_loopback(each) for each in connections], [True] * 3 + [False] * 4)
