"""A small task, to be called while the newsletter is being sent."""

from taskd import task


@task
def hello(name: str = "World") -> str:
    """Say hello."""
    return f"Hello, {name}!"
