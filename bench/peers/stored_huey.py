"""A stored task on Huey, in an SQLite file that is synced with every commit."""

import os

import marks
from huey import SqliteHuey

huey = SqliteHuey("bench", filename=os.environ["HUEY_FILE"], fsync=True)


@huey.task()
def stored(sent: float) -> None:
    """Note that it runs."""
    marks.note(sent)


def submit(sent: float) -> None:
    """Return once it is in the file."""
    stored(sent)
