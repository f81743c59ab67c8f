"""Screenshots of the pages, each in light and dark, on a desktop and on a phone, of a server that is in use.

``python -m bench.screenshots DIRECTORY`` needs what the tests of the pages need: Playwright and the
program ``chromium``. The pictures in docs/images were made by it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jwt
from playwright.sync_api import Page, sync_playwright

from bench.servers import free_port, wait_for_port

TASKD = Path(sys.executable).with_name("taskd")

APP = '''
import random
import time
from datetime import date
from typing import Literal
from taskd import progress, task

@task(durable=True)
def send_invoice(
    customer: str, amount: float, due: date, *, copies: int = 1, paper: Literal["A4", "A5"] = "A4"
) -> str:
    """Write an invoice, and send it to a customer."""
    time.sleep(random.uniform(0.01, 0.2))
    return f"invoice for {customer}: {amount:.2f}, due {due}"

@task(durable=True)
def monthly_report(month: str, pages: int = 40) -> dict:
    """Make the report of a month."""
    for done in range(pages):
        progress(done, pages, f"page {done + 1}")
        time.sleep(0.5)
    return {"month": month, "pages": pages}

@task(durable=True, retries=2, backoff=0.1)
def resize_image(name: str, width: int = 800) -> str:
    """Make a smaller copy of an image."""
    print(f"reading {name}")
    time.sleep(random.uniform(0.05, 0.3))
    if name.endswith(".bmp"):
        raise ValueError(f"{name}: cannot identify the format of the file")
    return name.replace(".", f"-{width}.")

@task(durable=True, cron="30 2 * * *")
def tidy_up() -> int:
    """Remove what nobody needs any more."""
    return 0
'''

PLACES = {
    "visitor": "/",
    "ops-overview": "/ops#overview",
    "ops-tasks": "/ops#tasks",
    "ops-queue": "/ops#queue",
    "ops-workers": "/ops#workers",
    "ops-functions": "/ops#functions",
    "ops-schedules": "/ops#schedules",
    "ops-audit": "/ops#audit",
}

VISITOR, OPERATOR = ("submit", "grace@example.com"), ("operate", "ada@example.com")

SIZES = {"desktop": (1440, 900), "phone": (390, 844)}

BUSY_SECONDS = 70.0
"""Seconds for which the server is in use before the first picture: the charts then have a minute."""

SETTLE_MS = 2500


class Server:
    """The daemon, and a connection of its operator."""

    def __init__(self, directory: Path) -> None:
        self._secret = secrets.token_urlsafe(48)
        (directory / "key").write_text(self._secret)
        (directory / "shop.py").write_text(APP)
        self.listen, self.websocket = free_port(), free_port()
        self._daemon = subprocess.Popen(
            [
                *(TASKD, "serve", "--app", "shop", "--workers", "4", "--store", "sqlite:tasks.db"),
                *("--listen", f"tcp:{self.listen}:interface=127.0.0.1", "--jwt-key", "key"),
                *("--websocket", f"tcp:{self.websocket}:interface=127.0.0.1"),
            ],
            cwd=directory,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        wait_for_port(self.listen, self._daemon)
        self._socket = socket.create_connection(("127.0.0.1", self.listen))
        self._lines = self._socket.makefile("rb")
        self.ask("taskd.auth", token=self.token("ada@example.com", "operate"))
        self.ask("taskd.functions")

    def token(self, sub: str, role: str) -> str:
        """Return a signed token."""
        claims = {"sub": sub, "role": role, "exp": int(time.time()) + 3600}
        return jwt.encode(claims, self._secret, "HS256")

    def ask(self, method: str, **params: Any) -> Any:
        """Call a method, and return its result."""
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        return json.loads(self._lines.readline())["result"]

    def submit(self, function: str, owner: str, **args: Any) -> str:
        """Submit a task for an owner."""
        answer = self.ask("taskd.submit", function=function, args=args, options={"owner": owner})
        return str(answer["task"])

    def close(self) -> None:
        """End the daemon."""
        self._daemon.terminate()
        self._daemon.wait(60)


def keep_busy(server: Server) -> str:
    """Use the server for a while; return a task that has failed."""
    owners = ("grace@example.com", "linus@example.com", "margaret@example.com")
    failed = server.submit("resize_image", owners[0], name="old scan.bmp")
    begun = time.monotonic()
    number = 0
    while time.monotonic() < begun + BUSY_SECONDS:
        number += 1
        owner = owners[number % 3]
        server.submit(
            "send_invoice", owner, customer=f"Customer {number}", amount=9.5 * number, due="2027-01-31"
        )
        if number % 4 == 0:
            server.submit(
                "resize_image", owner, name=f"photo {number}.{'bmp' if number % 24 == 0 else 'jpg'}"
            )
        time.sleep(0.15)
    for month in ("September", "October"):
        server.submit("monthly_report", "grace@example.com", month=month, pages=200)
    server.ask("taskd.submit_batch", function="send_invoice", args=[
        {"customer": f"Customer {each}", "amount": 12.0, "due": "2027-02-28"} for each in range(400)
    ], options={"owner": "linus@example.com"})  # fmt: skip
    server.ask("taskd.stacks")
    return failed


def take(page: Page, path: Path) -> None:
    """Take one picture, once the page shows what it has."""
    page.wait_for_timeout(SETTLE_MS)
    page.screenshot(path=path)


def main(directory: str) -> None:
    """Take all pictures."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as run, sync_playwright() as playwright:
        server = Server(Path(run))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            failed = keep_busy(server)
            places = {**PLACES, "ops-task": f"/ops#tasks?task={failed}"}
            for size, (width, height) in SIZES.items():
                for scheme in ("light", "dark"):
                    for name, place in places.items():
                        role, sub = (
                            ("submit", "grace@example.com")
                            if name == "visitor"
                            else ("operate", "ada@example.com")
                        )
                        profile = browser.new_context(
                            viewport={"width": width, "height": height},
                            color_scheme=scheme,  # type: ignore[arg-type]
                            is_mobile=size == "phone",
                            has_touch=size == "phone",
                        )
                        token = json.dumps(server.token(sub, role))
                        profile.add_init_script(f"sessionStorage.setItem('taskd.token', {token})")
                        page = profile.new_page()
                        page.goto(f"http://127.0.0.1:{server.websocket}{place}")
                        take(page, target / f"{name}-{size}-{scheme}.png")
                        profile.close()
        finally:
            browser.close()
            server.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
