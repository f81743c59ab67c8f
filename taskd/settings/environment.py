"""The environment variables of a daemon's options: ``TASKD_`` and the option's name in capitals."""

from __future__ import annotations

import re
from collections.abc import Mapping

from taskd.settings.given import Given, SettingError, Source
from taskd.settings.table import SETTINGS, nearest

__all__ = ["CONFIG_VARIABLE", "PREFIX", "given_by_environment"]

PREFIX = "TASKD_"

CONFIG_VARIABLE = "TASKD_CONFIG"
"""The variable that names the configuration file."""

_OTHERS = frozenset({CONFIG_VARIABLE, "TASKD_SERVER", "TASKD_TOKEN", "TASKD_MAIL_URL"})
"""Variables of the clients, of the app for mails, and the one that is read elsewhere."""

_OF_SERVICES = re.compile(
    r"TASKD_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""The variables that Kubernetes sets in every container if there is a service called taskd, or taskd-…,
and Docker's links (https://kubernetes.io/docs/concepts/services-networking/service/)."""

_OF_LINKS = re.compile(r"TASKD_(\w+_)?(NAME|ENV_\w+)")
"""Those that Docker's links set besides."""

_LINK_NAME = re.compile(r"/[^/\s]+/[^/\s]+")
"""The value of a link's name: /CONTAINER/ALIAS."""


def given_by_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """Return what variables say of the options, by name. Raises `SettingError` for an unknown one.

    An empty variable counts as none. The values of a repeatable option are separated by spaces.
    """
    by_variable = {setting.variable: setting for setting in SETTINGS}
    found = {}
    for variable in sorted(environ):
        text = environ[variable].strip()
        if not variable.startswith(PREFIX) or _is_of_others(variable, text):
            continue
        setting = by_variable.get(variable)
        if setting is None:
            raise SettingError(_unknown(variable, [*by_variable, *_OTHERS]))
        if text:
            texts = text.split() if setting.repeatable else [text]
            found[setting.name] = Given(Source.ENVIRONMENT, variable, texts)
    return found


def _is_of_others(variable: str, text: str) -> bool:
    if variable in _OTHERS or _OF_SERVICES.fullmatch(variable):
        return True
    link = _OF_LINKS.fullmatch(variable)
    return link is not None and (link[2] != "NAME" or _LINK_NAME.fullmatch(text) is not None)


def _unknown(variable: str, known: list[str]) -> str:
    meant = nearest(variable, known)
    if meant is not None:
        return f"the environment has {variable}, which is no option; did you mean {meant}?"
    return (
        f"the environment has {variable}, which is no option: variables that begin with {PREFIX} are options"
    )
