"""A check of what options name, without starting anything: addresses, files of access, and the store."""

from __future__ import annotations

import os
from collections.abc import Iterator

from taskd.auth.access_config import AccessConfig
from taskd.auth.files import AccessFileError
from taskd.daemon.access import is_public, open_sealer, open_server_token, refusal, static_address
from taskd.errors import StartError
from taskd.net.endpoints import client_endpoint, server_endpoint
from taskd.net.reactor import installed_reactor
from taskd.settings.settings import Settings
from taskd.store.base import StoreError
from taskd.store.descriptions import MEMORY, SQLITE, is_postgres, wrong_kind
from taskd.store.memory_limits import MemoryLimits

__all__ = ["problems"]


def problems(settings: Settings) -> Iterator[str]:
    """Yield what is wrong with the endpoints, the files of access and the store that the options name.

    Certificates, tokens and keys are read. Whether a port is free, and whether the app can be
    imported, shows at the start alone.
    """
    reactor = installed_reactor()
    for name in ("listen", "websocket"):
        for description in settings[name]:
            try:
                server_endpoint(reactor, description)
            except ValueError as error:
                yield f"{_where(settings, name)}: {error}"
            else:
                if _is_refused(settings, description):
                    yield refusal(f"--{name}", description)
    yield from _wrong_access(settings)
    for description in settings["task-server"]:
        try:
            client_endpoint(reactor, description)
        except ValueError as error:
            yield f"{_where(settings, 'task-server')}: {error}"
    store = settings["store"]
    if store is not None and settings["listen"]:
        reason = _wrong_store(store)
        if reason is not None:
            yield f"{_where(settings, 'store')}: {reason}"


def _where(settings: Settings, name: str) -> str:
    return settings.given[name].where if name in settings.given else f"--{name}"


def _is_refused(settings: Settings, description: str) -> bool:
    """Return whether a port would be open to anybody; what a passed socket is bound to shows at the start."""
    address = static_address(description)
    asks = settings["tokens"] or settings["jwt-key"] or settings["insecure-public"]
    return not asks and address is not None and is_public(description, address)


def _wrong_access(settings: Settings) -> Iterator[str]:
    """Yield what is wrong with the files of tokens and keys."""
    tokens, keys = settings["tokens"], settings["jwt-key"]
    for name, config in (("tokens", AccessConfig(tokens)), ("jwt-key", AccessConfig(None, keys))):
        try:
            config.open()
        except AccessFileError as error:
            yield f"{_where(settings, name)}: {error}"
    try:
        open_sealer(settings["secret-key"])
    except StartError as error:
        yield str(error).removeprefix("taskd: ")
    try:
        open_server_token(settings["task-server-token"])
    except StartError as error:
        yield str(error).removeprefix("taskd: ")


def _wrong_store(description: str) -> str | None:
    kind, colon, rest = description.partition(":")
    if kind == MEMORY and (rest or not colon):
        try:
            MemoryLimits.parse(rest)
        except StoreError as error:
            return str(error)
        return None
    path = description.removeprefix(SQLITE)
    if path == description or not path:
        return None if is_postgres(description) else wrong_kind(description)
    folder = os.path.dirname(os.path.abspath(path))
    return None if os.path.isdir(folder) else f"there is no directory {folder}"
