"""The report of a drill, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from taskd.drill.findings import FAULTS, Findings, Takeover
from taskd.drill.plan import How
from taskd.drill.report import MOST_SHOWN, TITLES, About, report_object, report_text

ABOUT = About(
    began="2026-11-28 09:00:00 +0000",
    seconds=60.0,
    version="taskd 1.2",
    store="SQLite",
    nodes=1,
    workers=4,
    rate=50.0,
    targets=["nodes", "workers"],
    seed=7,
)


def findings(**more: Any) -> Findings:
    given = {
        "seconds": 60.0,
        "asked": 1010,
        "accepted": 1010,
        "states": Counter(succeeded=1000, set_aside=10),
        "kills": Counter({"worker killed": 12, "node killed": 1}),
        "delays": [0.002, 0.004, 3.5],
        "takeovers": [
            Takeover(1.0, 0.0, How.WORKER, "1.1", 2, 0.25, 0.1),
            Takeover(2.0, 0.0, How.WORKER, "1.1", 1, None, None),
        ],
        **more,
    }
    return Findings(**given)


def lines(found: Findings, about: About = ABOUT) -> dict[str, str]:
    """Return the report's lines by what they begin with."""
    parted = (line.partition("  ") for line in report_text(about, found).splitlines())
    return {name: " ".join(text.split()) for name, _, text in parted}


class TextTests(SynchronousTestCase):
    def test_a_report_without_faults_begins_with_that(self) -> None:
        self.assertEqual(report_text(ABOUT, findings()).splitlines()[0], "taskd drill: nothing was lost")

    def test_kills_and_counts_are_named(self) -> None:
        shown = lines(findings())
        self.assertEqual(shown["the drill"], "killed a node 1×, killed a worker 12×")  # noqa: RUF001
        self.assertEqual(shown["accepted"], "1,010 tasks")
        self.assertEqual(shown["settled"], "1,010 1,000 succeeded, 10 set aside")
        self.assertEqual(shown["began"], "2026-11-28 09:00:00 +0000; 60 s of load; seed 7")
        self.assertEqual(shown["started"], "half within 4 ms, 99 % within 3.5 s, all within 3.5 s")
        self.assertEqual(
            shown["worker killed"],
            "2 times, under 3 runs, which began again within 250 ms; the next task of any kind began "
            "within 100 ms",
        )

    def test_each_kind_of_fault_has_a_line_with_its_number(self) -> None:
        shown = lines(findings())
        for kind, what in FAULTS.items():
            self.assertEqual(shown[TITLES[kind]], f"0 {what}")

    def test_a_report_with_faults_begins_with_their_numbers_and_has_the_first_of_them(self) -> None:
        texts = [f"task {number}" for number in range(MOST_SHOWN + 2)]
        text = report_text(ABOUT, findings(lost=texts, stale=["task x"]))
        self.assertEqual(text.splitlines()[0], "taskd drill: FAILED: 7 lost, 1 stale outcomes")
        self.assertIn(f"- task {MOST_SHOWN - 1}\n- and 2 more", text)
        self.assertIn("- task x", text)

    def test_a_report_that_proves_nothing_does_not_claim_that_nothing_was_lost(self) -> None:
        for found in (
            findings(is_complete=False, unsettled=3),
            findings(was_read=False, is_complete=False),
            findings(asked=0, accepted=0, states=Counter(), delays=[], takeovers=[]),
        ):
            self.assertNotIn("nothing was lost", report_text(ABOUT, found))

    def test_an_interrupted_drill_names_the_seconds_that_it_had(self) -> None:
        shown = lines(findings(was_interrupted=True, seconds=8.25))
        self.assertIn("8.2 of 60 s of load, then interrupted", shown["began"])

    def test_exceptions_from_the_rule_are_named(self) -> None:
        shown = lines(
            findings(
                asked=1015,
                joined_again=3,
                batches=2,
                refused=Counter(unreachable=4),
                lost_with_worker=5,
                repeated=Counter({"its node was killed": 6}),
                late=7,
                late_bound=10.0,
                unsettled=8,
            )
        )
        self.assertEqual(
            shown["accepted"], "1,010 tasks, 2 batches among them; 3 were submitted more than once"
        )
        self.assertEqual(shown["refused"], "4 submits, each sent again: 4 unreachable")
        self.assertEqual(shown["ran again"], "6 6 its node was killed")
        for name, count in (("given up", 5), ("late", 7), ("not accepted", 5), ("not settled yet", 8)):
            self.assertTrue(shown[name].startswith(f"{count} "), name)


class ObjectTests(SynchronousTestCase):
    def test_every_number_of_the_text_is_in_the_object(self) -> None:
        shown = report_object(ABOUT, findings(lost=["task 1"]), 1)
        self.assertEqual(shown, json.loads(json.dumps(shown)))
        self.assertEqual((shown["verdict"], shown["status"], shown["lost"]), ("FAILED: 1 lost", 1, 1))
        self.assertEqual((shown["accepted"], shown["settled"], shown["stale"]), (1010, 1010, 0))
        self.assertEqual(shown["faults"], {"lost": ["task 1"]})
        self.assertEqual((shown["nodes"], shown["node_faults"]), (1, 0))
        self.assertEqual(shown["delay"], {"p50": 0.004, "p99": 3.5, "max": 3.5})
        self.assertEqual(shown["takeovers"][1]["again"], None)

    def test_a_store_that_was_not_read_has_no_number_of_settled_tasks(self) -> None:
        shown = report_object(ABOUT, findings(was_read=False, delays=[]), 130)
        self.assertEqual((shown["settled"], shown["delay"]), (None, None))
