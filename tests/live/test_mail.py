"""The mail app against a real SMTP server, in a thread of its own, and into Maildirs."""

from __future__ import annotations

import asyncio
import contextlib
import mailbox
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from email import message_from_bytes, policy

import pytest
import trustme
from aiosmtpd.smtp import AuthResult

from taskd.apps import mail
from taskd.apps.mail import (
    InsecureError,
    LoginError,
    MailError,
    OutcomeUnknownError,
    RefusedError,
    RefusedForNowError,
    ServerAwayError,
    delivery_to,
    send_mail,
)
from taskd.apps.mail_message import compose
from taskd.functions.registry import registry
from tests.live.mail_servers import DEADLINE, Handler, MailServer, refusing

ANN, BOB = "ann@example.org", "bob@example.org"


@pytest.fixture
def handler():
    return Handler()


@pytest.fixture
def opened():
    """`delivery_to`, closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_it(url):
            delivery = delivery_to(url)
            stack.callback(delivery.close)
            return delivery

        yield open_it


@pytest.fixture
def configured(monkeypatch):
    """Return the delivery for a URL, as a fresh worker would make it."""
    monkeypatch.setattr(mail, "_delivery", None)
    yield lambda url: monkeypatch.setenv("TASKD_MAIL_URL", url)
    mail.close_connection()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def tls(authority, monkeypatch, tmp_path):
    """The TLS context of a server at 127.0.0.1; clients trust its authority."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return context_of(authority, "127.0.0.1")


def context_of(authority, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def a_mail(subject="x"):
    return compose(ANN, BOB, "contents", subject)


def the_only(handler):
    """Return the one mail that was accepted, parsed."""
    ((_, envelope),) = handler.taken
    return message_from_bytes(envelope.content, policy=policy.default)


def subjects(handler):
    contents = [message_from_bytes(envelope.content, policy=policy.default) for _, envelope in handler.taken]
    return [str(content["Subject"]) for content in contents]


# --- what arrives ------------------------------------------------------------


def test_the_task_delivers_to_the_configured_server_and_returns_the_message_id(handler, configured):
    with MailServer(handler) as server:
        configured(server.url())
        result = send_mail(f"Ann <{ANN}>", f'"Bob, Jr." <{BOB}>', "Hello\n", "A subject")
    ((_, envelope),) = handler.taken
    assert (envelope.mail_from, envelope.rcpt_tos) == (ANN, [BOB])
    assert result == {"message_id": the_only(handler)["Message-ID"]}
    assert the_only(handler)["To"].addresses[0].display_name == "Bob, Jr."
    assert the_only(handler).get_content() == "Hello\r\n"


def test_the_task_takes_its_arguments_by_their_names_on_the_wire(handler, configured):
    task = registry["send_mail"]
    with MailServer(handler) as server:
        configured(server.url())
        args, kwargs = task.parameters.bind(
            b'{"from":"ann@example.org","to":"bob@example.org","contents":"x"}'
        )
        task.callable(*args, **kwargs)
    assert the_only(handler)["From"] == ANN


def test_a_subject_in_any_script_and_the_html_alternative_are_read_back(handler, configured):
    subject = "Grüße, приветствия 你好 🎉 " + "ä" * 100
    with MailServer(handler) as server:
        configured(server.url())
        send_mail(f"Änn <{ANN}>", BOB, "Grüße\n", subject, "<p>Grüße</p>\n")
    assert the_only(handler)["Subject"] == subject
    assert the_only(handler)["From"].addresses[0].display_name == "Änn"
    assert the_only(handler).get_content_type() == "multipart/alternative"
    assert the_only(handler).get_body(("plain",)).get_content() == "Grüße\r\n"
    assert the_only(handler).get_body(("html",)).get_content() == "<p>Grüße</p>\r\n"


def test_lines_that_begin_with_a_dot_and_bare_line_ends_arrive_whole(handler, opened):
    with MailServer(handler) as server:
        opened(server.url()).deliver(compose(ANN, BOB, ".\n..\n.x\r.\r\nQUIT\n"))
    assert the_only(handler).get_content() == ".\r\n..\r\n.x\r\n.\r\nQUIT\r\n"


def test_an_international_address_uses_smtputf8(handler, opened):
    with MailServer(handler) as server:
        opened(server.url()).deliver(compose(ANN, "Jörg <jörg@bücher.example>", "x"))
    ((_, envelope),) = handler.taken
    assert (envelope.smtp_utf8, envelope.rcpt_tos) == (True, ["jörg@bücher.example"])
    assert "<jörg@bücher.example>".encode() in envelope.content


@pytest.mark.parametrize("addresses", [(ANN, "jörg@example.org"), ("änn@example.org", BOB)])
def test_without_smtputf8_an_international_address_is_refused_and_others_are_not(addresses, handler, opened):
    with MailServer(handler, enable_SMTPUTF8=False) as server:
        delivery = opened(server.url())
        with pytest.raises(
            RefusedError, match=r"does not offer SMTPUTF8, which (jörg|änn)@example\.org needs"
        ):
            delivery.deliver(compose(*addresses, "x"))
        delivery.deliver(a_mail())
    assert (len(handler.taken), len(server.sessions)) == (1, 1)


# --- what is refused ---------------------------------------------------------


@pytest.mark.parametrize("argument", ["from_", "to", "subject"])
@pytest.mark.parametrize("broken", ["\r\n", "\n", "\r", "\0"])
def test_a_line_break_in_an_argument_is_refused_before_anything_is_sent(
    argument, broken, handler, configured
):
    arguments = {"from_": ANN, "to": BOB, "subject": "x", "contents": "x"}
    arguments[argument] += f"{broken}Bcc: eve@example.org"
    with MailServer(handler) as server:
        configured(server.url())
        with pytest.raises(ValueError, match=f"^{argument.rstrip('_')}: "):
            send_mail(**arguments)
    assert (handler.taken, server.sessions) == ([], [])


@pytest.mark.parametrize(
    ("step", "answer", "told"),
    [
        ("RCPT", "550 no such user", f"refused the recipient {BOB}: 550 no such user"),
        ("RCPT", "450-busy\r\n450 come again", f"refused the recipient {BOB}: 450 busy come again"),
        ("MAIL", "553 not you", f"refused the sender {ANN}: 553 not you"),
        ("DATA", "554 that is spam", "refused the mail: 554 that is spam"),
        ("DATA", "452 the disk is full", "refused the mail: 452 the disk is full"),
    ],
)
def test_a_refusal_is_reported_in_the_servers_words_and_the_connection_stays(step, answer, told, opened):
    handler = refusing(step, answer)
    with MailServer(handler) as server:
        delivery = opened(server.url())
        with pytest.raises(RefusedError) as caught:
            delivery.deliver(a_mail("refused"))
        assert str(caught.value) == f"smtp://127.0.0.1:{server.port} {told}"
        assert isinstance(caught.value, RefusedForNowError) == answer.startswith("4")
        delivery.deliver(a_mail("taken"))
    assert subjects(handler) == ["taken"]
    assert len(server.sessions) == 1


def test_a_mail_that_is_too_large_is_refused_before_it_is_sent(handler, opened):
    with MailServer(handler, data_size_limit=5000) as server:
        with pytest.raises(RefusedError, match=r"552 .*size"):
            opened(server.url()).deliver(compose(ANN, BOB, "x\n" * 5000))
    assert handler.taken == []


# --- the connection ----------------------------------------------------------


def test_mails_share_one_connection_and_it_is_reset_between_them(handler, configured):
    with MailServer(handler) as server:
        configured(server.url())
        for number in range(3):
            send_mail(ANN, BOB, "x", str(number))
        assert subjects(handler) == ["0", "1", "2"]
        assert (len(server.sessions), handler.resets) == (1, 2)


def test_a_stopping_worker_sends_quit(handler, configured):
    with MailServer(handler) as server:
        configured(server.url())
        send_mail(ANN, BOB, "x")
        assert mail.close_connection in registry.stop_hooks
        mail.close_connection()
        assert handler.left.is_set()
        mail.close_connection()


def test_a_worker_stops_although_the_server_has_gone(handler, configured):
    with MailServer(handler) as server:
        configured(server.url())
        send_mail(ANN, BOB, "x")
    mail.close_connection()
    assert not handler.left.is_set()


@pytest.mark.parametrize("last_words", [b"", b"421 idle for too long\r\n", b"500 \xff" + b"x" * 10_000])
def test_a_connection_that_the_server_has_closed_is_opened_again(last_words, handler, opened):
    with MailServer(handler) as server:
        delivery = opened(server.url())
        for number in range(3):
            delivery.deliver(a_mail(str(number)))
            server.leave_all(last_words)
        assert subjects(handler) == ["0", "1", "2"]
        assert len(server.sessions) == 3


def test_a_server_that_was_restarted_gets_the_next_mail_once(opened):
    first, second = Handler(), Handler()
    with MailServer(first) as server:
        delivery = opened(server.url())
        delivery.deliver(a_mail("before"))
    with MailServer(second, port=server.port):
        delivery.deliver(a_mail("after"))
    assert (subjects(first), subjects(second)) == (["before"], ["after"])


def test_a_kept_connection_that_no_longer_answers_is_given_up(opened, monkeypatch):
    class Silent(Handler):
        async def handle_RSET(self, server, session, envelope):
            await asyncio.Event().wait()

    monkeypatch.setattr(mail, "CHECK_TIMEOUT", 0.05)
    handler = Silent()
    with MailServer(handler) as server:
        delivery = opened(server.url())
        delivery.deliver(a_mail("one"))
        delivery.deliver(a_mail("two"))
    assert (subjects(handler), len(server.sessions)) == (["one", "two"], 2)


def test_the_timeout_applies_to_each_answer(handler, opened, monkeypatch):
    times = []
    monkeypatch.setattr(mail, "set_timeout", lambda smtp, seconds: times.append(seconds))
    with MailServer(handler) as server:
        delivery = opened(server.url())
        delivery.deliver(a_mail())
        delivery.deliver(a_mail())
        delivery.close()
    content = [mail.ACCEPT_TIMEOUT, mail.STEP_TIMEOUT]
    assert times == [*content, mail.CHECK_TIMEOUT, mail.STEP_TIMEOUT, *content, mail.CHECK_TIMEOUT]


class Breaking(Handler):
    """A handler that disconnects at one step, `times` times."""

    def __init__(self, step, times=1, after=0, words=None):
        super().__init__()
        self.step, self.times, self.after, self.words = step, times, after, words

    def _breaks(self, server, step):
        if step != self.step or len(self.taken) < self.after or not self.times:
            return False
        self.times -= 1
        if self.words is None:
            server.transport.abort()
        return True

    async def handle_MAIL(self, server, session, envelope, address, options):
        if self._breaks(server, "MAIL"):
            return self.words or "250 unheard"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self._breaks(server, "RCPT"):
            return self.words or "250 unheard"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        answer = await super().handle_DATA(server, session, envelope)
        return (self.words or "250 unheard") if self._breaks(server, "DATA") else answer


@pytest.mark.parametrize("step", ["MAIL", "RCPT"])
@pytest.mark.parametrize("words", [None, "421 too many mails on this connection"])
def test_a_kept_connection_that_breaks_before_the_content_is_replaced(step, words, opened):
    handler = Breaking(step, after=1, words=words)
    with MailServer(handler) as server:
        delivery = opened(server.url())
        delivery.deliver(a_mail("one"))
        delivery.deliver(a_mail("two"))
    assert (subjects(handler), len(server.sessions)) == (["one", "two"], 2)


@pytest.mark.parametrize("step", ["MAIL", "RCPT"])
@pytest.mark.parametrize("words", [None, "421 come again"])
def test_a_new_connection_that_breaks_is_an_error_and_not_tried_again(step, words, opened):
    handler = Breaking(step, words=words)
    with MailServer(handler) as server:
        delivery = opened(server.url())
        with pytest.raises(ServerAwayError, match=f"broke off .*{words or 'closed'}"):
            delivery.deliver(a_mail("one"))
        assert (subjects(handler), len(server.sessions)) == ([], 1)
        delivery.deliver(a_mail("two"))
    assert (subjects(handler), len(server.sessions)) == (["two"], 2)


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize(
    ("words", "told"), [(None, "closed"), ("what?", "not SMTP: ?"), ("354 more", "354 more")]
)
def test_a_mail_whose_answer_is_lost_is_never_sent_again(after, words, told, opened):
    handler = Breaking("DATA", after=after + 1, words=words)
    with MailServer(handler) as server:
        delivery = opened(server.url())
        for _ in range(after):
            delivery.deliver(a_mail("before"))
        with pytest.raises(OutcomeUnknownError, match="may have been delivered or not") as caught:
            delivery.deliver(a_mail("lost"))
        assert told in str(caught.value)
        delivery.deliver(a_mail("after"))
    assert subjects(handler) == [*["before"] * after, "lost", "after"]
    assert len(server.sessions) == 2


def test_the_next_mail_reconnects_after_a_server_refused_one_and_disconnected(opened):
    handler = refusing("DATA", "421 shutting down")
    with MailServer(handler) as server:
        delivery = opened(server.url())
        with pytest.raises(RefusedForNowError, match="refused the mail: 421 shutting down"):
            delivery.deliver(a_mail("one"))
        delivery.deliver(a_mail("two"))
    assert (subjects(handler), len(server.sessions)) == (["two"], 2)


def test_a_connection_that_was_interrupted_by_a_signal_is_not_used_again(opened):
    class Interrupted(Exception):
        pass

    class Interrupting(Handler):
        interrupts = [1]

        async def handle_RCPT(self, server, session, envelope, address, options):
            if self.interrupts:
                self.interrupts.pop()
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
                await asyncio.wait_for(asyncio.to_thread(gave_up.wait), DEADLINE)
            envelope.rcpt_tos.append(address)
            return "250 OK"

    def interrupt(*_):
        raise Interrupted

    handler, gave_up = Interrupting(), threading.Event()
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with MailServer(handler) as server:
            delivery = opened(server.url())
            with pytest.raises(Interrupted):
                delivery.deliver(a_mail("one"))
            gave_up.set()
            delivery.deliver(a_mail("two"))
            delivery.deliver(a_mail("three"))
    finally:
        gave_up.set()
        signal.signal(signal.SIGUSR1, before)
    assert (subjects(handler), len(server.sessions)) == (["two", "three"], 2)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_an_unreachable_server_is_named(scheme, configured):
    port = free_port()
    configured(f"{scheme}://ann:secret@127.0.0.1:{port}")
    with pytest.raises(ServerAwayError) as caught:
        send_mail(ANN, BOB, "x")
    assert str(caught.value) == f"cannot connect to {scheme}://127.0.0.1:{port}: Connection refused"


def test_a_host_that_does_not_exist_is_named(opened, monkeypatch):
    def unknown(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ServerAwayError) as caught:
        opened("smtp://mail.invalid").deliver(a_mail())
    assert str(caught.value) == "cannot connect to smtp://mail.invalid:25: Name or service not known"


@pytest.mark.parametrize(
    ("greeting", "told"),
    [
        (b"", "closed"),
        (b"554 not today\r\n", "554 not today"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not SMTP"),
    ],
)
def test_a_server_that_does_not_accept_mail_is_reported(greeting, told, opened):
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:

        def greet():
            connection, _ = listener.accept()
            connection.sendall(greeting)
            connection.shutdown(socket.SHUT_WR)
            stack.callback(connection.close)

        thread = threading.Thread(target=greet)
        thread.start()
        url = f"smtp://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ServerAwayError, match=f"^{url} did not take the connection: .*{told}"):
            opened(url).deliver(a_mail())
        thread.join(DEADLINE)


def test_a_server_that_does_not_greet_in_time_is_unreachable(opened, monkeypatch):
    monkeypatch.setattr(mail, "STEP_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(ServerAwayError, match="timed out"):
            opened(f"smtp://127.0.0.1:{listener.getsockname()[1]}").deliver(a_mail())


# --- TLS ---------------------------------------------------------------------


def took_over_tls(handler):
    ((session, _),) = handler.taken
    return session.ssl is not None


def test_starttls_is_used_if_it_is_offered(handler, opened, tls):
    with MailServer(handler, tls_context=tls) as server:
        opened(server.url()).deliver(a_mail())
    assert took_over_tls(handler)


def test_starttls_that_is_required_and_offered_is_used(handler, configured, tls):
    with MailServer(handler, tls_context=tls, require_starttls=True) as server:
        configured(server.url("?starttls=required"))
        send_mail(ANN, BOB, "x")
    assert took_over_tls(handler)


def test_starttls_that_is_required_and_not_offered_is_an_error(handler, opened):
    with MailServer(handler) as server:
        with pytest.raises(
            InsecureError, match=r"does not offer STARTTLS, and \?starttls=required asks for it"
        ):
            opened(server.url("?starttls=required")).deliver(a_mail())
    assert handler.taken == []


def test_starttls_can_be_turned_off(handler, opened, tls):
    with MailServer(handler, tls_context=tls) as server:
        opened(server.url("?starttls=never")).deliver(a_mail())
    assert not took_over_tls(handler)


def test_smtps_speaks_tls_from_the_start_and_keeps_the_connection(handler, configured, tls):
    with MailServer(handler, ssl_context=tls) as server:
        configured(server.url(scheme="smtps"))
        send_mail(ANN, BOB, "x", "one")
        send_mail(ANN, BOB, "x", "two")
    assert (subjects(handler), len(server.sessions)) == (["one", "two"], 1)


def test_a_tls_connection_that_the_server_has_closed_is_opened_again(handler, opened, tls):
    with MailServer(handler, tls_context=tls) as server:
        delivery = opened(server.url())
        delivery.deliver(a_mail("one"))
        server.leave_all()
        delivery.deliver(a_mail("two"))
    assert (subjects(handler), len(server.sessions)) == (["one", "two"], 2)


def by(scheme, context):
    return {"ssl_context": context} if scheme == "smtps" else {"tls_context": context}


@pytest.mark.usefixtures("tls")
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_certificate_of_an_unknown_authority_is_refused(scheme, handler, opened):
    with MailServer(handler, **by(scheme, context_of(trustme.CA(), "127.0.0.1"))) as server:
        with pytest.raises(
            InsecureError, match=r"its certificate cannot be trusted: .*local issuer certificate"
        ):
            opened(server.url(scheme=scheme)).deliver(a_mail())
    assert handler.taken == []


@pytest.mark.usefixtures("tls")
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_certificate_for_another_host_is_refused(scheme, handler, opened, authority):
    with MailServer(handler, **by(scheme, context_of(authority, "mail.example.org"))) as server:
        with pytest.raises(
            InsecureError, match=r"its certificate cannot be trusted: .*not valid for '127.0.0.1'"
        ):
            opened(server.url(scheme=scheme)).deliver(a_mail())
    assert handler.taken == []


def test_smtps_to_a_server_without_tls_is_reported(handler, opened):
    with MailServer(handler) as server:
        with pytest.raises(InsecureError, match="TLS failed: "):
            opened(server.url(scheme="smtps")).deliver(a_mail())


# --- logging in --------------------------------------------------------------


class Gate:
    """An authenticator that accepts ann's password, and records the credentials it was sent."""

    def __init__(self):
        self.shown = []

    def __call__(self, server, session, envelope, mechanism, credentials):
        self.shown.append((credentials.login, credentials.password))
        return AuthResult(success=self.shown[-1] == (b"ann@example.org", b"s/cret:%"), handled=False)


@pytest.fixture
def gate():
    return Gate()


RIGHT, WRONG = "ann%40example.org:s%2Fcret%3A%25@", "ann%40example.org:wrong-secret@"


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_user_logs_in_over_tls_once_for_a_connection(scheme, handler, opened, tls, gate):
    # aiosmtpd counts only STARTTLS as TLS here.
    options = {"authenticator": gate, "auth_require_tls": scheme == "smtp", **by(scheme, tls)}
    with MailServer(handler, **options) as server:
        delivery = opened(server.url(scheme=scheme, login=RIGHT))
        delivery.deliver(a_mail())
        delivery.deliver(a_mail())
    assert len(handler.taken) == 2
    assert gate.shown == [(b"ann@example.org", b"s/cret:%")]


def test_a_failed_login_is_reported_without_the_password(handler, configured, tls, gate):
    with MailServer(handler, authenticator=gate, auth_required=True, tls_context=tls) as server:
        configured(server.url(login=WRONG))
        with pytest.raises(LoginError) as caught:
            send_mail(ANN, BOB, "x")
        assert server.sessions[0].over.wait(DEADLINE), "the connection has been left open"
    text = str(caught.value)
    assert f"smtp://127.0.0.1:{server.port} refused the login of ann@example.org: 535 " in text
    assert "wrong-secret" not in text
    assert handler.taken == []


def test_a_server_that_disconnects_during_the_login_is_unreachable_and_has_not_refused_it(
    handler, opened, tls
):
    def leave(server, *_):
        server.transport.abort()
        return AuthResult(success=False)

    with MailServer(handler, authenticator=leave, tls_context=tls) as server:
        with pytest.raises(ServerAwayError, match=r"did not take the connection: .*closed"):
            opened(server.url(login=RIGHT)).deliver(a_mail())


def test_a_server_that_cannot_check_a_login_now_is_away_and_has_not_refused_it(handler, opened, tls):
    def unable(*_):
        return AuthResult(success=False, handled=False, message="454 4.7.0 the directory is down")

    with MailServer(handler, authenticator=unable, tls_context=tls) as server:
        with pytest.raises(ServerAwayError, match=r"could not check the login of ann@example.org: 454 4"):
            opened(server.url(login=RIGHT)).deliver(a_mail())


@pytest.mark.parametrize("first_words", [b"", b"220 hello\r\n"])
def test_a_server_that_breaks_off_while_tls_begins_is_away(first_words, opened, tls):
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:

        def leave():
            connection, _ = listener.accept()
            stack.callback(connection.close)
            if first_words:
                connection.sendall(first_words)
                for answer in (b"250-x\r\n250 STARTTLS\r\n", b"220 go\r\n"):
                    connection.recv(1000)
                    connection.sendall(answer)
            connection.recv(1000)
            connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=leave)
        thread.start()
        url = f"{'smtp' if first_words else 'smtps'}://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ServerAwayError, match=f"^{url} broke off while TLS began$"):
            opened(url).deliver(a_mail())
        thread.join(DEADLINE)


def test_a_server_without_login_support_is_reported(handler, opened, tls):
    with MailServer(handler, tls_context=tls, auth_exclude_mechanism=["LOGIN", "PLAIN"]) as server:
        with pytest.raises(LoginError, match=r"refused the login of ann@example.org: No suitable"):
            opened(server.url(login=RIGHT)).deliver(a_mail())


def test_a_user_may_log_in_unencrypted_on_the_same_machine(handler, opened, gate):
    with MailServer(handler, authenticator=gate, auth_require_tls=False) as server:
        opened(server.url(login=RIGHT)).deliver(a_mail())
    assert len(handler.taken) == len(gate.shown) == 1


@pytest.mark.parametrize(
    ("options", "reason"), [("", "does not offer STARTTLS"), ("?starttls=never", "never")]
)
def test_a_password_is_never_sent_unencrypted_to_another_machine(
    options, reason, handler, opened, gate, monkeypatch
):
    monkeypatch.setattr(mail, "is_loopback", lambda smtp: False)
    with MailServer(handler, authenticator=gate, auth_require_tls=False) as server:
        with pytest.raises(InsecureError, match=f"no password is sent unencrypted .*{reason}"):
            opened(server.url(options, login=RIGHT)).deliver(a_mail())
    assert (handler.taken, gate.shown) == ([], [])


# --- Maildir -----------------------------------------------------------------


def test_without_a_url_mails_go_to_the_outbox_in_the_workers_directory(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configured("")
    result = send_mail(ANN, BOB, "Grüße\n.\n", "Grüße")
    (stored,) = mailbox.Maildir(tmp_path / "outbox", create=False)
    parsed = message_from_bytes(stored.as_bytes(), policy=policy.default)
    assert result == {"message_id": parsed["Message-ID"]}
    assert (parsed["Subject"], parsed.get_content().split()) == ("Grüße", ["Grüße", "."])


def test_a_maildir_has_unix_line_ends_and_international_addresses(opened, tmp_path):
    opened(f"maildir:{tmp_path}/deep/box").deliver(compose(ANN, "jörg@example.org", "x", html="<p>x</p>"))
    (path,) = (tmp_path / "deep/box/new").iterdir()
    assert b"\r" not in path.read_bytes()
    assert "To: jörg@example.org\n" in path.read_text("utf-8")
    assert list((tmp_path / "deep/box/tmp").iterdir()) == []


def test_a_maildir_that_was_removed_is_made_again(opened, tmp_path):
    delivery = opened(f"maildir:{tmp_path}/box")
    delivery.deliver(a_mail())
    os.rename(tmp_path / "box", tmp_path / "taken away")
    delivery.deliver(a_mail())
    assert len(mailbox.Maildir(tmp_path / "box", create=False)) == 1


def test_a_maildir_that_cannot_be_written_is_reported(opened, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MailError, match=r"^cannot deliver into the Maildir /.*/file/box: Not a directory$"):
        opened(f"maildir:{tmp_path}/file/box").deliver(a_mail())


def test_many_processes_deliver_into_one_new_maildir_at_once(tmp_path):
    code = """
import sys
from taskd.apps.mail import send_mail
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    send_mail("ann@example.org", "bob@example.org", "x", f"{sys.argv[1]} {number}")
"""
    environment = {**os.environ, "TASKD_MAIL_URL": "maildir:out/box"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=tmp_path,
            env=environment,
            text=True,
        )
        for number in range(6)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate(timeout=DEADLINE)
    assert [worker.returncode for worker in workers] == [0] * 6
    stored = [str(message["Subject"]) for message in mailbox.Maildir(tmp_path / "out/box", create=False)]
    assert sorted(stored) == sorted(f"{worker} {number}" for worker in range(6) for number in range(25))
