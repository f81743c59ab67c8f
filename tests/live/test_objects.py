"""Exceptions, arguments and results that run code of the app: they fail their task, never the worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.support import APPS, Connection, Daemon, bare, connected_to_one_worker, kept_daemon


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server with one worker, which all tests share: none of them may end it."""
    directory: Path = tmp_path_factory.mktemp("objects")
    with kept_daemon("--workers", "1", "--app", str(APPS / "objects.py"), directory=directory) as daemon:
        yield daemon


@pytest.fixture
def client(odd: Daemon) -> Iterator[Connection]:
    with connected_to_one_worker(odd) as client:
        yield client


def test_an_exception_that_cannot_be_formatted_fails_its_task_alone(odd: Daemon, client: Connection) -> None:
    error = client.ask(bare("raise_odd"))["error"]
    message = "its message could not be formatted: SystemExit: no text"
    assert error["code"] == -32000
    assert error["data"] == {"type": "objects.Odd", "message": message}
    assert error["message"] == f"objects.Odd: {message}"
    odd.wait_for_log(r"in raise_odd")
    odd.wait_for_log(r"its causes and notes could not be formatted: RecursionError")


def test_an_exception_in_a_group_that_cannot_be_formatted_fails_its_task_alone(client: Connection) -> None:
    error = client.ask(bare("raise_odd", True))["error"]
    assert error["message"] == "ExceptionGroup: several (2 sub-exceptions)"


def test_an_argument_whose_type_exits_fails_its_task_alone(client: Connection) -> None:
    error = client.ask(bare("take_odd", {"value": 1}))["error"]
    assert (error["code"], error["message"]) == (-32000, "SystemExit: no argument")


def test_a_subclass_of_str_is_the_text_that_it_is(client: Connection) -> None:
    assert client.ask(bare("result", "markup")) == {"title": "<b>", "count": 1}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("nan", "result.rows[1].price is nan, which JSON cannot hold"),
        ("keys", 'result.by_id has two keys that both become the member "1"'),
        ("items", "result[0] cannot be read: SystemExit: no items"),
        ("itself", "result[0] contains itself"),
        ("iterator", "result is of type list_iterator, which can be read only once: make it a list"),
    ],
)
def test_a_result_that_json_cannot_hold_is_refused_with_its_place(
    client: Connection, kind: str, reason: str
) -> None:
    error = client.ask(bare("result", kind))["error"]
    assert (error["code"], error["message"]) == (-32000, f"the result is not JSON: {reason}")
