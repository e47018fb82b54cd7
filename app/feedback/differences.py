"""Where two answers differ, word by word; nothing where they have too little in common to be compared. Knows no HTML page."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from markupsafe import Markup

ALIKE = 0.5
"""Below this similarity a comparison by words is noise."""
MOST_WORDS = 1500
"""Longer answers are not compared: a rater would wait for it."""


def differences(first: str, second: str) -> tuple[Markup, Markup] | None:
    """Both texts with what only one of them has marked; None when they are too long or too different."""
    left, right = (re.findall(r"\s+|\w+|[^\w\s]", text[: MOST_WORDS * 20]) for text in (first, second))
    if not left or not right or max(len(left), len(right)) > MOST_WORDS:
        return None
    matcher = SequenceMatcher(None, left, right, autojunk=True)
    if matcher.quick_ratio() <= ALIKE or matcher.ratio() <= ALIKE:
        return None
    marked = [Markup(""), Markup("")]
    for kind, a, b, c, d in matcher.get_opcodes():
        for side, part in enumerate(("".join(left[a:b]), "".join(right[c:d]))):
            marked[side] += Markup("{}" if kind == "equal" or not part else "<mark>{}</mark>").format(part)
    return marked[0], marked[1]
