"""A browser for the tests of the pages: Chromium, driven by Playwright in a thread of its own."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import wraps

from tests.live.support import TIMEOUT

CHROMIUM = shutil.which("chromium")


class Browser:
    """The browser, and the one thread that drives it: Playwright has a loop of its own."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(self._open).result()

    def _open(self):
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        self._browser = self._playwright.chromium.launch(executable_path=CHROMIUM, args=options)

    def run(self, act, *arguments):
        """Call `act` in the browser's thread, and return what it returns."""
        return self._thread.submit(act, *arguments).result()

    def new_profile(self, **options):
        """Return a browser that has no data yet; to be called in the thread."""
        profile = self._browser.new_context(**options)
        profile.set_default_timeout(TIMEOUT * 1000)
        return profile

    def close(self):
        def close():
            self._browser.close()
            self._playwright.stop()

        self.run(close)
        self._thread.shutdown()


def in_browser(test):
    """Run a test, which has the fixture `browser`, in the browser's thread."""

    @wraps(test)
    def run(*, browser, **fixtures):
        browser.run(lambda: test(browser=browser, **fixtures))

    return run
