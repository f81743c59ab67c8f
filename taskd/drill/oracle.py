"""The oracle of a drill: compares what was accepted with what was run and what is stored. It does no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from taskd.drill.evidence import UNFINISHED, Evidence, Stored, StoredBatch
from taskd.drill.findings import Findings
from taskd.drill.runs import Run
from taskd.drill.takeovers import Hits, delays, reason_of, takeovers
from taskd.drill.task_log import Logged, faults_of_log, has_ended_twice
from taskd.drill.work import Asked, AskedBatch
from taskd.errors import WorkerLost

__all__ = ["judge"]

MOST_LOSSES = 2
"""Losses after which a task is set aside."""

_NO_KILL = "no kill explains it"

_UNBEGUN = frozenset({"scheduled", "waiting"})


def judge(evidence: Evidence) -> Findings:
    """Return the findings."""
    return _Judge(evidence).findings


class _Judge:
    """Goes through the evidence once."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self.findings = found = Findings(
            seconds=evidence.seconds,
            was_interrupted=evidence.was_interrupted,
            refused=evidence.refused,
            late_bound=evidence.late,
            kills=Counter(str(kill.how) for kill in evidence.kills),
            node_faults=[*evidence.died, *evidence.log_faults],
            was_read=evidence.was_read,
            is_complete=evidence.was_read and evidence.has_settled,
        )
        self._accept()
        found.runs = sum(map(len, evidence.runs.values()))
        found.delays = delays(evidence)
        found.late = sum(delay > evidence.late for delay in found.delays)
        self._hits = Hits(evidence.kills)
        found.takeovers = takeovers(evidence, self._hits)
        self._check_runs()
        if not evidence.was_read:
            return
        for asked in evidence.asked:
            if asked.task is not None:
                self._check(asked, asked.task)
        for batch in evidence.batches:
            if batch.id is not None:
                self._check_batch(batch, batch.id)
        self._check_tokens()

    def _accept(self) -> None:
        found = self.findings
        for asked in self._evidence.asked:
            found.asked += 1
            found.accepted += asked.task is not None
            found.joined_again += asked.task is not None and asked.tries > 1
        found.batches = sum(batch.id is not None for batch in self._evidence.batches)

    # --- runs ---

    def _check_runs(self) -> None:
        functions = {asked.task: asked for asked in self._evidence.asked if asked.task is not None}
        for task, runs in self._evidence.runs.items():
            asked = functions.get(task)
            stored = self._evidence.stored.get(task)
            function = asked.function if asked else stored.function if stored else ""
            if function == "once" and len(runs) > 1:
                self.findings.once_twice.append(f"{asked or task} ran {len(runs)} times")
            if function == "flaky" and stored is None:
                continue  # nobody knows which of its runs were retries
            retried = _retried(runs, stored.events if stored else ())
            self.findings.retried += len(retried)
            for run, following in pairwise(runs):
                if run in retried:
                    continue
                reason = reason_of(run, following, self._hits)
                self.findings.repeated[reason or _NO_KILL] += 1
                if reason is None:
                    self.findings.unexplained.append(
                        f"{asked or task} began at {run.begun:.3f} in life {run.life} of its node, and again "
                        f"at {following.begun:.3f} in {following.life}"
                    )

    # --- tasks ---

    def _check(self, asked: Asked, task: str) -> None:
        found = self.findings
        stored = self._evidence.stored.get(task)
        if stored is None:
            found.lost.append(f"{asked} was accepted, and is not in the store")
            return
        if stored.state in UNFINISHED:
            if self._evidence.has_settled:
                found.lost.append(f"{asked} was accepted, and is still {stored.state}")
            else:
                found.unsettled += 1
            return
        found.states[stored.state] += 1
        if has_ended_twice(stored.events):
            found.ended_twice.append(f"{asked}: {[each.event for each in stored.events]}")
        else:
            faults = faults_of_log(stored.state, stored.attempts, stored.events)
            found.wrong += [f"{asked} {fault}" for fault in faults]
        if stored.number != asked.number or stored.function != asked.function:
            found.wrong.append(f"{asked} is stored as {stored.function} {stored.number}")
        runs = self._evidence.runs.get(task, ())
        if stored.state == "succeeded":
            self._check_result(asked, stored, runs)
        else:
            self._check_failure(asked, stored)
        self._check_answers(asked, stored, runs)

    def _check_result(self, asked: Asked, stored: Stored, runs: Sequence[Run]) -> None:
        result = stored.result
        name = result[1] if isinstance(result, list) and len(result) == len(("number", "run")) else None
        mine = next((run for run in runs if run.name == name), None)
        if mine is None or mine.ended is None or result[0] != asked.number:
            self.findings.wrong.append(f"{asked} has the result of no run of its own: {result}")
        elif mine.attempt != stored.attempts or self._is_superseded(mine, stored, runs):
            self.findings.stale.append(
                f"{asked} has the result of attempt {mine.attempt} in life {mine.life} of its node; the last "
                f"attempt is {stored.attempts}"
            )

    def _is_superseded(self, mine: Run, stored: Stored, runs: Sequence[Run]) -> bool:
        """Return whether another life had begun the same attempt before the end of this one was stored."""
        return any(
            other.order > mine.order
            and other.attempt == mine.attempt
            and other.life != mine.life
            and not self._hits.was_out_of_touch(other)
            and (stored.ended is None or other.begun < stored.ended)
            for other in runs
        )

    def _check_failure(self, asked: Asked, stored: Stored) -> None:
        if stored.state == "set_aside" and stored.losses >= MOST_LOSSES:
            return
        if stored.state == "cancelled" and (asked.cancel_after is not None):
            return
        if stored.state == "failed" and asked.function == "once" and _code_of(stored) == WorkerLost.code:
            self.findings.lost_with_worker += 1
            return
        self.findings.wrong.append(
            f"{asked} is {stored.state} after {stored.losses} losses, without a reason: {stored.error}"
        )

    def _check_answers(self, asked: Asked, stored: Stored, runs: Sequence[Run]) -> None:
        if asked.told is not None:
            state, result = asked.told
            if (state == "succeeded") is not (stored.state == "succeeded") or (
                state == "succeeded" and result != stored.result
            ):
                self.findings.contradicted.append(
                    f"{asked} is {stored.state} with {stored.result}, and its client got {asked.told}"
                )
        if asked.was in _UNBEGUN and asked.cancelled is not None:
            after = [
                run for run in runs if run.begun > asked.cancelled and not self._hits.was_out_of_touch(run)
            ]
            if stored.state != "cancelled" or after:
                self.findings.contradicted.append(
                    f"{asked} was cancelled at {asked.cancelled:.3f} while it was {asked.was}, is "
                    f"{stored.state}, and began at {[round(run.begun, 3) for run in runs]}"
                )

    def _check_tokens(self) -> None:
        numbers = Counter(
            stored.number for stored in self._evidence.stored.values() if stored.function != "closed"
        )
        for number, count in numbers.items():
            if count > 1:
                self.findings.accepted_twice.append(f"number {number} is stored {count} times")

    # --- batches ---

    def _check_batch(self, asked: AskedBatch, batch: str) -> None:
        found = self.findings
        stored = self._evidence.stored_batches.get(batch)
        if stored is None:
            found.lost.append(f"{asked} was accepted, and is not in the store")
        elif stored.state == "running":
            if self._evidence.has_settled:
                found.lost.append(f"{asked} was accepted, and has not ended")
            else:
                found.unsettled += 1
        else:
            self._check_ended_batch(asked, stored)

    def _check_ended_batch(self, asked: AskedBatch, stored: StoredBatch) -> None:
        found = self.findings
        tasks = [each for each in self._evidence.stored.values() if each.batch == stored.batch]
        states = Counter(each.state for each in tasks)
        counts = [
            states["succeeded"],
            states["failed"] + states["expired"] + states["set_aside"],
            states["cancelled"],
            len(asked.rows),
        ]
        if stored.counts != counts or len(tasks) != len(asked.rows):
            found.wrong.append(f"{asked} has the counts {stored.counts}, and its tasks are {dict(states)}")
        then = None if stored.then is None else self._evidence.stored.get(stored.then.task)
        if then is None:
            found.lost.append(f"{asked} has ended, and the call at its end is not in the store")
        elif then.state in UNFINISHED:
            if self._evidence.has_settled:
                found.lost.append(f"{asked} has ended, and the call at its end is {then.state}")
            else:
                found.unsettled += 1
        elif then.state != "set_aside" and then.result != [stored.batch, *stored.counts]:
            found.wrong.append(f"{asked} has the counts {stored.counts}; the call at its end has {then}")


def _retried(runs: Sequence[Run], events: Sequence[Logged]) -> list[Run]:
    """Return the runs that have failed and were tried again: the last of each attempt that the log has so."""
    last = {run.attempt: run for run in runs}
    found = []
    attempt = 0
    for event in events:
        if event.attempt is not None:
            attempt = event.attempt
        elif event.event == "retrying" and attempt in last:
            found.append(last[attempt])
    return found


def _code_of(stored: Stored) -> int | None:
    code = (stored.error or {}).get("code")
    return code if isinstance(code, int) else None
