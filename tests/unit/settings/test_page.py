"""The page about configuration, whose table of options is made from the description of them."""

from twisted.trial.unittest import SynchronousTestCase

from tests.option_rows import PAGE, parts, table


class PageTests(SynchronousTestCase):
    def test_the_page_has_the_table_that_the_description_makes(self):
        _, present, _ = parts(PAGE.read_text())
        self.assertEqual(present, table(), "run: python -m tests.option_rows")
