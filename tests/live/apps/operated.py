"""An app for the operator's page: functions that fail, wait and run until a file is there."""

from __future__ import annotations

import time
from pathlib import Path

from taskd import progress, task


@task(durable=True, retries=1, backoff=0.01)
def deliver(parcel: str, gate: str) -> str:
    """Deliver a parcel, as soon as the gate is open."""
    print(f"carrying {parcel}")
    if not Path(gate).exists():
        raise PermissionError(f"the gate is closed for {parcel}")
    return f"delivered {parcel}"


@task(durable=True)
def guard(gate: str) -> int:
    """Run until the gate is open."""
    rounds = 0
    while not Path(gate).exists():
        rounds += 1
        progress(rounds)
        time.sleep(0.05)
    return rounds


@task(every=86400)
def sweep() -> None:
    """Sweep the yard once a day."""
