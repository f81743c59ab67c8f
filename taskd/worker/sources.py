"""The folders that hold an app's own code, which a daemon watches if it reloads by itself."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType

import taskd

__all__ = ["source_folders"]

_LIBRARIES = ("site-packages", "dist-packages")
"""Folders of packages that were installed, and that nobody edits."""


def source_folders(
    apps: Iterable[str],
    directory: str,
    modules: Mapping[str, ModuleType],
    failure: BaseException | None = None,
) -> list[str]:
    """Return the folders of those of `modules` that belong to `apps`, or lie below `directory`.

    Installed packages do not count, unless one is an app. `failure` is what the import of an
    app has raised, if it has: the code that it leads through counts as well.
    """
    roots = [os.path.realpath(directory), *_roots_of(apps, directory, modules)]
    files = [*_loaded_files(modules.values()), *_files_of(failure)]
    folders = {os.path.dirname(file) for file in map(os.path.realpath, files) if _is_own(file, roots)}
    return sorted(folders)


def _roots_of(apps: Iterable[str], directory: str, modules: Mapping[str, ModuleType]) -> Iterator[str]:
    """Yield the folder of each app that is a file, and of each package that an app is in."""
    for app in apps:
        if app.endswith(".py") or "/" in app:
            yield os.path.dirname(os.path.realpath(os.path.join(directory, app)))
            continue
        module = modules.get(app.partition(".")[0])
        file = getattr(module, "__file__", None)
        folder = os.path.dirname(os.path.realpath(file)) if file else ""
        if module is not None and hasattr(module, "__path__"):
            yield from map(os.path.realpath, module.__path__)
        elif folder and os.path.basename(folder) not in _LIBRARIES:
            yield folder


def _loaded_files(modules: Iterable[ModuleType]) -> Iterator[str]:
    for module in list(modules):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py"):
            yield file


def _files_of(failure: BaseException | None) -> Iterator[str]:
    """Yield the files in an exception's traceback, and the one that could not be compiled."""
    seen = set()
    while failure is not None and id(failure) not in seen:
        seen.add(id(failure))
        if isinstance(failure, SyntaxError) and failure.filename:
            yield failure.filename
        trace = failure.__traceback__
        while trace is not None:
            yield trace.tb_frame.f_code.co_filename
            trace = trace.tb_next
        failure = failure.__cause__ or failure.__context__


def _is_own(file: str, roots: Iterable[str]) -> bool:
    for root in roots:
        if file.startswith(root.rstrip(os.sep) + os.sep):
            below = file[len(root) :]
            if not any(f"{os.sep}{library}{os.sep}" in below for library in _LIBRARIES):
                return not file.startswith(_not_own())
    return False


def _not_own() -> tuple[str, ...]:
    """Return the beginnings of paths of Python's own modules, and of taskd's."""
    folders = {
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        os.path.dirname(taskd.__file__),
    }
    return tuple(os.path.realpath(folder) + os.sep for folder in folders)
