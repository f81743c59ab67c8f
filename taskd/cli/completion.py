"""The subcommand ``taskd completion``: prints the script by which a shell completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

__all__ = ["INSTALLED", "completion", "script"]

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}

PROGRAM = "taskd"
VARIABLE = "_TASKD_COMPLETE"
"""The variable by which the script asks ``taskd`` for what could come next, as click names it."""

INSTALLED = {
    "bash": "share/bash-completion/completions/taskd",
    "zsh": "share/zsh/site-functions/_taskd",
    "fish": "share/fish/vendor_completions.d/taskd.fish",
}
"""Where a shell looks for the script of a program, below the prefix in which that is installed."""

USE = """\
  bash: add this to ~/.bashrc:  eval "$(taskd completion bash)"
  zsh:  add this to ~/.zshrc, below compinit:  eval "$(taskd completion zsh)"
  fish: taskd completion fish > ~/.config/fish/completions/taskd.fish"""


def script(shell: str) -> str:
    """Return the script for a shell, one of those in `INSTALLED`."""
    # The command that click asks for is not used: the script calls the program.
    made = _SHELLS[shell](click.Command(PROGRAM), {}, PROGRAM, VARIABLE)
    return f"{(made.source_template % made.source_vars()).strip()}\n"


@click.command(epilog=f"\b\n{USE}")
@click.argument("shell", type=click.Choice(list(INSTALLED)), required=False)
def completion(shell: str | None) -> None:
    """Print the script by which SHELL completes the commands and options of taskd.

    An installation has it below share/ too; shells find it there by themselves if taskd
    is installed in /usr, /usr/local or ~/.local.
    """
    if shell is None:
        raise click.UsageError(f"name the shell: bash, zsh or fish.\n\n{USE}")
    click.echo(script(shell), nl=False)
