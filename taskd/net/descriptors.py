"""How many connections the limit of open files leaves room for, and what the other files are kept for.

A daemon that has used up its descriptors can do nothing properly: it cannot
refuse a connection with a reason, start a worker, or open its log again. So it
counts beforehand, and accepts no more connections than it can have.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass, replace

from taskd.net.lingering import MAX_LINGERING

__all__ = ["LINK_CONNECTIONS", "NO_FILES", "ConnectionLimits", "FileNeeds", "connection_limits", "open_files"]

SPARE = 24
"""Descriptors for what comes and goes: a log file that is reopened, certificates that are read again,
names that are looked up, /proc, and refused connections that are still read."""

LEAST_SPARE = 10
"""Descriptors that are spare under a limit that is too low for `SPARE`."""

LEAST_CONNECTIONS = 4
"""Connections that there may be under a limit that is too low for everything: enough to ask for a status."""

SHARE_OF_LINKS = 12
"""One of so many connections may be a gateway's own to a task server: with a limit of 1024 open files
these are seventy, more than there are workers."""

SHARE_OF_LINGERING = 16
"""One of so many may linger, up to the usual number."""

LINK_CONNECTIONS = 10_000
"""Connections of a gateway to its task servers at most: as many tasks as wait in a task server by default."""

UNLIMITED = 1_000_000
"""Open files that are counted on if there is no limit."""


@dataclass(frozen=True, slots=True)
class FileNeeds:
    """The descriptors that a part of the daemon needs: at `least`, and as many as it may ever `want`."""

    least: int
    want: int


NO_FILES = FileNeeds(0, 0)
"""The needs of a daemon without workers."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The connections that a process may have: `accepted` from clients, and `links` to task servers.

    `lingering` ones may be closed for everybody but the kernel. All are derived from `limit`, that of
    open files, unless the number of accepted ones `is_chosen`.
    """

    accepted: int
    links: int
    lingering: int
    limit: int
    is_chosen: bool = False

    @property
    def why(self) -> str:
        """The reason for the number of accepted ones, for a log line."""
        return " (--max-connections)" if self.is_chosen else f", as ulimit -n {self.limit} permits"

    def at_most(self, accepted: int | None) -> ConnectionLimits:
        """Return these limits with no more accepted connections than that; None changes nothing."""
        if accepted is None or accepted >= self.accepted:
            return self
        return replace(self, accepted=accepted, is_chosen=True)


def open_files() -> tuple[int, int]:
    """Return the limit of open files of this process (``ulimit -n``), and how many it has open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd")) - 1  # without the one of the directory itself
    return (UNLIMITED if limit == resource.RLIM_INFINITY else limit), in_use


def connection_limits(limit: int, in_use: int, needs: FileNeeds, link_ends: int) -> ConnectionLimits:
    """Return how many connections there may be under a `limit` of open files.

    `in_use` are open anyway; `needs` are those of the workers, which get all that
    they may want as long as half of the limit is left to others. A connection of a gateway
    to a task server takes `link_ends` in this process; none if there are no such connections.
    """
    least = needs.least + LEAST_SPARE
    reserved = max(least, min(needs.want + SPARE, limit // 2))
    left = max(limit - in_use - reserved, LEAST_CONNECTIONS)
    lingering = max(min(left // SHARE_OF_LINGERING, MAX_LINGERING), 1)
    links = min(max(left // SHARE_OF_LINKS, 1), LINK_CONNECTIONS) if link_ends else 0
    return ConnectionLimits(max(left - lingering - links * link_ends, 1), links, lingering, limit)
