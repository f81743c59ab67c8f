"""Setting a process's title, as ps shows it, without what setproctitle's own import loads.

The package setproctitle imports logging, and so threading. Each makes Python do
something in every forked process, which costs each worker 0.4 MiB. So its
extension module is loaded alone. That module is private to the package, so it is
checked before it is used; if it is not as expected, the package is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType

__all__ = ["setproctitle", "title", "title_setter"]

PACKAGE = "setproctitle"

NAME_LENGTH = 15
"""Bytes of a process's name (comm), which is shown by top and in /proc/PID/stat. Python's own check for
threads at a fork misreads that file if the name has a space, and warns of threads that do not exist."""


def title(name: str, doing: str) -> str:
    """Return the title of a process of the pool `name`: ``taskd[TaskWorker]: idle``."""
    return f"taskd[{name}]: {doing}"


def title_setter(package: str = PACKAGE) -> Callable[[str], None]:
    """Return the function that sets the title of this process, and its name without spaces.

    The function uses the extension module of `package`, or `package` itself if
    that module is missing, cannot be loaded, or has no such function. Raises
    `ImportError` if `package` cannot be imported either.
    """
    module = _extension(package) or import_module(package)
    set_title: Callable[[str], None] = module.setproctitle
    set_name: Callable[[str], None] | None = getattr(module, "setthreadtitle", None)

    def set_both(text: str) -> None:
        set_title(text)  # which also makes its beginning the name
        if " " in text[:NAME_LENGTH] and set_name is not None:
            set_name(_name_for(text))

    return set_both


def _extension(package: str) -> ModuleType | None:
    found = PathFinder.find_spec(package)
    places = found.submodule_search_locations if found is not None else None
    spec = PathFinder.find_spec(f"{package}._setproctitle", places) if places else None
    if spec is None or spec.loader is None:
        return None
    try:
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception:  # another release may have a different module there
        return None
    return module if callable(getattr(module, "setproctitle", None)) else None


def _name_for(text: str) -> str:
    """Return a process's name for a title: without what the process does, and without spaces."""
    return "_".join(text.rpartition("]: ")[0].split(" "))[: NAME_LENGTH - 1] + "]"


setproctitle = title_setter()
"""Set the title of this process, and its name."""
