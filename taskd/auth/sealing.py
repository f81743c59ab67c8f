"""The sealing of secrets that are stored: by Fernet, with keys of a file that can be rotated."""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from taskd.auth.files import AccessFileError, read_access_file

__all__ = ["SealBroken", "Sealer"]

MAX_KEYS = 100
"""Keys of one file: what is opened is tried with each."""

_NEW_KEY = "openssl rand -base64 32 | tr +/ -_"


class SealBroken(ValueError):
    """A sealed secret cannot be opened: its key is no longer in the file, or it was changed."""


class Sealer:
    """The keys of stored secrets: the first one seals, and each of them opens. `path` is their file."""

    def __init__(self, keys: list[Fernet], path: str) -> None:
        self._path = path
        self._count = len(keys)
        self._newest = keys[0]
        self._keys = MultiFernet(keys)

    def __len__(self) -> int:
        """Return how many keys there are."""
        return self._count

    @classmethod
    def read(cls, path: str) -> Sealer:
        """Read the keys of a file, one in a line. Raises `AccessFileError`, which shows none of them."""
        return cls.parse(read_access_file(path), path)

    def read_again(self) -> Sealer:
        """Return the keys that the file has now; these stay as they are. Raises `AccessFileError`."""
        return self.read(self._path)

    def use(self, found: Sealer) -> None:
        """Seal and open with the keys of another sealer from now on, also where threads do it."""
        self._count, self._newest, self._keys = found._count, found._newest, found._keys

    @classmethod
    def parse(cls, content: bytes, shown: str) -> Sealer:
        """Return the sealer with the keys in the content of a file, which messages call `shown`.

        Raises `AccessFileError`. Empty lines, and those that begin with #, are left out.
        """
        keys = []
        for number, line in enumerate(content.splitlines(), 1):
            key = line.strip()
            if not key or key.startswith(b"#"):
                continue
            try:
                keys.append(Fernet(key))
            except ValueError:
                raise AccessFileError(
                    f"{shown}:{number}: a key is 32 bytes in base64url, 44 characters: {_NEW_KEY}"
                ) from None
        if not keys:
            raise AccessFileError(f"{shown} has no key; make one: {_NEW_KEY}")
        if len(keys) > MAX_KEYS:
            raise AccessFileError(f"{shown} has {len(keys)} keys, and may have {MAX_KEYS}")
        return cls(keys, shown)

    def seal(self, secret: bytes) -> bytes:
        """Return a secret as only the keys can open it: ASCII, a third longer, and 100 bytes more."""
        return self._keys.encrypt(secret)

    def open(self, sealed: bytes) -> bytes:
        """Return the secret that was sealed with one of the keys. Raises `SealBroken`."""
        try:
            return self._keys.decrypt(sealed)
        except InvalidToken:
            raise SealBroken("no key of --secret-key opens what was sealed") from None

    def is_newest(self, sealed: bytes) -> bool:
        """Return whether the first key opens this."""
        try:
            self._newest.decrypt(sealed)
        except InvalidToken:
            return False
        return True

    def seal_again(self, sealed: bytes) -> bytes:
        """Return the same secret, sealed with the first key. Raises `SealBroken`."""
        try:
            return self._keys.rotate(sealed)
        except InvalidToken:
            raise SealBroken("no key of --secret-key opens what was sealed") from None
