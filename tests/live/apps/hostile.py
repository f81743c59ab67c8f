"""An app whose import changes much of the process, and starts helpers and a thread."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from taskd import task

HELPERS = [
    subprocess.Popen(["sleep", "600"]),
    subprocess.Popen(["sleep", "600"], start_new_session=True),
    subprocess.Popen(["sh", "-c", "trap '' TERM; echo deaf; sleep 600; sleep 600"], stdout=subprocess.PIPE),
]
HELPERS[-1].stdout.readline()
MANAGER = multiprocessing.Manager()
threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
socket.setdefaulttimeout(0.001)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)


class Tee:
    """What people put in place of stdout: it can write, and nothing else."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        self.stream.write(text)


sys.stdout = Tee(sys.stdout)
os.close(0)


@task
def pid() -> int:
    return os.getpid()


@task
def helpers() -> list[int]:
    """Return the processes that the import has started, the manager's too."""
    return [*(helper.pid for helper in HELPERS), MANAGER._process.pid]


@task
def say(text: str) -> None:
    print(text)


@task
def terminate() -> list[int]:
    """Terminate children of each kind, and return their exit codes."""
    forked = multiprocessing.Process(target=time.sleep, args=(600,))
    forked.start()
    forked.terminate()
    forked.join()
    run = subprocess.Popen(["sleep", "600"])
    run.terminate()
    return [forked.exitcode, run.wait()]
