"""The function of Workerman's example, as a task of taskd."""

from taskd import task


@task
def send_mail(from_: str, to: str, contents: str) -> dict[str, str]:
    return {"from": from_, "to": to, "contents": contents, "sent": "yes"}
