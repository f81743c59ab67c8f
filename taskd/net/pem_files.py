"""Keys and certificates from PEM files, read without waiting for anybody.

The daemon reads them at its start and, inside the reactor, at SIGHUP. OpenSSL
would ask on the terminal for the pass phrase of what is encrypted, and a FIFO
would wait for its writer.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet import ssl

__all__ = ["MAX_BYTES", "load_certificates", "load_key", "load_trust"]

MAX_BYTES = 8 * 1024 * 1024
"""Bytes of a file: many times the bundle of every public CA."""

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

_ENCRYPTED = b"Proc-Type:"
"""What the header of an encrypted PEM block contains (RFC 1421), and what no base64 does."""


class _Encrypted(Exception):
    """A pass phrase is wanted."""


def load_key(path: str) -> crypto.PKey:
    """Return the private key in a PEM file. Raises `ValueError` or `OSError`."""
    data = _read(path)
    try:
        return crypto.load_privatekey(crypto.FILETYPE_PEM, data, _refuse_pass_phrase)
    except _Encrypted:
        raise ValueError(
            f"the private key in {path} is encrypted, and the daemon asks for no pass phrase: "
            f"decrypt it with openssl pkey -in {path} -out FILE"
        ) from None
    except (SSL.Error, crypto.Error, ValueError) as error:
        raise ValueError(f"there is no private key in {path}") from error


def load_certificates(path: str) -> list[ssl.Certificate]:
    """Return the certificates in a PEM file, at least one. Raises `ValueError` or `OSError`."""
    found = _CERTIFICATE.findall(_read(path))
    if not found:
        raise ValueError(f"there is no certificate in {path}")
    if any(_ENCRYPTED in text for text in found):
        raise ValueError(f"a certificate in {path} is encrypted: certificates are public, and must not be")
    try:
        return [ssl.Certificate.loadPEM(text) for text in found]
    except (SSL.Error, crypto.Error, ValueError) as error:
        raise ValueError(f"there is a damaged certificate in {path}") from error


def load_trust(path: str) -> Any:
    """Return a trust root of the CAs in a PEM file, or in a directory's ``.pem`` and ``.crt`` files."""
    place = Path(path)
    files = [place]
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.suffix in (".pem", ".crt"))
    authorities = [certificate for file in files for certificate in load_certificates(str(file))]
    if not authorities:
        raise ValueError(f"there is no certificate in {path}")
    return ssl.trustRootFromCertificates(authorities)


def _refuse_pass_phrase(*_: object) -> bytes:
    raise _Encrypted


def _read(path: str) -> bytes:
    """Return the contents of a regular file; anything else might never end, or block."""
    with open(path, "rb", opener=_open) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is not a regular file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is over {MAX_BYTES} bytes")
    return data


def _open(path: str, flags: int) -> int:
    # Without O_NONBLOCK, to open a FIFO waits for its writer; without O_NOCTTY, a terminal becomes ours.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
