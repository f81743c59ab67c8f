"""The task on ampoule: what its workers import."""

from __future__ import annotations

from ampoule.child import AMPChild
from twisted.protocols import amp


class Echo(amp.Command):
    """Return what was given."""

    arguments = [(b"value", amp.Integer())]
    response = [(b"value", amp.Integer())]


class Child(AMPChild):
    """What runs in a worker."""

    @Echo.responder
    def echo(self, value: int) -> dict[str, int]:
        """Return what was given."""
        return {"value": value}
