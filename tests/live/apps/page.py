"""What the Workerman page has done, as a task of ours."""

from taskd import task


@task
def send_mail(from_: str, to: str, contents: str) -> dict[str, str]:
    return {"from": from_, "to": to, "contents": contents, "sent": "yes"}
