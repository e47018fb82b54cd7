"""Chains in a browser: every page can be used by everybody, steps move while one looks, and the form works without scripts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app.chains import service
from tests.browser.conftest import Studio, watch
from tests.browser.test_axe import faults
from tests.chains.links import add, fail, finish, start, steps

pytestmark = pytest.mark.browser


@pytest.fixture
def own(browser: Browser, empty_studio: Studio) -> Iterator[Page]:
    """A browser signed in to a studio with nothing in it; a page that logs an error fails its test."""
    context = browser.new_context(base_url=empty_studio.url, viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    context.add_cookies(empty_studio.cookies())  # type: ignore[arg-type]  # plain dictionaries, as playwright reads them
    page = context.new_page()
    found = watch(page, empty_studio.url)
    yield page
    page.unroute_all(behavior="ignoreErrors")
    context.close()
    assert not found, found


def _look(page: Page, path: str, wrong: list[object]) -> None:
    """See that a page is usable in light and dark, and no wider than a phone."""
    page.goto(path)
    if page.locator("#plan").count():
        page.wait_for_selector("#plan .notes")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]  # both are schemes
        wrong += [(path, scheme, fault) for fault in faults(page)]
        if shots := os.environ.get("CHAIN_SHOTS"):
            page.screenshot(path=Path(shots) / f"{path.strip('/').replace('/', '-')}-{scheme}.png", full_page=True)
    page.set_viewport_size({"width": 390, "height": 844})
    if page.evaluate("document.documentElement.scrollWidth") > 390:
        wrong.append((path, "wider than a phone"))
    if shots := os.environ.get("CHAIN_SHOTS"):
        page.screenshot(path=Path(shots) / f"{path.strip('/').replace('/', '-')}-phone.png", full_page=True)
    page.set_viewport_size({"width": 1440, "height": 900})


def test_every_page_can_be_used_by_everybody(own: Page, empty_studio: Studio) -> None:
    wrong: list[object] = []
    _look(own, "/chains", wrong)
    ids = start(empty_studio)  # type: ignore[arg-type]  # it has what a stack has
    _look(own, "/chains/new", wrong)
    _look(own, "/chains/new?way=yaml", wrong)
    with empty_studio.database.write() as session:
        going = add(session, empty_studio, steps(ids), name="Helpful and polite answers")  # type: ignore[arg-type]
        finish(session)
    service.advance(empty_studio.database)
    with empty_studio.database.write() as session:
        stopped = add(session, empty_studio, steps(ids), name="A second try with a rather long name that goes on and on")  # type: ignore[arg-type]
        finish(session)  # the second step of the first chain comes first
    service.advance(empty_studio.database)
    with empty_studio.database.write() as session:
        fail(session, "The loss was no number after step 12. Lower the learning rate.")
    for path in (f"/chains/{going}", f"/chains/{stopped}", "/chains"):
        _look(own, path, wrong)
    assert not wrong


def test_steps_move_while_one_looks(own: Page, empty_studio: Studio) -> None:
    ids = start(empty_studio)  # type: ignore[arg-type]  # it has what a stack has
    own.goto("/chains/new")
    own.select_option("#f-prompts", ids["prompts"])
    expect(own.locator("#plan")).to_contain_text("All 3 steps were checked")
    own.get_by_text("REINFORCE leave-one-out").click()
    own.fill("#f-name", "Live")
    own.get_by_role("button", name="Start chain").last.click()
    expect(own.get_by_role("heading", name="Live")).to_be_visible()
    expect(own.locator("#chain")).to_contain_text("step 1 of 3")
    with empty_studio.database.write() as session:
        finish(session)
    service.advance(empty_studio.database)
    expect(own.locator("#chain")).to_contain_text("step 2 of 3")
    with empty_studio.database.write() as session:
        fail(session)
    expect(own.get_by_role("alert")).to_contain_text("Step 2 failed: The loss was no number.")
    own.get_by_role("button", name="Continue").click()
    expect(own.locator("#chain")).to_have_attribute("data-status", "running")
    own.wait_for_load_state()  # the question comes from a script
    own.get_by_role("button", name="Cancel").first.click()
    own.get_by_role("button", name="Cancel chain").click()
    expect(own.locator("#chain")).to_have_attribute("data-status", "cancelled")


def test_the_form_works_without_scripts(browser: Browser, empty_studio: Studio) -> None:
    start(empty_studio)  # type: ignore[arg-type]  # it has what a stack has
    context = browser.new_context(java_script_enabled=False, base_url=empty_studio.url)
    context.add_cookies(empty_studio.cookies())  # type: ignore[arg-type]  # plain dictionaries, as playwright reads them
    page = context.new_page()
    page.goto("/chains/new")
    page.select_option("#f-prompts", "")
    page.get_by_role("button", name="Start chain").last.click()
    expect(page.locator("#problems")).to_contain_text("Choose prompts to answer.")
    page.select_option("#f-prompts", index=1)
    page.get_by_role("button", name="Show as YAML").click()
    expect(page.locator("#f-yaml")).to_contain_text("checkpoint: $1")
    page.get_by_role("button", name="Start chain").last.click()
    expect(page.locator("#chain")).to_contain_text("step 1 of 3")
    context.close()
