"""The entry point of the ``taskd`` command, with its subcommands."""

from __future__ import annotations

import sys

import click

from taskd import __version__
from taskd.cli.call import call
from taskd.cli.cancel import cancel
from taskd.cli.functions import functions
from taskd.cli.map import map_
from taskd.cli.status_view import status

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="taskd")
def main() -> None:
    """Call functions of a running task server, and see what it does.

    The server itself is started with: twistd -n taskd --app YOUR_MODULE
    """


for _command in (call, map_, cancel, functions, status):
    main.add_command(_command)


if __name__ == "__main__":
    sys.exit(main())
