"""Options that are right by themselves, and cannot be combined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from taskd.scheduler.budget import MIN_MESSAGES, least_limit
from taskd.settings.given import Given, SettingError, Source
from taskd.settings.kinds import LOCAL

__all__ = ["check"]


def check(values: Mapping[str, Any], given: Mapping[str, Given]) -> None:
    """Check the `values` of all options; `given` says where they come from. Raises `SettingError`.

    A message names options as on the command line, and adds where else one of them was set.
    """
    for reason, names in _conflicts(values, given):
        elsewhere = [
            each.where
            for name in names
            if (each := given.get(name)) is not None and each.source is not Source.COMMAND_LINE
        ]
        raise SettingError(f"{reason} [set by {', '.join(elsewhere)}]" if elsewhere else reason)


def _conflicts(
    values: Mapping[str, Any], given: Mapping[str, Given]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each conflict: the reason, and the names of the options."""
    listens, serves_pages = values["listen"], values["websocket"]
    if not listens and not serves_pages:
        yield "--listen none and --websocket none: there is nothing left to run", ("listen", "websocket")
    if values["link"] == LOCAL and not listens:
        yield (
            (
                "--link local and --listen none: a local link calls the task server of its own daemon, "
                "and this daemon has none; use --link per-message or --link pooled"
            ),
            ("link", "listen"),
        )
    if values["link"] == LOCAL and values["task-server"]:
        yield (
            (
                "--link local and --task-server: a local link calls the task server of its own daemon "
                "and no other; leave out one of the two"
            ),
            ("link", "task-server"),
        )
    if serves_pages and not listens and not values["task-server"]:
        yield "--listen none: name with --task-server where the gateway's calls go", ("listen",)
    if not listens and "error-details" in given:
        yield (
            (
                "--error-details and --listen none: what callers get of an exception is decided by the task "
                "servers, which run the tasks; give them the option"
            ),
            ("error-details", "listen"),
        )
    if values["reload"] and not listens:
        yield "--reload and --listen none: a gateway alone has no app to reload", ("reload", "listen")
    if values["jwt-audience"] and not values["jwt-key"]:
        yield (
            "--jwt-audience without --jwt-key: an audience is named by signed tokens, and no key is given",
            ("jwt-audience", "jwt-key"),
        )
    if values["task-server-token"] and not values["task-server"]:
        yield (
            (
                "--task-server-token without --task-server: the task server of this daemon knows its own "
                "gateway; a token is for those elsewhere"
            ),
            ("task-server-token", "task-server"),
        )
    least = least_limit(values["max-message"])
    if values["max-buffered"] < least:
        yield (
            (
                f"--max-buffered is {values['max-buffered']} bytes, and must be at least {least}: "
                f"{MIN_MESSAGES} messages of --max-message ({values['max-message']} bytes), "
                "and 16M in any case"
            ),
            ("max-buffered", "max-message"),
        )
