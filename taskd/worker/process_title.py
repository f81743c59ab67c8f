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

__all__ = ["setproctitle", "title_setter"]

PACKAGE = "setproctitle"


def title_setter(package: str = PACKAGE) -> Callable[[str], None]:
    """Return the function that sets the title of this process.

    The function comes from the extension module of `package`, or from
    `package` itself if that module is missing, cannot be loaded, or has no such
    function. Raises `ImportError` if `package` cannot be imported either.
    """
    return _from_extension(package) or _from_package(package)


def _from_extension(package: str) -> Callable[[str], None] | None:
    found = PathFinder.find_spec(package)
    places = found.submodule_search_locations if found is not None else None
    spec = PathFinder.find_spec(f"{package}._setproctitle", places) if places else None
    if spec is None or spec.loader is None:
        return None
    try:
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        setter: Callable[[str], None] | None = getattr(module, "setproctitle", None)
    except Exception:  # another release may have a different module there
        return None
    return setter if callable(setter) else None


def _from_package(package: str) -> Callable[[str], None]:
    setter: Callable[[str], None] = import_module(package).setproctitle
    return setter


setproctitle = title_setter()
"""Set the title of this process."""
