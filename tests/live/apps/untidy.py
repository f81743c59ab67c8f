"""Tasks that copy their worker, and tasks that leave it otherwise than they found it."""

import asyncio
import contextvars
import io
import multiprocessing
import os
import pty
import signal
import stat
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress

from taskd import on_worker_start, on_worker_stop, progress, task

context = contextvars.ContextVar("context", default="unset")

FOR_EVER = 600.0
"""Seconds: far longer than any test waits."""


@on_worker_start
def up() -> None:
    context.set("by the hook")
    if os.environ.get("FORK_AT_IMPORT") and os.fork() == 0:
        return


@on_worker_stop
def down() -> None:
    print("hook: down", os.getpid())


# --- two processes -----------------------------------------------------------


def leave(how: str) -> str:
    """End the child's run of the function."""
    if how == "exit":
        sys.exit(7)
    if how == "say":
        sys.exit("no disk")
    if how == "raise":
        raise ValueError("in the child")
    progress(1, 2, "by the child")
    return "by the child"


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@task
def fork(how: str) -> int | str:
    child = os.fork()
    if child == 0:
        return leave(how)
    return status_of(child)


@task
def fork_twice() -> int | str:
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        return status_of(grandchild) if grandchild else leave("return")
    return status_of(child)


@task
async def fork_async(how: str) -> int | str:
    child = os.fork()
    if child == 0:
        await asyncio.sleep(0)
        return leave(how)
    return status_of(child)


@task
def fork_pty() -> list:
    child, end = pty.fork()
    if child == 0:
        print("on the terminal")
        return leave("return")
    with suppress(OSError), open(end, "rb", buffering=0) as terminal:  # EIO is its end
        while terminal.read(1000):
            pass
    return [status_of(child)]


@task
def fork_in_thread() -> list:
    statuses = []

    def run() -> None:
        child = os.fork()
        if child:
            statuses.append(status_of(child))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return statuses


@task
def fork_and_leave(path: str) -> int:
    """Leave a child that waits at a FIFO and then comes back; its id."""
    child = os.fork()
    if child == 0:
        with open(path) as fifo:
            fifo.read()
    return child


def square(number: int) -> int:
    return number * number


@task
def use_processes() -> list:
    forking = multiprocessing.get_context("fork")
    process = forking.Process(target=progress, args=[1])
    process.start()
    process.join()
    with ProcessPoolExecutor(2, mp_context=forking) as pool:
        return [process.exitcode, *pool.map(square, range(3))]


@task
def write_to_the_daemon(line: str) -> None:
    """Write into the worker's own socket."""
    for descriptor in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.write(descriptor, line.encode() + b"\n")
        except OSError:
            continue


# --- what is left ------------------------------------------------------------


@task
def damage(what: str) -> None:
    DAMAGE[what]()


def leave_a_thread() -> None:
    def run() -> None:
        while not done.wait(0.001):
            progress(99)

    done = threading.Event()
    threading.Thread(target=run, daemon=True).start()


def redirect(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


DAMAGE = {
    "context": lambda: context.set("by a task"),
    "stdout closed": lambda: sys.stdout.close(),
    "stderr closed": lambda: sys.stderr.close(),
    "stdout replaced": lambda: setattr(sys, "stdout", io.StringIO()),
    "stdout gone": lambda: delattr(sys, "stdout"),
    "descriptors closed": lambda: os.closerange(1, 3),
    "descriptors redirected": lambda: [redirect(1), redirect(2)],
    "loop closed": lambda: asyncio.get_event_loop().close(),
    "loop gone": lambda: asyncio.set_event_loop(None),
    "stdout without é": lambda: sys.stdout.reconfigure(encoding="ascii", errors="strict"),
    "loop run": lambda: asyncio.run(asyncio.sleep(0)),
    "thread": leave_a_thread,
    "interrupts ignored": lambda: signal.signal(signal.SIGURG, signal.SIG_IGN),
    "signals blocked": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()),
    "alarm": lambda: [
        signal.signal(signal.SIGALRM, signal.SIG_DFL),
        signal.setitimer(signal.ITIMER_REAL, 0.05),
    ],
    "children ignored": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
}


@task
async def damage_async() -> None:
    """Leave an asyncio task behind."""

    async def run() -> None:
        try:
            await asyncio.sleep(FOR_EVER)
        finally:
            print("leftover: ended", flush=True)

    damage_async.left = asyncio.ensure_future(run())
    await asyncio.sleep(0)


@task
def check(text: str, path: str = "") -> list:
    """Return and print what a task finds, after standing at a FIFO, if one is named."""
    if path:
        with open(path) as fifo:
            fifo.read()
    asyncio.get_event_loop().run_until_complete(asyncio.sleep(0))
    print("out:", text)
    print("err:", text, file=sys.stderr)
    child = os.fork()
    if child == 0:
        os._exit(5)
    return [context.get(), status_of(child)]


@task
async def check_async(text: str) -> list:
    await asyncio.sleep(0)
    return [context.get(), text]


@task(timeout=0.05)
def check_limit() -> None:
    signal.pause()
