"""Functions whose runs are lines in the file "marks", for clients whose server is restarted."""

from collections.abc import Iterator

from taskd import progress, task


def _note(line: str) -> None:
    with open("marks", "a") as file:
        file.write(f"{line}\n")


@task
def plain(number: int) -> int:
    _note(f"plain {number}")
    return number


@task(durable=True)
def mark(number: int) -> int:
    _note(f"mark {number}")
    return number


@task(durable=True)
def report() -> Iterator[str]:
    """Write a chapter for each line that comes through the FIFO "chapters", up to the line "end"."""
    with open("chapters") as lines:
        for number, line in enumerate(lines, 1):
            if line == "end\n":
                break
            progress(number, 10)
            yield f"Chapter {line.strip()}"
