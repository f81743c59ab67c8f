"""The access to a daemon: its files of tokens and keys at the start, and which ports others can reach."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from taskd.auth.access_config import AccessConfig
from taskd.auth.files import AccessFileError
from taskd.errors import StartError
from taskd.net.client_addresses import endpoint_parts

if TYPE_CHECKING:
    # They are imported only when they are used: PyJWT and cryptography cost memory.
    from taskd.auth.sealing import Sealer
    from taskd.auth.verifier import TokenVerifier
    from taskd.client.file_token import FileToken

__all__ = [
    "PublicPorts",
    "is_public",
    "open_sealer",
    "open_server_token",
    "open_verifier",
    "refusal",
    "static_address",
]

_log = Logger(namespace="taskd.access")


def open_verifier(config: AccessConfig) -> TokenVerifier | None:
    """Read the files of tokens and keys; None if no tokens are asked for. Raises `StartError`."""
    try:
        verifier = config.open()
    except AccessFileError as error:
        raise StartError(f"taskd: --tokens, --jwt-key: {error}") from None
    if verifier is not None:
        _log.info("callers must show a token: {verifier!r}", verifier=verifier)
    return verifier


def open_sealer(path: str | None) -> Sealer | None:
    """Read the keys that seal stored secrets; None without a file. Raises `StartError`."""
    if path is None:
        return None
    from taskd.auth.sealing import Sealer

    try:
        return Sealer.read(path)
    except AccessFileError as error:
        raise StartError(f"taskd: --secret-key: {error}") from None


def open_server_token(path: str | None) -> FileToken | None:
    """Read the token that a gateway shows its task servers; None without a file. Raises `StartError`."""
    if path is None:
        return None
    from taskd.client.file_token import FileToken

    try:
        return FileToken(path)
    except AccessFileError as error:
        raise StartError(f"taskd: --task-server-token: {error}") from None


class PublicPorts:
    """The guard of the ports: one that other machines can reach needs tokens or client certificates.

    `is_insecure` lets them be open to anybody, which is logged.
    """

    def __init__(self, *, asks_for_tokens: bool, is_insecure: bool) -> None:
        self._asks_for_tokens = asks_for_tokens
        self._is_insecure = is_insecure

    def check(self, option: str, description: str, address: IAddress) -> None:
        """Check a port that is bound at `address`. Raises `StartError`, which says what to do."""
        if self._asks_for_tokens or not is_public(description, address):
            return
        if not self._is_insecure:
            raise StartError(f"taskd: {refusal(option, description)}")
        _log.warn(
            "--insecure-public: {option} {description} lets in anybody who reaches it, without a token",
            option=option,
            description=description,
        )


def refusal(option: str, description: str) -> str:
    """Return the sentence that refuses a port, and says what to do."""
    return (
        f"{option} {description} is open to other machines, and whoever reaches it could call "
        "every function: ask for tokens (--tokens FILE, made by taskd token new, or --jwt-key FILE), ask for "
        "client certificates (ssl:…:clientCA=FILE), listen for this machine alone (:interface=127.0.0.1, or "
        "unix:PATH), or let anybody in with --insecure-public"
    )


def is_public(description: str, address: IAddress) -> bool:
    """Return whether others than this machine's reach a port without a client certificate.

    `description` is its endpoint string, `address` where it is bound. What is unknown counts as public.
    """
    if isinstance(address, UNIXAddress):
        return False
    if isinstance(address, IPv4Address | IPv6Address) and _is_loopback(address.host):
        return False
    kind, _, named = endpoint_parts(description)
    return not (kind == "ssl" and named.get("clientCA"))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    is_loopback: bool = (mapped or address).is_loopback
    return is_loopback


def static_address(description: str) -> IAddress | None:
    """Return where an endpoint string would be bound, as far as it tells; None for passed sockets."""
    kind, _, named = endpoint_parts(description)
    if kind == "unix":
        return UNIXAddress("")
    if kind in ("tcp", "ssl"):
        return IPv4Address("TCP", named.get("interface") or "0.0.0.0", 0)  # noqa: S104  # what it would be
    if kind == "tcp6":
        return IPv6Address("TCP", named.get("interface") or "::", 0)
    return None
