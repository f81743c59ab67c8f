"""The threads that were busy before a task began: what they do is not that task's."""

from __future__ import annotations

import sys
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threading import Thread

__all__ = ["OlderThreads"]


class OlderThreads:
    """The threads that were busy when this was made.

    Those of a pool that had nothing to do then are not among them: they work for
    whoever uses the pool next. Other threads are not looked into, since
    `sys._current_frames` can crash Python 3.12.
    """

    def __init__(self) -> None:
        self._busy: set[Thread] = set()
        self._first_job = 0
        threading = sys.modules.get("threading")
        if threading is None:
            return
        executors = sys.modules.get("concurrent.futures.thread")
        self._busy = {thread for thread in threading.enumerate() if not _waits(thread, executors)}
        if (pools := sys.modules.get("multiprocessing.pool")) is not None:
            self._first_job = next(pools.job_counter)

    def have_current(self) -> bool:
        """Return whether the calling thread is one of them, or may be.

        A thread that was started without `threading` may be: nothing shows since when it runs.
        """
        from threading import current_thread, main_thread

        thread = current_thread()
        if thread is main_thread():
            return False
        if (job := _pool_job()) is not None:
            return job < self._first_job
        return thread in self._busy or type(thread).__name__ == "_DummyThread"


def _waits(thread: Thread, executors: ModuleType | None) -> bool:
    """Return whether a thread is of a `ThreadPoolExecutor` all of whose threads wait for something to do."""
    with suppress(Exception):  # these attributes are the standard library's own
        if executors is not None and thread in executors._threads_queues:
            executor = thread._args[0]()  # type: ignore[attr-defined]
            return bool(executor._idle_semaphore._value >= len(executor._threads))
    return False


def _pool_job() -> int | None:
    """Return the number of the job that the caller does for a `multiprocessing.pool.ThreadPool`, if any."""
    pools = sys.modules.get("multiprocessing.pool")
    frame = sys._getframe() if pools is not None else None
    while frame is not None:
        if pools is not None and frame.f_code is pools.worker.__code__:
            job = frame.f_locals.get("job")
            return job if isinstance(job, int) else None
        frame = frame.f_back
    return None
