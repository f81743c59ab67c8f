"""Durable functions with limits: what begins and ends is noted in a file, and some wait for another file."""

import os
import time
from pathlib import Path

from taskd import task

MARKS = Path(os.environ.get("MARKS", "/dev/null"))
GO = MARKS.with_name("go")


def _note(what: str, account: str) -> None:
    with MARKS.open("a") as file:
        file.write(f"{what} {account}\n")


@task(durable=True, concurrency=2, concurrency_key="account")
def send(account: str) -> str:
    _note("begin", account)
    while account == "slow" and not GO.exists():
        time.sleep(0.01)
    _note("end", account)
    return account


@task(durable=True, rate="2/d")
def rare() -> None:
    pass
