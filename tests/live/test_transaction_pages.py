"""The pages of docs/transactions, followed by somebody who has a shell and a PostgreSQL with a database."""

from __future__ import annotations

import subprocess

import pytest

from tests.live import pages
from tests.postgres_server import OWNER, PASSWORD

FOLDER = "transactions"

NEEDS = {"django.md": ("curl",), "flask.md": ("curl",), "php.md": ("php",), "psql.md": ()}
"""The programs that each page needs, besides PostgreSQL's."""


def test_every_page_is_followed():
    assert {path.name for path in (pages.DOCS / FOLDER).glob("*.md")} - {"index.md"} == NEEDS.keys()


def has_pdo() -> bool:
    """Return whether PHP has its driver for PostgreSQL (Debian's package php-pgsql)."""
    listed = subprocess.run(["php", "-m"], capture_output=True, text=True)
    return "pdo_pgsql" in listed.stdout.split()


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_a_page_can_be_followed(name, start_postgres, tmp_path, monkeypatch):
    if reason := pages.missing(*NEEDS[name]):
        pytest.skip(reason)
    if name == "php.md" and not has_pdo():
        pytest.skip("PHP's driver pdo_pgsql is not installed")
    try:
        pages.environment()
    except subprocess.CalledProcessError:
        pytest.skip("the frameworks cannot be installed here")
    server = start_postgres()
    server.create_database("shop")
    server.sql(f"CREATE ROLE shop LOGIN PASSWORD '{PASSWORD}'")
    server.directory.chmod(0o755)  # so that the reader, who may be another user, finds the socket
    for variable, value in (("HOST", server.directory), ("PORT", server.port), ("USER", OWNER)):
        monkeypatch.setenv(f"PG{variable}", str(value))
    monkeypatch.setenv("PATH", str(server.bin), prepend=":")
    reader = pages.Reader(pages.Page(f"{FOLDER}/{name}"), tmp_path)
    try:
        made = next((each for each in reader.page.sessions if "startproject" in each.commands[0]), None)
        if made is not None:
            reader.run(made)  # it makes files that the page then replaces
        reader.write_files()
        reader.follow(but=made)
    finally:
        reader.leave()
