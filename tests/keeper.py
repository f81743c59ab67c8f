"""Runs a program for a test, and ends it with the process of the tests, even if that is killed.

Started as `python -I -S keeper.py SIGNAL LOG USER DIRECTORY PROGRAM ARGUMENT…`, with a pipe as its input:
the pipe's end means that whoever started it is gone. Then the program gets the signal with this number, and
the directory is removed (unless it is ""). The program runs as USER (unless it is ""), in a session of its
own, and its output is appended to LOG. Prints the program's process id; ends with its status, 128 and more
after a signal.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

PATIENCE = 10.0
"""Seconds that the program has to end after the signal, before it is killed."""

PR_SET_PDEATHSIG = 1


def main(number: int, log: str, user: str, directory: str, *command: str) -> int:
    """Run the program; return the exit status."""
    libc = ctypes.CDLL(None)
    account = pwd.getpwnam(user) if user else None
    with open(log, "ab") as output:
        program = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            # If this process is itself killed. It has one thread: the signal is tied to that.
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, number),
        )
    print(program.pid, flush=True)
    ended = os.pidfd_open(program.pid)
    ready, _, _ = select.select([sys.stdin, ended], [], [])
    if ended not in ready:
        program.send_signal(number)
        try:
            program.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
        if directory:
            shutil.rmtree(directory, ignore_errors=True)
    status = program.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
