"""The entry point of the ``taskd`` command, with its subcommands."""

from __future__ import annotations

import difflib
import sys

import click

from taskd import __version__
from taskd.cli.attach import attach
from taskd.cli.call import call
from taskd.cli.cancel import cancel
from taskd.cli.completion import completion
from taskd.cli.config import config
from taskd.cli.drill import drill
from taskd.cli.functions import functions
from taskd.cli.list_tasks import list_
from taskd.cli.map import map_
from taskd.cli.operating import audit, drain, nodes, reload, stacks
from taskd.cli.pausing import pause, resume
from taskd.cli.retry import retry
from taskd.cli.running import USAGE, fail
from taskd.cli.serve import serve
from taskd.cli.show import show
from taskd.cli.status_view import status
from taskd.cli.store import store
from taskd.cli.submit import submit
from taskd.cli.token import token
from taskd.cli.top import top
from taskd.cli.wait import wait
from taskd.cli.why import why

__all__ = ["main"]


class _Commands(click.Group):
    """The subcommands. One that does not exist ends in one line, with the nearest that does."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand's name, the subcommand and its arguments."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            commands = self.list_commands(ctx)
            nearest = difflib.get_close_matches(name, commands, 1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(commands)}"
            fail(f"no such command: {name!r}; {hint}", USAGE)
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="taskd")
def main() -> None:
    """Run a task server, call its functions, and see what it does.

    A server is started with: taskd serve --app YOUR_MODULE
    """


_COMMANDS = (
    *(serve, config, call, map_, functions, status, cancel),
    *(submit, attach, wait, list_, show, why, retry, pause, resume, store, token),
    *(reload, drain, nodes, stacks, audit),
    *(top, completion, drill),
)

for _command in _COMMANDS:
    main.add_command(_command)


if __name__ == "__main__":
    sys.exit(main())
