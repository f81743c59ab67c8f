"""All generations of the app: the one in use, the one that a reload prepares, and restarts after a crash.

The first import must succeed: otherwise there is nothing to serve, and
`Generations.loaded` fails. Later, a fork server that ends is replaced after a
delay, and after one that cannot even be started the next attempt follows in the
same way. A reload imports the app beside the generation in use; `switch` puts
the new generation in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.errors import StartError, StateError
from taskd.functions.registry import FunctionInfo
from taskd.pool.backoff import Backoff
from taskd.pool.generation import Generation, StartForkServer
from taskd.pool.timer import Timer

__all__ = [
    "STEPS",
    "Closing",
    "CodeObserver",
    "CodeStatus",
    "Generations",
    "Importing",
    "Reloading",
    "Replacing",
    "Serving",
    "State",
    "Unusable",
    "Waiting",
]

_log = Logger(namespace="taskd.pool")


@dataclass(frozen=True, slots=True)
class CodeStatus:
    """The state of the code in use: ``importing``, ``ready``, ``waiting`` or ``failed``.

    While it is waiting for the next attempt to start a fork server or a worker,
    `reason` says why there is none, and `next_try` is in seconds.
    """

    state: str
    reason: str | None = None
    next_try: float | None = None


class CodeObserver(Protocol):
    """The receiver of reports about the app's code."""

    def code_loaded(self, generation: int, functions: list[FunctionInfo]) -> None:
        """Note that a generation's app is imported, so that its workers can be started."""

    def code_failed(self, generation: int, reason: str) -> None:
        """Note that a reload's app cannot be used; the generation in use continues."""


@dataclass(frozen=True, slots=True)
class Importing:
    """The app is being imported for the first time."""

    current: Generation


@dataclass(frozen=True, slots=True)
class Unusable:
    """The first import has failed: there is nothing to serve."""


@dataclass(frozen=True, slots=True)
class Serving:
    """One generation is in use. It may still be importing, if its predecessor's fork server ended."""

    current: Generation


@dataclass(frozen=True, slots=True)
class Reloading:
    """One generation is in use, and another is about to follow it."""

    current: Generation
    following: Generation


@dataclass(frozen=True, slots=True)
class Waiting:
    """The fork server has ended, for the reason `why`, and another one starts after a delay."""

    why: str


@dataclass(frozen=True, slots=True)
class Replacing:
    """The fork server has ended, and a reload is about to follow it."""

    following: Generation


@dataclass(frozen=True, slots=True)
class Closing:
    """The pool is closing: no further generation is started."""


State: TypeAlias = Importing | Unusable | Serving | Reloading | Waiting | Replacing | Closing

STEPS: dict[type[State], set[type[State]]] = {
    Importing: {Serving, Unusable, Closing},
    Unusable: {Closing},
    Serving: {Reloading, Waiting, Closing},
    Reloading: {Reloading, Serving, Waiting, Closing},
    Waiting: {Waiting, Serving, Replacing, Closing},
    Replacing: {Replacing, Serving, Waiting, Closing},
    Closing: set(),
}
"""Every step from state to state.

A generation that the state does not name is either an older one, which ends
with its last worker, or one that was given up, which ends at once.
"""


class Generations:
    """All imports of the app that have not ended.

    `start` starts the fork server of each; `max_workers` is the most workers in
    use at once. `loaded` fires when the app has been imported for the first
    time, and fails with `StartError` if it cannot be imported.
    """

    def __init__(
        self, clock: IReactorTime, max_workers: int, start: StartForkServer, observer: CodeObserver
    ) -> None:
        self.loaded: Deferred[None] = Deferred()
        self._max_workers = max_workers
        self._start = start
        self._observer = observer
        self._all: dict[int, Generation] = {}
        self._last_number = 0
        self._backoff = Backoff()
        self._restart = Timer(clock, self._replace)
        self._closed: Deferred[None] = Deferred()
        self._state: State
        try:
            self._state = Importing(self._start_one())
        except StartError as error:
            self._state = Unusable()
            self.loaded.errback(StartError(f"taskd: {error}"))

    def usable(self, number: int) -> Generation | None:
        """Return the generation with this number if it can fork a worker now, otherwise None."""
        generation = self._all.get(number)
        if generation is None or not generation.has_place or self.is_closing:
            return None
        return generation

    def is_current(self, number: int) -> bool:
        """Return whether the generation with this number is the one in use."""
        match self._state:
            case Importing(current) | Serving(current) | Reloading(current, _):
                return current.number == number
        return False

    @property
    def is_closing(self) -> bool:
        """Whether `stop_accepting` was called: no further generation is started."""
        return isinstance(self._state, Closing)

    def reset_backoff(self) -> None:
        """Reset the delay before a fork server is replaced, since a worker has become ready."""
        self._backoff.reset()

    def status(self) -> CodeStatus:
        """Return the state of the code in use, for `taskd.status`."""
        match self._state:
            case Waiting(why):
                return CodeStatus("waiting", why, self._restart.seconds_left)
            case Importing(current) | Serving(current) | Reloading(current, _) if current.is_loaded:
                return CodeStatus("ready")
            case Unusable():
                return CodeStatus("failed")
        return CodeStatus("importing")

    # --- reloads ---

    def reload(self) -> int | None:
        """Import the app again, and return the new generation's number.

        A reload in progress is given up. Returns None, and does nothing, before
        the app has been imported for the first time and after `stop_accepting`.
        Raises `StartError`, and changes nothing, if no fork server can be started.
        """
        match self._state:
            case Serving(current):
                following = self._start_one()
                self._enter(Reloading(current, following))
            case Reloading(current, abandoned):
                following = self._start_one()
                self._enter(Reloading(current, following))
                abandoned.close()
            case Waiting():
                following = self._start_one()
                self._restart.cancel()
                self._enter(Replacing(following))
            case Replacing(abandoned):
                following = self._start_one()
                self._enter(Replacing(following))
                abandoned.close()
            case _:
                return None
        return following.number

    def abandon_next(self) -> None:
        """Give up the reload in progress, if there is one."""
        match self._state:
            case Reloading(current, following):
                self._enter(Serving(current))
                following.close()
            case Replacing(following):
                self._wait("there is no fork server any more")
                following.close()

    def switch(self) -> None:
        """Use the generation that the reload has prepared; the older one ends with its last worker.

        Raises `StateError` if no reload is in progress.
        """
        match self._state:
            case Reloading(current, following):
                self._enter(Serving(following))
                if current.is_empty:
                    current.close()
            case Replacing(following):
                self._enter(Serving(following))
            case state:
                raise StateError(f"nothing can be switched to while {type(state).__name__.lower()}")

    # --- the end ---

    def stop_accepting(self) -> None:
        """Start no generation and no worker from now on. Call this once."""
        self._restart.cancel()
        self._enter(Closing())

    def close(self) -> Deferred[None]:
        """End every fork server; fires when none is left. Call this once, after `stop_accepting`."""
        for generation in list(self._all.values()):
            generation.close()
        self._check_closed()
        return self._closed

    def kill(self) -> None:
        """Kill every process of every generation at once, without the reactor."""
        for generation in list(self._all.values()):
            generation.kill()

    def _check_closed(self) -> None:
        if not self._all and not self._closed.called:
            self._closed.callback(None)

    # --- `taskd.pool.generation.GenerationObserver` ---

    def generation_loaded(self, generation: Generation, functions: list[FunctionInfo]) -> None:
        """Report the code of the generation in use, or of the one that a reload prepares."""
        if not self._is_wanted(generation):
            return
        if isinstance(self._state, Importing):
            self._enter(Serving(generation))
        self._observer.code_loaded(generation.number, functions)
        if not self.loaded.called:
            self.loaded.callback(None)

    def generation_emptied(self, generation: Generation) -> None:
        """End an older generation whose last worker is gone."""
        if generation.number in self._all and not self.is_closing and not self._is_wanted(generation):
            generation.close()

    def generation_ended(self, generation: Generation, how: str, reason: str) -> None:
        """Replace the generation later if it was in use; report a reload that has failed."""
        del self._all[generation.number]
        match self._state:
            case Importing():
                self._enter(Unusable())
                self.loaded.errback(StartError(f"taskd: {reason}"))
            case Serving(current) if current is generation:
                self._current_ended(generation, how)
            case Reloading(current, following) if current is generation:
                # Its replacement imports the new code as well, so the reload is not needed.
                self._current_ended(generation, how)
                following.close()
                self._observer.code_failed(following.number, "the fork server in use ended meanwhile")
            case Reloading(current, following) if following is generation:
                self._enter(Serving(current))
                self._observer.code_failed(generation.number, reason)
            case Replacing(following) if following is generation:
                self._wait("there is no fork server any more")
                self._observer.code_failed(generation.number, reason)
            case Closing():
                if not self.loaded.called:
                    self.loaded.errback(StartError("taskd: stopped while the app was being imported"))
                self._check_closed()

    def _current_ended(self, generation: Generation, how: str) -> None:
        if generation.load_error:
            _log.error("{reason}", reason=generation.load_error)
        self._wait(f"the fork server ended ({how})")

    # --- starts ---

    def _start_one(self) -> Generation:
        """Start a generation. Raises `StartError`, whatever has prevented it, and changes nothing then."""
        number = self._last_number + 1
        try:
            generation = Generation(number, self._max_workers, self._start, self)
        except Exception as error:  # such as too many open files: later there may be fewer
            if not isinstance(error, OSError | MemoryError):
                _log.failure("a bug in taskd: a fork server cannot be started")
            reason = str(error) or type(error).__name__
            raise StartError(f"a fork server cannot be started: {reason}") from error
        self._last_number = number
        self._all[number] = generation
        return generation

    def _wait(self, why: str) -> None:
        self._enter(Waiting(why))
        delay = self._backoff.next_delay()
        _log.error("{why}; another one starts in {delay} s", why=why, delay=delay)
        self._restart.start(delay)

    def _replace(self) -> None:
        try:
            following = self._start_one()
        except StartError as error:
            self._wait(str(error))
        else:
            self._enter(Serving(following))

    def _is_wanted(self, generation: Generation) -> bool:
        match self._state:
            case Importing(wanted) | Serving(wanted) | Replacing(wanted):
                return wanted is generation
            case Reloading(current, following):
                return generation in (current, following)
        return False

    def _enter(self, state: State) -> None:
        if type(state) not in STEPS[type(self._state)]:
            old, new = type(self._state).__name__, type(state).__name__
            raise StateError(f"the generations cannot go from {old} to {new}")
        self._state = state
