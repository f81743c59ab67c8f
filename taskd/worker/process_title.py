"""The title of a process, as ps shows it, without what setproctitle's own import brings along.

That package imports logging, and so threading: each has something done in
every process that is forked, which costs each worker 0.4 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

__all__ = ["setproctitle"]


def _from_extension() -> Callable[[str], None] | None:
    """The function of the package's extension module, found and loaded without the package."""
    package = PathFinder.find_spec("setproctitle")
    places = package.submodule_search_locations if package is not None else None
    spec = PathFinder.find_spec("setproctitle._setproctitle", places) if places else None
    if spec is None or spec.loader is None:
        return None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[str], None] | None = getattr(module, "setproctitle", None)
    return found


def _from_package() -> Callable[[str], None]:
    import setproctitle as package  # where it is built otherwise than we know it

    return package.setproctitle


setproctitle: Callable[[str], None] = _from_extension() or _from_package()
"""Show this as the title of this process."""
