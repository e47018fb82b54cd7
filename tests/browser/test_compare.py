"""Runs side by side in a browser: from ticks to curves and tables, the address holds all, live where a run goes on."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from app.runs.tables import RunSample
from tests.browser.conftest import Studio
from tests.browser.seed import Trainer
from tests.browser.test_axe import faults

pytestmark = pytest.mark.browser


@pytest.fixture
def two(studio: Studio) -> str:
    """Ids of two finished runs that answered the same prompt."""
    ids = [studio.ids["r64"], studio.ids["lr1e4"]]
    with studio.database.write() as session:
        for run_id in ids:
            for step in (0, 400):
                session.merge(RunSample(run_id=run_id, step=step, number=0, prompt="2 + 2?", text=f"four at {step}", expected="4", seq=1))
    return ",".join(ids)


def opened(page: Page, address: str) -> None:
    """Open a comparison and wait for its curves."""
    page.goto(address)
    page.wait_for_selector("#charts .uplot")


def test_ticked_runs_are_compared(page: Page, studio: Studio) -> None:
    page.goto("/runs")
    compare = page.get_by_role("button", name="Compare")
    page.check(f"#row-{studio.ids['lr1e4']} input")
    expect(compare).to_be_disabled()
    page.check(f"#row-{studio.ids['r64']} input")
    compare.click()
    expect(page).to_have_url(re.compile(r"/runs/compare\?runs=\w+,\w+$"))
    expect(page.locator("[data-legend] span")).to_have_count(2)
    expect(page.get_by_role("row", name="Train loss").locator(".best")).to_have_count(1)


def test_the_address_holds_the_view(page: Page, two: str) -> None:
    opened(page, f"/runs/compare?runs={two}")
    page.keyboard.press("l")
    page.keyboard.press("]")
    page.get_by_role("radio", name="Time").check()
    page.get_by_role("switch", name="Ignore outliers").check()
    expect(page).to_have_url(re.compile(r"smooth=0.85&axis=time&log=1&outliers=0"))
    address = page.url
    page.evaluate("localStorage.clear()")
    opened(page, address)
    expect(page.locator("#chart-tools output")).to_have_text("0.85")
    expect(page.get_by_role("switch", name="Log scale")).to_be_checked()
    expect(page.get_by_role("switch", name="Ignore outliers")).to_be_checked()
    expect(page.get_by_role("radio", name="Time")).to_be_checked()
    page.evaluate("localStorage.clear()")


def test_a_run_is_hidden_removed_made_the_baseline_and_added(page: Page, studio: Studio, two: str) -> None:
    opened(page, f"/runs/compare?runs={two}")
    page.get_by_role("link", name="Hide qwen3-4b-support-sft-lr1e4").click()
    page.wait_for_selector("#charts .uplot")
    expect(page.locator("[data-legend] span")).to_have_count(1)
    page.get_by_role("link", name="Show qwen3-4b-support-sft-lr1e4").click()
    page.get_by_role("link", name="Take as baseline: qwen3-4b-support-sft-lr1e4").click()
    expect(page).to_have_url(re.compile(f"base={studio.ids['lr1e4']}"))
    expect(page.get_by_text("change against qwen3-4b-support-sft-lr1e4")).to_be_visible()
    page.get_by_text("Add a run").click()
    page.get_by_label("Find a run").fill("gemma")
    expect(page.locator("#found a")).to_have_count(1)
    page.locator("#found a").click()
    expect(page).to_have_url(re.compile(f"runs={two},{studio.ids['outcome']}"))
    page.get_by_role("link", name="Remove gemma3-1b-router").click()
    expect(page).to_have_url(re.compile(f"runs={two}&base"))


def test_answers_at_a_step(page: Page, two: str) -> None:
    page.goto(f"/runs/compare?runs={two}")
    expect(page.get_by_text("four at 400")).to_have_count(2)
    page.locator("select[name=step]").select_option("0")
    expect(page.get_by_text("four at 0")).to_have_count(2)
    expect(page).to_have_url(re.compile("step=0"))


def test_the_curve_of_a_run_that_goes_on_grows(page: Page, studio: Studio) -> None:
    with page.expect_response(re.compile("/events")):
        opened(page, f"/runs/compare?runs={studio.ids['live']},{studio.ids['r64']}")
    before = page.locator('[data-key="loss"]').get_attribute("aria-label") or ""
    Trainer(studio.database, studio.ids["live"]).step(3)
    expect(page.locator('[data-key="loss"]')).not_to_have_attribute("aria-label", before)


@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_a_deleted_run_is_named_and_everybody_can_use_the_page(page: Page, two: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    opened(page, f"/runs/compare?runs={two},run_gone&all=1")
    expect(page.get_by_text("deleted, or of another workspace")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]  # one of two words
        assert faults(page) == []
