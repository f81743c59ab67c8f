"""The backend for Django's Tasks, with a real daemon: tests/live/test_django.py runs this on each Django."""

import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from bench.brokers import PostgreSQL
from tests.live.support import TIMEOUT, Daemon, Gate, bare, connect_unix, rpc

PROJECT = Path(__file__).parent / "django_project"
APP = ("--app", "taskd.contrib.django")
SHORT = 0.02
"""Seconds between two looks at a task."""


def has_postgres() -> bool:
    return any(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@pytest.fixture(scope="session", autouse=True)
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run PostgreSQL, if this machine has it, as the database ``postgres`` of the project."""
    if not has_postgres():
        yield
        return
    # Not below pytest's own directory, which PostgreSQL's user cannot enter.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        server = PostgreSQL(Path(directory, "postgres"))
        try:
            server.wait_until_ready()
            os.environ["SHOP_POSTGRES"] = str(server.port)
            yield
        finally:
            server.stop()


@pytest.fixture(scope="session", autouse=True)
def daemon(database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("django")
    os.environ["SHOP_DATABASE"] = str(directory / "shop.sqlite3")
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    os.environ["PYTHONPATH"] = str(PROJECT)
    sys.path.insert(0, str(PROJECT))
    socket = f"unix:{directory / 'socket'}"
    os.environ["TASKD_SERVER"] = socket
    os.environ["SHOP_SHARED"] = f"unix:{directory / 'shared'}"
    listen = ("--listen", "tcp:0:interface=127.0.0.1", "--listen", socket)
    daemon = Daemon(*APP, *listen, "--workers", "1", directory=directory)
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    try:
        yield daemon.wait_until_ready()
    finally:
        daemon.stop()
    daemon.wait_until_gone()
    assert "a bug in taskd" not in daemon.log
    assert "Unhandled" not in daemon.log


@pytest.fixture(scope="session")
def shared(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server whose store is the database ``postgres`` of the project."""
    if not has_postgres():
        pytest.skip("PostgreSQL is not installed")
    dsn = f"postgresql://postgres@127.0.0.1:{os.environ['SHOP_POSTGRES']}/postgres"
    listen = ("--listen", "tcp:0:interface=127.0.0.1", "--listen", os.environ["SHOP_SHARED"])
    directory = tmp_path_factory.mktemp("shared")
    server = Daemon(*APP, "--store", dsn, *listen, "--workers", "1", directory=directory)
    try:
        yield server.wait_until_ready()
    finally:
        server.stop()
    server.wait_until_gone()
    assert "a bug in taskd" not in server.log
    assert "Unhandled" not in server.log


def ended(result: Any, backend: Any = None) -> Any:
    """Wait until a task has ended, and return its result; `backend` is one that the settings do not name."""
    ending = time.monotonic() + TIMEOUT
    while not result.is_finished:
        assert time.monotonic() < ending, result
        time.sleep(SHORT)
        if backend is None:
            result.refresh()
        else:
            result = backend.get_result(result.id)
    return result


def notes(key: str) -> list[str]:
    from shop.models import Note

    return list(Note.objects.filter(key=key).order_by("pk").values_list("text", flat=True))


def test_a_task_is_ready_then_successful_and_its_result_says_when() -> None:
    from shop.tasks import add

    before = datetime.now(UTC)
    result = add.enqueue(1, b=2)
    assert (result.status, result.args, result.kwargs) == ("READY", [1], {"b": 2})
    assert (result.attempts, result.started_at, result.finished_at, result.errors) == (0, None, None, [])
    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value
    found = ended(add.get_result(result.id))
    assert (found.status, found.return_value, found.attempts) == ("SUCCESSFUL", 3, 1)
    assert (found.id, found.args, found.kwargs, found.backend) == (result.id, [1], {"b": 2}, "default")
    assert found.enqueued_at == result.enqueued_at
    assert found.task == add
    second = timedelta(seconds=1)  # two clocks, of which the server's has milliseconds
    assert before <= found.enqueued_at <= found.started_at + second
    assert found.started_at == found.last_attempted_at <= found.finished_at < datetime.now(UTC) + second


def test_signals_are_sent_where_the_task_is_enqueued_and_where_it_runs() -> None:
    from shop.tasks import add, fails_once

    result = ended(add.enqueue(1))
    assert set(notes(result.id)) == {"enqueued READY 0 0", "started RUNNING 1 0", "finished SUCCESSFUL 1 0"}
    result = ended(fails_once.enqueue())
    assert [note for note in notes(result.id) if not note.startswith("enqueued")] == [
        "started RUNNING 1 0",
        "finished FAILED 1 1",
        "started RUNNING 2 0",
        "finished SUCCESSFUL 2 0",
    ]


def test_a_task_that_raises_has_failed_with_its_exception_and_the_traceback() -> None:
    from shop.tasks import OutOfPaper, print_invoice

    result = ended(print_invoice.enqueue(7))
    assert (result.status, result.attempts) == ("FAILED", 1)
    (error,) = result.errors
    assert error.exception_class is OutOfPaper
    assert 'raise OutOfPaper(f"invoice {number}")' in error.traceback
    assert error.traceback.endswith("shop.tasks.OutOfPaper: invoice 7\n")
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value
    found = print_invoice.get_result(result.id)
    assert (found.task.queue_name, found.task.priority) == ("mail", 10)


def test_wrong_arguments_are_a_failure_of_the_task() -> None:
    from shop.tasks import add

    result = ended(add.enqueue(1, c=2))
    assert result.errors[0].exception_class is TypeError
    assert "unexpected keyword argument 'c'" in result.errors[0].traceback


def test_a_task_is_tried_again_as_often_as_its_backend_says() -> None:
    from shop.tasks import OutOfPaper, asks_for_another_attempt, fails_once, print_invoice

    result = ended(fails_once.enqueue())
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 2, 2)
    assert [error.exception_class for error in result.errors] == [OutOfPaper]
    assert result.started_at < result.last_attempted_at
    assert ended(asks_for_another_attempt.enqueue()).return_value == 2
    result = ended(print_invoice.using(backend="stubborn", queue_name="default").enqueue(1))
    assert (result.status, result.attempts, len(result.errors)) == ("FAILED", 2, 2)


def test_the_context_has_the_id_and_the_attempt() -> None:
    from shop.tasks import describe

    result = ended(describe.using(queue_name="mail").enqueue("word"))
    assert result.return_value == ["word", 1, result.id, "RUNNING", "mail", ["word"]]


def test_coroutines_run_and_use_the_database() -> None:
    from shop.tasks import OutOfPaper, add_async, fail_async

    result = ended(add_async.enqueue(5))
    assert result.return_value == [5, 1, 1]
    assert "finished SUCCESSFUL 1 0" in notes(result.id)
    result = ended(fail_async.enqueue())
    assert result.errors[0].exception_class is OutOfPaper
    assert "finished FAILED 1 1" in notes(result.id)


def test_a_task_may_enqueue_another() -> None:
    from shop.tasks import add, enqueue_add

    assert ended(add.get_result(ended(enqueue_add.enqueue(20)).return_value)).return_value == 22


def test_tasks_are_enqueued_and_found_from_coroutines() -> None:
    from shop.tasks import add

    async def go() -> Any:
        results = await asyncio.gather(*(add.aenqueue(number) for number in range(20)))
        assert len({result.id for result in results}) == 20
        found = [await add.aget_result(result.id) for result in results]
        while not all(result.is_finished for result in found):
            await asyncio.sleep(SHORT)
            await asyncio.gather(*(result.arefresh() for result in found))
        return [result.return_value for result in found]

    assert asyncio.run(go()) == list(range(20))


def test_views_enqueue_and_show(daemon: Daemon) -> None:
    from django.test import AsyncClient, Client
    from shop.tasks import add

    client = Client()
    task = client.get("/add/41").json()["id"]
    assert ended(add.get_result(task)).return_value == 42
    assert client.get(f"/task/{task}").json() == {"status": "SUCCESSFUL", "value": 42}

    async def go() -> str:
        return (await AsyncClient().get("/add-async/40")).json()["id"]

    assert ended(add.get_result(asyncio.run(go()))).return_value == 42


def test_threads_enqueue_at_the_same_time() -> None:
    from shop.tasks import add

    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.extend(add.enqueue(n) for n in range(5))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(ended(result).return_value for result in results) == sorted([*range(5)] * 4)


def test_a_deferred_task_is_not_run_before_its_time(daemon: Daemon) -> None:
    from django.utils import timezone
    from shop.tasks import add

    tomorrow = timezone.now() + timedelta(days=1)
    result = add.using(run_after=tomorrow).enqueue(1)
    found = add.get_result(result.id)
    assert (found.status, found.task.run_after, found.attempts) == ("READY", tomorrow, 0)
    shown = daemon.connect().ask(rpc(1, "taskd.get", task=result.id))["result"]
    assert shown["state"] == "scheduled"
    assert shown["due"] == pytest.approx(tomorrow.timestamp(), abs=0.01)
    soon = timezone.now() + timedelta(seconds=0.3)
    result = ended(add.using(run_after=soon).enqueue(1))
    assert result.started_at >= soon - timedelta(milliseconds=1)
    assert ended(add.using(run_after=soon - timedelta(days=1)).enqueue(1)).return_value == 1


def test_a_task_that_is_cancelled_has_failed(daemon: Daemon) -> None:
    from django.utils import timezone
    from shop.tasks import add

    from taskd.errors import Cancelled

    result = add.using(run_after=timezone.now() + timedelta(days=1)).enqueue(1)
    connection = daemon.connect()
    assert connection.ask(rpc(1, "taskd.cancel", task=result.id))["result"] == {"was": "scheduled"}
    connection.close()
    result.refresh()
    assert (result.status, result.attempts) == ("FAILED", 0)
    assert [error.exception_class for error in result.errors] == [Cancelled]


def test_times_have_no_zone_in_a_project_without_them() -> None:
    from django.test import override_settings
    from shop.tasks import add

    with override_settings(USE_TZ=False):
        soon = datetime.now(ZoneInfo("Europe/Berlin")).replace(tzinfo=None) + timedelta(seconds=0.1)
        result = ended(add.using(run_after=soon).enqueue(1))
        found = add.get_result(result.id)
        assert found.task.run_after == soon
        assert result.enqueued_at == found.enqueued_at
        assert found.enqueued_at.tzinfo is None
        assert soon - timedelta(milliseconds=1) <= found.started_at <= found.finished_at
        assert found.finished_at < soon + timedelta(seconds=TIMEOUT)


def test_a_restart_of_the_server_neither_loses_nor_doubles_tasks(tmp_path: Path) -> None:
    from shop.tasks import add

    from taskd.contrib.django import TaskdBackend
    from taskd.errors import Unreachable

    listen = ("--listen", f"unix:{tmp_path / 'socket'}", "--workers", "1")
    backend = TaskdBackend("default", {"OPTIONS": {"server": f"unix:{tmp_path / 'socket'}"}})
    first = Daemon(*APP, *listen, directory=tmp_path).wait_until_ready()
    results: list[Any] = []
    doubtful: list[bool] = []
    is_over = threading.Event()

    def enqueue() -> None:
        while not is_over.is_set():
            try:
                results.append(backend.enqueue(add, (len(results),), {}))
            except Unreachable as error:  # the start has taken more than five seconds, on a busy machine
                doubtful.append(error.data["sent"])
            time.sleep(SHORT)

    thread = threading.Thread(target=enqueue)
    thread.start()
    try:
        ended(backend.enqueue(add, (0,), {}), backend)
        first.stop()
        second = Daemon(*APP, *listen, directory=tmp_path).wait_until_ready()
        ended(backend.enqueue(add, (0,), {}), backend)
    finally:
        is_over.set()
        thread.join(TIMEOUT)
    assert not any(doubtful)
    assert [ended(each, backend).return_value for each in results] == [*range(len(results))]
    stored = connect_unix(tmp_path / "socket").ask(rpc(1, "taskd.list", limit=1000))["result"]
    assert len(stored) == len(results) + 2
    second.stop()


def test_urgent_tasks_overtake_others(tmp_path: Path) -> None:
    from shop.tasks import append, wait_for

    gate = Gate(tmp_path / "gate")
    first = wait_for.enqueue(gate.path)
    gate.wait_until_entered()
    order = tmp_path / "order"
    priorities = (-100, -1, 0, 1, 100)
    results = [append.using(priority=each).enqueue(str(order), f"{each} ") for each in priorities]
    gate.release("done")
    assert ended(first).return_value == "done"
    for result in results:
        ended(result)
    gate.tear_down()
    assert order.read_text() == "100 1 0 -1 -100 "


def test_tasks_that_no_worker_could_run_are_refused_at_once() -> None:
    from django.conf import settings
    from shop import tasks

    from taskd.contrib.django.tasks_api import InvalidTask

    with pytest.raises(InvalidTask, match="'nowhere' is not valid"):
        tasks.add.using(queue_name="nowhere")
    with pytest.raises(InvalidTask, match="_other_name: a task is a function of a module"):
        tasks.renamed.enqueue()
    with pytest.raises(InvalidTask, match="whole number between -100 and 100"):
        tasks.add.using(priority=101)
    with pytest.raises(InvalidTask, match="aware"):
        tasks.add.using(run_after=datetime(2099, 1, 1))
    with pytest.raises(TypeError, match="Unsupported type"):
        tasks.echo.enqueue(settings)
    with pytest.raises(ValueError, match="not JSON compliant"):
        tasks.echo.enqueue(float("nan"))


def test_values_come_as_json_has_them() -> None:
    from shop.tasks import echo, result_of_a_type_that_json_lacks, result_that_is_no_number

    value = {"ä": [1, 2.5, None, True, 2**70], "tuple": (1, "x" * 300_000), "bytes": b"text"}
    result = ended(echo.enqueue(value))
    assert result.return_value == {**value, "tuple": [1, "x" * 300_000], "bytes": "text"}
    result = ended(result_of_a_type_that_json_lacks.enqueue())
    assert "Unsupported type" in result.errors[0].traceback
    result = ended(result_that_is_no_number.enqueue())
    assert result.errors[0].exception_class is ValueError


@pytest.mark.parametrize("name", ["take_long", "take_long_async"])
def test_a_task_over_its_time_limit_has_failed_and_the_signals_know(name: str) -> None:
    from shop import tasks

    from taskd.errors import TimedOut

    result = ended(getattr(tasks, name).enqueue())
    assert (result.status, result.attempts) == ("FAILED", 1)
    assert [error.exception_class for error in result.errors] == [TimedOut]
    assert "ran over its time limit of 0.2 s" in result.errors[0].traceback
    assert "finished FAILED 1 1" in notes(result.id)


def test_a_task_whose_process_ends_has_failed_after_the_second_time() -> None:
    from shop.tasks import end_the_process

    from taskd.errors import WorkerLost

    result = ended(end_the_process.enqueue())
    assert (result.status, result.attempts) == ("FAILED", 2)
    assert [error.exception_class for error in result.errors] == [WorkerLost, WorkerLost]


@pytest.mark.parametrize("name", ["connection", "connection_async"])
def test_connections_are_closed_between_tasks_unless_the_settings_keep_them(name: str) -> None:
    from shop import tasks

    task = getattr(tasks, name)
    pids = set()
    for alias, is_kept in (("closed", False), ("kept", True)):
        ended(task.enqueue(alias))
        was_open, pid = ended(task.enqueue(alias)).return_value
        assert was_open is is_kept
        pids.add(pid)
    assert len(pids) == 1


@pytest.mark.skipif(not has_postgres(), reason="no PostgreSQL here (on Debian: apt install postgresql)")
def test_a_connection_that_the_database_has_ended_is_replaced() -> None:
    from django.db import connections
    from shop.tasks import backend_pid

    first = ended(backend_pid.enqueue("postgres")).return_value
    assert ended(backend_pid.enqueue("postgres")).return_value == first
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [first])
    connections["postgres"].close()
    result = ended(backend_pid.enqueue("postgres"))
    assert (result.status, result.attempts) == ("SUCCESSFUL", 1)
    assert result.return_value != first


def test_a_transaction_that_a_task_has_left_is_rolled_back() -> None:
    from shop.tasks import leave_a_broken_transaction

    assert ended(leave_a_broken_transaction.enqueue()).status == "FAILED"
    assert notes("broken") == []


def test_a_task_in_a_transaction_is_enqueued_at_once_or_on_commit() -> None:
    from django.db import transaction
    from shop.tasks import add

    results = []
    with transaction.atomic():
        results.append(add.enqueue(1))
        transaction.on_commit(lambda: results.append(add.enqueue(2)))
        transaction.set_rollback(True)
    (result,) = results
    assert ended(result).return_value == 1
    with transaction.atomic():
        transaction.on_commit(lambda: results.append(add.enqueue(3)))
    assert ended(results[1]).return_value == 3


def test_nothing_but_tasks_is_run_whatever_path_is_sent(daemon: Daemon) -> None:
    connection = daemon.connect()
    for path, reason in (
        ("os.system", "'os.system' is no task: but builtin_function_or_method"),
        ("shop.tasks.plain", "'shop.tasks.plain' is no task: but function"),
        ("shop.tasks.none", "'shop.tasks.none' is no task: nothing there"),
        ("shop.none.none", "there is no module 'shop.none'"),
        ("antigravity.fly", "'antigravity' is neither in an installed app nor imported"),
        ("add", "'' is neither"),
    ):
        reply = connection.ask(bare("django.task", task=path))
        assert reply["error"]["data"]["type"] == "taskd.contrib.django.lookup.UnknownTask"
        assert reason in reply["error"]["message"]
    assert connection.ask(bare("django.task", task="shop.tasks.add", args=[1, 2])) == 3
    assert connection.ask(bare("django.task", task="shop.tasks.add", args=1))["error"]["code"] == -32602
    connection.close()


def test_tasks_of_any_module_of_an_app_and_of_modules_that_the_options_name_are_run() -> None:
    from jobs import from_the_project
    from shop.more import from_elsewhere_in_the_app

    assert ended(from_the_project.enqueue()).return_value == "jobs"
    assert ended(from_elsewhere_in_the_app.enqueue()).return_value == "shop.more"


def test_a_module_that_cannot_be_imported_is_the_error_of_its_task(daemon: Daemon) -> None:
    connection = daemon.connect()
    reply = connection.ask(bare("django.task", task="shop.broken.send"))
    assert reply["error"]["data"]["message"] == "No module named 'a_package_that_is_not_installed'"
    connection.close()


def test_a_result_that_does_not_exist_is_an_error_of_django(daemon: Daemon) -> None:
    from shop.tasks import add, echo

    from taskd.contrib.django.tasks_api import TaskResultDoesNotExist

    connection = daemon.connect()
    with pytest.raises(TaskResultDoesNotExist, match="there is no task unknown"):
        add.get_result("unknown")
    sent = {"function": "django.task", "args": {"task": "shop.tasks.gone"}}
    other = connection.ask(rpc(1, "taskd.submit", **sent))["result"]["task"]
    with pytest.raises(TaskResultDoesNotExist, match=r"shop\.tasks\.gone"):
        add.get_result(other)
    connection.close()
    result = ended(add.enqueue(1))
    with pytest.raises(Exception, match=r"does not match.*shop\.tasks\.add"):
        echo.get_result(result.id)


def test_wrong_options_are_named() -> None:
    from taskd.contrib.django import TaskdBackend
    from taskd.contrib.django.tasks_api import InvalidTaskBackend

    for options, reason in (
        (
            {"sever": "x"},
            r"TASKS\['mine'\]\['OPTIONS'\]: .*`sever`; there are: server, token, timeout, retries",
        ),
        ({"timeout": 0}, r"`float` > 0"),
        ({"retries": "3"}, r"`int \| null`, got `str` - at `\$.retries`"),
    ):
        with pytest.raises(InvalidTaskBackend, match=reason):
            TaskdBackend("mine", {"OPTIONS": options})


def test_a_daemon_without_settings_does_not_start(tmp_path: Path) -> None:
    daemon = Daemon(*APP, directory=tmp_path, env={"DJANGO_SETTINGS_MODULE": ""})
    daemon.wait_for_log("DJANGO_SETTINGS_MODULE names no settings module")
    assert daemon.process.wait(TIMEOUT) == 1


# --- in the transactions of a database ---------------------------------------


def test_a_task_that_is_enqueued_in_a_transaction_runs_after_its_commit(shared: Daemon) -> None:
    from django.db import transaction
    from shop.tasks import add

    with transaction.atomic(using="postgres"):
        result = add.using(backend="within").enqueue(1, b=2)
        assert result.status == "READY"
        with pytest.raises(unknown()):
            add.using(backend="within").get_result(result.id)
    found = ended(result)
    assert (found.status, found.return_value, found.backend) == ("SUCCESSFUL", 3, "within")


def test_a_task_that_is_enqueued_in_a_transaction_is_gone_with_it(shared: Daemon) -> None:
    from django.db import transaction
    from shop.tasks import add

    with transaction.atomic(using="postgres"):
        result = add.using(backend="within").enqueue(1)
        transaction.set_rollback(True, using="postgres")
    with pytest.raises(unknown()):
        add.using(backend="within").get_result(result.id)


def test_outside_a_transaction_a_task_is_enqueued_at_once_with_its_options(shared: Daemon) -> None:
    from shop.tasks import add

    due = datetime.now(UTC) + timedelta(hours=1)
    later = add.using(backend="within", run_after=due).enqueue(1)
    urgent = ended(add.using(backend="within", priority=90).enqueue(1))
    assert (urgent.status, urgent.task.priority) == ("SUCCESSFUL", 90)
    found = add.using(backend="within").get_result(later.id)
    assert (found.status, found.task.run_after) == ("READY", due)


def unknown() -> type[Exception]:
    from taskd.contrib.django.tasks_api import TaskResultDoesNotExist

    error: type[Exception] = TaskResultDoesNotExist
    return error
