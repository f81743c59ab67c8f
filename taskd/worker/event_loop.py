"""The event loop of a worker: runs ``async def`` functions, and is made usable again after each task."""

from __future__ import annotations

import sys
import time
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from contextvars import Context
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, AbstractEventLoopPolicy, Runner, Task

__all__ = ["EventLoop"]

LEFTOVER_SECONDS = 1.0
"""Seconds that the asyncio tasks which a task has left behind get to end when they are cancelled:
enough to close a connection. The caller waits for them, since they belong to its task."""


class EventLoop:
    """The one event loop of a worker: the current one after the start hooks, or else one made when needed.

    It lives as long as the worker, so that connections can be kept between
    tasks. A loop that a task has closed, or that cannot be used any more for
    another reason, is replaced. `enter` must come first.
    """

    def __init__(self) -> None:
        self._runner: Runner | None = None
        self._loop: AbstractEventLoop | None = None
        self._policy: AbstractEventLoopPolicy | None = None
        self._is_entered = False
        self._settings: _Settings | None = None
        self.has_run = False
        """Whether a coroutine has been run since `settle` was called last."""

    def enter(self) -> None:
        """Replace a current event loop that was made before the fork: all workers share its descriptors."""
        self._is_entered = True
        asyncio = sys.modules.get("asyncio")
        if asyncio is not None and _has_current(asyncio.get_event_loop_policy()):
            asyncio.set_event_loop(asyncio.new_event_loop())

    def run(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
        """Run a coroutine in this context, and return its result."""
        self.has_run = True
        runner = self._runner
        if runner is None or self._loop is None or not _is_usable(self._loop):
            runner = self._new_runner()
        return runner.run(coroutine, context=context)

    def settle(self, *, is_short: bool = False) -> None:
        """Cancel the asyncio tasks that are left, and make the loop the current one again, as it was.

        Does nothing before asyncio is imported. After a function that is known
        to be short, no stop of the loop is looked for: that takes 10 µs.
        """
        self.has_run = False
        asyncio = sys.modules.get("asyncio") if self._is_entered else None
        if asyncio is None or not hasattr(asyncio, "get_event_loop_policy"):  # a thread may be importing it
            return
        loop = self._loop
        if loop is not None:
            if _is_usable(loop):
                self._put_back_settings(loop)
                if not is_short:
                    _drop_stop(loop)
            if _is_usable(loop) and (leftovers := asyncio.all_tasks(loop)):
                self._cancel(loop, leftovers)
            if not _is_usable(loop):
                self._runner = self._loop = None
        self._make_current(asyncio)

    def close(self) -> None:
        """Close the loop, if there is one. Nothing must follow."""
        if self._loop is None or not _is_usable(self._loop):
            return
        if self._runner is not None:
            self._runner.close()
        else:
            self._loop.close()

    def _new_runner(self) -> Runner:
        from asyncio import Runner, new_event_loop, set_event_loop  # a third of a worker's memory

        loop = self._loop
        if loop is None or not _is_usable(loop):
            loop = new_event_loop()
        set_event_loop(loop)
        self._loop = loop
        self._settings = _settings_of(loop)
        self._runner = Runner(loop_factory=lambda: loop)
        return self._runner

    def _put_back_settings(self, loop: AbstractEventLoop) -> None:
        """Give the loop the settings that it had before the first function."""
        before = self._settings
        if before is None or before == _settings_of(loop):
            return
        task_factory, exception_handler, debug = before
        loop.set_task_factory(task_factory)
        loop.set_exception_handler(exception_handler)
        loop.set_debug(debug)

    def _make_current(self, asyncio: ModuleType) -> None:
        """Have ``asyncio.get_event_loop()`` return the loop, or make one, as in a new worker."""
        if self._policy is None:
            self._policy = asyncio.get_event_loop_policy()
        elif asyncio.get_event_loop_policy() is not self._policy:
            asyncio.set_event_loop_policy(self._policy)
        try:
            current = self._policy.get_event_loop() if self._loop is not None else _current(self._policy)
        except RuntimeError:  # `asyncio.run` leaves none, and none would be made any more
            asyncio.set_event_loop(self._loop or asyncio.new_event_loop())
            return
        if self._loop is None and current is not None and _is_usable(current):
            self._loop = current
        elif current is not self._loop:
            asyncio.set_event_loop(self._loop or asyncio.new_event_loop())

    def _cancel(self, loop: AbstractEventLoop, leftovers: Iterable[Task[Any]]) -> None:
        ending = time.monotonic() + LEFTOVER_SECONDS
        try:
            while leftovers and (left := ending - time.monotonic()) > 0:
                loop.run_until_complete(_end(leftovers, left))
                leftovers = _all_tasks(loop)
        except BaseException as error:  # one of them has stopped the loop, or wants to end the process
            _say(f"an asyncio task that was left behind raised {type(error).__name__}")
            leftovers = _all_tasks(loop)
        if leftovers:
            _say("asyncio tasks that were left behind have not ended when cancelled: their loop is replaced")
            self._runner = self._loop = None
            with suppress(RuntimeError):
                loop.close()


_Settings: TypeAlias = tuple[Any, Any, bool]
"""What a loop makes tasks with and gives its errors to, each None for its own way, and whether it debugs."""


def _settings_of(loop: AbstractEventLoop) -> _Settings:
    return loop.get_task_factory(), loop.get_exception_handler(), loop.get_debug()


def _drop_stop(loop: AbstractEventLoop) -> None:
    """Run what is ready: a function that has stopped its loop and ended at once left another stop there."""
    with suppress(BaseException):  # SystemExit too: a callback that a task has left may raise it
        loop.call_soon(loop.stop)
        loop.run_forever()


def _say(text: str) -> None:
    """Print a line for the log, if stderr is still there."""
    with suppress(Exception):
        sys.stderr.write(f"{text}\n")


async def _end(tasks: Iterable[Task[Any]], seconds: float) -> None:
    from asyncio import wait

    for task in tasks:
        task.cancel()
    await wait(tasks, timeout=seconds)


def _all_tasks(loop: AbstractEventLoop) -> set[Task[Any]]:
    from asyncio import all_tasks

    return all_tasks(loop)


def _is_usable(loop: AbstractEventLoop) -> bool:
    if loop.is_closed() or loop.is_running():  # a thread that was left behind may run it
        return False
    # Once its executor is shut down, `to_thread` fails for ever. Only asyncio's own attributes show that.
    executor = getattr(loop, "_default_executor", None)
    is_shut_down = getattr(executor, "_shutdown", False) is True
    return not is_shut_down and getattr(loop, "_executor_shutdown_called", False) is not True


def _has_current(policy: AbstractEventLoopPolicy) -> bool:
    try:
        return _current(policy) is not None
    except RuntimeError:
        return True


def _current(policy: AbstractEventLoopPolicy) -> AbstractEventLoop | None:
    """Return the current event loop; None if there is none yet, where asking for it would make one.

    Raises `RuntimeError` if there is none any more.
    """

    def none_yet() -> Any:
        raise _NoneYet

    policy.new_event_loop = none_yet  # type: ignore[method-assign]
    try:
        return policy.get_event_loop()
    except (_NoneYet, DeprecationWarning):  # Python 3.12 warns before it makes one
        return None
    finally:
        del policy.new_event_loop


class _NoneYet(Exception):
    """The policy wanted to make an event loop."""
