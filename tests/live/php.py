"""PHP programs that use clients/php/Taskd.php, run by the tests."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.live.support import TIMEOUT

_NUMBERS = itertools.count(1)

CLIENT = Path(__file__).parents[2] / "clients" / "php" / "Taskd.php"

PROLOGUE = """<?php
declare(strict_types=1);
error_reporting(E_ALL);
set_error_handler(function (int $level, string $text, string $file, int $line) {
    if (error_reporting() & $level) throw new ErrorException($text, 0, $level, $file, $line);
    return false;
});
require getenv('CLIENT');
function show(mixed $value): void { echo json_encode($value, JSON_THROW_ON_ERROR), "\\n"; }
"""
"""The first lines of each program: a warning is an error, as frameworks have it."""


def why_not() -> str:
    """Return why PHP programs cannot be run here, "" if they can."""
    return "" if shutil.which("php") else "php is not installed (on Debian: apt install php-cli)"


class Program:
    """A running PHP program, whose lines are JSON."""

    def __init__(self, code: str, directory: Path, **environ: str) -> None:
        path = directory / f"program-{next(_NUMBERS)}.php"
        path.write_text(PROLOGUE + code)
        self.process = subprocess.Popen(
            ["php", str(path)],
            cwd=directory,
            env={**os.environ, "CLIENT": str(CLIENT), **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._timer = threading.Timer(TIMEOUT, self.process.kill)
        self._timer.start()

    def line(self) -> Any:
        """Return what it shows next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with status {self.process.wait(TIMEOUT)}"
        return json.loads(line)

    def go_on(self) -> None:
        """Let it go on: it waits in `fgets(STDIN)`."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> list[Any]:
        """Wait for its end, and return what it shows until then."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        out = self.process.stdout.read()  # `communicate` would lose what `line` has read ahead
        status = self.process.wait(TIMEOUT)
        self._timer.cancel()
        assert status == 0, out
        return [json.loads(line) for line in out.splitlines()]

    def stop(self) -> None:
        """Kill it, if it has not ended."""
        self._timer.cancel()
        self.process.kill()
        self.process.wait(TIMEOUT)
        for end in self.process.stdin, self.process.stdout:
            assert end is not None
            with suppress(BrokenPipeError):  # what it was sent and has not read
                end.close()
