"""Origins: where functions were registered, to tell a second import of a module from two functions."""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass
from types import CodeType

__all__ = ["Origin"]


@dataclass(frozen=True, slots=True)
class Origin:
    """The statement of a module that led to a registration: file and line, and which run of the module.

    Python makes a new code object of a module's source for each import of it,
    by whatever name, and for each reload. So two registrations come from one
    run if the code object is the same and alive.
    """

    module: str
    file: str
    line: int
    run: weakref.ref[CodeType]

    @classmethod
    def current(cls) -> Origin | None:
        """Return the origin of whatever runs now; None if no module runs, as in a thread."""
        frame = sys._getframe(1)
        while frame.f_code.co_name != "<module>":
            if frame.f_back is None:
                return None
            frame = frame.f_back
        code = frame.f_code
        return cls(frame.f_globals.get("__name__", ""), code.co_filename, frame.f_lineno, weakref.ref(code))

    def is_another_run_of(self, earlier: Origin) -> bool:
        """Return whether the module of `earlier` has been run again: it may replace its functions.

        What is typed at Python's prompt, or in a notebook, counts as one module.
        """
        if self.run() is earlier.run():
            return False
        if self.file.startswith("<"):  # not a file: code from anywhere
            return hasattr(sys, "ps1") and self.module == earlier.module == "__main__"
        return self.file == earlier.file

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"
