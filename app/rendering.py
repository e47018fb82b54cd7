"""What templates may call: icons, markdown of untrusted text, small curves, numbers and times in words. Reads no row."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import nh3
from lucide.jinja import lucide
from markdown_it import MarkdownIt
from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

NOTHING = "–"
_ODD = {"nan": "NaN", "inf": "∞", "-inf": "−∞"}


# --- icons and small curves -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def icon(name: str, size: int = 16) -> Markup:
    """An icon of the lucide set as inline SVG, hidden from screen readers.

    Raises:
        lucide.IconDoesNotExist: the set has none of that name.
    """
    return Markup(lucide(name, size=size, aria_hidden="true", stroke_width="1.75", **{"class": "i"}))


def spark(points: Sequence[Sequence[Any]] | None, width: int = 72, height: int = 20) -> Markup:
    """A small curve of `[step, value]` points; values that are no finite number are left out."""
    finite = [(float(x), float(y)) for x, y in points or () if isinstance(y, int | float) and math.isfinite(y)]
    if len(finite) < 2:
        return Markup("")
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    wide, high = (max(xs) - min(xs)) or 1.0, (max(ys) - min(ys)) or 1.0
    line = " ".join(f"{(x - min(xs)) / wide * width:.1f},{2 + (max(ys) - y) / high * (height - 4):.1f}" for x, y in finite)
    return Markup(
        '<svg class="spark" width="{w}" height="{h}" viewBox="0 0 {w} {h}" aria-hidden="true"><polyline points="{line}"/></svg>'
    ).format(w=width, h=height, line=line)


# --- text of models and people --------------------------------------------------------------------------------------------


def _highlighted(text: str, language: str, _attributes: str) -> str:
    try:
        lexer = get_lexer_by_name(language or "text")
    except ClassNotFound:
        lexer = get_lexer_by_name("text")
    return f'<pre class="hl"><code>{highlight(text, lexer, HtmlFormatter(nowrap=True))}</code></pre>'


_parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "highlight": _highlighted}).enable(["table", "strikethrough"])
LONGEST = 30_000
"""Characters up to which a text is formatted: a megabyte would take seconds, and its place among those kept a lot of memory."""
_TAGS = nh3.ALLOWED_TAGS - {"img"}  # an image address in a model's answer would call out to another server
_ATTRIBUTES = {tag: set(names) for tag, names in nh3.ALLOWED_ATTRIBUTES.items()}
for _tag in ("pre", "code", "span"):
    _ATTRIBUTES.setdefault(_tag, set()).add("class")


def markdown(text: str) -> Markup:
    """Untrusted text as formatted HTML, in a box that htmx leaves alone; a text beyond `LONGEST` characters as it is.

    Three guards: raw HTML is not parsed, what comes out is cleaned, and `hx-ignore` keeps any attribute left over without effect.
    """
    return _formatted(text) if len(text) <= LONGEST else Markup('<div class="prose" hx-ignore><pre>{}</pre></div>').format(text)


@lru_cache(maxsize=512)
def _formatted(text: str) -> Markup:
    clean = nh3.clean(
        _parser.render(text),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    return Markup('<div class="prose" hx-ignore>{}</div>').format(Markup(clean))


def inline(text: str) -> Markup:
    """A sentence of ours, with what stands between backticks as code."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts))


# --- numbers and times ----------------------------------------------------------------------------------------------------


def number(value: float | int | str | None, digits: int = 4) -> str:
    """A number for people: `1,234`, `0.6821`, `4.20e-05`; what is no number by its name (`NaN`, `∞`)."""
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return _ODD.get(value, value)
    if isinstance(value, bool) or not math.isfinite(value):
        return _ODD.get(str(float(value)), str(value))
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1000:
        return f"{value:,.0f}"
    if size < 0.001:
        return f"{value:.2e}"
    return f"{value:.{max(0, digits - (len(str(int(size))) if size >= 1 else 0))}f}"


def compact(value: float | int | None) -> str:
    """A large count in few letters: `4.88 M`, `135 M`, `2.4 k`."""
    if value is None:
        return NOTHING
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):#.3g}".removesuffix(".") + f" {unit}"
    return f"{value:,.0f}"


def bytes_(count: float | int | None) -> str:
    """A size in bytes: `271 MB` (powers of 1024)."""
    if count is None:
        return NOTHING
    for unit, size in (("TB", 1024**4), ("GB", 1024**3), ("MB", 1024**2), ("kB", 1024)):
        if abs(count) >= size:
            amount = count / size
            return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:,.0f} {unit}"
    return f"{count:.0f} bytes"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage: `72.0 %`."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """A length of time: `48s`, `22m 48s`, `1h 05m`, `3d 4h`."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def ago(moment: float | None) -> str:
    """How long ago a moment was: `just now`, `5m ago`, `2h ago`, `3d ago`."""
    if moment is None:
        return NOTHING
    seconds = int(time.time() - moment)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return "just now"


def moment(at: float | None, text: str | None = None) -> Markup:
    """A `<time>` that says how long ago it was, with the full date on hover; behaviours keep the words fresh."""
    if at is None:
        return Markup(escape(NOTHING))
    when = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}" title="{}"{}>{}</time>').format(
        when.isoformat(timespec="seconds"), f"{when:%Y-%m-%d %H:%M:%S} UTC", Markup("") if text else Markup(" data-ago"), text or ago(at)
    )


def date(at: float | None) -> Markup:
    """A `<time>` that says the day and the minute of a moment (UTC): `2026-11-21 14:03`."""
    return moment(at, None if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}")


def clock(at: float | None) -> str:
    """Time of day of a moment, `14:03:27` (UTC)."""
    return NOTHING if at is None else f"{datetime.fromtimestamp(at, UTC):%H:%M:%S}"


def ordinal(place: int) -> str:
    """`1st`, `2nd`, `3rd`, `11th`."""
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


GLOBALS: dict[str, Callable[..., Any]] = {
    "ago": ago,
    "bytes": bytes_,
    "clock": clock,
    "compact": compact,
    "date": date,
    "duration": duration,
    "icon": icon,
    "inline": inline,
    "markdown": markdown,
    "moment": moment,
    "number": number,
    "ordinal": ordinal,
    "percent": percent,
    "spark": spark,
}
