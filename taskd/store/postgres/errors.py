"""The errors of PostgreSQL: their meaning, and what can be done."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict

__all__ = ["explained", "shown"]

_ADVICE = {
    "28P01": "the password is wrong, or there is none: give it in the description, or in ~/.pgpass",
    "28000": "pg_hba.conf lets that user not in from here",
    "3D000": "make the database first: createdb",
    "42501": "the user lacks rights: it must own the schema taskd, or be allowed to create it",
    "3F000": "the schema taskd is gone",
    "53100": "the disk is full",
    "53200": "the server is out of memory",
    "53300": "the server has too many connections: raise max_connections",
    "25006": "the server is read-only, such as a standby: name the primary, or both with "
    "target_session_attrs=read-write",
    "57014": "a time limit of the server has cut it off, such as statement_timeout",
    "55P03": "something else has locked it, and lock_timeout has passed",
    "57P03": "the server starts or stops",
    "57P01": "the server was stopped",
    "58030": "the disk reports an error",
}
_CLASSES = {
    "08": "the connection was lost",
    "53": "the server lacks a resource",
    "58": "the server's system reports an error",
    "XX": "a bug or damage in the server",
}
_TEXTS = {
    "password authentication failed": "28P01",
    "no password supplied": "28P01",
    "no pg_hba.conf entry": "28000",
    "too many clients": "53300",
    "too many connections": "53300",
    "remaining connection slots": "53300",
    "starting up": "57P03",
    "shutting down": "57P03",
    "read-only": "25006",
}
_NO_SERVER = "is the server running there, and does it accept connections?"


def explained(error: psycopg.Error) -> str:
    """Return an error of PostgreSQL, in one line, with what it means or what to do."""
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    code = error.sqlstate or next((code for part, code in _TEXTS.items() if part in text), "")
    advice = _ADVICE.get(code) or _CLASSES.get(code[:2])
    if advice is None and not code and "does not exist" in text and "database" in text:
        advice = _ADVICE["3D000"]
    if advice is None and isinstance(error, psycopg.OperationalError) and not code:
        advice = _NO_SERVER if "connection failed" in text or "refused" in text else _CLASSES["08"]
    return f"{text} ({advice})" if advice else text


def shown(dsn: str) -> str:
    """Return what names a database to people: never its password."""
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.Error:
        return "the database"
    place = "".join(
        (
            f"{parts['user']}@" if "user" in parts else "",
            str(parts.get("host", parts.get("hostaddr", ""))),
            f":{parts['port']}" if "port" in parts else "",
        )
    )
    service = f"service={parts['service']}" if "service" in parts else ""
    return f"postgres:{'/'.join(filter(None, (place, str(parts.get('dbname', '')), service)))}"
