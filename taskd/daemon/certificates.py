"""Certificates that are read again at SIGHUP."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger

from taskd.net.tls_port import RenewableCertificates

__all__ = ["read_certificates_again"]

_log = Logger(namespace="taskd.tls")


def read_certificates_again(certificates: Sequence[RenewableCertificates]) -> None:
    """Have each of these read its files again; those that cannot go on with what they have.

    Connections that are open are not concerned.
    """
    renewed = 0
    for each in certificates:
        try:
            each.read_again()
        except Exception as error:  # whatever is wrong with a file, or that it may not be read any more
            _log.error("certificates are not read again: {why}; the old ones stay in use", why=error)
        else:
            renewed += 1
    if renewed:
        _log.info("certificates read again: {renewed} of {count}", renewed=renewed, count=len(certificates))
