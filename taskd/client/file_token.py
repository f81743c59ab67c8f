"""The token in a file that a long-lived program shows its task servers."""

from __future__ import annotations

from taskd.auth.files import AccessFileError, read_access_file
from taskd.client.tokens import checked
from taskd.errors import NotAllowed

__all__ = ["FileToken"]


class FileToken:
    """The token of a file, as it was when it was last read: a function for `Credentials`.

    Raises `AccessFileError` if there is none in it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.token = self.read()

    def __call__(self) -> str:
        """Return the token."""
        return self.token

    def read(self) -> str:
        """Return the token that is in the file now. Raises `AccessFileError`, which does not show it."""
        content = read_access_file(self._path).strip()
        if not content:
            raise AccessFileError(f"{self._path} has no token in it")
        try:
            return checked(content.decode("ascii"))
        except (UnicodeDecodeError, NotAllowed):
            raise AccessFileError(
                f"{self._path} has something else in it than one token, on one line"
            ) from None
