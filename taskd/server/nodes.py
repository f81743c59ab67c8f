"""The nodes that share a store, as operators see them; a server with a store of its own is the only one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred, fail, succeed

from taskd import __version__
from taskd.errors import InvalidParams
from taskd.functions.registry import FunctionInfo
from taskd.server.status import ServerStatus
from taskd.store.nodes import NodeInfo, NodeRow

__all__ = ["Drained", "NodeView", "Nodes", "OnlyNode", "Shown", "node_info"]


class NodeView(msgspec.Struct, frozen=True):
    """One node. `node` is its number in the store, None if the store is not shared.

    `started` is in seconds since 1970, `seen_ago` in seconds; `claimed` counts its stored tasks.
    `functions` are those that it can run. `this` is whether it is the one that answers.
    """

    node: int | None
    name: str
    version: str
    labels: Sequence[str]
    functions: Sequence[str]
    workers: int
    running: int
    claimed: int
    started: float
    seen_ago: float
    draining: bool
    this: bool

    @classmethod
    def of(cls, row: NodeRow, now: float, own: int) -> NodeView:
        """Return the view of a row of the store at a time by its clock; `own` is this node's number."""
        info = row.info
        return cls(
            row.node,
            info.name,
            info.version,
            info.labels,
            info.functions,
            info.workers,
            info.running,
            row.claimed,
            round(row.started, 3),
            round(max(now - row.seen, 0.0), 3),
            info.is_draining or row.drain,
            row.node == own,
        )


class Drained(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to ``taskd.drain``; `node` is its number if the store is shared."""

    draining: bool
    node: int | None = msgspec.field(default=None)


class Nodes(Protocol):
    """The nodes, as far as operators need them."""

    def views(self) -> Deferred[list[NodeView]]:
        """Return the nodes that live."""

    def drain(self, node: int | None, *, drained: bool) -> Deferred[Drained]:
        """Have a node take and claim nothing new, or again; None is this one.

        Fails with `InvalidParams` if there is no such node.
        """


class Shown(Protocol):
    """The task server, as a node shows it."""

    @property
    def functions(self) -> list[FunctionInfo]:
        """The functions that can be called."""

    def status(self) -> ServerStatus:
        """Return what the server and each of its workers is doing."""


class _Drainable(Protocol):
    """The operation of the task server, as far as draining needs it."""

    is_drained: bool

    def take_new(self, *, new: bool) -> None:
        """Take new tasks, or take none."""


def node_info(server: Shown, *, is_draining: bool) -> NodeInfo:
    """Return how a node shows itself to others; its functions are those that it can run."""
    functions = [each for each in server.functions if not each.missing]
    status = server.status()
    return NodeInfo(
        f"{socket.gethostname()}:{os.getpid()}",
        __version__,
        [each.name for each in functions],
        [each.name for each in functions if each.durable is not None and each.durable.once],
        status.labels,
        len(status.workers),
        status.running,
        is_draining,
    )


class OnlyNode:
    """The only node of a store that is not shared. Implements `Nodes`."""

    def __init__(self, server: Shown, operation: _Drainable) -> None:
        self._server = server
        self._operation = operation

    def views(self) -> Deferred[list[NodeView]]:
        """Return this server."""
        status = self._server.status()
        info = node_info(self._server, is_draining=self._operation.is_drained)
        claimed = 0 if status.store is None else status.store.claimed
        now = time.time()
        row = NodeRow(0, info, now - status.uptime, now, claimed)
        return succeed([msgspec.structs.replace(NodeView.of(row, now, 0), node=None)])

    def drain(self, node: int | None, *, drained: bool) -> Deferred[Drained]:
        """Have this server take nothing new, or again."""
        if node is not None:
            return fail(
                InvalidParams(
                    f"taskd.drain: there is no node {node}: the store of this server is shared with no other",
                    argument="node",
                )
            )
        self._operation.take_new(new=not drained)
        return succeed(Drained(drained))
