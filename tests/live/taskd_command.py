"""The command `taskd`, which saves what coverage has recorded before `taskd serve` ends by a signal."""

from __future__ import annotations

import twistd  # the module beside this one; importing it is enough

from taskd.cli.main import main

__all__ = ["twistd"]

if __name__ == "__main__":
    main(prog_name="taskd")
