"""What the modules of the pages do not use."""

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import taskd.web

FOLDER = Path(taskd.web.__file__).parent

NEVER = re.compile(
    r"\b(innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|setHTMLUnsafe|postMessage)\b"
    r"|\bdocument\.(write|cookie)\b|\beval\(|\bnew Function\b"
)


class PageSourcesTests(SynchronousTestCase):
    def test_pages_make_no_markup_from_texts_and_run_none(self):
        modules = [FOLDER / "taskd.js", *(FOLDER / "pages").rglob("*.js")]
        self.assertGreater(len(modules), 20)
        for path in modules:
            if "vendor" not in path.parts:
                self.assertEqual(NEVER.findall(path.read_text()), [], path)

    def test_pages_have_no_script_style_or_handler_of_their_own(self):
        for path in FOLDER.rglob("*.html"):
            text = path.read_text()
            inline = re.findall(r"<script(?![^>]*\bsrc=)|<style|\son[a-z]+=|\sstyle=", text)
            self.assertEqual(inline, [], path)
            self.assertEqual(re.findall(r'(?:src|href)="(?:[a-z]+:|//)', text), [], path)
