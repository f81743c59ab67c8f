"""The server's own methods for whoever operates it: the parameters and the answer of each."""

from __future__ import annotations

from typing import Literal, Protocol, TypeVar

from taskd.protocol.stored_methods import Answer

__all__ = ["MAX_ENTRIES", "OperatorMethods", "Period"]

MAX_ENTRIES = 1000
"""Entries in one answer to ``taskd.audit``."""

Asker = TypeVar("Asker", contravariant=True)

Period = Literal["minute", "hour"]
"""The periods of the history: minutes for a day, and hours for ninety."""


class OperatorMethods(Protocol[Asker]):
    """The table of the methods for operators, like `taskd.protocol.methods.Methods`."""

    def reload(self, asker: Asker, /) -> Answer:
        """Do what SIGHUP has done, and answer with ``{"result": text}`` when it is over."""

    def nodes(self, asker: Asker, /) -> Answer:
        """Answer with the nodes that share the store, or with this server if nobody shares it.

        A list of ``{"node", "name", "version", "labels", "functions", "workers", "running", "claimed",
        "started", "seen_ago", "draining", "this"}``; `node` is null if the store is not shared.
        """

    def drain(self, asker: Asker, /, drained: bool = True, node: int | None = None) -> Answer:  # noqa: FBT001, FBT002
        """Take no new tasks, and answer with ``{"draining": true}``; or take them again.

        What has been taken is run as ever. A restart ends it. With `node`, another node of a store
        that is shared does so. There the answer has its number, too: ``"node"``.
        """

    def stacks(self, asker: Asker, /, worker: int | None = None) -> Answer:
        """Answer with what a worker does right now, or each of them.

        A list of ``{"worker", "pid", "function", "task", "seconds", "stack": text}``.
        """

    def queue(self, asker: Asker, /) -> Answer:
        """Answer with how many tasks there are of each function and owner.

        A list of ``{"function", "owner", "scheduled", "waiting", "running", "oldest"}``: `oldest` is for how
        many seconds the oldest has waited. Those with most tasks come first; the rest is in one row, whose
        function and owner are null.
        """

    def history(
        self,
        asker: Asker,
        /,
        period: Period = "minute",
        function: str | None = None,
        since: float | None = None,
    ) -> Answer:
        """Answer with figures of each minute or hour `since` then, an hour or a day ago by default.

        They are those of a function, of each (``"*"``), or of all together: a list of ``{"at", "function",
        "submitted", "succeeded", "failed", "lost", "timed_out", "cancelled", "expired", "wait_mean",
        "wait_max", "wait_p50", "wait_p95", "run_mean", "run_max", "run_p50", "run_p95"}``.
        """

    def audit(
        self,
        asker: Asker,
        /,
        after: int | None = None,
        limit: int = 100,
        owner: str | None = None,
        action: str | None = None,
    ) -> Answer:
        """Answer with who has done what: ``{"entries": […], "next": number}``, newest first.

        `next` is the `after` of the next page, null if there is none.
        """
