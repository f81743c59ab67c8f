"""Batches for people: their counts in words, and their live progress."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taskd.cli.console import duration
from taskd.cli.progress_view import ProgressView
from taskd.cli.stored_view import moment, state_text
from taskd.model import Progress
from taskd.printable import printable

__all__ = ["batch_lines", "batch_text", "show_batch"]


def batch_text(counts: dict[str, Any]) -> str:
    """Format the counts of a batch, or of an event of one: ``996 done, 4 failed, of 1000``."""
    shown = [f"{counts.get(name, 0)} {name}" for name in ("done", "failed")]
    shown += [f"{counts['cancelled']} cancelled"] if counts.get("cancelled") else []
    return f"{', '.join(shown)}, of {counts['total']}"


def batch_lines(batch: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about a batch as a whole."""
    yield f"{batch['batch']}  batch of {printable(batch['function'])}: {state_text(batch)}"
    yield f"submitted {moment(batch['created'])}"
    if batch.get("ended") is not None:
        yield f"ended {moment(batch['ended'])}, after {duration(batch['ended'] - batch['created'])}"
    yield batch_text(batch)
    if batch.get("then"):
        yield f"then {printable(batch['then']['function'])}, as task {batch['then']['task']}"


def show_batch(view: ProgressView, counts: dict[str, Any]) -> None:
    """Show the counts of a batch as its progress: how many of its tasks have ended."""
    ended = [counts.get(name, 0) for name in ("done", "failed", "cancelled")]
    failed = f"{ended[1]} failed" if ended[1] else None
    view.show(Progress(sum(ended), counts["total"], failed))
