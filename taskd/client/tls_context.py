"""TLS for the clients without Twisted: the standard library's, with errors that name the file."""

from __future__ import annotations

import ssl
from pathlib import Path

from taskd.client.addresses import TlsFiles

__all__ = ["tls_context", "why_refused"]


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context that verifies the server's certificate, and the name in it.

    Raises `ValueError`, which names the file, if one of `files` cannot be used.
    """
    context = ssl.create_default_context()
    if files.trust_roots is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _trust(context, files.trust_roots)
    if files.certificate is not None:
        key = files.private_key or files.certificate
        try:
            context.load_cert_chain(files.certificate, key, _refuse_pass_phrase)
        except ssl.SSLError as error:
            raise ValueError(
                f"{files.certificate} with the key {key} is no certificate of a client ({_reason(error)})"
            ) from None
        except OSError as error:
            raise ValueError(f"{files.certificate} or {key}: {error.strerror}") from None
    return context


def _trust(context: ssl.SSLContext, path: str) -> None:
    """Trust the CAs in a PEM file, or in a directory's ``.pem`` and ``.crt`` files."""
    place = Path(path)
    files = [place]
    try:
        if place.is_dir():
            files = sorted(file for file in place.iterdir() if file.suffix in (".pem", ".crt"))
        for file in files:
            context.load_verify_locations(file)
    except ssl.SSLError:
        raise ValueError(f"there is no certificate in {file}") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if not files:
        raise ValueError(f"there is no certificate in {path}")


def _refuse_pass_phrase() -> str:
    """Raise: nobody is asked on the terminal."""
    raise ValueError("the private key is encrypted, and a client asks for no pass phrase")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})
"""OpenSSL's reasons for a connection whose other end does not speak TLS."""


def why_refused(error: ssl.SSLError, host: str) -> str:
    """Return the reason why a TLS handshake failed, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        message = error.verify_message.rstrip(".")
        hint = " (wrong name)" if "mismatch" in message else ""
        return f"the certificate of {host} was refused: {message}{hint}"
    if error.reason in _NOT_TLS:
        return "that port does not speak TLS: write tcp:HOST:PORT, or ws:// for a gateway"
    return f"TLS: {_reason(error)}"
