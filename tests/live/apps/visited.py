"""An app whose functions have parameters of every kind that a form knows."""

from __future__ import annotations

import time
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

from taskd import progress, task

Paper = Literal["A4", "A5", "Letter"]


@task
def send_invoice(customer: str, amount: float, due: date, *, copies: int = 1, paper: Paper = "A4") -> str:
    """Write an invoice, and send it to a customer."""
    return f"{copies} x {paper} for {customer}: {amount:.2f}, due {due.isoformat()}"


@task
def count_to(number: int, gate: str | None = None, note: str = "") -> dict[str, Any]:
    """Count to a number, slowly enough to watch."""
    for done in range(number):
        progress(done, number, f"at {done}")
        while gate is not None and int(Path(gate).read_text() or 0) <= done:
            time.sleep(0.01)
    progress(number, number)
    return {"counted": number, "note": note}


@task
def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


@task
def import_people(
    names: list[str], *, at: datetime | None = None, tidy: bool = True, extra: dict[str, Any] | None = None
) -> int:
    """Import people from a list of names, or from a file with a name in each line."""
    return len(names)


@task
def divide(numerator: float, denominator: float) -> float:
    """Divide a number by another."""
    return numerator / denominator
