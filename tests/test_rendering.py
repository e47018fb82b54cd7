"""What templates may call: untrusted text stays inert, numbers and times read well, and every icon that a template names exists."""

from __future__ import annotations

import re
import time

import pytest

from app import rendering
from app.settings import files
from app.web import templates


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        '<b hx-get="/runs" hx-trigger="load">x</b>',
        "[x](javascript:alert(1))",
        "[x](data:text/html,x)",
        "![x](http://192.0.2.1/x.png)",
        '<hx-partial hx-target="#main">x</hx-partial>',
        '```html\n<img src=x onerror="alert(1)">\n```',
        "<svg onload=alert(1)>",
    ],
)
def test_untrusted_text_makes_no_element_that_acts(text: str) -> None:
    html = str(rendering.markdown(text))
    assert html.startswith('<div class="prose" hx-ignore>')
    inner = html.removeprefix('<div class="prose" hx-ignore>')
    assert not re.search(r"<(script|img|svg|hx-partial|b )|<[^>]*(hx-|on\w+=|javascript:|data:)", inner)


def test_markdown_formats_what_models_write() -> None:
    html = str(rendering.markdown("**bold**\n\n```python\nx = 1\n```\n\n| a |\n|---|\n| 1 |"))
    assert "<strong>bold</strong>" in html and '<pre class="hl">' in html and "<td>1</td>" in html


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        ("nan", "NaN"),
        ("inf", "∞"),
        (0.0, "0"),
        (4.2e-05, "4.20e-05"),
        (0.68212, "0.6821"),
        (12.3456, "12.35"),
        (1503.4, "1,503"),
        (2400, "2,400"),
    ],
)
def test_numbers_read_well(value: float | str | None, text: str) -> None:
    assert rendering.number(value) == text


def test_sizes_lengths_and_counts_read_well() -> None:
    assert [rendering.compact(each) for each in (4_884_480, 134_515_008, 999, None)] == ["4.88 M", "135 M", "999", "–"]
    assert [rendering.bytes_(each) for each in (12, 271_000_000, 139 * 1024**3)] == ["12 bytes", "258 MB", "139 GB"]
    assert [rendering.duration(each) for each in (48, 1368, 3900, 273_600, None)] == ["48s", "22m 48s", "1h 05m", "3d 4h", "–"]
    assert [rendering.ordinal(each) for each in (1, 2, 3, 11, 22)] == ["1st", "2nd", "3rd", "11th", "22nd"]
    assert rendering.ago(time.time() - 7300) == "2h ago"


def test_a_small_curve_leaves_out_what_is_no_number() -> None:
    assert str(rendering.spark([[0, 1.0], [1, "nan"], [2, 3.0]])).count(",") == 2
    assert rendering.spark([[0, 1.0]]) == ""
    assert rendering.spark(None) == ""


def test_every_icon_a_template_names_exists() -> None:
    named = set()
    for path in files("templates").rglob("*.html"):
        named |= set(re.findall(r'icon\("([\w-]+)"', path.read_text()))
        templates().get_template(str(path.relative_to(files("templates"))))  # it can be read, too
    assert len(named) > 20
    for name in named:
        assert "<svg" in rendering.icon(name)
