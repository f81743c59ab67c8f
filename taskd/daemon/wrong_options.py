"""A wrong command line of ``twistd taskd``: one line with what is wrong and what was probably meant."""

from __future__ import annotations

import difflib
import getopt
import shlex
from collections.abc import Iterable, Sequence

from twisted.python import usage

from taskd.daemon.options import DaemonOptions

__all__ = ["TwistdOptions", "explain"]

HELP = "twistd taskd --help lists the options"


class TwistdOptions(DaemonOptions):
    """The options of ``twistd taskd``, whose errors end the command with one line and status 1.

    twistd would print its usage and taskd's, some seventy lines, before the reason.
    """

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the arguments. Raises `SystemExit` with the line if they are wrong."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            raise SystemExit(explain(error, self, options or ())) from error


def explain(error: usage.UsageError, own: usage.Options, arguments: Sequence[str]) -> str:
    """Return the line for an error that parsing `arguments` for `own` has raised."""
    return f"twistd taskd: {_reason(error, own, arguments)} ({HELP})"


def _reason(error: usage.UsageError, own: usage.Options, arguments: Sequence[str]) -> str:
    cause = error.__context__
    if isinstance(cause, getopt.GetoptError) and cause.opt:
        dashed = f"--{cause.opt}" if len(cause.opt) > 1 else _with_one_dash(cause.opt, arguments)
        if "not recognized" in cause.msg:
            return _unknown(dashed, own)
        if "unique prefix" in cause.msg:
            fitting = [f"--{name}" for name in _long(own) if name.startswith(cause.opt)]
            return f"option {dashed} is short for several: {', '.join(fitting)}"
        if "requires argument" in cause.msg:
            return f"option {dashed} needs a value: {dashed}=VALUE"
        if "must not have an argument" in cause.msg:
            return f"option {dashed} takes no value"
    if isinstance(cause, TypeError):  # words that belong to no option
        words = _words(own, arguments)
        suggestion = _nearest(words[0], _long(own)) if words else None
        hint = f"; did you mean --{suggestion}?" if suggestion else ""
        return f"what is {shlex.join(words)} for? Only options follow the word taskd{hint}"
    return str(error)


def _with_one_dash(letter: str, arguments: Sequence[str]) -> str:
    """Return the argument, such as ``-app``, from which getopt took a letter that is no option."""
    return next((each for each in arguments if each.startswith(f"-{letter}")), f"-{letter}")


def _unknown(dashed: str, own: usage.Options) -> str:
    twistd = own.parent
    name = dashed.lstrip("-")
    if twistd is not None and (name in _long(twistd) or (len(name) == 1 and name in str(twistd.shortOpt))):
        return f"{dashed} is an option of twistd itself: write twistd {dashed} … taskd …"
    outer = [] if twistd is None else _long(twistd)
    meant = _nearest(name, [*_long(own), *outer])
    if meant is None:
        return f"there is no option {dashed}"
    if meant in _long(own):
        return f"there is no option {dashed}; did you mean --{meant}?"
    return f"there is no option {dashed}; did you mean twistd's own --{meant}, before the word taskd?"


def _long(options: usage.Options) -> list[str]:
    return [name.removesuffix("=") for name in options.longOpt]


def _words(own: usage.Options, arguments: Sequence[str]) -> list[str]:
    _, words = getopt.getopt(list(arguments), own.shortOpt, own.longOpt)
    return words


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name.lower(), list(known), 1)), None)
