"""The default app, served if no ``--app`` is given, and its announcement in the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from taskd.settings.table import DEFAULT_APP

__all__ = ["announcement"]


def announcement(environ: Mapping[str, str], command: str) -> Iterator[str]:
    """Yield the lines of the log for a start without ``--app``.

    They name the default app, the destination of its mails (without any
    password), and how `command` serves another app. The path of a Maildir is
    relative to the working directory, which the workers inherit.
    """
    # Imported only here, since a daemon with another app does not need it.
    from taskd.apps.mail import URL_VARIABLE, ConfigError, configured_delivery

    yield f"no --app was given: serving {DEFAULT_APP}, whose send_mail(from, to, contents) sends mails"
    try:
        delivery = configured_delivery(environ)
    except ConfigError as error:
        yield f"every mail will fail: {error}"
    else:
        yield f"mails go to {delivery} (set {URL_VARIABLE} to change that)"
    yield f"to serve functions of your own, start: {command} --app YOUR_MODULE"
