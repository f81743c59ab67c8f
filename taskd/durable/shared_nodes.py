"""The nodes that share a store, for whoever operates one of them."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from taskd.durable.elsewhere import Elsewhere
from taskd.durable.node import Node
from taskd.errors import InvalidParams
from taskd.server.nodes import Drained, NodeView
from taskd.store.nodes import NodeRow

__all__ = ["SharedNodes"]


class SharedNodes:
    """The nodes, as this one knows of them. Implements `taskd.server.nodes.Nodes`.

    `now` returns the seconds since 1970 by the store's clock.
    """

    def __init__(self, node: Node, elsewhere: Elsewhere, now: Callable[[], float]) -> None:
        self._node = node
        self._elsewhere = elsewhere
        self._now = now

    def views(self) -> Deferred[list[NodeView]]:
        """Return the nodes that live."""

        def shown(rows: list[NodeRow]) -> list[NodeView]:
            now, own = self._now(), self._node.number
            return [NodeView.of(row, now, own) for row in rows]

        return self._elsewhere.nodes().addCallback(shown)

    def drain(self, node: int | None, *, drained: bool) -> Deferred[Drained]:
        """Have a node take and claim nothing new, or again; None is this one."""
        number = self._node.number if node is None else node

        def done(is_there: bool) -> Drained:  # noqa: FBT001
            if not is_there:
                raise InvalidParams(
                    f"taskd.drain: there is no node {number} now: taskd.nodes lists those that there are",
                    argument="node",
                )
            return Drained(drained, number)

        return self._node.drain(number, drained=drained).addCallback(done)
