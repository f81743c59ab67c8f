"""Changes to the file of tokens: one is added, or some are taken out; all else stays as it is."""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC
from pathlib import Path

from taskd.auth.files import AccessFileError
from taskd.auth.token_file import TokenEntry, TokenFile, parse_tokens, read_tokens

__all__ = ["add_token", "remove_tokens"]

FILE_MODE = 0o600
"""The mode of a new file: it has hashes alone, but who may do what is nobody else's business."""

_HEADER = re.compile(r"\s*\[")
"""The line with which a table of TOML begins."""


def add_token(path: str, name: str, entry: TokenEntry) -> None:
    """Add a token to the file at `path`, which is made if there is none. Raises `AccessFileError`.

    Nothing is changed if that fails, or if there is a token with the name already.
    """
    with _locked(path):
        before, text = _read(path)
        if name in before.entries:
            raise AccessFileError(f"{path} has a token {name} already: revoke it first, or take another name")
        lines = [text.rstrip("\n"), "", _table(name, entry)] if text.strip() else [_table(name, entry)]
        _write(path, "\n".join(lines), {**before.entries, name: entry})


def remove_tokens(path: str, names: Collection[str]) -> None:
    """Take tokens out of the file at `path`. Raises `AccessFileError`, and then nothing is changed."""
    with _locked(path):
        before = read_tokens(path)
        missing = [name for name in names if name not in before.entries]
        if missing:
            raise AccessFileError(f"{path} has no token {', '.join(missing)}")
        text = Path(path).read_text(encoding="utf-8")
        for name in names:
            text = _without(text, name)
        left = {name: entry for name, entry in before.entries.items() if name not in names}
        _write(path, text, left)


def _read(path: str) -> tuple[TokenFile, str]:
    """Return the tokens of a file and its text; nothing if there is no file."""
    if not os.path.exists(path):
        return TokenFile({}, {}), ""
    return read_tokens(path), Path(path).read_text(encoding="utf-8")


def _table(name: str, entry: TokenEntry) -> str:
    """Return the table of a token in TOML; texts are written in JSON, which TOML reads alike."""
    lines = [f"[tokens.{name}]", f"hash = {_quoted(entry.hash)}", f"role = {_quoted(entry.role)}"]
    if entry.functions != ("*",):
        lines.append(f"functions = [{', '.join(map(_quoted, entry.functions))}]")
    if entry.rate is not None:
        lines.append(f"rate = {_quoted(entry.rate)}")
    limits = {key: getattr(entry, key) for key in ("waiting", "running", "bytes")}
    lines.extend(f"{key} = {limit}" for key, limit in limits.items() if limit is not None)
    if entry.expires is not None:
        lines.append(f"expires = {entry.expires.astimezone(UTC).isoformat().replace('+00:00', 'Z')}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _without(text: str, name: str) -> str:
    """Return the text of a file without the table of a token, up to the comment above the next table."""
    wanted = re.compile(rf"""\s*\[\s*tokens\s*\.\s*(["']?){re.escape(name)}\1\s*\]\s*(#.*)?$""")
    kept: list[str] = []
    above: list[str] = []
    is_wanted = False
    for line in text.splitlines(keepends=True):
        if _HEADER.match(line):
            is_wanted = wanted.match(line) is not None
            kept += above
            above = []
        if not is_wanted:
            kept.append(line)
        elif line.lstrip().startswith("#"):
            above.append(line)
        elif line.strip():
            above = []
    return "".join(kept)


def _write(path: str, text: str, expected: dict[str, TokenEntry]) -> None:
    """Replace the file at `path` in one step, if `text` means the tokens that are `expected`."""
    if parse_tokens(text.encode(), path).entries != expected:
        raise AccessFileError(
            f"{path} is written in a way that this command cannot change safely: change it with an editor"
        )
    target = Path(os.path.realpath(path))  # what a symbolic link leads to is replaced, not the link
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                _keep_access(descriptor, target)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise AccessFileError(f"{path} cannot be written: {error.strerror}") from None


def _keep_access(descriptor: int, target: Path) -> None:
    """Give a new file the mode and the owner of the one that it replaces, if it may."""
    try:
        before = target.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, FILE_MODE)
        return
    os.fchmod(descriptor, before.st_mode & 0o777)
    with suppress(PermissionError):
        os.fchown(descriptor, before.st_uid, before.st_gid)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold a lock on the directory of a file, so that two commands do not undo each other's changes."""
    try:
        directory = os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise AccessFileError(f"{path}: its directory cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
