"""The decorators with which app modules register their functions and hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from taskd.functions import registry as registered
from taskd.functions.durability import Durability
from taskd.functions.labels import checked_needs
from taskd.functions.retries import RETRY_FOR, RetryFor, checked_retry_for
from taskd.functions.schedule import Missed, Schedule

__all__ = ["on_worker_start", "on_worker_stop", "task"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Hook = TypeVar("_Hook", bound=Callable[[], object])


@overload
def task(function: _Function, /) -> _Function: ...
@overload
def task(
    *,
    name: str | None = None,
    timeout: float | None = None,
    grace: float | None = None,
    durable: bool = False,
    once: bool = False,
    retries: int = 0,
    backoff: float = 1.0,
    keep: float = 3600.0,
    concurrency: int | None = None,
    rate: str | None = None,
    concurrency_key: str | None = None,
    cron: str | None = None,
    every: float | None = None,
    timezone: str | None = None,
    missed: Missed | None = None,
    retry_for: type[BaseException] | RetryFor = RETRY_FOR,
    needs: str | Sequence[str] = (),
) -> Callable[[_Function], _Function]: ...
def task(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    grace: float | None = None,
    durable: bool = False,
    once: bool = False,
    retries: int = 0,
    backoff: float = 1.0,
    keep: float = 3600.0,
    concurrency: int | None = None,
    rate: str | None = None,
    concurrency_key: str | None = None,
    cron: str | None = None,
    every: float | None = None,
    timezone: str | None = None,
    missed: Missed | None = None,
    retry_for: type[BaseException] | RetryFor = RETRY_FOR,
    needs: str | Sequence[str] = (),
) -> Any:
    """Register a function, so that it can be called as a task; return it unchanged.

    Use it bare (``@task``), with a `name` for the wire (``@task(name="mail.send")``),
    or with a time limit: after `timeout` seconds `TaskTimeout` is raised in the
    function, and if it has not ended `grace` seconds later (default: `GRACE`),
    its process is killed.

    With `durable`, each call is stored before it is run, and is run again if its
    process or the daemon has died, or, with `once`, never. It is tried `retries`
    times more if it raises an exception of the classes `retry_for`, or `Retry`, after
    a random part of `backoff` seconds, doubled with each failure. What has ended is
    kept for `keep` seconds. At most `concurrency` of its tasks run at the same time, and
    they start at `rate` at most (``"100/min"``); with `concurrency_key`, the name of an
    argument, both hold for each of its values.

    With `cron` (a line such as ``"30 2 * * *"``, by the clocks of `timezone`, by
    default UTC) or with `every` (seconds), the server itself has the function run,
    without arguments, as a stored task. `missed` says which times are made up for
    that came while the server did not run: none ("skip", the default), the last
    one ("last"), or each ("all").

    With `needs`, a label or several (``needs="gpu"``), the function runs only on nodes that were started
    with all of these labels (``--label gpu``); others refuse to call it, or leave its stored tasks to them.

    Raises as `Registry.add`, `Durability.of` and `Schedule.of` do, and `ValueError` for a wrong `retry_for`
    or wrong `needs`.
    """
    schedule = Schedule.of(cron, every, timezone, missed, durable=durable)
    judged = checked_retry_for(retry_for)
    labels = checked_needs(needs)
    durability = Durability.of(
        durable=durable,
        once=once,
        retries=retries,
        backoff=backoff,
        keep=keep,
        concurrency=concurrency,
        rate=rate,
        concurrency_key=concurrency_key,
        retry_for=judged,
    )

    def register(function: _Function) -> _Function:
        registered.registry.add(
            function, name, timeout, grace, durability, schedule=schedule, retry_for=judged, needs=labels
        )
        return function

    return register if function is None else register(function)


def on_worker_start(hook: _Hook) -> _Hook:
    """Register `hook`, which each worker process calls before its first task; return it unchanged.

    A start hook is the place to open a database connection. If it raises, the
    worker exits, the traceback is logged, and another worker is started after a
    delay that grows with each failure. Hooks are called in the order of registration.
    """
    registered.registry.start_hooks.append(hook)
    return hook


def on_worker_stop(hook: _Hook) -> _Hook:
    """Register `hook`, which each worker process calls when it ends in order; return it unchanged.

    A worker that is killed does not call it.
    """
    registered.registry.stop_hooks.append(hook)
    return hook
