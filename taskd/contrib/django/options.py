"""The ``OPTIONS`` of a backend in the settings, checked."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

__all__ = ["BackendOptions"]


class BackendOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``OPTIONS`` of a backend.

    `server` is the task server's address, None for that of ``TASKD_SERVER``; `token` is the token that the
    server is shown, None for that of ``TASKD_TOKEN``, if there is one. `timeout`
    is in seconds of run time, `keep` in seconds after the end of a task; `retries` is
    how many times more a task is tried that has raised. `modules` are imported by
    the app, besides the modules ``tasks`` of the installed apps. `database` is the alias of the database that
    the server has for a store: tasks are submitted by it, in its transactions. None for the server itself.
    """

    server: str | None = None
    token: str | None = None
    timeout: Annotated[float, Meta(gt=0)] | None = None
    retries: Annotated[int, Meta(ge=0)] | None = None
    keep: Annotated[float, Meta(ge=0)] | None = None
    modules: list[str] = []
    database: Annotated[str, Meta(min_length=1)] | None = None

    @classmethod
    def of(cls, alias: str, given: Any) -> BackendOptions:
        """Return the options of the backend `alias`. Raises `ValueError`, which says what is wrong."""
        try:
            return msgspec.convert(given, cls)
        except msgspec.ValidationError as error:
            known = ", ".join(cls.__struct_fields__)
            raise ValueError(f"TASKS[{alias!r}]['OPTIONS']: {error}; there are: {known}") from error

    def submit_options(self) -> dict[str, Any]:
        """Return those that go with each task, by the names of the server's options."""
        given = {"timeout": self.timeout, "retries": self.retries, "keep": self.keep}
        return {name: value for name, value in given.items() if value is not None}
