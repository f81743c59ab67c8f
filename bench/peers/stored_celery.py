"""A stored task on Celery with RabbitMQ: acknowledged after it has run, and every publication confirmed."""

import os

import marks
from celery import Celery

app = Celery("stored_celery", broker=os.environ["AMQP_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
)


@app.task
def stored(sent: float) -> None:
    """Note that it runs."""
    marks.note(sent)


def submit(sent: float) -> None:
    """Return once the broker has confirmed it."""
    stored.delay(sent)
