"""The mail app with attempts that follow each other at once."""

from taskd import task
from taskd.apps.mail import RETRY_FOR, send_mail

task(name="send", durable=True, retries=2, backoff=0.01, retry_for=RETRY_FOR)(send_mail)
