"""Importing the app modules that `--app` names, and the texts that explain why one cannot be used."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from taskd.functions.registry import Registry
from taskd.worker.tracebacks import traceback_of

__all__ = ["AppError", "check_hard_memory", "check_version", "load_apps"]


class AppError(Exception):
    """The app cannot be used; the text is the reason, with the app's own traceback."""


def load_apps(apps: list[str], directory: str, registry: Registry) -> dict[str, str]:
    """Import each of `apps`, a module's name or the path of a file; return the files loaded, by app.

    `directory` is put on the import path, and so is the directory of a file,
    ahead of everything else, as for a script. The load hooks of each app are
    called after its import. All registered signatures are resolved. Raises `AppError` if
    an app cannot be imported, no function is registered, or a signature cannot be resolved.
    """
    sys.path.insert(0, directory)
    files = {}
    for app in apps:
        try:
            files[app] = _file_of(_import(app, directory))
            while registry.load_hooks:
                registry.load_hooks.pop(0)()
        except AppError:
            raise
        except BaseException as error:  # an app that calls sys.exit() must not end silently
            raise AppError(_explain(app, directory, error)) from error
    if not len(registry):
        named = ", ".join(apps)
        raise AppError(f"--app {named}: no function is registered there; mark a function with @task")
    try:
        registry.compile()
    except TypeError as error:
        raise AppError(str(error)) from error
    return files


def check_version(daemon: str, present: str) -> None:
    """Raise `AppError` if the daemon's version of taskd is not the one that is installed now."""
    if daemon not in ("", present):
        raise AppError(
            f"taskd {present} is installed here, but the daemon is taskd {daemon}: restart the daemon"
        )


def check_hard_memory(limit: int | None, status: Path = Path("/proc/self/status")) -> None:
    """Raise `AppError` if this process already uses `limit` bytes, the memory that a worker may have.

    Every task would fail then. None means no limit. The measure is ``VmData``, as
    for the limit itself (RLIMIT_DATA; proc(5), getrlimit(2)).
    """
    if limit is None:
        return
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmData:"))
    used = int(line.split()[1]) * 1024
    if used >= limit:
        raise AppError(
            f"--hard-memory: {limit} bytes are too few: with the app imported a process has {used} already"
        )


def _import(app: str, directory: str) -> ModuleType:
    if not app.endswith(".py") and "/" not in app:
        return importlib.import_module(app)
    path = Path(directory, app)
    if not path.is_file():
        files = (file.name for file in _listed(path.parent) if file.suffix == ".py")
        raise AppError(f"--app {app}: there is no such file ({path}){_hint(path.name, files)}")
    if not path.stem.isidentifier():
        raise AppError(f"--app {app}: {path.stem!r} cannot be a module's name")
    sys.path.insert(0, str(path.parent))
    module = importlib.import_module(path.stem)
    origin = getattr(module, "__file__", None)
    if origin is None or not path.samefile(origin):
        raise AppError(
            f"--app {app}: a module {path.stem!r} is there already ({module}); give the file another name"
        )
    return module


def _file_of(module: ModuleType) -> str:
    """Return the file that a module was loaded from, with symbolic links followed, for the log."""
    file: str | None = getattr(module, "__file__", None)
    if file is None:
        return ", ".join(map(os.path.realpath, getattr(module, "__path__", []))) or "no file"
    return os.path.realpath(file)


def _explain(app: str, directory: str, error: BaseException) -> str:
    if type(error) is ModuleNotFoundError and error.name in (app, app.partition(".")[0]):
        hint = _hint(app, _modules(directory, app))
        return f"--app {app}: there is no module {error.name!r}, neither in {directory} nor installed{hint}"
    # Begin the traceback at the app's own first frame, without those that import it.
    trace = traceback_of(error, _is_importing)
    return f"--app {app} cannot be imported:\n{trace}"


def _hint(given: str, possible: Iterable[str]) -> str:
    """Return what was probably meant, as the end of an error's text; "" if nothing is like it."""
    nearest = difflib.get_close_matches(given, sorted(possible), 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _modules(directory: str, app: str) -> Iterator[str]:
    """Yield the names of the modules in a directory, and of those in its packages that `app` may be in."""
    in_package = "." in app
    for entry in _listed(Path(directory)):
        if entry.suffix == ".py" and entry.stem.isidentifier():
            yield entry.stem
        elif entry.name.isidentifier() and entry.is_dir():
            inside = [each.stem for each in _listed(entry) if each.suffix == ".py"]
            if "__init__" in inside:
                yield entry.name
            if in_package:
                yield from (f"{entry.name}.{stem}" for stem in inside if stem != "__init__")


def _listed(directory: Path) -> list[Path]:
    """Return what is in a directory; nothing if it cannot be read."""
    with suppress(OSError):
        return list(directory.iterdir())
    return []


def _is_importing(filename: str) -> bool:
    return filename == __file__ or filename == importlib.__file__ or filename.startswith("<frozen importlib")
