"""Functions with a secret argument, which let it out in every way that code has."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from taskd import Secret, TaskTimeout, progress, task


@dataclass
class Login:
    user: str
    password: Annotated[str, Secret]

    def __post_init__(self) -> None:
        if self.user == "bad":
            raise ValueError(f"the password {self.password} of {self.user}")


def _print(password: str) -> None:
    """Write the secret to the output, in all ways and without an end of the line at last."""
    progress(1, 2, f"with {password}")
    print("print", password)
    logging.getLogger("app").warning("logging %r", password)
    warnings.warn(f"warnings {password}", stacklevel=1)
    subprocess.run(["/bin/echo", "a child", password], check=True)
    sys.stderr.write(f"stderr {password!r}")
    sys.stderr.flush()


def _let_out(how: str, password: str) -> Any:
    _print(password)
    if how == "raise":
        try:
            raise KeyError(password)
        except KeyError as error:
            error.add_note(f"a note on {password}")
            raise RuntimeError(f"the password is {password}") from error
    if how == "result":
        return {password: object()}
    if how == "crash":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)
    if how == "later":
        threading.Timer(0.01, print, ["a thread", password]).start()
    if how == "stop":
        try:
            time.sleep(60)
        except TaskTimeout:
            raise ValueError(f"stopped with {password}") from None
    return "done"


@task(timeout=0.5)
def plainly(how: str, password: Annotated[str, Secret], login: Login | None = None) -> Any:
    """Let the secret out, as a call whose task is not stored."""
    return _let_out(how, password)


@task(durable=True, retries=1, backoff=0.0, timeout=0.5)
def durably(how: str, password: Annotated[str, Secret], login: Login | None = None) -> Any:
    """Let the secret out, as a task that is stored and tried again."""
    return _let_out(how, password)


@task(durable=True, timeout=0.5)
def generated(how: str, password: Annotated[str, Secret], login: Login | None = None) -> Iterator[Any]:
    """Let the secret out, between values."""
    yield 1
    yield _let_out(how, password)


@task
def after(text: str) -> str:
    """Wait until what others have left behind has been printed."""
    time.sleep(0.05)
    return text


@task
def by_default(password: Annotated[str, Secret] = "hunter2sentinel") -> None:
    """Have a secret in the signature."""
