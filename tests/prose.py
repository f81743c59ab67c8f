"""Check the prose of the project: phrases to avoid, and how docstrings begin.

``python tests/prose.py [PATH …]`` prints each find as ``file:line: …`` and
exits with status 1 if there is any. The phrases are in ``prose.toml``. Looked
at are docstrings, comments, the names of tests, the messages in `taskd/` and
the documentation in Markdown.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = Path(__file__).with_name("prose.toml")

PATHS = ("taskd", "twisted", "tests", "examples", "bench", "tools", "docs", ".")
"""What is checked: folders with all that is in them, and the Markdown files of the root."""

STARTS = re.compile(r"(It|They|He|She|This is|These are|Those|Who|What|Nobody|Somebody)\b", re.ASCII)
"""Words that begin a first sentence without naming its subject."""

FILLERS = frozenset(
    re.findall(r"\w+", "a an the it its this that them their of for to and or is are be all one s")
)
"""Words that add nothing to a name."""


@dataclass(frozen=True)
class Phrase:
    """A phrase to avoid."""

    pattern: re.Pattern[str]
    instead: str
    why: str


@dataclass(frozen=True, order=True)
class Find:
    """Something to mend."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Text:
    """A piece of prose, and the line at which it begins."""

    text: str
    line: int


def phrases_in(words: Path) -> list[Phrase]:
    """Read the list of phrases."""
    found = []
    for section in tomllib.loads(words.read_text()).values():
        for pattern, instead in section["phrases"].items():
            anywhere = pattern.replace(" ", r"\s+")
            found.append(Phrase(re.compile(anywhere, re.IGNORECASE), instead, section["why"]))
    return found


_Named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


# --- what is read ------------------------------------------------------------


def texts_of_python(source: str, *, messages: bool) -> Iterator[Text]:
    """The docstrings, comments and names of tests of a module; with `messages` its other strings too."""
    tree = ast.parse(source)
    docstrings = {id(node) for node in map(_docstring_node, ast.walk(tree)) if node is not None}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in docstrings or (messages and " " in node.value):
                yield Text(node.value, node.lineno)
        elif isinstance(node, _Named) and node.name.lower().startswith("test"):
            yield Text(node.name.replace("_", " "), node.lineno)
    yield from _comments(source)


def _docstring_node(node: ast.AST) -> ast.Constant | None:
    """The constant of a docstring, also of one behind an assignment."""
    if (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ):
        return node.value
    return None


def _comments(source: str) -> Iterator[Text]:
    """The comments of a module; those on consecutive lines are one text."""
    lines: list[str] = []
    start = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if lines and line != last + 1:
            yield Text("\n".join(lines), start)
            lines = []
        if not lines:
            start = line
        lines.append(token.string.lstrip("# "))
        last = line
    if lines:
        yield Text("\n".join(lines), start)


def text_of_markdown(source: str) -> Text:
    """A page without its code blocks; the lines stay where they are."""
    fence = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
    return Text(fence.sub(lambda match: "\n" * match[0].count("\n"), source), 1)


# --- what is found -----------------------------------------------------------

_CODE = re.compile(r"(`+)(?:(?!\1).)+\1", re.DOTALL)


def phrases_found(text: Text, phrases: Iterable[Phrase]) -> Iterator[tuple[int, str]]:
    """Each phrase that a text should do without, and its line."""
    prose = _CODE.sub(lambda match: re.sub(r"[^\n]", "\0", match[0]), text.text)
    ends = [match.start() for match in re.finditer("\n", prose)]
    found = [(match, phrase) for phrase in phrases for match in phrase.pattern.finditer(prose)]
    end = 0
    for match, phrase in sorted(found, key=lambda each: (each[0].start(), -each[0].end())):
        if match.start() < end:
            continue  # a part of a longer one
        end = match.end()
        line = text.line + bisect_left(ends, match.start())
        quoted = " ".join(match[0].split())
        yield line, f'"{quoted}": write {phrase.instead} ({phrase.why})'


def docstrings_found(source: str) -> Iterator[tuple[int, str]]:
    """What is wrong with the docstrings of a module's public names."""
    tree = ast.parse(source)
    yield from _docstring_found(tree, "", is_property=False)
    yield from _members_found(tree, ())


def _members_found(parent: ast.AST, outer: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    for node in ast.iter_child_nodes(parent):
        if not isinstance(node, _Named) or node.name.startswith("_"):
            continue
        is_property = any("property" in ast.unparse(each) for each in node.decorator_list)
        yield from _docstring_found(node, " ".join((*outer, node.name)), is_property=is_property)
        if isinstance(node, ast.ClassDef):
            yield from _members_found(node, (*outer, node.name))


def _docstring_found(
    node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, name: str, *, is_property: bool
) -> Iterator[tuple[int, str]]:
    docstring = ast.get_docstring(node)
    if docstring is None:
        return
    line = node.body[0].lineno
    start = STARTS.match(docstring)
    if start is not None:
        yield line, f'a docstring that begins with "{start[0]}": name the subject, or begin with a verb'
    elif docstring.startswith("Whether ") and not is_property:
        yield line, 'a docstring that begins with "Whether": write "Return whether …" (a property may)'
    if name and set(_words(docstring)) <= {*_words(name), *FILLERS}:
        yield line, f"a docstring that only repeats the name: {docstring!r}"


def _words(text: str) -> Iterator[str]:
    """The words of a text or of a name, without their endings."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    for word in re.findall(r"[a-z0-9]+", spaced.lower()):
        yield word if len(word) < 4 else re.sub(r"(ies|es|s|ed|ing|e)$", "", word)


# --- all of it ---------------------------------------------------------------


def files_in(path: Path) -> Iterator[Path]:
    """The Python and Markdown files to look at."""
    if path.is_file():
        yield path
    elif path == ROOT:
        yield from sorted(path.glob("*.md"))
    else:
        found = (each for suffix in ("py", "md") for each in path.rglob(f"*.{suffix}"))
        yield from sorted(each for each in found if not {"_build", "__pycache__"} & set(each.parts))


def check(file: Path, phrases: list[Phrase]) -> list[Find]:
    """Everything to mend in one file."""
    source = file.read_text()
    shown = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)
    ours = file.is_relative_to(ROOT / "taskd")
    if file.suffix == ".md":
        texts: Iterable[Text] = [text_of_markdown(source)]
        found = []
    else:
        texts = texts_of_python(source, messages=ours)
        found = list(docstrings_found(source)) if ours else []
    found += [each for text in texts for each in phrases_found(text, phrases)]
    return sorted({Find(shown, line, what) for line, what in found})


def main(arguments: list[str]) -> int:
    """Check what the arguments name, or everything."""
    phrases = phrases_in(WORDS)
    paths = [Path(each).resolve() for each in arguments] or [(ROOT / each).resolve() for each in PATHS]
    files = [file for path in paths for file in files_in(path)]
    found = [each for file in files for each in check(file, phrases)]
    for each in found:
        print(each)
    print(f"{len(found)} to mend in {len(files)} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
