"""Tasks in a module of the project, which is in no app."""

from shop.tasks import task


@task
def from_the_project() -> str:
    return __name__
