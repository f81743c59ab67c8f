"""The choice of Twisted's reactor by the option ``reactor``."""

from __future__ import annotations

from twisted.application.reactors import NoSuchReactor, getReactorTypes, installReactor

from taskd.errors import StartError
from taskd.settings.settings import Settings
from taskd.settings.table import nearest

__all__ = ["install_reactor"]


def install_reactor(settings: Settings) -> None:
    """Install the reactor that the options name. Raises `StartError` if that is impossible.

    Call this before anything imports `twisted.internet.reactor`.
    """
    name = settings["reactor"]
    where = settings.given["reactor"].where
    try:
        installReactor(name)
    except NoSuchReactor:
        names = sorted({reactor.shortName for reactor in getReactorTypes()})
        meant = nearest(name, names)
        hint = f"did you mean {meant}?" if meant else f"there are {', '.join(names)}"
        raise StartError(f"taskd: {where}: Twisted has no reactor {name!r}; {hint}") from None
    except Exception as error:  # whatever the reactor's own module raises
        raise StartError(f"taskd: {where}: the reactor {name!r} cannot be used here: {error}") from error
