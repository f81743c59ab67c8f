"""The report of a drill: plain text that can be shown to anybody, and an object for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskd.drill.findings import FAULTS, Findings, Takeover
from taskd.drill.plan import How

__all__ = ["About", "report_object", "report_text"]

MOST_SHOWN = 5
"""Faults of each kind that are written out; the object has all of them."""

TITLES = {
    "lost": "lost",
    "ended_twice": "ended twice",
    "once_twice": "once, ran twice",
    "stale": "stale outcomes",
    "accepted_twice": "accepted twice",
    "contradicted": "contradictions",
    "unexplained": "unexplained",
    "wrong": "wrong",
    "node_faults": "faults of nodes",
}
"""The kinds of faults, as the report for people names them."""

ACTIONS = {
    How.WORKER: "killed a worker",
    How.KILL: "killed a node",
    How.STOP: "stopped a node",
    How.FREEZE: "froze a node",
    How.CUT: "cut a link to the store",
    How.HOLD: "silenced a link to the store",
}

WIDTH = 18
"""Characters of the left column."""


@dataclass(frozen=True, slots=True)
class About:
    """The subject of a report: the configuration, and `began` as a text; `kept` is where the files are."""

    began: str
    seconds: float
    version: str
    store: str
    nodes: int
    workers: int
    rate: float
    targets: Sequence[str]
    seed: int
    kept: str | None = None


def report_object(about: About, found: Findings, status: int) -> dict[str, Any]:
    """Return the report for programs."""
    faults = found.faults()
    return {
        "verdict": _verdict(found),
        "status": status,
        "began": about.began,
        "seconds": about.seconds,
        "loaded": round(found.seconds, 3),
        "interrupted": found.was_interrupted,
        "version": about.version,
        "store": about.store,
        "nodes": about.nodes,
        "workers": about.workers,
        "rate": about.rate,
        "targets": list(about.targets),
        "seed": about.seed,
        "kept": about.kept,
        "kills": dict(found.kills),
        "asked": found.asked,
        "accepted": found.accepted,
        "not_accepted": found.asked - found.accepted,
        "batches": found.batches,
        "refused": dict(found.refused),
        "resent": found.joined_again,
        "settled": found.settled if found.was_read else None,
        "unsettled": found.unsettled,
        "states": dict(found.states),
        "runs": found.runs,
        "retried": found.retried,
        "repeated": dict(found.repeated),
        "once_lost": found.lost_with_worker,
        "late": found.late,
        "late_bound": found.late_bound,
        "delay": _delays(found),
        "takeovers": [
            {
                "at": round(each.at, 3),
                "seconds": round(each.seconds, 3),
                "what": each.how,
                "node": each.life,
                "cut": each.cut,
                "again": _rounded(each.again),
                "silence": _rounded(each.silence),
            }
            for each in found.takeovers
        ],
        **{kind: len(faults.get(kind, ())) for kind in FAULTS},
        "faults": faults,
    }


def report_text(about: About, found: Findings) -> str:
    """Return the report for people."""
    lines = [f"taskd drill: {_verdict(found)}", ""]
    load = f"{about.seconds:g} s of load"
    if found.was_interrupted:
        load = f"{found.seconds:.1f} of {load}, then interrupted"
    lines += _row("began", f"{about.began}; {load}; seed {about.seed}")
    nodes = "1 node" if about.nodes == 1 else f"{about.nodes} nodes on this machine"
    lines += _row("configuration", f"{nodes} with {about.workers} workers; {about.store}; {about.version}")
    lines += _row("load", f"{about.rate:g} tasks a second from clients that submit each until it is accepted")
    lines += _row("the drill", _done(found.kills) or "nothing")
    lines += ["", *_counts(found), "", *_times(found)]
    for kind, texts in found.faults().items():
        lines += ["", f"{TITLES[kind]}: {FAULTS[kind]}"]
        lines += [f"- {text}" for text in texts[:MOST_SHOWN]]
        if len(texts) > MOST_SHOWN:
            lines.append(f"- and {len(texts) - MOST_SHOWN} more (--json has them all)")
    if about.kept is not None:
        lines += ["", *_row("files", about.kept)]
    return "\n".join(lines)


def _verdict(found: Findings) -> str:
    if faults := found.faults():
        return "FAILED: " + ", ".join(f"{len(texts):,} {TITLES[kind]}" for kind, texts in faults.items())
    if not found.is_complete:
        return "cut short before everything could be compared"
    if not found.accepted:
        return "nothing was accepted, so nothing is proved"
    return "nothing was lost"


def _counts(found: Findings) -> list[str]:
    resent = f"; {found.joined_again:,} were submitted more than once" if found.joined_again else ""
    batches = f", {found.batches:,} batches among them" if found.batches else ""
    lines = _count("accepted", found.accepted, f"tasks{batches}{resent}")
    if missing := found.asked - found.accepted:
        lines += _count("not accepted", missing, "tasks, whose clients know that")
    refused = _listed(found.refused)
    lines += _count(
        "refused", found.refused.total(), f"submits, each sent again: {refused}" if refused else ""
    )
    if not found.was_read:
        return [*lines, *_row("settled", "what is stored was not read")]
    states = _listed(Counter({state.replace("_", " "): n for state, n in found.states.items()}))
    lines += _count("settled", found.settled, states)
    if found.unsettled:
        lines += _count("not settled yet", found.unsettled, "tasks and batches: the drill was cut short")
    for kind, what in FAULTS.items():
        lines += _count(TITLES[kind], len(getattr(found, kind)), what)
    lines += _count("ran again", found.repeated.total(), _listed(found.repeated) or "no run was cut off")
    lines += _count("tried again", found.retried, "runs after an error of the function, as planned")
    if found.lost_with_worker:
        what = "tasks that run once at most: a kill hit them, so they have failed and did not run again"
        lines += _count("given up", found.lost_with_worker, what)
    late = f"tasks that started more than {found.late_bound:g} s after they were accepted and due"
    return [*lines, *_count("late", found.late, late)]


def _times(found: Findings) -> list[str]:
    lines = []
    if found.delays:
        half, most, longest = (_percentile(found.delays, share) for share in (0.5, 0.99, 1.0))
        text = f"half within {_seconds(half)}, 99 % within {_seconds(most)}, all within {_seconds(longest)}"
        lines += _row("started", text)
    for how in How:
        if after := [each for each in found.takeovers if each.how == how]:
            lines += _row(str(how), _after(after))
    return lines


def _after(after: Sequence[Takeover]) -> str:
    cut = sum(each.cut for each in after)
    text = f"{len(after):,} times, under {cut:,} runs"
    if again := [each.again for each in after if each.again is not None]:
        text += f", which began again within {_seconds(max(again))}"
    if silences := [each.silence for each in after if each.silence is not None]:
        text += f"; the next task of any kind began within {_seconds(max(silences))}"
    return text


def _row(name: str, text: str) -> list[str]:
    return [f"{name:<{WIDTH}}{text}".rstrip()]


def _count(name: str, count: int, text: str) -> list[str]:
    return [f"{name:<{WIDTH}}{count:>9,}  {text}".rstrip()]


def _done(kills: Counter[str]) -> str:
    return ", ".join(f"{ACTIONS[How(how)]} {count:,}×" for how, count in sorted(kills.items()))  # noqa: RUF001


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common())


def _delays(found: Findings) -> dict[str, float] | None:
    if not found.delays:
        return None
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(_percentile(found.delays, share), 6) for name, share in shares.items()}


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
