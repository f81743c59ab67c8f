"""The table of options in docs/configuration.md; ``python -m tests.option_rows`` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from taskd.settings.table import SETTINGS, Setting

BAR = "\\|"

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
BEGIN, END = "<!-- options: made by python -m tests.option_rows -->\n", "<!-- end of options -->\n"


def table() -> str:
    """Return the table in Markdown."""
    rows = ["| option | value | default | |", "|---|---|---|---|", *map(_row, SETTINGS)]
    return "\n" + "\n".join(rows) + "\n\n"


def _row(setting: Setting) -> str:
    text, _, default = setting.help.partition(" Default: ")
    if setting.default is not None and not setting.is_flag:
        default = str(setting.kind.show(setting.default))
    value = "a flag" if setting.is_flag else f"`{setting.kind.metavar}`"
    cells = (f"`{setting.name}`", value, _marked(default.removesuffix(".")), _marked(text))
    # A bar would end the cell, even in code.
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def _marked(text: str) -> str:
    """Return a text in which options are code, since two dashes would become one."""
    return re.sub(r"--[a-z-]+", r"`\g<0>`", text)


def parts(page: str) -> tuple[str, str, str]:
    """Return what is before the table, the table, and what is after it."""
    before, begin, rest = page.partition(BEGIN)
    present, end, after = rest.partition(END)
    return before + begin, present, end + after


def main() -> None:
    """Write the table into the page."""
    before, _, after = parts(PAGE.read_text())
    PAGE.write_text(before + table() + after)


if __name__ == "__main__":
    main()
