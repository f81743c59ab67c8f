"""A stored task on Procrastinate with PostgreSQL."""

import os

import marks
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["POSTGRES_URL"]))


@app.task
def stored(sent: float) -> None:
    """Note that it runs."""
    marks.note(sent)


_client = app.with_connector(SyncPsycopgConnector(conninfo=os.environ["POSTGRES_URL"]))


def submit(sent: float) -> None:
    """Return once it is committed."""
    if not _is_open:
        _client.open()
        _is_open.append(True)
    _client.configure_task("stored_procrastinate.stored").defer(sent=sent)


_is_open: list[bool] = []
