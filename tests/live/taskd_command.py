"""The command `taskd`, which saves what coverage has recorded before `taskd serve` ends by a signal."""

from __future__ import annotations

from taskd.cli.main import main
from tests.live import twistd  # it is this import that has it saved

__all__ = ["twistd"]

if __name__ == "__main__":
    main(prog_name="taskd")
