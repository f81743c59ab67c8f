"""A stored task on Dramatiq with RabbitMQ; every publication is confirmed."""

import os

import dramatiq
import marks
from dramatiq.brokers.rabbitmq import RabbitmqBroker

dramatiq.set_broker(RabbitmqBroker(url=os.environ["AMQP_URL"], confirm_delivery=True))


@dramatiq.actor
def stored(sent: float) -> None:
    """Note that it runs."""
    marks.note(sent)


def submit(sent: float) -> None:
    """Return once the broker has confirmed it."""
    stored.send(sent)
