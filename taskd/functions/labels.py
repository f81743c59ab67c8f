"""Labels: what a node has that others may lack, and which of them a function needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

__all__ = ["MAX_NEEDS", "checked_label", "checked_needs", "missing_labels"]

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/=-]{0,63}")

MAX_NEEDS = 16
"""Labels that one function may need: more than there are kinds of machines."""


def checked_label(text: object) -> str:
    """Return a label, such as ``gpu`` or ``zone=eu``. Raises `ValueError` if it is none."""
    if not isinstance(text, str) or _LABEL.fullmatch(text) is None:
        raise ValueError(
            "a label begins with a letter or a digit, and has at most 64 letters, digits and . _ : / = -, "
            f"such as gpu or zone=eu, not {text!r}"
        )
    return text


def checked_needs(needs: str | Sequence[str]) -> tuple[str, ...]:
    """Return the labels that a function needs, each once. Raises `ValueError` if one of them is no label."""
    if isinstance(needs, str):
        return (checked_label(needs),)
    if not isinstance(needs, list | tuple | set | frozenset):
        raise ValueError(f"needs is a label, or a list of labels, not {needs!r}")
    labels = sorted(map(checked_label, needs)) if isinstance(needs, set | frozenset) else needs
    unique = tuple(dict.fromkeys(map(checked_label, labels)))
    if len(unique) > MAX_NEEDS:
        raise ValueError(f"a function needs at most {MAX_NEEDS} labels, not {len(unique)}")
    return unique


def missing_labels(needs: Sequence[str], labels: Collection[str] | None) -> tuple[str, ...]:
    """Return those of the labels that are not among a node's `labels`, which are all for None."""
    return () if labels is None else tuple(each for each in needs if each not in labels)
