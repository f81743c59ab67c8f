"""Every store against the one in memory: random batches, and the same answers from both."""

import itertools
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from taskd.store.audit import AuditEntry
from taskd.store.base import Changes, Filter, KeyedWant, Store
from taskd.store.batches import NewBatch, Rows
from taskd.store.copying import Copying, pages
from taskd.store.history import Figures, HistoryRow
from taskd.store.lines import LinesTarget, read_lines
from taskd.store.memory import MemoryStore
from taskd.store.postgres import PostgresStore
from taskd.store.records import (
    UNFINISHED,
    Accepted,
    Allowance,
    Event,
    Full,
    New,
    Settle,
    Shift,
    Start,
    State,
    Tick,
    first_seq,
)
from taskd.store.sqlite import SqliteStore
from taskd.store.sqlite_bulk import FEW
from tests.postgres_server import Database

FUNCTIONS = ("f", "g")
OWNERS = ("", "ann", "bob")
ALLOWANCES = (None, None, Allowance(3), Allowance(None, 12), Allowance(6, 30))
LIMIT_KEYS = (None, "", "1", "2")
SETTLED = (State.WAITING, State.SCHEDULED, State.SUCCEEDED, State.FAILED, State.CANCELLED, State.SET_ASIDE)


class StoreMachine(RuleBasedStateMachine):
    """Does the same to both stores. What a store acknowledges must be there after it is opened again."""

    make: staticmethod
    others: ClassVar[dict[str, Callable[[], Store]]]

    def __init__(self):
        super().__init__()
        self.model = MemoryStore()
        self.store = self.make()
        self.now = 1000.0
        self.numbers = itertools.count(1)
        self.ids = []
        self.running = {}
        self.batches = []
        self.sizes = {}

    def both(self, call):
        expected, answer = call(self.model), call(self.store)
        assert answer == expected
        return answer

    def write(self, **parts):
        """Write to both; of the events, only the order of those of one task counts."""
        batch = Changes(**parts)
        expected, written = self.model.write(batch, self.now), self.store.write(batch, self.now)
        for each in (expected, written):
            each.events.sort(key=lambda event: event.task)
        assert written == expected
        return written

    @rule(
        tasks=st.lists(
            st.tuples(
                st.sampled_from(FUNCTIONS), st.sampled_from((0.0, 5.0)), st.integers(0, 2),
                st.sampled_from((None, "a", "b")), st.sampled_from((None, "x", "y")),
                st.sampled_from((None, 2.0, 8.0)), st.sampled_from(LIMIT_KEYS), st.sampled_from(OWNERS),
            ),
            min_size=1, max_size=4,
        ),
        want=st.dictionaries(st.sampled_from(FUNCTIONS), st.integers(0, 4)),
        allowance=st.sampled_from(ALLOWANCES),
    )  # fmt: skip
    def submit(self, tasks, want, allowance):
        news = [
            New(
                f"{next(self.numbers):08}", function, b"[1]", priority=priority,
                due=self.now + delay if delay else 0.0,
                deadline=None if late is None else self.now + delay + late,
                key=key, token=token, batch="many" if len(tasks) > 2 else None, keep=20.0,
                is_fixed=token == "x", limit_key=limit_key, owner=owner,
            )
            for function, delay, priority, key, token, late, limit_key, owner in tasks
        ]  # fmt: skip
        allowances = {} if allowance is None else {new.id: allowance for new in news if new.owner}
        written = self.write(submits=news, want=want, allowances=allowances)
        accepted = [each for each in written.accepted if isinstance(each, Accepted)]
        self.ids += [each.id for each in accepted if not each.joined]
        self.start(written.claims)

    @rule(
        sizes=st.lists(st.integers(1, 3), max_size=3), delay=st.sampled_from((0.0, 5.0)),
        token=st.sampled_from((None, None, "x")), follows=st.booleans(), owner=st.sampled_from(OWNERS),
        allowance=st.sampled_from(ALLOWANCES), own=st.sampled_from((None, b'{"tenant":7}')),
    )  # fmt: skip
    def submit_batch(self, sizes, delay, token, follows, owner, allowance, own):
        name, then = f"{next(self.numbers):08}", None
        parts = [
            Rows(
                [f"{next(self.numbers):08}" for _ in range(size)],
                [b"[%d]" % each for each in range(size)],
                [None, "a", "b"][:size] if size > 1 else None,
            )
            for size in sizes
        ]
        if follows:
            then = New(f"{next(self.numbers):08}", "g", own, keep=20.0, owner=owner)
        due = self.now + delay if delay else 0.0
        task = New("", "f", due=due, batch=name, keep=20.0, limit_key="2", owner=owner)
        new = NewBatch(name, task, parts, token, then, keep=20.0)
        added = self.both(lambda store: store.batches.add(new, self.now, allowance if owner else None))
        if isinstance(added, Full):
            return
        if added.id == name:
            self.sizes[name] = sizes
            self.batches.append(name)
            self.ids += [each for part in parts for each in part.ids]
        if then is not None:
            self.ids.append(then.id)

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def unpack(self, data):
        batch = data.draw(st.sampled_from(self.batches))
        self.both(lambda store: store.batches.unpack(batch, self.now))

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), limit=st.integers(1, 5))
    def cancel_batch(self, data, limit):
        batch, after = data.draw(st.sampled_from([*self.batches, "unknown"])), ""
        self.both(lambda store: store.batches.cancel(batch))
        while after is not None:
            rows = self.both(lambda store: store.batches.cancel_rows(batch, after, limit, self.now))  # noqa: B023
            after = rows.last

    @rule(count=st.integers(0, 3), function=st.sampled_from(FUNCTIONS))
    def claim_and_start(self, count, function):
        self.start(self.write(want={function: count}).claims)

    def start(self, claims):
        own = self.write(starts=[Start(each.new.id, each.attempt + 1) for each in claims]).own
        assert own.starts == [True] * len(claims)
        self.running |= {each.new.id: each.attempt + 1 for each in claims}

    @rule(count=st.integers(1, 5), function=st.sampled_from(FUNCTIONS), data=st.data())
    def start_and_settle_at_once(self, count, function, data):
        starts, events, settles = [], [], []
        for each in self.write(want={function: count}).claims:
            task, attempt = each.new.id, each.attempt + 1
            how = data.draw(st.sampled_from(("begins", "ends", "notes", "is stale", "is misnumbered")))
            starts.append(Start(task, attempt + (how == "is stale")))
            if how == "notes":
                event = data.draw(st.sampled_from(("progress", "partial")))
                events.append(Event(task, first_seq(attempt) + 1, event, self.now - 1, b'{"value":"\xff"}'))
            if how != "begins":
                state = data.draw(st.sampled_from(SETTLED))
                outcome = data.draw(st.sampled_from((b'"done"', b'"\xff"', b'"%b"' % (5000 * b"x"))))
                due = self.now + 3 if state is State.SCHEDULED else 0.0
                seq = first_seq(attempt) + (0 if how == "is misnumbered" else 2)
                ended = None if state in UNFINISHED else outcome
                settles.append(
                    Settle(task, attempt, state, "ended", b'{"n":1}', ended, due, is_loss=True, seq=seq)
                )
        for task in sorted(self.running)[: data.draw(st.integers(0, 2))]:
            attempt = self.running[task]
            settles.append(
                Settle(task, attempt, State.SUCCEEDED, "succeeded", outcome=b"1", seq=first_seq(attempt) + 3)
            )
        own = self.write(starts=starts, events=events, settles=settles).own
        for start, is_own in zip(starts, own.starts, strict=True):
            if is_own:
                self.running[start.id] = start.attempt
        for settle, is_own in zip(settles, own.settles, strict=True):
            if is_own:
                del self.running[settle.id]

    @precondition(lambda self: self.running)
    @rule(data=st.data(), state=st.sampled_from(SETTLED), is_loss=st.booleans(), is_stale=st.booleans())
    def settle(self, data, state, is_loss, is_stale):
        task = data.draw(st.sampled_from(sorted(self.running)))
        attempt = self.running[task]
        due = self.now + 3 if state is State.SCHEDULED else 0.0
        outcome = None if state in UNFINISHED else b'"done"'
        settle = Settle(
            task,
            attempt - is_stale,
            state,
            state.name.lower(),
            b'{"n":1}',
            outcome,
            due,
            not is_loss,
            is_loss,
        )
        assert self.write(settles=[settle]).own.settles == [not is_stale]
        if not is_stale:
            del self.running[task]

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), state=st.sampled_from((State.CANCELLED, State.SUCCEEDED)))
    def settle_unstarted(self, data, state):
        task = data.draw(st.sampled_from(self.ids))
        record = self.model.get(task)
        if record is not None and record.state is State.WAITING:
            settle = Settle(task, record.attempt, state, state.name.lower())
            assert self.write(settles=[settle]).own.settles == [state is State.CANCELLED]

    @rule(
        name=st.sampled_from(("f", "nightly")),
        line=st.sampled_from(("every 5 s", "every 6 s")),
        ago=st.sampled_from((0.0, 0.5, 5.0)),
        key=st.sampled_from((None, "a")),
        has_task=st.booleans(),
    )
    def tick(self, name, line, ago, key, has_task):
        new = New(f"{next(self.numbers):08}", "f", key=key, keep=20.0) if has_task else None
        at = self.now - ago
        before = self.model.last_ticks().get(name)
        [accepted] = self.write(ticks=[Tick(name, line, at, new)]).ticked
        is_known = before is not None and before.line == line and before.at >= at
        assert (accepted is None) == (is_known or not has_task)
        if accepted is not None and not accepted.joined:
            self.ids.append(accepted.id)

    @rule(
        seconds=st.sampled_from((-30.0, 0.5, 30.0)),
        names=st.sets(st.sampled_from(("f", "nightly", "unknown"))),
    )
    def set_the_clock(self, seconds, names):
        self.now += seconds
        self.write(shift=Shift(seconds, names))

    @rule(limit=st.integers(1, 3))
    def expire(self, limit):
        overdue = self.both(lambda store: store.overdue(self.now, limit))
        settles = [Settle(task, 0, State.EXPIRED, "expired") for task in overdue.ids]
        assert self.write(settles=settles).own.settles == [True] * len(settles)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def report(self, data):
        task = data.draw(st.sampled_from(sorted(self.running)))
        seq = self.model.get(task).last_seq + data.draw(st.integers(0, 3))
        event = Event(task, seq, "progress", self.now, b'{"done":1}')
        self.write(events=[event])

    @rule(function=st.sampled_from(FUNCTIONS), count=st.integers(1, 3), taken=st.integers(0, 3))
    def claim_and_release(self, function, count, taken):
        claims = self.write(want={function: count}).claims
        self.start(claims[:taken])
        self.write(releases=[each.new.id for each in claims[taken:]])

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), puts_back=st.booleans())
    def by_hand(self, data, puts_back):
        task = data.draw(st.sampled_from([*self.ids, "unknown"]))
        self.write(**{"put_backs" if puts_back else "cancels": [task]})

    @rule(seconds=st.sampled_from((0.5, 3.0, 30.0)), limit=st.integers(1, 5))
    def time_passes(self, seconds, limit):
        self.now += seconds
        self.both(lambda store: store.promote(self.now, limit))
        before = len(self.model.find(Filter(), "", 10_000))
        self.both(lambda store: store.prune(self.now, 10_000))
        assert len(self.model.find(Filter(), "", 10_000)) <= before

    @rule(
        keys=st.one_of(st.none(), st.dictionaries(st.sampled_from(LIMIT_KEYS[1:]), st.integers(0, 3))),
        each=st.integers(0, 3), count=st.integers(0, 6), after=st.sampled_from(LIMIT_KEYS[1:]),
        claimed=st.dictionaries(st.sampled_from(LIMIT_KEYS), st.integers(0, 3)),
        with_unkeyed=st.booleans(), function=st.sampled_from(FUNCTIONS), starts=st.booleans(),
    )  # fmt: skip
    def claim_by_key(self, keys, each, count, after, claimed, with_unkeyed, function, starts):
        want = KeyedWant(count, keys, each, claimed, after, with_unkeyed)
        claims = self.write(want={function: want}).claims
        if starts:
            self.start(claims)
        else:
            self.write(releases=[each.new.id for each in claims])

    @rule(function=st.sampled_from(FUNCTIONS), paused=st.booleans())
    def pause(self, function, paused):
        self.both(lambda store: store.pause(function, paused=paused))

    @rule(once=st.sets(st.sampled_from(FUNCTIONS)))
    def restart(self, once):
        self.store = self.reopen(self.store)
        self.both(lambda store: store.rescue(self.now, once, b'"lost"'))
        self.running.clear()

    @rule(through=st.sampled_from(("memory", "file", "lines")))
    def move_through_another_store(self, through):
        """Copy everything to another store or to a file, and from there to a new store, which goes on."""
        self.restart(set())
        if through == "lines":
            lines = BytesIO()
            Copying(LinesTarget(lines), self.now, whole=True).run(pages(self.store.copies, whole=True))
            self.store.close()
            self.store = self.make()
            given = read_lines(lines.getvalue().splitlines(), "lines")
            Copying(self.store.copies, self.now, whole=True).run(given)
        else:
            other = self.others[through]()
            self.copy(self.store, other)
            self.store.close()
            self.store = self.make()
            self.copy(other, self.store)
            other.close()
        model = MemoryStore()
        self.copy(self.model, model)  # which numbers the entries of the audit log anew, as the others do
        self.model = model

    def copy(self, source, target):
        unfinished = MemoryStore()
        copying = Copying(unfinished.copies, self.now)
        copying.run(pages(source.copies, whole=False))
        assert copying.failed == []
        wanted = Filter(UNFINISHED)
        assert unfinished.find(Filter(), "", 10_000) == source.find(wanted, "", 10_000)
        assert unfinished.batches.find(None, "", 10_000) == source.batches.unended()
        copying = Copying(target.copies, self.now, whole=True)
        copying.run(pages(source.copies, whole=True))
        assert (copying.failed, +copying.known) == ([], {})
        again = Copying(target.copies, self.now, whole=True)
        again.run(pages(source.copies, whole=True))
        assert (again.failed, +again.copied, again.known) == ([], {}, copying.copied)

    @rule(
        states=st.one_of(st.none(), st.sets(st.sampled_from(State))), function=st.sampled_from((None, "f")),
        batch=st.sampled_from((None, "many", "")), key=st.sampled_from((None, "a")), limit=st.integers(1, 5),
        like=st.sampled_from((None, "0000000", "1", "00000002", "%", "_")), is_brief=st.booleans(),
        owner=st.sampled_from((None, *OWNERS)), error=st.sampled_from((None, b"on", b"los", b"%")),
        newest=st.booleans(),
    )  # fmt: skip
    def find(self, states, function, batch, key, limit, like, is_brief, owner, error, newest):
        batches = self.both(lambda store: store.batches.find(like, "", limit, owner, newest=newest))
        if batches:
            edge = batches[-1].id
            self.both(lambda store: store.batches.find(like, edge, limit, owner, newest=newest))
        wanted = Filter(states, function, batch, key, like, is_brief, owner, error, newest)
        first = self.both(lambda store: store.find(wanted, "", limit))
        if first:
            self.both(lambda store: store.find(wanted, first[-1].new.id, limit))

    @invariant()
    def both_are_alike(self):
        self.both(lambda store: store.find(Filter(), "", 10_000))
        self.both(lambda store: store.counts())
        self.both(lambda store: store.queued(100))
        self.both(lambda store: store.queued(2))
        self.both(lambda store: store.last_ticks())
        self.both(lambda store: store.batches.unended())
        for batch in self.batches[-3:]:
            record = self.both(lambda store: store.batches.get(batch))  # noqa: B023
            if record is not None and (record.ended is None or record.token is not None):
                tasks = self.both(lambda store: store.batches.tasks(batch))  # noqa: B023
                found = self.model.find(Filter(batch=batch), "", 1000)
                assert record.total == len(tasks)
                assert record.over >= sum(each.ended is not None for each in found)
                assert record.ended is None or record.is_stored
        self.both(lambda store: store.paused())
        for task in self.ids[-5:]:
            events = self.both(lambda store: store.events(task, 0, 1000))  # noqa: B023
            assert [each.seq for each in events] == sorted({each.seq for each in events})
            record = self.model.get(task)
            if record is not None and record.attempt:
                assert record.last_seq >= first_seq(record.attempt)

    @rule(
        rows=st.lists(
            st.tuples(st.sampled_from((60, 3600)), st.integers(0, 3), st.sampled_from(("", "f", "g")))
        ),
        ages=st.sampled_from((0, 86400, 90 * 86400)),
    )
    def keep_history(self, rows, ages):
        self.now += ages / 3
        figures = Figures(2, 1, longest_run=3.0, runs=[1, 0, 2])
        at = int(self.now)
        given = [
            HistoryRow(seconds, (at - ago * seconds) // seconds * seconds, function, figures)
            for seconds, ago, function in rows
        ]
        self.both(lambda store: store.history.add(given, self.now))
        for seconds, function in itertools.product((60, 3600), (None, "", "f")):
            self.both(lambda store: store.history.read(seconds, function, 0.0, 1000))  # noqa: B023
            self.both(lambda store: store.history.read(seconds, function, self.now - 3600, 2))  # noqa: B023

    @rule(
        given=st.lists(st.tuples(st.sampled_from(OWNERS), st.sampled_from(("cancel", "retry")))),
        before=st.integers(1, 9), owner=st.sampled_from((None, *OWNERS)),
    )  # fmt: skip
    def audit(self, given, before, owner):
        entries = [AuditEntry(self.now, name, "submit", action) for name, action in given]
        self.both(lambda store: store.audit.add(entries, self.now))
        self.both(lambda store: store.audit.read(None, 5, owner))
        self.both(lambda store: store.audit.read(before, 3, owner, "retry"))

    def teardown(self):
        for owner in OWNERS[1:]:  # as many wait as the stores have counted
            records = self.model.find(Filter((State.SCHEDULED, State.WAITING), owner=owner), "", 10_000)
            batches = [each for each in self.model.batches.unended() if each.task.owner == owner]
            waiting = len(records) + sum(sum(self.sizes[each.id][each.stored :]) for each in batches)
            new = New("~", "f", owner=owner)
            full = self.write(submits=[new], allowances={"~": Allowance(0)}).accepted[0]
            assert full.waiting == waiting
        self.store.close()


def check(make, reopen, others):
    parts = {"make": staticmethod(make), "reopen": staticmethod(reopen), "others": others}
    machine = type("Machine", (StoreMachine,), parts)
    case = machine.TestCase
    case.settings = settings(
        max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    case("runTest").runTest()


@pytest.mark.parametrize("few", [FEW, 0])
def test_a_file_answers_as_memory_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int):
    for module in ("sqlite_attempts", "sqlite_log"):
        monkeypatch.setattr(f"taskd.store.{module}.FEW", few)
    numbers = itertools.count()

    def make():
        return SqliteStore(str(tmp_path / f"{next(numbers)}.db"))

    def reopen(store):
        store.close()
        return SqliteStore(store.path)

    check(make, reopen, {"memory": MemoryStore, "file": make})


def test_a_database_answers_as_memory_does(database: Database, tmp_path: Path):
    PostgresStore(database.dsn).close()
    numbers = itertools.count()

    def make_file():
        return SqliteStore(str(tmp_path / f"{next(numbers)}.db"))

    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'taskd'"
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        names = sorted({name for (name,) in connection.execute(tables)} - {"schema_version"})

        def make():
            connection.execute(f"TRUNCATE {', '.join(f'taskd.{name}' for name in names)} RESTART IDENTITY")
            return PostgresStore(database.dsn)

        def reopen(store):
            store.close()
            return PostgresStore(database.dsn)

        check(make, reopen, {"memory": MemoryStore, "file": make_file})
