"""The guard of the fork server's process: puts back, or reports, what the import of the app has changed.

An app, and each library that it imports, can change anything in the process at
import. What taskd needs there is recorded before, in `Guard`, and put back by
`Guard.put_back` after: that is the one place for it. What only the app uses (its working
directory, its default socket timeout, its handlers of other signals, its
environment) is left as the app made it.
"""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import os
import resource
import signal
import sys
import time
from _thread import _count, get_ident
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from taskd.worker.messages import POKE

__all__ = [
    "EXIT_STATUSES",
    "Guard",
    "end_helpers",
    "end_helpers_in_time",
    "flush_streams",
    "take_default_signals",
]

DESCRIPTORS_GONE = 91
"""The fork server's exit status if the app has closed taskd's descriptors: no usual status."""

EXIT_STATUSES = {
    DESCRIPTORS_GONE: "while it was imported, the app closed descriptors that taskd needs "
    "(os.closerange, or code that makes the process a daemon)",
}
"""What exit statuses of the fork server mean."""

HELPER_GRACE = 1.0
"""Seconds that processes which the app started at its import have to end, after a SIGTERM, when
the fork server ends in order: enough to remove what they share, such as files in /dev/shm."""

HELPER_POLL = 0.01
"""Seconds between two looks at whether they have ended."""

_GUARDED = (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, POKE)
"""The signals whose handlers are put back: those that taskd or the operating system sends to
the fork server and to workers."""

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

_INPUT, _OUTPUT, _ERRORS = 0, 1, 2

_STREAMS = ("stdout", "stderr")


def take_default_signals() -> None:
    """Handle every signal as a program does that was started from a shell: a parent may have ignored some."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN and number not in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


class Guard:
    """The state of the fork server before the app is imported; make it just before.

    `descriptors` are those that must stay open.
    """

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._pid = os.getpid()
        self._files = {descriptor: _file_behind(descriptor) for descriptor in descriptors}
        self._output = fcntl.fcntl(_OUTPUT, fcntl.F_DUPFD_CLOEXEC, _ERRORS + 1)
        self._files[self._output] = _file_behind(self._output)
        self._streams = (sys.stdout, sys.stderr)
        self._handlers = {number: signal.getsignal(number) for number in _GUARDED}
        self._max_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._recursion = sys.getrecursionlimit()

    def check_process(self) -> None:
        """End this process at once if it is not the fork server, but one that the app has forked."""
        if os.getpid() != self._pid:
            os.write(_ERRORS, b"a process that the app forked at its import has returned from it, and ends\n")
            os._exit(0)

    def put_back(self) -> list[str]:
        """Put back what taskd needs, after the import; return warnings about it, for the log.

        The process ends if it is not the fork server, or if a descriptor is gone.
        """
        self.check_process()
        for descriptor, file in self._files.items():
            if _file_behind(descriptor) != file:
                os._exit(DESCRIPTORS_GONE)
        changed = [*self._put_back_signals(), *self._put_back_streams(), *self._put_back_limits()]
        gc.disable()
        faulthandler.enable(_ERRORS)
        warnings = []
        if changed:
            warnings.append(
                "while it was imported, the app changed what taskd needs in its process, and what is now "
                f"as before: {', '.join(changed)}. A start hook can change it in each worker"
            )
        threads = _threads_warning()
        if threads:
            warnings.append(threads)
        return warnings

    def _put_back_signals(self) -> list[str]:
        changed = []
        faulthandler.unregister(signal.SIGTERM)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
                changed.append(f"the handler of {signal.Signals(number).name}")
        if signal.set_wakeup_fd(-1) != -1:
            changed.append("the descriptor that signals wake")
        # A fork does not inherit timers, so workers never have them.
        timers = [signal.setitimer(timer, 0) for timer in _TIMERS]
        if any(map(any, timers)):
            changed.append("timers that send signals")
        if signal.pthread_sigmask(signal.SIG_SETMASK, []):
            changed.append("blocked signals")
        return changed

    def _put_back_streams(self) -> list[str]:
        flush_streams(*self._streams)
        changed = []
        if _file_behind(_INPUT) is None:
            _open_at(_INPUT)
            changed.append("descriptor 0")
        for descriptor in (_OUTPUT, _ERRORS):
            if _file_behind(descriptor) != self._files[self._output]:
                os.dup2(self._output, descriptor)
                changed.append(f"descriptor {descriptor}")
        os.close(self._output)
        for name, descriptor, original in zip(_STREAMS, (_OUTPUT, _ERRORS), self._streams, strict=True):
            present = getattr(sys, name)
            for stream in (original, present):
                with suppress(Exception):  # it may have been closed, or be of any class
                    stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            if not _can_be_written(present):
                setattr(sys, name, original if _can_be_written(original) else _stream_for(descriptor))
                changed.append(f"sys.{name}")
        return changed

    def _put_back_limits(self) -> list[str]:
        changed = []
        soft, hard = self._max_files
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < soft:
            with suppress(OSError, ValueError):  # if the hard limit was lowered as well
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                changed.append("the limit of open files")
        if sys.getrecursionlimit() < self._recursion:
            sys.setrecursionlimit(self._recursion)
            changed.append("the recursion limit")
        return changed


def flush_streams(*streams: TextIO | None) -> None:
    """Write out what `streams`, and those in use, have buffered; whatever fails is dropped."""
    for stream in {id(each): each for each in (*streams, sys.stdout, sys.stderr)}.values():
        with suppress(Exception):  # whatever the app has put there
            stream.flush()  # type: ignore[union-attr]


def end_helpers_in_time() -> None:
    """Have this process end though Python waits for what the app has started; call it before the exit.

    Python joins processes of multiprocessing and workers of executors before
    `end_helpers` runs, for ever if need be. So all children get a SIGTERM after
    `HELPER_GRACE` seconds, and are killed after as many again.
    """
    numbers = iter((signal.SIGTERM,))

    def end(*_: object) -> None:
        _signal_all(_children(), next(numbers, signal.SIGKILL))

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, HELPER_GRACE, HELPER_GRACE)


def end_helpers() -> None:
    """End the processes that the app has started at its import; for the orderly end of the fork server.

    Its process group and its children get a SIGTERM, have `HELPER_GRACE` seconds,
    and are killed. All descriptors are closed, since some helpers
    (multiprocessing's resource tracker) end when a pipe does.
    """
    signal.setitimer(signal.ITIMER_REAL, 0)
    flush_streams()
    # Python would flush them once more, and print an error if the app's own cannot be flushed.
    sys.stdout = sys.stderr = None
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    children = _children()
    _signal_all(children, signal.SIGTERM)
    os.closerange(_ERRORS + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    ending = time.monotonic() + HELPER_GRACE
    with suppress(ChildProcessError):  # none is left
        while time.monotonic() < ending:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid:
                children.discard(pid)
            else:
                time.sleep(HELPER_POLL)
    _signal_all(children, signal.SIGKILL)


def _children() -> set[int]:
    """Return the processes whose parent this one is; some may have a session of their own."""
    children: set[int] = set()
    with suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children") as file:
                children.update(map(int, file.read().split()))
    return children


def _signal_all(children: set[int], number: int) -> None:
    """Send a signal to children that have not been waited for."""
    for pid in children:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _file_behind(descriptor: int) -> tuple[int, int] | None:
    """Return what identifies the file, pipe or socket of a descriptor; None if it is closed."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open_at(descriptor: int) -> None:
    """Open /dev/null as `descriptor`, which is closed."""
    opened = os.open(os.devnull, os.O_RDONLY)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)


def _can_be_written(stream: TextIO | None) -> bool:
    if stream is None:
        return False
    try:
        stream.write("")
    except Exception:  # it may have been closed, or be of any class
        return False
    return True


def _stream_for(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)


def _threads_warning() -> str:
    """Return a warning about Python's threads other than this one; "" if there are none.

    Threads of libraries in C, such as those of OpenBLAS, do not count: they run
    no Python, and such libraries start them again after a fork.
    """
    threading = sys.modules.get("threading")
    named = (
        [thread.name for thread in threading.enumerate() if thread.ident != get_ident()] if threading else []
    )
    # Not `sys._current_frames`, which can crash Python 3.12.
    others = max(_count(), len(named))
    if not others:
        return ""
    names = ", ".join(sorted([*named, *["without a name"] * (others - len(named))]))
    count = f"{others} threads" if others > 1 else "a thread"
    return (
        f"the import of the app has left {count} running ({names}). Workers are forks, and have no such "
        "threads: what waits for one (an executor, a client library) hangs there. Start it in a start hook"
    )
