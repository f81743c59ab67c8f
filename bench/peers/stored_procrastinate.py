"""A stored task on Procrastinate with PostgreSQL."""

import os
from functools import cache

import marks
from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["POSTGRES_URL"]))


@app.task
def stored(sent: float) -> None:
    """Note that it runs."""
    marks.note(sent)


@cache
def client() -> App:
    """The app with connections for a program that blocks."""
    return app.open()


def submit(sent: float) -> None:
    """Return once it is committed."""
    client()
    stored.defer(sent=sent)
