"""The app's `logging` in fork server and workers. Imported only once the app has imported `logging`.

The rule is that the app's own configuration holds. Records that would reach no
handler, since nothing is configured, go to `RecordHandler`, which takes the
place of Python's own handler of last resort; the root logger's level is INFO
then. A handler that writes to stdout or stderr keeps its format, and its
records get their level added. All other handlers are left alone.
"""

from __future__ import annotations

import functools
import io
import logging
import sys
from typing import Any

from taskd.worker.logs import marked, write_record

__all__ = ["RecordHandler", "adopt", "install"]

_STANDARD_NAMES = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})

_STANDARD_DESCRIPTORS = (1, 2)


class _OwnLevel(int):
    """A level that was set here: another object than whatever the app sets, although equal to it."""


_LEVEL = _OwnLevel(logging.INFO)
"""The root logger's level if the app sets none: what a program logs at INFO is meant to be read."""


class RecordHandler(logging.Handler):
    """A handler that writes each record with its level, its logger's name and its traceback.

    It needs no lock: a record is one write. So a stop that is raised in a
    thread that logs, or a fork meanwhile, leaves nothing locked.
    """

    def createLock(self) -> None:
        """Make no lock."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Write the record unless a filter refuses it."""
        filtered = self.filter(record)
        if filtered:
            self.emit(filtered if isinstance(filtered, logging.LogRecord) else record)
        return bool(filtered)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; if it cannot be formatted, write where that is and why."""
        name = "" if record.levelname in _STANDARD_NAMES else f"{record.levelname}: "
        logger = "" if record.name == "root" else f"{record.name}: "
        try:
            text = self.format(record)
        except Exception as error:
            text = (
                f"{record.msg!a} cannot be formatted with {len(record.args or ())} arguments "
                f"({record.pathname}:{record.lineno}): {type(error).__name__}"
            )
        write_record(record.levelno, f"{name}{logger}{text}")


class _MarkingFormatter(logging.Formatter):
    """A formatter that adds the level to what the app's own formatter returns."""

    def __init__(self, own: logging.Formatter) -> None:
        super().__init__()
        self._own = own

    def format(self, record: logging.LogRecord) -> str:
        """Return the record in the app's format, as one marked line."""
        return marked(record.levelno, self._own.format(record))


def install() -> None:
    """Handle the records that the app configures no handler for. Call this when `logging` was imported.

    ``logging.info(…)`` and its like, without a logger, call `logging.basicConfig`
    without arguments if the root logger has no handler. There is one here, of
    last resort, so that nothing needs to be done then.
    """
    logging.lastResort = RecordHandler()
    configure = logging.basicConfig

    @functools.wraps(configure)
    def basic_config(**settings: Any) -> None:
        if settings:
            configure(**settings)
            adopt()

    logging.basicConfig = basic_config
    root = logging.getLogger()
    if not root.handlers and root.level == logging.WARNING:
        root.setLevel(_LEVEL)


def adopt() -> None:
    """Adapt to the handlers that the app has added meanwhile. Idempotent."""
    root = logging.getLogger()
    if root.handlers and root.level is _LEVEL:
        root.setLevel(logging.WARNING)  # as it is in any program that sets no level
    loggers = [logger for logger in root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    for logger in [root, *loggers]:
        for handler in logger.handlers:
            if _prints(handler) and not isinstance(handler.formatter, _MarkingFormatter):
                handler.setFormatter(_MarkingFormatter(handler.formatter or logging.Formatter()))


def _prints(handler: logging.Handler) -> bool:
    """Return whether a handler writes its records, as they are formatted, to stdout or stderr."""
    if not isinstance(handler, logging.StreamHandler) or type(handler).emit is not logging.StreamHandler.emit:
        return False
    if handler.terminator != "\n":
        return False
    if handler.stream in (sys.__stdout__, sys.__stderr__):
        return True
    try:
        return handler.stream.fileno() in _STANDARD_DESCRIPTORS
    except (AttributeError, OSError, ValueError, io.UnsupportedOperation):
        return False
