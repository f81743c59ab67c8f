"""Sphinx: `make check` builds these pages, and a warning is an error."""

from taskd import __version__

project = "taskd"
author = "the taskd authors"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"taskd {release}"

myst_heading_anchors = 4

# Docstrings write `name` for what is code.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"

nitpicky = True
# What is not ours has its documentation elsewhere, and is not looked up over
# the network; the type variables have none.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!taskd\.).*"),
    (r"py:.*", r"taskd\.functions\..*\._(Function|Hook)"),
    (r"py:.*", r"taskd\.(client|testing)\..*\.(P|R|Row|Returned)"),
]
