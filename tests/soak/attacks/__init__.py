"""The attackers: each does one thing, again and again, that must cost nobody but itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.soak.attacks import crowds, floods, heads, holding, leaving, refusals, strangers, websockets
from tests.soak.attacks.attacker import Attacker, Target

__all__ = ["ATTACKS", "Attack", "Attacker", "Target"]


@dataclass(frozen=True)
class Attack:
    """An attack, which goes on until it is cancelled, and what the server needs for it to be one.

    `descriptors` limits those of the daemon, 0 means that it keeps its limit. `reads_log` is False if
    nobody reads the daemon's log meanwhile.
    """

    run: Callable[[Attacker], Awaitable[None]]
    descriptors: int = 0
    reads_log: bool = True


ATTACKS: dict[str, Attack] = {
    "leave": Attack(leaving.leave),
    "leave-websocket": Attack(leaving.leave_websockets),
    "flood-status": Attack(floods.flood_of_status),
    "flood-cancel": Attack(floods.flood_of_cancels),
    "flood-errors": Attack(floods.flood_of_errors),
    "flood-batches": Attack(floods.flood_of_batches),
    "flood-websocket": Attack(floods.flood_of_websocket_errors),
    "flood-long": Attack(floods.flood_of_long_messages),
    "flood-long-websocket": Attack(floods.flood_of_long_websocket_messages),
    "flood-connections": Attack(floods.flood_of_connections),
    "flood-pings": Attack(floods.flood_of_pings),
    "protocols": Attack(strangers.other_protocols),
    "pages": Attack(strangers.other_pages),
    "hold-order": Attack(holding.replies_held_for_order),
    "hold-batch": Attack(holding.replies_of_a_batch),
    "hold-gone": Attack(holding.replies_of_the_gone),
    "hold-unread": Attack(holding.replies_unread),
    "hold-websocket": Attack(holding.websocket_replies_unread),
    "hold-progress": Attack(holding.reports_unread),
    "hold-arguments": Attack(holding.arguments_that_wait),
    "hold-lines": Attack(holding.lines_that_do_not_end),
    "log": Attack(crowds.failures, reads_log=False),
    "failures": Attack(crowds.failures),
    "crowd": Attack(crowds.crowd),
    "crowd-urgent": Attack(crowds.urgent_crowd),
    "crowd-websocket": Attack(crowds.crowd_of_websockets),
    "crowd-batches": Attack(crowds.crowd_of_batches, descriptors=1024),
    "descriptors": Attack(crowds.idle_connections, descriptors=1024),
    "bodies": Attack(heads.bodies),
    "heads": Attack(heads.long_heads),
    "trickles": Attack(heads.trickles),
    "refusals": Attack(refusals.refusals),
    "websockets": Attack(websockets.websockets_that_go),
    "numbers": Attack(websockets.numbers_of_others),
}
"""The attacks by name."""
