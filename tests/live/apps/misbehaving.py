"""Tasks that do what tasks should not: never end, swallow what is raised in them, eat memory, die."""

import asyncio
import ctypes
import itertools
import os
import re
import signal
import subprocess
import threading
import time

from taskd import TaskStopped, TaskTimeout, task

GRACE = 0.3
"""Grace, in seconds, of the functions that only a kill ends."""

FOR_EVER = 600.0
"""Seconds: far longer than any test waits."""

MIB = 1024 * 1024


def stand_at(path: str) -> str:
    """Wait until the test opens and closes this FIFO, and return what it wrote."""
    with open(path) as fifo:
        return fifo.read()


def swallow(wait) -> None:
    """Wait for ever, and swallow every exception raised meanwhile."""
    while True:
        try:  # noqa: SIM105
            wait()
        except:  # noqa: E722
            pass


def names_of(error: BaseException) -> str:
    """Return the names of an exception's class and its bases, up to `BaseException`."""
    return " ".join(kind.__name__ for kind in type(error).__mro__ if kind is not object)


# --- never end ---------------------------------------------------------------


@task
def sleep_on() -> None:
    time.sleep(FOR_EVER)


@task
def spin() -> None:
    while True:
        pass


@task
def swallow_exceptions() -> None:
    while True:
        try:  # noqa: SIM105
            time.sleep(0.01)
        except Exception:
            pass


@task(grace=GRACE)
def swallow_everything() -> None:
    swallow(lambda: time.sleep(FOR_EVER))


@task(grace=GRACE)
def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    swallow(lambda: time.sleep(FOR_EVER))


@task(grace=GRACE)
def block_every_signal() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(FOR_EVER)


@task(grace=GRACE)
def ignore_sigurg() -> None:
    signal.signal(signal.SIGURG, signal.SIG_IGN)
    time.sleep(FOR_EVER)


@task(grace=GRACE)
def stand_in_c(hold_the_gil: bool) -> None:
    """Lock a mutex in C twice: no signal brings this back to Python."""
    library = (ctypes.PyDLL if hold_the_gil else ctypes.CDLL)(None)
    mutex = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


@task(grace=GRACE)
def sleep_in_c(hold_the_gil: bool) -> None:
    """Sleep in C, and start again after each signal."""
    library = (ctypes.PyDLL if hold_the_gil else ctypes.CDLL)(None)
    while True:
        library.usleep(100_000)


@task(grace=GRACE)
def count_in_c() -> None:
    """Add up zeros endlessly: C code that holds the GIL and never checks for signals."""
    sum(itertools.repeat(0))


@task(grace=GRACE)
def match_for_ever() -> None:
    re.match(r"(a+)+$", "a" * 100 + "b")


@task
def read_for_ever(path: str) -> None:
    stand_at(path)


@task
def run_a_child() -> None:
    subprocess.run(["sleep", str(FOR_EVER)])


@task(grace=GRACE)
def wait_for_a_child(deaf: bool) -> None:
    """Wait for ever for a child process, which may ignore SIGTERM; print its id."""
    script = "trap '' TERM; echo child $$; exec sleep 600" if deaf else "echo child $$; exec sleep 600"
    child = subprocess.Popen(["sh", "-c", script])
    swallow(child.wait)


@task(grace=GRACE)
def wait_for_a_fork() -> None:
    """Like `wait_for_a_child`, with a fork of this worker as the child."""
    child = os.fork()
    if not child:
        swallow(lambda: time.sleep(FOR_EVER))
    print("child", child, flush=True)
    swallow(lambda: os.waitpid(child, 0))


@task
def lock_twice() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


@task
def wait_for_a_thread() -> None:
    thread = threading.Thread(target=time.sleep, args=[FOR_EVER], daemon=True)
    thread.start()
    thread.join()


@task
async def sleep_async() -> None:
    await asyncio.sleep(FOR_EVER)


@task(grace=GRACE)
async def swallow_async() -> None:
    while True:
        try:  # noqa: SIM105
            await asyncio.sleep(FOR_EVER)
        except asyncio.CancelledError:
            pass


@task(grace=GRACE)
async def block_async() -> None:
    """Block in an async function that does not await."""
    time.sleep(FOR_EVER)


# --- wait, and do something when they are stopped ----------------------------


@task
def stand_and_tell(path: str, target: str) -> str:
    """Wait at one FIFO; write to the other which exception stopped this."""
    try:
        return stand_at(path)
    except BaseException as stopped:
        with open(target, "w") as fifo:
            fifo.write(names_of(stopped))
        raise


@task
async def stand_async(target: str, told: str) -> None:
    """Write into a FIFO and wait; write into the other which exception stopped this."""
    try:
        with open(target, "w") as fifo:
            fifo.write("standing")
        await asyncio.sleep(FOR_EVER)
    except BaseException as stopped:
        with open(told, "w") as fifo:
            fifo.write(names_of(stopped))
        raise


@task(grace=GRACE)
def stand_deaf(path: str) -> None:
    """Wait at the FIFO, and then for ever."""
    os.open(path, os.O_RDONLY)
    swallow(lambda: time.sleep(FOR_EVER))


@task
def stand_and_save(path: str) -> str:
    try:
        return stand_at(path)
    except TaskStopped:
        return "saved"


@task
def save(what: str = "return") -> str:
    """Catch the time limit, and return or raise something else."""
    try:
        time.sleep(FOR_EVER)
    except TaskTimeout as stopped:
        print("caught", names_of(stopped), flush=True)
        if what == "raise":
            raise ValueError("something else") from None
    return "saved"


@task
def clean_up(tag: str) -> None:
    try:
        time.sleep(FOR_EVER)
    finally:
        print(tag, "cleaned up", flush=True)


@task
def clean_up_slowly(seconds: float, tag: str) -> None:
    """Take some time to clean up, with the default grace."""
    try:
        time.sleep(FOR_EVER)
    except TaskStopped:
        time.sleep(seconds)
        print(tag, "cleaned up", flush=True)
        raise


@task(grace=GRACE)
def clean_up_for_ever() -> None:
    try:
        time.sleep(FOR_EVER)
    finally:
        time.sleep(FOR_EVER)


@task(timeout=0.3)
def limited(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task(timeout=30)
def roomy(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


# --- leave a trace -----------------------------------------------------------


@task
def note(file: str, text: str, path: str = "", seconds: float = 0.0) -> str:
    """Add a line to a file, and then wait at a FIFO if one is given, or sleep."""
    end = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(end, f"{text}\n".encode())
    os.close(end)
    if path:
        stand_at(path)
    if seconds:
        time.sleep(seconds)
    return text


@task
def note_and_die(file: str, text: str) -> None:
    note(file, text)
    os.kill(os.getpid(), signal.SIGKILL)


# --- print -------------------------------------------------------------------


@task
def print_lines(count: int, text: str) -> None:
    for number in range(count):
        print(text, number)


@task
def print_for_ever(path: str) -> None:
    """Wait at the FIFO, and print."""
    os.open(path, os.O_RDONLY)
    while True:
        print("x" * 200)


# --- memory ------------------------------------------------------------------

_hoard: list[bytearray] = []


def fill(mib: int) -> bytearray:
    """Allocate so much memory, and write to it."""
    return bytearray(b"x") * (mib * MIB)


@task
def hoard(mib: int) -> int:
    """Keep memory for good, and return the id of this process."""
    _hoard.append(fill(mib))
    return os.getpid()


@task
def use(mib: int) -> int:
    """Use memory and free it, and return the id of this process."""
    fill(mib)
    return os.getpid()


@task
def stand_and_use(path: str, mib: int) -> None:
    stand_at(path)
    fill(mib)


@task
def use_and_stand(mib: int, path: str) -> None:
    memory = fill(mib)
    stand_at(path)
    del memory


@task
def use_and_die(mib: int) -> None:
    memory = fill(mib)
    os.kill(os.getpid(), signal.SIGKILL)
    del memory


# --- die ---------------------------------------------------------------------


def fall(how: str) -> None:
    """Crash one frame below the task."""
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    else:
        os.kill(os.getpid(), signal.Signals[how])


@task
def crash(how: str) -> None:
    fall(how)
