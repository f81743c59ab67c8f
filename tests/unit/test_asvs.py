"""The table of docs/asvs.md: every requirement is in it, and every test that it names exists."""

import ast
import re
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

TESTS = Path(__file__).parents[1]
TABLE = TESTS.parent / "docs" / "asvs.md"

SECTIONS = """
1.1:2 1.2:9 1.3:11 1.4:3 1.5:2  2.1:3 2.2:3 2.3:4 2.4:1  3.2:2 3.3:4 3.4:6 3.5:5 3.7:2
4.1:3 4.2:1 4.3:2 4.4:4  5.1:1 5.2:3 5.3:2 5.4:3  6.1:3 6.2:12 6.3:4 6.4:4 6.5:5 6.6:3 6.8:4
7.1:3 7.2:4 7.3:2 7.4:5 7.5:2 7.6:2  8.1:2 8.2:3 8.3:1 8.4:1  9.1:3 9.2:4
10.1:2 10.2:2 10.3:4 10.4:11 10.5:5 10.6:2 10.7:3  11.1:2 11.2:3 11.3:3 11.4:4 11.5:1 11.6:1
12.1:3 12.2:2 12.3:4  13.1:1 13.2:5 13.3:2 13.4:5  14.1:2 14.2:4 14.3:3  15.1:3 15.2:3 15.3:7
16.1:1 16.2:5 16.3:4 16.4:3 16.5:3  17.1:1 17.2:4 17.3:2
"""
"""The sections of ASVS 5.0.0 with requirements of the levels 1 and 2, and how many: the first ones."""


def rows():
    """Return the cells of each row: numbers, what it is about, how it is met, the test."""
    for line in TABLE.read_text().splitlines():
        if re.match(r"\| \d", line):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def numbers(cell):
    """Return the requirements that a cell like ``1.2.6 to 1.2.8, 1.3.1`` names."""
    found = []
    for part in cell.split(","):
        first, _, last = (text.strip() for text in part.partition(" to "))
        section, begin = first.rsplit(".", 1)
        if last:
            assert last.rsplit(".", 1)[0] == section, cell
        end = int((last or first).rsplit(".", 1)[1])
        found += [f"{section}.{number}" for number in range(int(begin), end + 1)]
    return found


@cache
def tests_of(path):
    tree = ast.parse((TESTS / f"{path}.py").read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


class AsvsTests(SynchronousTestCase):
    def test_every_requirement_of_levels_1_and_2_is_there_once(self):
        wanted = []
        for section in SECTIONS.split():
            name, _, count = section.partition(":")
            wanted += [f"{name}.{number}" for number in range(1, int(count) + 1)]
        found = [number for cells in rows() for number in numbers(cells[0])]
        self.assertEqual(sorted(found), sorted(wanted))

    def test_every_row_says_how_it_is_met(self):
        for cells in rows():
            self.assertEqual(len(cells), 4, cells)
            self.assertTrue(cells[1] and cells[2], cells)

    def test_every_test_that_is_named_exists(self):
        named = [name for cells in rows() for name in re.findall(r"`([^`]+::[^`]+)`", cells[3])]
        self.assertGreater(len(named), 80)
        for name in named:
            path, _, test = name.partition("::")
            self.assertIn(test, tests_of(path), name)
