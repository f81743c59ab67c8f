"""A small task, to be asked for while the newsletter is being sent."""

from taskd import task


@task
def hello(name: str = "World") -> str:
    """Say hello."""
    return f"Hello, {name}!"
