"""The configuration of a daemon, derived from the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from taskd import __version__
from taskd.auth.access_config import AccessConfig
from taskd.daemon.options import TRACEBACKS
from taskd.durable.opening import StoreChoice
from taskd.listeners.tcp import TcpLimits
from taskd.listeners.wire import UnsentLimits
from taskd.pool.pool import PoolConfig
from taskd.scheduler.config import SchedulerConfig
from taskd.server.task_server import ServerConfig
from taskd.settings.kinds import SHARED
from taskd.settings.settings import Settings
from taskd.store.descriptions import SQLITE
from taskd.worker.messages import WorkerConfig

if TYPE_CHECKING:
    # Imported only if there is a gateway: otherwise Autobahn and twisted.web
    # would cost 9 MiB and 0.1 s of the start for nothing.
    from taskd.listeners.gateway import GatewayConfig

__all__ = ["ServiceConfig", "logical_directory"]

TWISTD = "twistd -n taskd"

DEFAULT_STORE = "taskd.db"
"""The file of tasks in the working directory, if a function is durable and no store was named."""


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The configuration of the whole daemon.

    `listen` and `websocket` are server endpoint strings. Without `listen` there
    is no task server; without `websocket` there is no gateway, and `gateway` is
    None. `stop_timeout` and `drain_time` are in seconds. `is_default_app` says that no app was
    named, so that the default one is served; `uses_tracebacks`, that an option was
    given by its old name. `command` is what was typed to start the daemon, without options.
    There are at most `max_connections`, and `max_per_address` from one address.
    `access` says which tokens are asked for; `secret_key` is the file of the keys that seal stored
    secrets, `server_token` that of the token which the gateway shows its task servers, if any;
    `is_insecure` lets the daemon listen for anybody.
    """

    server: ServerConfig
    listen: Sequence[str]
    websocket: Sequence[str]
    gateway: GatewayConfig | None
    limits: TcpLimits
    stop_timeout: float
    drain_time: float
    is_default_app: bool
    uses_tracebacks: bool
    store: StoreChoice
    command: str
    max_connections: int | None = None
    max_per_address: int | None = None
    access: AccessConfig = field(default_factory=AccessConfig)
    secret_key: str | None = None
    server_token: str | None = None
    is_insecure: bool = False

    @classmethod
    def of(cls, options: Settings, directory: str, command: str = TWISTD) -> ServiceConfig:
        """Return the configuration for these options; relative paths start from `directory`."""
        return cls(
            server=_server_config(options, directory),
            listen=options["listen"],
            websocket=options["websocket"],
            gateway=_gateway_config(options) if options["websocket"] else None,
            limits=TcpLimits(
                options["max-message"],
                options["max-outstanding"],
                UnsentLimits(options["max-unsent"]),
                options["message-rate"],
            ),
            stop_timeout=options["stop-timeout"],
            drain_time=options["drain-time"],
            is_default_app=options.is_default_app,
            uses_tracebacks=_uses_tracebacks(options),
            store=_store(options["store"], directory),
            command=command,
            max_connections=options["max-connections"],
            max_per_address=options["max-per-address"],
            access=AccessConfig(
                _path(options["tokens"], directory),
                [str(Path(directory, file)) for file in options["jwt-key"]],
                options["jwt-audience"],
            ),
            secret_key=_path(options["secret-key"], directory),
            server_token=_path(options["task-server-token"], directory),
            is_insecure=options["insecure-public"],
        )


def _path(file: str | None, directory: str) -> str | None:
    """Return the absolute path of a file, since twistd may change the working directory."""
    return None if file is None else str(Path(directory, file))


def _uses_tracebacks(options: Settings) -> bool:
    details = options.given.get("error-details")
    return details is not None and details.label == f"--{TRACEBACKS}"


def _store(description: str | None, directory: str) -> StoreChoice:
    if description is None:
        return StoreChoice(SQLITE + os.path.join(directory, DEFAULT_STORE), is_default=True)
    path = description.removeprefix(SQLITE)
    if path and path != description:
        description = SQLITE + os.path.join(directory, path)
    return StoreChoice(description)


def logical_directory(environ: Mapping[str, str]) -> str:
    """Return the working directory by the path by which it was entered, if ``$PWD`` has it.

    That path may lead through a symbolic link, such as ``current``, which a
    deployment changes before it asks for a reload.
    """
    present = os.getcwd()
    entered = environ.get("PWD", "")
    try:
        if os.path.isabs(entered) and os.path.samefile(entered, present):
            return entered
    except OSError:
        pass  # It is from another time, or another process.
    return present


def _server_config(options: Settings, directory: str) -> ServerConfig:
    least, most = options["workers"]
    # Absolute paths, since twistd may change the working directory before the app is imported.
    apps = [str(Path(directory, app)) if app.endswith(".py") or "/" in app else app for app in options["app"]]
    config = WorkerConfig(
        apps,
        directory,
        options["name"],
        options["max-message"],
        options["error-details"],
        options["hard-memory"],
        __version__,
        options["max-memory"],
        options["reload"],
    )
    return ServerConfig(
        PoolConfig(most, config),
        SchedulerConfig(
            min_workers=least,
            max_workers=most,
            max_queue=options["max-queue"],
            idle_seconds=options["idle"],
            max_tasks=options["max-tasks"],
            processors=len(os.sched_getaffinity(0)),
            shared_priorities=options["priorities"] == SHARED,
        ),
        timeout=options["timeout"],
        max_buffered=options["max-buffered"],
        labels=options["label"],
    )


def _gateway_config(options: Settings) -> GatewayConfig:
    from taskd.listeners.gateway import GatewayConfig

    return GatewayConfig(
        options["task-server"],
        options["link"],
        options["allow-origin"],
        options["hostname"],
        options["max-message"],
        max_buffered=options["max-buffered"],
        message_rate=options["message-rate"],
        compresses=options["compression"],
    )
