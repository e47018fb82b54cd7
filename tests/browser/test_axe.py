"""Every page can be used by everybody: axe finds nothing, in light and in dark, and nothing is wider than the screen."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser.conftest import Studio

pytestmark = pytest.mark.browser

RULES = {"preload": False, "runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]}
PAGES = [
    "/runs",
    "/runs?q=nothing",
    "/runs/{live}",
    "/runs/{outcome}",
    "/runs/{failed}",
    "/runs/{fresh}",
    "/runs/{live}?tab=samples",
    "/runs/{live}?tab=logs",
    "/runs/{live}?tab=config",
    "/runs/{live}?tab=checkpoints",
    "/runs/{live}?tab=system",
    "/runs/{live}?tab=history",
    "/runs?method=sft&tag=lora-r16&sort=-loss",
    "/runs/new",
    "/runs/new?from={live}",
    "/datasets",
    "/datasets/new",
    "/models",
    "/models/import",
    "/playground",
    "/system",
    "/settings",
    "/docs",
    "/runs/nothing",
]


def faults(page: Page) -> list[object]:
    """What axe finds on the page as it is."""
    violations = Axe().run(page, options=RULES).response["violations"]
    return [(each["id"], each["nodes"][0]["target"], each["help"], len(each["nodes"])) for each in violations]


def settle(page: Page) -> None:
    """Wait until a chart or a plan, where there is one, is drawn."""
    if page.locator("#charts").count():
        page.wait_for_selector("#charts .uplot, #charts .empty")
    if page.locator("#plan").count():
        page.wait_for_selector("#plan dl, #plan .notes")


@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing(page: Page, studio: Studio, path: str) -> None:
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.goto(path.format(**studio.ids))
    settle(page)
    assert faults(page) == []
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    settle(page)
    assert faults(page) == []


@pytest.mark.parametrize("opener", [".search", '[data-open="#keys"]', '[data-open="#edit"]', "#run-actions .danger"])
def test_axe_finds_nothing_in_dialogs(page: Page, studio: Studio, opener: str) -> None:
    page.goto(f"/runs/{studio.ids['live']}")
    settle(page)
    page.locator(opener).click()
    page.wait_for_selector("dialog[open]")
    assert faults(page) == []


# Fields that reach over the padding of the card they are in.
OUTSIDE = """[...document.querySelectorAll(".card .field :is(input, select, textarea, .drop)")].filter((field) => field.checkVisibility()
    && field.getBoundingClientRect().right > field.closest(".card").getBoundingClientRect().right - 8).map((field) => field.id)"""


def test_nothing_is_wider_than_the_screen_or_its_card(page: Page, studio: Studio) -> None:
    wide: list[tuple[str, int | str]] = []
    for path in PAGES:
        page.set_viewport_size({"width": 1440, "height": 844})
        page.goto(path.format(**studio.ids))
        settle(page)
        for width in (1440, 1024, 390):
            page.set_viewport_size({"width": width, "height": 844})
            # Charts follow a frame or two after the window.
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            if page.evaluate("document.documentElement.scrollWidth") > width:
                wide.append((path, width))
            wide += [(path, f"{width}: {field}") for field in page.evaluate(OUTSIDE)]
    assert not wide
