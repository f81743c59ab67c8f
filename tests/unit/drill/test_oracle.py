"""The oracle of a drill: each thing that must not happen is found, and what a kill explains is none of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from taskd.drill.evidence import Evidence, Follower, Stored, StoredBatch
from taskd.drill.findings import FAULTS, Findings
from taskd.drill.oracle import judge
from taskd.drill.plan import How, Kill
from taskd.drill.runs import Run
from taskd.drill.task_log import Logged
from taskd.drill.work import Asked, AskedBatch
from taskd.errors import WorkerLost

BEGAN = 1000.0
"""When the load began, in seconds since 1970."""

PID, OTHER_PID = 71, 72


def asked(number: int = 1, function: str = "quick", **more: Any) -> Asked:
    return Asked(number, function, **{"task": f"id-{number}", "accepted": BEGAN, "tries": 1, **more})


def run(number: int = 1, name: str = "a", begun: float = 0.1, ended: float | None = 0.2, **more: Any) -> Run:
    """Return a run; the times count from the beginning of the load."""
    given = {"attempt": 1, "life": "1.1", "pid": PID, **more}
    return Run(
        number=number,
        task=f"id-{number}",
        name=name,
        begun=BEGAN + begun,
        ended=None if ended is None else BEGAN + ended,
        **given,
    )


def log(*words: str) -> list[Logged]:
    """Return a log: its events by their names, where a number is the start of that attempt."""
    return [
        Logged(seq, "started", int(word)) if word.isdigit() else Logged(seq, word)
        for seq, word in enumerate(("queued", *words), 1)
    ]


def stored(number: int = 1, function: str = "quick", state: str = "succeeded", **more: Any) -> Stored:
    attempts = more.get("attempts", 1)
    given = {
        "attempts": attempts,
        "ended": BEGAN + 0.2,
        "args": [number],
        "result": [number, "a"] if state == "succeeded" else None,
        "events": log(*map(str, range(1, attempts + 1)), state),
        **more,
    }
    return Stored(task=f"id-{number}", function=function, state=state, **given)


def kill(how: How, at: float, until: float | None = None, life: str = "1.1", pid: int = 0) -> Kill:
    return Kill(BEGAN + at, how, life, pid, BEGAN + (at if until is None else until))


def evidence(*given: Asked | Run | Stored | Kill | AskedBatch | StoredBatch, **more: Any) -> Evidence:
    """Sort what is given into evidence; runs are in the order in which they began."""
    runs: dict[str, list[Run]] = {}
    for order, each in enumerate(each for each in given if isinstance(each, Run)):
        each.order = order
        runs.setdefault(each.task, []).append(each)
    return Evidence(
        asked=[each for each in given if isinstance(each, Asked)],
        batches=[each for each in given if isinstance(each, AskedBatch)],
        stored={each.task: each for each in given if isinstance(each, Stored)},
        stored_batches={each.batch: each for each in given if isinstance(each, StoredBatch)},
        runs=runs,
        kills=[each for each in given if isinstance(each, Kill)],
        **more,
    )


class OracleTests(SynchronousTestCase):
    def judged(self, *given: Any, **more: Any) -> Findings:
        return judge(evidence(*given, **more))

    def must_find(self, kind: str, *given: Any, count: int = 1, **more: Any) -> Findings:
        """Check that this has faults of this kind and of no other."""
        found = self.judged(*given, **more)
        self.assertEqual({name: len(texts) for name, texts in found.faults().items()}, {kind: count}, found)
        return found

    def must_be_clean(self, *given: Any, **more: Any) -> Findings:
        found = self.judged(*given, **more)
        self.assertEqual(found.faults(), {})
        return found


class TaskTests(OracleTests):
    def test_a_task_that_was_accepted_and_has_run_once_is_settled(self) -> None:
        found = self.must_be_clean(asked(), run(), stored())
        self.assertEqual((found.accepted, found.settled, found.runs), (1, 1, 1))
        self.assertTrue(found.is_complete)

    def test_a_task_that_was_never_accepted_may_be_missing(self) -> None:
        found = self.must_be_clean(asked(task=None))
        self.assertEqual((found.asked, found.accepted), (1, 0))

    def test_a_task_that_was_accepted_and_is_not_stored_is_lost(self) -> None:
        self.must_find("lost", asked(), run())

    def test_a_task_that_never_ends_is_lost(self) -> None:
        for state in ("scheduled", "waiting", "running"):
            self.must_find("lost", asked(), stored(state=state))

    def test_a_task_that_has_not_ended_when_the_drill_is_cut_short_is_not_settled(self) -> None:
        found = self.must_be_clean(asked(), stored(state="waiting"), has_settled=False)
        self.assertEqual((found.unsettled, found.is_complete), (1, False))

    def test_a_store_that_was_not_read_loses_nothing_and_proves_nothing(self) -> None:
        found = self.must_be_clean(asked(), was_read=False)
        self.assertFalse(found.is_complete)

    def test_two_ends_in_a_log_are_found(self) -> None:
        self.must_find("ended_twice", asked(), run(), stored(events=log("1", "succeeded", "succeeded")))
        self.must_find("ended_twice", asked(), run(), stored(events=log("1", "failed", "succeeded")))

    def test_a_wrong_log_is_found(self) -> None:
        for events in (log("1"), log("1", "failed"), log("succeeded", "1"), log("2", "succeeded"), []):
            found = self.judged(asked(), run(), stored(events=events))
            self.assertEqual(set(found.faults()), {"wrong"}, events)

    def test_numbers_in_a_log_that_do_not_grow_are_found(self) -> None:
        events = log("1", "succeeded")
        self.must_find("wrong", asked(), run(), stored(events=[events[1], events[0], events[2]]))

    def test_a_token_with_two_tasks_is_found(self) -> None:
        second = msgspec.structs.replace(stored(), task="id-2")
        self.must_find("accepted_twice", asked(), run(), stored(), second)

    def test_a_task_that_is_stored_as_another_is_found(self) -> None:
        self.must_find("wrong", asked(), run(), stored(args=[2]))
        self.must_find("wrong", asked(), run(), stored(function="flaky"))

    def test_a_result_that_no_run_has_returned_is_found(self) -> None:
        self.must_find("wrong", asked(), stored())
        self.must_find("wrong", asked(), run(), stored(result=[1, "b"]))
        self.must_find("wrong", asked(), run(), stored(result=[2, "a"]))
        self.must_find("wrong", asked(), run(ended=None), stored())
        self.must_find("wrong", asked(), run(), stored(result="a"))

    def test_a_failure_that_nothing_explains_is_found(self) -> None:
        for state in ("failed", "cancelled", "expired", "set_aside"):
            self.must_find("wrong", asked(), run(), stored(state=state))

    def test_a_task_whose_processes_have_died_twice_may_be_set_aside(self) -> None:
        self.must_be_clean(asked(), stored(state="set_aside", losses=2, attempts=2))

    def test_a_node_that_died_or_logged_a_bug_is_a_fault(self) -> None:
        self.must_find("node_faults", died=["node 1.1"], log_faults=["a bug"], count=2)


class RunTests(OracleTests):
    def test_a_run_that_is_repeated_without_a_kill_is_found(self) -> None:
        runs = [run(ended=None), run(name="b", begun=0.5, ended=0.6, attempt=2)]
        result = stored(attempts=2, result=[1, "b"], ended=BEGAN + 0.6)
        self.must_find("unexplained", asked(), *runs, result)

    def test_a_run_that_is_repeated_after_a_kill_of_its_worker_is_explained(self) -> None:
        runs = [run(ended=None), run(name="b", begun=0.5, ended=0.6, attempt=2, pid=OTHER_PID)]
        result = stored(attempts=2, result=[1, "b"], ended=BEGAN + 0.6)
        found = self.must_be_clean(asked(), *runs, result, kill(How.WORKER, 0.3, pid=PID))
        self.assertEqual(found.repeated, Counter({"its worker was killed": 1}))
        (after,) = found.takeovers
        self.assertEqual(after.cut, 1)
        self.assertAlmostEqual(after.again, 0.2)

    def test_a_kill_explains_nothing_elsewhere_or_at_another_time(self) -> None:
        runs = [run(ended=None), run(name="b", begun=0.5, ended=0.6, attempt=2)]
        result = stored(attempts=2, result=[1, "b"], ended=BEGAN + 0.6)
        for other in (
            kill(How.WORKER, 0.3, pid=OTHER_PID),
            kill(How.WORKER, 0.05, pid=PID),
            kill(How.WORKER, 0.55, pid=PID),
            kill(How.KILL, 0.3, life="2.1"),
        ):
            self.must_find("unexplained", asked(), *runs, result, other)

    def test_a_node_that_is_in_touch_again_may_still_end_what_it_runs(self) -> None:
        runs = [run(begun=8.0, ended=None), run(name="b", begun=11.0, ended=11.1, life="2.1", attempt=2)]
        result = stored(attempts=2, result=[1, "b"], ended=BEGAN + 11.1)
        found = self.must_be_clean(asked(), *runs, result, kill(How.HOLD, 1.0, 7.5))
        self.assertEqual(found.repeated, Counter({"the link to the store was silent": 1}))
        self.must_find("unexplained", asked(), *runs, result, kill(How.HOLD, -9.0, -3.0))
        self.must_find("unexplained", asked(), *runs, result, kill(How.KILL, 1.0, 7.5))

    def test_a_run_whose_end_was_not_stored_before_its_node_died_is_explained(self) -> None:
        runs = [run(), run(name="b", begun=0.5, ended=0.6, life="1.2")]
        result = stored(result=[1, "b"], ended=BEGAN + 0.6)
        found = self.must_be_clean(asked(), *runs, result, kill(How.KILL, 0.3, 0.4))
        self.assertEqual(found.repeated, Counter({"its node was killed": 1}))

    def test_a_node_may_begin_late_what_it_had_before_it_was_frozen(self) -> None:
        runs = [
            run(name="a", begun=12.0, ended=12.5, life="2.1", attempt=2),
            run(name="b", begun=20.0, ended=20.1, life="1.1", attempt=1),
        ]
        result = stored(attempts=2, ended=BEGAN + 12.5)
        found = self.must_be_clean(asked(), *runs, result, kill(How.FREEZE, 0.1, 19.9))
        self.assertEqual(found.repeated, Counter({"a node that had been out of touch began it late": 1}))
        self.must_find("unexplained", asked(), *runs, result, kill(How.FREEZE, 0.1, 9.0))

    def test_a_node_may_begin_late_the_same_attempt_or_a_cancelled_task(self) -> None:
        runs = [
            run(name="a", begun=12.0, ended=12.5, life="2.1"),
            run(name="b", begun=20.0, ended=20.1, life="1.1"),
        ]
        frozen = kill(How.FREEZE, 0.1, 19.9)
        self.must_be_clean(asked(), *runs, stored(ended=BEGAN + 20.5), frozen)
        cancelled = asked(cancel_after=0.5, was="waiting", cancelled=BEGAN + 15)
        self.must_be_clean(cancelled, runs[1], stored(state="cancelled", ended=BEGAN + 15), frozen)

    def test_the_retries_of_a_function_are_no_repeated_runs(self) -> None:
        runs = [
            run(number=1, name=name, begun=at, ended=at, attempt=n)
            for n, (name, at) in enumerate([("x", 0.1), ("y", 0.2), ("a", 0.3)], 1)
        ]
        events = log("1", "retrying", "2", "retrying", "3", "succeeded")
        result = stored(function="flaky", attempts=3, errors=2, events=events, ended=BEGAN + 0.4)
        found = self.must_be_clean(asked(function="flaky"), *runs, result)
        self.assertEqual((found.retried, found.repeated.total()), (2, 0))

    def test_a_repeated_run_among_retries_is_recognised(self) -> None:
        runs = [
            run(name="x", begun=0.1, ended=0.1, attempt=1),
            run(name="y", begun=0.2, ended=0.2, attempt=2),
            run(name="a", begun=0.9, ended=0.9, attempt=3, life="1.2"),
        ]
        events = log("1", "retrying", "2", "lost", "3", "succeeded")
        result = stored(function="flaky", attempts=3, errors=1, events=events, ended=BEGAN + 1)
        found = self.must_be_clean(asked(function="flaky"), *runs, result, kill(How.KILL, 0.3, 0.8))
        self.assertEqual((found.retried, found.repeated), (1, Counter({"its node was killed": 1})))

    def test_a_task_that_runs_once_at_most_and_ran_again_is_found_whatever_was_killed(self) -> None:
        runs = [run(ended=None), run(name="b", begun=0.5, ended=0.6, life="1.2")]
        result = stored(function="once", result=[1, "b"], ended=BEGAN + 0.6)
        self.must_find("once_twice", asked(function="once"), *runs, result, kill(How.KILL, 0.3))

    def test_a_task_that_runs_once_at_most_may_fail_with_its_process(self) -> None:
        result = stored(function="once", state="failed", error={"code": WorkerLost.code}, losses=1)
        found = self.must_be_clean(asked(function="once"), run(ended=None), result, kill(How.KILL, 0.3))
        self.assertEqual(found.lost_with_worker, 1)

    def test_a_task_that_runs_once_at_most_must_not_fail_with_another_error(self) -> None:
        result = stored(function="once", state="failed", error={"code": -32000})
        self.must_find("wrong", asked(function="once"), run(), result)

    def test_the_result_of_an_earlier_attempt_is_stale(self) -> None:
        runs = [run(), run(name="b", begun=0.5, ended=0.6, attempt=2, life="1.2")]
        result = stored(attempts=2, result=[1, "a"], ended=BEGAN + 0.7)
        self.must_find("stale", asked(), *runs, result, kill(How.KILL, 0.3))

    def test_the_result_of_a_node_that_had_lost_the_same_attempt_is_stale(self) -> None:
        runs = [run(), run(name="b", begun=0.5, ended=0.6, life="1.2")]
        result = stored(result=[1, "a"], ended=BEGAN + 0.7)
        self.must_find("stale", asked(), *runs, result, kill(How.KILL, 0.3))


class ClientTests(OracleTests):
    def test_a_client_that_was_answered_another_outcome_is_found(self) -> None:
        self.must_be_clean(asked(told=("succeeded", [1, "a"])), run(), stored())
        self.must_find("contradicted", asked(told=("succeeded", [1, "b"])), run(), stored())
        self.must_find("contradicted", asked(told=("worker lost", None)), run(), stored())
        failed = stored(function="once", state="failed", error={"code": WorkerLost.code})
        self.must_find("contradicted", asked(function="once", told=("succeeded", [1, "a"])), run(), failed)

    def test_a_task_that_was_cancelled_before_its_start_must_not_run(self) -> None:
        cancelled = asked(cancel_after=0.05, was="waiting", cancelled=BEGAN + 0.05)
        ended = stored(state="cancelled", attempts=0)
        self.must_be_clean(cancelled, ended)
        self.must_find("contradicted", cancelled, ended, run(begun=0.1))
        self.must_be_clean(replace(cancelled, was="running"), ended, run(begun=0.1))

    def test_a_task_that_was_cancelled_before_its_start_is_cancelled(self) -> None:
        cancelled = asked(cancel_after=0.5, was="scheduled", cancelled=BEGAN + 0.5)
        self.must_find("contradicted", cancelled, run(), stored())

    def test_submits_that_were_sent_again_are_counted(self) -> None:
        found = self.must_be_clean(asked(tries=3), run(), stored(), refused=Counter(unreachable=2))
        self.assertEqual((found.joined_again, found.refused.total()), (1, 2))


class BatchTests(OracleTests):
    def of(self, **more: Any) -> tuple[AskedBatch, StoredBatch]:
        counts = {"state": "succeeded", "done": 2, "total": 2, "then": Follower("closed", "id-9"), **more}
        return AskedBatch(1, [asked(1), asked(2)], "b"), StoredBatch("b", **counts)

    def tasks(self, result: Any = None) -> list[Any]:
        given = []
        for number in (1, 2):
            name = f"run-{number}"
            one = stored(number, batch="b", result=[number, name])
            given += [asked(number), run(number, name), one]
        then = stored(9, function="closed", args={}, result=result or ["b", 2, 0, 0, 2])
        return [*given, then]

    def test_a_batch_whose_counts_are_right_is_settled(self) -> None:
        self.assertEqual(self.must_be_clean(*self.of(), *self.tasks()).batches, 1)

    def test_wrong_counts_are_found(self) -> None:
        self.must_find("wrong", *self.of(done=1), *self.tasks(["b", 1, 0, 0, 2]))
        self.must_find("wrong", *self.of(), *self.tasks(["b", 1, 0, 0, 2]))

    def test_a_batch_or_the_call_at_its_end_can_be_lost(self) -> None:
        batch, kept = self.of()
        *tasks, then = self.tasks()
        self.must_find("lost", batch, *tasks, then)
        self.must_find("lost", batch, kept, *tasks)
        self.must_find("lost", *self.of(state="running"), *tasks, then)
        self.must_find("lost", *self.of(), *tasks, msgspec.structs.replace(then, state="waiting"))

    def test_a_batch_that_has_not_ended_when_the_drill_is_cut_short_is_not_settled(self) -> None:
        *tasks, then = self.tasks()
        found = self.must_be_clean(*self.of(state="running"), *tasks, then, has_settled=False)
        self.assertEqual(found.unsettled, 1)
        waiting = msgspec.structs.replace(then, state="waiting")
        found = self.must_be_clean(*self.of(), *tasks, waiting, has_settled=False)
        self.assertEqual(found.unsettled, 1)


class TimeTests(OracleTests):
    def test_a_start_long_after_the_task_was_due_is_late(self) -> None:
        late = [run(begun=12.0, ended=12.1)]
        found = self.must_be_clean(asked(), *late, stored(ended=BEGAN + 12.1), late=10.0)
        self.assertEqual((found.late, found.delays), (1, [12.0]))
        found = self.must_be_clean(asked(delay=5.0), *late, stored(ended=BEGAN + 12.1), late=10.0)
        self.assertEqual((found.late, found.delays), (0, [7.0]))

    def test_a_start_before_the_client_was_answered_is_not_late(self) -> None:
        self.assertEqual(self.must_be_clean(asked(accepted=BEGAN + 1), run(), stored()).delays, [0.0])

    def test_the_silence_after_a_kill_lasts_until_any_task_begins(self) -> None:
        found = self.must_be_clean(
            asked(), run(), stored(), kill(How.KILL, 0.05), kill(How.KILL, 0.5, life="1.2")
        )
        first, second = found.takeovers
        self.assertAlmostEqual(first.silence, 0.05)
        self.assertEqual((first.cut, first.again, second.silence), (0, None, None))

    def test_a_cancelled_run_was_not_cut_off_by_a_later_kill(self) -> None:
        cancelled = asked(cancel_after=0.1, was="running", cancelled=BEGAN + 0.15)
        ended = stored(state="cancelled", ended=BEGAN + 0.15)
        found = self.must_be_clean(cancelled, run(ended=None), ended, kill(How.KILL, 0.12))
        self.assertEqual(found.takeovers[0].cut, 0)

    def test_a_frozen_run_that_others_have_begun_again_was_cut_off(self) -> None:
        runs = [
            run(name="x", begun=0.1, ended=20.5, life="1.1"),
            run(name="a", begun=10.5, ended=10.6, life="2.1", attempt=2),
        ]
        frozen = kill(How.FREEZE, 0.2, 20.2)
        found = self.must_be_clean(asked(), *runs, stored(attempts=2, ended=BEGAN + 10.6), frozen)
        self.assertEqual(found.takeovers[0].cut, 1)
        self.assertAlmostEqual(found.takeovers[0].again, 10.3)

    def test_a_frozen_run_that_went_on_was_not_cut_off(self) -> None:
        frozen = kill(How.FREEZE, 0.15, 2.0)
        found = self.must_be_clean(asked(), run(ended=2.1), stored(ended=BEGAN + 2.1), frozen)
        self.assertEqual(found.takeovers[0].cut, 0)


class FaultTests(SynchronousTestCase):
    def test_every_kind_of_fault_is_a_list_of_the_findings(self) -> None:
        for kind in FAULTS:
            self.assertEqual(getattr(Findings(), kind), [], kind)
