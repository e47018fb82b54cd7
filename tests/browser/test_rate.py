"""Rating in a browser: the whole loop by keyboard, undo, a network that goes away, a phone; axe finds nothing."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import func, select

from app.feedback import service
from app.feedback.schemas import Gold, ItemIn, ProjectCreate, ResponseIn
from app.feedback.tables import Event, Rating
from tests.browser.conftest import Studio
from tests.browser.test_axe import faults
from tests.feedback.factories import add_project

pytestmark = pytest.mark.browser
PREFETCHED = 1500


def start(studio: Studio, items: int = 8) -> str:
    with studio.database.write() as session:
        return add_project(session, studio.workspace_id, items, guidelines="# Be kind", question="Which is kinder?").id


def rated(studio: Studio, project: str, kind: str = "rate") -> int:
    with studio.database.read() as session:
        return session.scalar(select(func.count()).select_from(Rating).where(Rating.project_id == project, Rating.kind == kind)) or 0


def slot(page: Page) -> str:
    return page.locator("form.task").get_attribute("data-slot") or ""


def test_the_whole_loop_by_keyboard(page: Page, studio: Studio) -> None:
    project = start(studio, 4)
    page.goto(f"/rate/{project}")
    first = slot(page)
    page.keyboard.press("2")
    expect(page.locator(f'form.task:not([data-slot="{first}"])')).to_be_visible()
    expect(page.locator("#rate-said")).to_contain_text("Saved")
    assert rated(studio, project) == 1
    page.keyboard.press("u")
    expect(page.locator(f'form.task[data-slot="{first}"] .was')).to_have_text("A better2")
    page.keyboard.press("7")
    expect(page.locator(f'form.task:not([data-slot="{first}"])')).to_be_visible()
    page.keyboard.press("s")
    page.keyboard.press("1")
    page.wait_for_timeout(PREFETCHED)
    assert rated(studio, project, "skip") == 1
    page.keyboard.press("c")
    page.keyboard.type("both rude 123")
    page.keyboard.press("Escape")
    page.keyboard.press("0")
    page.wait_for_timeout(PREFETCHED)
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", name="Nothing is left for you to rate")).to_be_visible()
    assert rated(studio, project) == 3
    with studio.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Rating).where(Rating.comment == "both rude 123")) == 1


def test_votes_outlive_a_lost_network_and_a_reload(browser: Browser, studio: Studio) -> None:
    project = start(studio)
    # A page of its own: the browser writes each failed request into the console.
    page = browser.new_context(base_url=studio.url, storage_state={"cookies": studio.cookies(), "origins": []}).new_page()  # type: ignore[typeddict-item]
    page.goto(f"/rate/{project}")
    page.wait_for_timeout(PREFETCHED)
    refused = "**/rate/*/*?ahead=*"
    page.route(refused, lambda route: route.abort() if route.request.method == "POST" else route.fallback())
    for _ in range(3):
        page.keyboard.press("3")
    expect(page.locator("#rate-unsaved")).to_contain_text("3 not saved, trying again")
    assert rated(studio, project) == 0
    page.unroute(refused)
    page.reload()
    expect(page.locator("#rate-unsaved")).to_be_hidden()
    page.wait_for_timeout(PREFETCHED)
    assert rated(studio, project) == 3
    with studio.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Event).where(Event.project_id == project)) == 3
    page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_and_phone(page: Page, studio: Studio, theme: str) -> None:
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]  # one of the two
    page.goto(f"/rate/{start(studio)}")
    page.wait_for_timeout(300)
    expect(page.locator(".rate-asked")).to_contain_text("Question")
    expect(page.locator(".rate-asked .prose")).to_be_visible()
    assert not faults(page)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("[data-side='1']").click()
    expect(page.locator("#answer-1")).to_be_visible()
    expect(page.locator("#answer-0")).to_be_hidden()


def test_a_practice_item_says_what_was_expected_before_it_goes_on(page: Page, studio: Studio) -> None:
    with studio.database.write() as session:
        project = service.create_project(
            session, studio.workspace_id, ProjectCreate(name="practised", question="Which is kinder?", practice=1), studio.admin_id
        )
        gold = Gold(preference=-2, why="The first is polite.")
        answers = [ResponseIn(text="You are welcome.", source="x"), ResponseIn(text="So what.", source="y")]
        service.add_items(session, project, [ItemIn(prompt="Thanks!", responses=answers, gold=gold, practice=True)])
        others = [ResponseIn(text="Fine.", source="x"), ResponseIn(text="Bad.", source="y")]
        service.add_items(session, project, [ItemIn(prompt=f"How are you, number {number}?", responses=others) for number in range(3)])
        address = f"/rate/{project.id}"
    page.goto(address)
    expect(page.get_by_text("Practice: you are told")).to_be_visible()
    page.keyboard.press("1")
    expect(page.locator(".told")).to_contain_text("The first is polite.")
    expect(page.locator("form.task")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.locator(".rate-asked")).to_contain_text("How are you")


def test_a_vote_the_server_refuses_leaves_the_page_at_work(page: Page, studio: Studio) -> None:
    with studio.database.write() as session:
        project = service.create_project(
            session, studio.workspace_id, ProjectCreate(name="refusing", question="Which is kinder?"), studio.admin_id
        )
        answers = [ResponseIn(text="Fine.", source="x"), ResponseIn(text="Bad.", source="y")]
        service.add_items(session, project, [ItemIn(prompt="Only one", responses=answers)])
        address = f"/rate/{project.id}"
    page.goto(address)
    body = '<div class="alert"><b>Not now.</b></div>'
    page.route("**/rate/prj_*/itm_*", lambda route: route.fulfill(status=409, body=body, content_type="text/html"), times=1)
    page.keyboard.press("3")
    expect(page.locator("#toasts")).to_contain_text("Not now.")
    expect(page.locator(".rate-asked")).to_contain_text("Only one")
    page.keyboard.press("3")
    expect(page.get_by_text("Nothing is left for you to rate")).to_be_visible()
