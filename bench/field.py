"""The servers that take part beside Workerman: all run at once, and are idle while another is driven."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from bench.loads import Load, LoadFailed
from bench.servers import Gateway, Taskd, Workerman, WorkermanGateway
from bench.settings import Settings
from bench.tools import Missing, say, workerman

MANY = 100
"""Processes, in taskd and in Workerman, as in Workerman's example."""

PIPELINED = Load("pipelined", in_flight=16)
SINGLE = Load("pipelined", in_flight=1)
EACH = Load("each")
WEBSOCKET = Load("websocket")
SURVEYED = {"pipelined": PIPELINED, "single": SINGLE, "each": EACH}


class Field:
    """Starts what is asked for when it is first asked for, and ends all of it at the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stack = ExitStack()
        self._taskds: dict[str, Taskd] = {}
        self._gateways: dict[str, Gateway] = {}
        self._workermen: dict[int, Workerman] = {}
        self._sites: dict[tuple[int, int], WorkermanGateway] = {}
        self._best: dict[str, tuple[int, int]] | None = None
        try:
            workerman()
            self.without_workerman = ""
        except Missing as missing:
            self.without_workerman = str(missing)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def taskd(self, link: str = "pooled") -> Taskd:
        """A task server with 100 workers, and a gateway in the same process."""
        if link not in self._taskds:
            self._taskds[link] = self._stack.enter_context(Taskd("--link", link, workers=MANY))
        return self._taskds[link]

    def other(self, link: str = "pooled") -> Taskd:
        """The other taskd that `Settings.beside` names, set up as `taskd`."""
        key = f"beside, {link}"
        if key not in self._taskds:
            other = Taskd("--link", link, workers=MANY, launcher=(self.settings.beside,))
            self._taskds[key] = self._stack.enter_context(other)
        return self._taskds[key]

    def gateway(self, link: str) -> Gateway:
        """A gateway in a process of its own, before the same taskd."""
        if link not in self._gateways:
            self._gateways[link] = self._stack.enter_context(Gateway(self.taskd(), "--link", link))
        return self._gateways[link]

    def workerman(self, count: int = MANY) -> Workerman:
        """The task service on Workerman."""
        if count not in self._workermen:
            self._workermen[count] = self._stack.enter_context(Workerman(count))
        return self._workermen[count]

    def site(self, count: int = MANY, gateways: int = 1) -> WorkermanGateway:
        """The websocket service on Workerman, before the task service with so many processes."""
        if (count, gateways) not in self._sites:
            site = WorkermanGateway(self.workerman(count), gateways)
            self._sites[count, gateways] = self._stack.enter_context(site)
        return self._sites[count, gateways]

    def best(self, kind: str) -> tuple[int, int]:
        """Workerman's best number of processes for a kind of load, and of gateways: a short survey tells."""
        if self._best is None:
            self._best = self._survey()
        return self._best[kind]

    def _survey(self) -> dict[str, tuple[int, int]]:
        figures: dict[str, dict[tuple[int, int], float]] = {}
        for count in self.settings.counts:
            say(f"  Workerman with {count} processes …")
            with Workerman(count) as tasks:
                for kind, load in SURVEYED.items():
                    figures.setdefault(kind, {})[count, 1] = self._try(load, tasks.port)
                for gateways in self.settings.gateways:
                    with WorkermanGateway(tasks, gateways) as site:
                        figures.setdefault("websocket", {})[count, gateways] = self._try(
                            WEBSOCKET, site.websocket
                        )
        return {kind: max(values, key=values.__getitem__) for kind, values in figures.items()}

    def _try(self, load: Load, port: int) -> float:
        try:
            return self.timed(load, self.settings.survey_seconds).run(port).per_second
        except LoadFailed as failure:
            say(f"  {failure}")
            return 0.0

    def timed(self, load: Load, seconds: float | None = None) -> Load:
        """The same load, for as long as the settings say."""
        return Load(
            load.mode,
            load.connections,
            load.in_flight,
            load.request,
            self.settings.seconds if seconds is None else seconds,
            self.settings.warm_up,
            load.options,
        )
