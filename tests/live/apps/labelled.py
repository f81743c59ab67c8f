"""Functions that need labels of the server, and one that needs none."""

from taskd import task


@task(needs="gpu")
def render(scene: str) -> str:
    return f"{scene}, rendered"


@task(needs=["gpu", "big"], durable=True)
def train(model: str) -> str:
    return f"{model}, trained"


@task
def send(text: str) -> str:
    return text
