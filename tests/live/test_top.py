"""`taskd top` in a terminal: it shows the server, and leaves the terminal as it was."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from tests.live.support import APPS, TIMEOUT, bare, kept_daemon, run_taskd
from tests.live.test_cli import BIN

OTHER_SCREEN, FORMER_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A server that has run something."""
    options = ("--app", str(APPS / "plain.py"), "--workers", "2")
    with kept_daemon(*options, directory=tmp_path_factory.mktemp("busy")) as daemon:
        assert daemon.connect().ask(bare("hello")) == "Hello, World!"
        yield daemon


class Terminal:
    """A terminal of 24 lines in which a command runs."""

    def __init__(self, *command):
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.settings = self.current_settings()
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"},
        )
        self.shown = b""

    def current_settings(self):
        return termios.tcgetattr(self._slave)

    def type(self, keys):
        os.write(self._master, keys)

    def wait_for(self, text):
        """Read until a text has been written, anywhere."""
        end = time.monotonic() + TIMEOUT
        while text not in self.shown:
            assert select.select([self._master], [], [], max(end - time.monotonic(), 0))[0], self.shown
            self.shown += os.read(self._master, 65536)

    def wait_for_end(self):
        self.wait_for(FORMER_SCREEN)
        return self.process.wait(TIMEOUT)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def terminal(busy):
    terminal = Terminal(BIN / "taskd", "top", "--server", busy.tcp)
    yield terminal
    terminal.close()


def test_top_shows_the_server_takes_keys_and_restores_the_terminal(busy, terminal):
    terminal.wait_for(b"(by rate now)")
    assert OTHER_SCREEN in terminal.shown
    for text in (busy.name.encode(), b"0 of 2 busy", b"hello", b"idle"):
        assert text in terminal.shown
    assert terminal.current_settings() != terminal.settings
    terminal.type(b"s")
    terminal.wait_for(b"(by mean now)")
    terminal.type(b"q")
    assert terminal.wait_for_end() == 0
    assert terminal.current_settings() == terminal.settings


def test_an_interrupted_top_restores_the_terminal(terminal):
    terminal.wait_for(b"(by rate now)")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.wait_for_end() == 0
    assert terminal.current_settings() == terminal.settings


def test_one_picture_goes_into_a_pipe(busy):
    printed = run_taskd(busy.tcp, "top", "--once")
    assert printed.returncode == 0, printed.stderr
    assert "0 of 2 busy" in printed.stdout
    assert "\x1b" not in printed.stdout
