"""``taskd serve``: the service of ``twistd taskd``, in the foreground and without a pid file.

twistd's own code runs it, so that signals, the log and exit statuses are the
same; only its command line is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.application.service import IService, IServiceMaker
from twisted.scripts.twistd import ServerOptions, runApp  # type: ignore[attr-defined]  # it is public
from zope.interface import implementer

from taskd.daemon.options import DaemonOptions
from taskd.daemon.service import make_service
from taskd.settings.settings import Settings

__all__ = ["COMMAND", "run_in_foreground"]

COMMAND = "taskd serve"

_TWISTD_OPTIONS = ("--nodaemon", "--pidfile=", "--no_save")


@implementer(IServiceMaker)
class _ServiceMaker:
    """The plugin of a subcommand, as far as twistd is concerned, whose options are settled already."""

    tapname = "taskd"
    description = ""
    options = DaemonOptions

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def makeService(self, twistd: Mapping[str, Any]) -> IService:
        """Make the service."""
        return make_service(self._settings, twistd, COMMAND)


def run_in_foreground(settings: Settings) -> None:
    """Run a daemon until it is stopped; it then ends the process by the signal that it got.

    Raises `StartError` if it cannot start.
    """
    config = ServerOptions()
    config.parseOptions(list(_TWISTD_OPTIONS))
    maker = _ServiceMaker(settings)
    config.loadedPlugins = {maker.tapname: maker}
    config.subCommand, config.subOptions = maker.tapname, config
    runApp(config)
