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


def test_rows_are_walked_and_ticked_by_keys(page: Page, studio: Studio) -> None:
    page.goto("/runs?sort=name")
    links = page.locator("#runs .name a")
    page.keyboard.press("j")
    expect(links.nth(0)).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.keyboard.press("k")
    expect(links.nth(1)).to_be_focused()
    expect(page.locator("#chosen")).to_contain_text("2 selected")
    expect(page.locator("#runs tr").nth(1).get_by_role("checkbox")).to_be_checked()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_contain_text("Tick the run")
    page.keyboard.press("Escape")
    links.nth(1).focus()
    name = links.nth(1).inner_text()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()


def test_filters_are_added_from_the_menu_and_taken_away(page: Page, studio: Studio) -> None:
    page.goto("/runs")
    page.get_by_text("Filter", exact=True).click()
    page.locator("#by-tuner").select_option("full")
    expect(page.locator("#runs tr")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"/runs\?tuner=full$"))
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Train loss").click()
    expect(page).to_have_url(re.compile(r"tuner=full&sort=loss$"))
    page.get_by_role("link", name="Remove the filter tuner: full").click()
    expect(page).to_have_url(re.compile(r"/runs\?sort=loss$"))
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("Train loss")
    page.get_by_role("link", name="Train loss").click()
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Train loss")


def test_columns_are_chosen_and_stay(page: Page, studio: Studio) -> None:
    page.goto("/runs")
    page.get_by_text("Columns", exact=True).click()
    page.locator("#columns").get_by_label("Tokens/s").check()
    page.locator("#columns").get_by_label("Base model").uncheck()
    expect(page.get_by_role("columnheader", name="Tokens/s")).to_be_visible()
    page.reload()
    expect(page.get_by_role("columnheader", name="Tokens/s")).to_be_visible()
    expect(page.get_by_role("columnheader", name="Base model")).to_be_hidden()
    page.context.clear_cookies(name="run_columns")


def test_several_runs_are_tagged_and_stay_ticked(page: Page, studio: Studio) -> None:
    page.goto("/runs")
    rows = [f"#row-{studio.ids[name]}" for name in ("tools", "stopped")]
    for row in rows:
        page.check(f"{row} input")
    page.locator("#chosen").get_by_text("Tag", exact=True).click()
    page.get_by_label("Tags, separated by commas").fill("looked at")
    page.get_by_role("button", name="Add", exact=True).click()
    for row in rows:
        expect(page.locator(row)).to_contain_text("looked at")
        expect(page.locator(f"{row} input")).to_be_checked()
    expect(page.locator("#toasts")).to_contain_text("2 runs")
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.locator(rows[0])).not_to_contain_text("looked at")


def test_several_runs_are_deleted_after_a_question(page: Page, studio: Studio) -> None:
    with studio.database.write() as session:
        first = session.get_one(Run, studio.ids["live"])
        fields = {"checkpoint_id": first.checkpoint_id, "dataset_id": first.dataset_id, "status": "succeeded"}
        ids = [add_run(session, studio.workspace_id, name=f"to go {number}", **fields).id for number in range(2)]
    page.goto("/runs?q=to go")
    for run_id in ids:
        page.check(f"#row-{run_id} input")
    page.get_by_role("button", name="Delete").click()
    page.locator("#confirm").get_by_role("button", name="Cancel").click()
    expect(page.locator("#runs tr")).to_have_count(2)
    page.get_by_role("button", name="Delete").click()
    page.locator("#confirm [data-yes]").click()
    expect(page.get_by_role("heading", name="No run matches")).to_be_visible()
    expect(page.locator("#chosen")).to_be_hidden()


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
