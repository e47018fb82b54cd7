"""The list of runs in a browser: live rows, filters in the address, keys, the jump palette, and life without JavaScript."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from app.runs.tables import Run
from tests.browser.conftest import Studio, watch
from tests.browser.seed import Trainer
from tests.factories import add_run

pytestmark = pytest.mark.browser


def test_a_row_moves_and_keeps_its_tick_and_focus(page: Page, studio: Studio) -> None:
    row = f"#row-{studio.ids['live']}"
    page.goto("/runs")
    cell = page.locator(f"{row} .prog .sub")
    before = cell.inner_text()
    page.check(f"{row} input")
    page.focus(f"{row} input")
    with Trainer(studio.database, studio.ids["live"]):
        expect(cell).not_to_have_text(before)
    expect(page.locator(f"{row} input")).to_be_checked()
    expect(page.locator(f"{row} input")).to_be_focused()
    expect(page.locator("#chosen")).to_contain_text("1 selected")


def test_filters_live_in_the_address(page: Page, studio: Studio) -> None:
    page.goto("/runs")
    page.keyboard.press("/")
    page.keyboard.type("gemma")
    expect(page.locator("#runs tr")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"\?q=gemma"))
    page.keyboard.type("zzz")
    expect(page.get_by_role("heading", name="No run matches")).to_be_visible()
    page.get_by_role("link", name="Clear filters").click()
    page.locator("#segments label", has_text="Failed").click()
    expect(page.locator("#runs tr")).to_have_count(1)
    expect(page.locator("#runs tr .why")).to_contain_text("ran out of memory")
    page.reload()
    expect(page.locator("#runs tr")).to_have_count(1)


def test_a_new_run_appears_by_itself(page: Page, studio: Studio) -> None:
    page.goto("/runs?q=appears")
    expect(page.get_by_role("heading", name="No run matches")).to_be_visible()
    page.wait_for_timeout(300)  # the stream is open now
    with studio.database.write() as session:
        first = session.get(Run, studio.ids["live"])
        assert first is not None
        run = add_run(session, studio.workspace_id, name="appears", checkpoint_id=first.checkpoint_id, dataset_id=first.dataset_id)
        run.seq = 1
        run_id = run.id
    expect(page.locator(f"#row-{run_id}")).to_be_visible()
    with studio.database.write() as session:
        session.delete(session.get(Run, run_id))


def test_the_palette_jumps(page: Page, studio: Studio) -> None:
    page.goto("/runs")
    page.keyboard.press("Control+k")
    expect(page.locator("#palette-list a").first).to_contain_text("New run")
    page.keyboard.type("lr1e4")
    expect(page.locator("#palette-list a")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/runs/{studio.ids['lr1e4']}$"))


def test_keys_go_places(page: Page, studio: Studio) -> None:
    page.goto("/runs")
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("d")
    expect(page).to_have_url(re.compile("/datasets$"))
    page.wait_for_load_state("load")
    page.keyboard.press("c")
    expect(page).to_have_url(re.compile("/runs/new$"))


def test_the_theme_stays(page: Page, studio: Studio) -> None:
    page.emulate_media(color_scheme="light")
    page.goto("/runs")
    page.get_by_role("button", name="Switch between light and dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_two_runs_are_laid_over_each_other(page: Page, studio: Studio) -> None:
    page.goto("/runs")
    for name in ("lr1e4", "r64"):
        page.check(f"#row-{studio.ids[name]} input")
    page.get_by_role("button", name="Overlay curves").click()
    expect(page).to_have_url(re.compile(r"/runs/\w+\?with=\w+"))
    expect(page.locator("[data-legend] span")).to_have_count(2)


def test_an_empty_studio_says_how_to_begin(browser: Browser, empty_studio: Studio) -> None:
    context = browser.new_context(storage_state={"cookies": empty_studio.cookies(), "origins": []})  # type: ignore[typeddict-item]
    page = context.new_page()
    found = watch(page, empty_studio.url)
    page.goto(f"{empty_studio.url}/runs")
    expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
    for name in ("Add a dataset", "See the models", "New run", "Try the sample"):
        expect(page.get_by_role("link", name=name).last).to_be_visible()
    page.unroute_all(behavior="ignoreErrors")
    context.close()
    assert not found


def test_pages_work_without_javascript(browser: Browser, studio: Studio) -> None:
    context = browser.new_context(
        java_script_enabled=False,
        base_url=studio.url,
        storage_state={"cookies": studio.cookies(), "origins": []},  # type: ignore[typeddict-item]
    )
    page = context.new_page()
    page.goto("/runs")
    page.fill("[name=q]", "gemma")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#runs tr")).to_have_count(1)
    page.locator("#runs tr .name a").click()
    page.get_by_role("link", name="Config").click()
    expect(page.get_by_role("heading", name="As YAML")).to_be_visible()
    page.goto(f"/runs/{studio.ids['fresh']}")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#live .badge")).to_have_text("pausing")
    context.close()
