"""Tasks in a module of the app that nothing has imported before one of them is run."""

from shop.tasks import task


@task
def from_elsewhere_in_the_app() -> str:
    return __name__
