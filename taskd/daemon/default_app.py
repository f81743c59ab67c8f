"""The app that is served if no ``--app`` is given, and what the log says about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

__all__ = ["DEFAULT_APP", "announcement"]

DEFAULT_APP = "taskd.apps.mail"


def announcement(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of the log for someone who gave no ``--app``.

    They name the app, where its mails go (without any password), and the
    option with which to serve another app. The path of a Maildir is taken from
    the working directory, which the workers inherit.
    """
    # Only here, since a daemon with an app of its own needs nothing of it.
    from taskd.apps.mail import URL_VARIABLE, ConfigError, configured_delivery

    yield f"no --app was given: serving {DEFAULT_APP}, whose send_mail(from, to, contents) sends mails"
    try:
        delivery = configured_delivery(environ)
    except ConfigError as error:
        yield f"every mail will fail: {error}"
    else:
        yield f"mails go to {delivery} (set {URL_VARIABLE} to change that)"
    yield "to serve functions of your own, start: twistd -n taskd --app YOUR_MODULE"
