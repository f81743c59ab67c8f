"""The entry point of ``twistd taskd``: the service, and the names by which twistd finds and makes it."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from taskd.daemon.before_reactor import wait_for
from taskd.daemon.config import TWISTD, ServiceConfig, logical_directory
from taskd.daemon.lifecycle import RunningDaemon, UnstartedDaemon
from taskd.daemon.log_output import STANDARD_OUTPUT, LogOutput, open_log, reopen_at_usr1
from taskd.daemon.options import DaemonOptions
from taskd.daemon.reactors import install_reactor
from taskd.daemon.signals import StopSignals, reload_at_hangup
from taskd.daemon.startup import (
    Terminal,
    check_log_file,
    check_twistd_options,
    interrupts_end_start,
    interrupts_stop_reactor,
)
from taskd.daemon.supervisor import Supervisor, supervisor_of
from taskd.daemon.wrong_options import TwistdOptions
from taskd.net.malloc import map_long_blocks_alone
from taskd.net.passed_sockets import NO_SOCKETS, PassedSockets, first_environment
from taskd.net.reactor import Reactor, installed_reactor, use_steady_time
from taskd.settings.settings import Settings
from taskd.worker.process_title import setproctitle, title

__all__ = ["Options", "TaskdService", "makeService", "make_service"]

GC_THRESHOLDS = (20_000, 50, 100)
"""New objects before the garbage collector looks at them, and how often before it looks at older ones: with
Python's own (700, 10, 10), a sixth of the time of the daemon goes into it while a backlog runs."""

_log = Logger(namespace="taskd")

Options = TwistdOptions
"""The options of ``twistd taskd``, under the name by which twistd looks for them."""


def makeService(options: DaemonOptions) -> IService:
    """Make the service for `twistd`, and open the log. Raises `StartError` if that is impossible."""
    return make_service(options.settings, options.parent or {}, TWISTD)


def make_service(settings: Settings, twistd: Mapping[str, Any], command: str) -> IService:
    """Make the service that `command` runs, and open the log. Raises `StartError` if that is impossible.

    `twistd` has the options of twistd itself.
    """
    interrupts_end_start()
    map_long_blocks_alone()
    check_twistd_options(twistd)
    check_log_file(twistd, settings)
    if settings["reactor"] is not None and "reactor" not in twistd:
        install_reactor(settings)
    log = open_log(twistd, settings)
    reactor = installed_reactor()
    use_steady_time(reactor)
    reopen_at_usr1(reactor, log)
    supervisor = supervisor_of(reactor, os.environ)
    passed = PassedSockets.of(first_environment(), os.getpid())
    config = ServiceConfig.of(settings, logical_directory(os.environ), command)
    if log is not None and log.name == STANDARD_OUTPUT:
        # No terminal: the log is where the operator looks.
        return TaskdService(reactor, config, log, None, supervisor, passed)
    in_background = not (twistd.get("nodaemon") or twistd.get("debug"))
    terminal = Terminal(log.name if log else "that of --logger", in_background=in_background)
    return TaskdService(reactor, config, log, terminal, supervisor, passed)


class TaskdService(Service):
    """A task server, or a gateway, or both, as a service of Twisted.

    The service binds its ports before privileges are shed. Afterwards, when the
    process has also daemonised itself, it starts the pool, which imports the
    app. Raises `StartError` if either fails, and reports the reason to the
    `terminal`, if the `log` is elsewhere. The `supervisor` is kept informed.
    Listening sockets may have been `passed` to the process.
    """

    def __init__(
        self,
        reactor: Reactor,
        config: ServiceConfig,
        log: LogOutput | None = None,
        terminal: Terminal | None = None,
        supervisor: Supervisor | None = None,
        passed: PassedSockets = NO_SOCKETS,
    ) -> None:
        self._reactor = reactor
        self._supervisor = supervisor or Supervisor(reactor, None)
        self._config = config
        self._log = log
        self._terminal = terminal
        lines_lost = _none if log is None else log.lines_lost
        self._daemon: UnstartedDaemon | RunningDaemon = UnstartedDaemon(reactor, config, lines_lost, passed)
        self._stop_signals = StopSignals(reactor, self._abort, self._kill, self._skip_draining)

    def setServiceParent(self, parent: Any) -> None:
        """Become a part of an application, which then logs to this service's log."""
        super().setServiceParent(parent)
        if self._log is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._log.observer)

    def privilegedStartService(self) -> None:
        """Bind every port, now that the process has gone into the background if it should."""
        super().privilegedStartService()
        if self._log is not None:
            self._log.writer.start()
            # What twistd itself logs after that is waited for.
            self._reactor.addSystemEventTrigger("after", "shutdown", self._log.writer.finish)
        with self._reporting():
            if isinstance(self._daemon, UnstartedDaemon):
                self._daemon.bind()

    def _reporting(self) -> AbstractContextManager[None]:
        return nullcontext() if self._terminal is None else self._terminal.reporting()

    def startService(self) -> None:
        """Start the daemon, and reload its app at SIGHUP.

        If the reactor is not running yet, as under twistd, this waits until the
        app is imported, and raises `StartError` if it cannot be. If the reactor
        is running, such an app stops it.
        """
        super().startService()
        with self._reporting():
            self._start()
        if self._terminal is not None:
            self._terminal.close()
        interrupts_stop_reactor()

    def _start(self) -> None:
        reload_at_hangup(self._reactor, self._reload)
        self._reactor.callWhenRunning(self._stop_signals.install)
        if not isinstance(self._daemon, UnstartedDaemon):
            return
        if self._config.listen:
            setproctitle(title(self._config.server.pool.config.name, "daemon"))
        self._supervisor.status("starting: the app is imported")
        self._daemon = running = self._daemon.start(self._supervisor)
        running.loaded.addCallback(self._loaded)
        if self._reactor.running:
            running.loaded.addErrback(self._stop_reactor)
        else:
            wait_for(self._reactor, running.loaded)
            # Everything that exists by now stays, so the garbage collector can ignore it.
            gc.freeze()
            # Each waiting task is some objects, which a collection would look at again and again.
            gc.set_threshold(*GC_THRESHOLDS)

    def _loaded(self, _: None) -> None:
        self._reactor.callWhenRunning(self._supervisor.ready, "ready")

    def _stop_reactor(self, failure: Failure) -> None:
        _log.critical("{error}", error=str(failure.value))
        self._reactor.stop()

    def _reload(self) -> None:
        if isinstance(self._daemon, RunningDaemon):
            self._daemon.reload()

    def stopService(self) -> Deferred[None]:
        """Stop in order; fires when all has ended. A second SIGINT or SIGTERM hastens it."""
        super().stopService()
        self._stop_signals.stopping()
        return self._daemon.close()

    def _skip_draining(self) -> bool:
        return isinstance(self._daemon, RunningDaemon) and self._daemon.skip_draining()

    def _abort(self) -> None:
        if isinstance(self._daemon, RunningDaemon):
            self._daemon.abort()

    def _kill(self) -> None:
        """Kill every process of the daemon's, in a signal handler, while the reactor does not answer."""
        _log.critical("the daemon does not end in order: all of its processes are killed")
        try:
            if isinstance(self._daemon, RunningDaemon):
                self._daemon.kill()
        finally:
            if self._log is not None:
                self._log.writer.finish()


def _none() -> int:
    """Return 0: lines of a log that is not taskd's are not counted."""
    return 0
