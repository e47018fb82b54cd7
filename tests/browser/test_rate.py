"""Rating in a browser: the whole loop by keyboard, undo, a network and a server that go away, two tabs, a phone; axe finds nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from sqlalchemy import func, select

from app.feedback import service
from app.feedback.schemas import Criterion, Gold, ItemIn, ProjectCreate, ResponseIn
from app.feedback.tables import Event, Rating, Slot
from tests.browser.conftest import Studio
from tests.browser.test_axe import faults
from tests.feedback.factories import add_project

pytestmark = pytest.mark.browser
WINDOW = 10
VOTES = "**/rate/prj_*/itm_*"


def start(studio: Studio, items: int = 8, **fields: Any) -> str:
    with studio.database.write() as session:
        return add_project(session, studio.workspace_id, items, **{"guidelines": "# Be kind", "question": "Which is kinder?", **fields}).id


def count(studio: Studio, what: Any, *where: Any) -> int:
    with studio.database.read() as session:
        return session.scalar(select(func.count()).select_from(what).where(*where)) or 0


def rated(studio: Studio, project: str, kind: str = "rate") -> int:
    return count(studio, Rating, Rating.project_id == project, Rating.kind == kind)


def held(studio: Studio, project: str) -> int:
    return count(studio, Slot, Slot.project_id == project, Slot.rater_id.is_not(None), Slot.done_at.is_(None))


def until(page: Page, found: Callable[[], bool], what: str) -> None:
    """Wait for something outside of the page, which goes on meanwhile."""
    end = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end, what
        page.wait_for_timeout(50)


def slot(page: Page) -> str:
    return page.locator("form.task").get_attribute("data-slot") or ""


def ready(page: Page, studio: Studio, project: str, items: int = WINDOW) -> None:
    """Open the page and wait until the items to come are there."""
    page.goto(f"/rate/{project}")
    until(page, lambda: held(studio, project) == items, "not so many items were fetched ahead")
    page.wait_for_load_state("networkidle")


@pytest.fixture
def calm(browser: Browser, studio: Studio) -> Iterator[BrowserContext]:
    """A browser whose console nobody reads: it writes each failed request there."""
    signed_in: Any = {"cookies": studio.cookies(), "origins": []}
    context = browser.new_context(base_url=studio.url, storage_state=signed_in, reduced_motion="reduce")
    context.set_default_timeout(30_000)
    yield context
    context.close()


def test_the_whole_loop_by_keyboard(page: Page, studio: Studio) -> None:
    asked = [Criterion(key="right", title="Is it right?"), Criterion(key="style", title="Style", options=["good", "bad"], each=True)]
    project = start(studio, 4, criteria=[each.model_dump() for each in asked])
    page.goto(f"/rate/{project}")
    first = slot(page)
    for key in ("q", "1", "e", "w", "2", "w", "w", "1"):  # E asks nothing here
        page.keyboard.press(key)
    page.keyboard.press("c")
    page.keyboard.type("both rude 123")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    expect(page.locator(f'form.task:not([data-slot="{first}"])')).to_be_visible()
    expect(page.locator("#rate-said")).to_contain_text("Saved")
    assert rated(studio, project) == 1
    page.keyboard.press("u")
    again = page.locator(f'form.task[data-slot="{first}"]')
    expect(again.locator(".was")).to_have_text("A better2")
    chosen = again.locator("input:checked")
    assert chosen.evaluate_all("all => all.map((each) => each.value)") == ["bad", "good", "yes"]
    expect(again.locator("[name=comment]")).to_have_value("both rude 123")
    assert rated(studio, project) == 0
    page.keyboard.press("7")
    expect(page.locator(f'form.task:not([data-slot="{first}"])')).to_be_visible()
    page.keyboard.press("s")
    page.keyboard.press("1")
    expect(again).to_have_count(0)
    until(page, lambda: rated(studio, project, "skip") == 1, "the skip did not come")
    page.keyboard.press("0")
    until(page, lambda: rated(studio, project) == 2, "both bad did not come")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", name="Nothing is left for you to rate")).to_be_visible()
    with studio.database.read() as session:
        kept = session.scalars(select(Rating).where(Rating.project_id == project, Rating.comment == "both rude 123")).one()
        assert kept.labels["right"] == "yes" and sorted(kept.labels["style"].values()) == ["bad", "good"]
    page.goto(f"/rate/{project}/history")
    expect(page.locator(".rate-history > li")).to_have_count(5)
    expect(page.locator(".rate-history > .is-undone")).to_contain_text("A better")
    expect(page.locator(".rate-history")).to_contain_text("Skipped: I cannot judge this")
    expect(page.locator(".rate-history")).to_contain_text("Style: A bad, B good")
    assert faults(page) == []


def test_ten_votes_without_a_network_are_there_once_when_it_is_back(calm: BrowserContext, studio: Studio) -> None:
    project = start(studio, 14)
    page = calm.new_page()
    ready(page, studio, project)
    calm.set_offline(True)
    seen = set()
    for number in range(WINDOW):
        seen.add(slot(page))
        page.keyboard.press("123456790"[number % 9])
    assert len(seen) == WINDOW
    expect(page.locator("#rate-task")).to_contain_text("as many as can be rated ahead")
    expect(page.locator("#rate-unsaved")).to_have_text("10 not saved, trying again.")
    page.keyboard.press("1")  # nothing is shown that it could be for
    assert rated(studio, project) == 0
    calm.set_offline(False)
    expect(page.locator("form.task")).to_be_visible()
    expect(page.locator("#rate-unsaved")).to_be_hidden()
    until(page, lambda: rated(studio, project) == WINDOW, "the votes did not come")
    assert count(studio, Event, Event.project_id == project) == WINDOW
    assert slot(page) not in seen


def test_votes_outlive_a_reload_and_two_tabs_send_them_once(calm: BrowserContext, studio: Studio) -> None:
    project, other = start(studio), start(studio, 2)
    page, second = calm.new_page(), calm.new_page()
    ready(page, studio, project, 8)
    second.goto(f"/rate/{other}")
    for each in (page, second):
        each.route(VOTES, lambda route: route.abort() if route.request.method == "POST" else route.fallback())
    for _ in range(3):
        page.keyboard.press("3")
    second.keyboard.press("5")
    expect(page.locator("#rate-unsaved")).to_contain_text("4 not saved, trying again")
    expect(second.locator("#rate-unsaved")).to_contain_text("4 not saved, trying again")
    page.reload()
    expect(page.locator("#rate-unsaved")).to_contain_text("4 not saved")
    assert rated(studio, project) + rated(studio, other) == 0
    strange: list[str] = []

    def answer_for_the_server(route: Route) -> None:
        strange.append(route.request.url)
        route.fulfill(status=200, body="<h1>Welcome to the hotel</h1>", content_type="text/html")

    page.unroute_all()
    page.route(VOTES, answer_for_the_server, times=1)
    page.evaluate("dispatchEvent(new Event('online'))")
    until(page, lambda: bool(strange), "nothing was sent")
    expect(page.locator("#rate-unsaved")).to_contain_text("4 not saved")
    second.unroute_all()
    for each in (page, second):
        each.evaluate("dispatchEvent(new Event('online'))")
    for each in (page, second):
        expect(each.locator("#rate-unsaved")).to_be_hidden()
    assert rated(studio, project) == 3 and rated(studio, other) == 1
    assert count(studio, Event, Event.project_id.in_([project, other])) == 4
    expect(page.locator("form.task")).to_be_visible()


def test_a_server_killed_before_it_answers_has_the_vote_once(calm: BrowserContext, studio: Studio) -> None:
    project = start(studio, 3)
    page = calm.new_page()
    ready(page, studio, project, 3)

    sent: list[str] = []

    def first_is_taken_and_killed(route: Route) -> None:
        sent.append(route.request.headers["idempotency-key"])
        if len(sent) > 1:  # the route stays: where one is taken away while a request passes, the browser may not tell of that request
            route.continue_()
            return
        assert route.fetch().ok
        studio.restart()
        route.abort()

    page.route(VOTES, first_is_taken_and_killed)
    page.keyboard.press("6")
    until(page, lambda: len(sent) > 1, "the vote was not sent again")
    expect(page.locator("#rate-unsaved")).to_be_hidden(timeout=60_000)
    assert len(set(sent)) == 1, sent
    assert rated(studio, project) == 1 and count(studio, Event, Event.project_id == project) == 1
    page.keyboard.press("2")
    until(page, lambda: rated(studio, project) == 2, "the next vote did not come")


def test_axe_in_both_themes_and_on_a_phone(page: Page, studio: Studio) -> None:
    page.goto(f"/rate/{start(studio)}")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]  # one of the two
        assert not faults(page)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not faults(page)
    page.locator("[data-side='1']").click()
    expect(page.locator("#answer-1")).to_be_visible()
    expect(page.locator("#answer-0")).to_be_hidden()
    page.get_by_role("button", name="B better").click()
    expect(page.locator("#answer-0")).to_be_visible()
    page.goto("/rate")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not faults(page)


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
    project = start(studio, 1)
    page.goto(f"/rate/{project}")
    body = '<div class="alert"><b>Not now.</b></div>'
    page.route(VOTES, lambda route: route.fulfill(status=409, body=body, content_type="text/html"), times=1)
    page.keyboard.press("3")
    expect(page.locator("#rate-unsaved")).to_have_text("A vote was not taken: Not now.")
    expect(page.locator(".rate-asked")).to_contain_text("Question 0?")
    page.keyboard.press("3")
    expect(page.get_by_text("Nothing is left for you to rate")).to_be_visible()
    expect(page.locator("#rate-unsaved")).to_be_hidden()
