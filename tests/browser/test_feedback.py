"""The owner's pages of feedback in a browser: making a project, an overview that moves by itself, items, raters; axe finds nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, expect

from app.accounts import service as accounts
from app.feedback import service
from app.feedback.schemas import Criterion, ItemIn, ProjectCreate, ResponseIn
from tests.browser.conftest import Studio
from tests.browser.test_axe import faults
from tests.factories import add_checkpoint
from tests.feedback.test_pages import rate_as

pytestmark = pytest.mark.browser

LINES = "".join(
    json.dumps({"prompt": f"Question {n}?", "responses": [{"text": f"A{n}", "source": "alpha"}, {"text": f"B{n}", "source": "beta"}]})
    + "\n"
    for n in range(12)
)


@dataclass
class Made:
    """Ids of what the pages under test show."""

    project: str
    item: str
    rater: str


@pytest.fixture(scope="module")
def made(studio: Studio) -> Made:
    """A project with items, a filtered one and a vote; a rater."""
    with studio.database.write() as session:
        for name in ("first candidate", "second candidate"):
            add_checkpoint(session, studio.workspace_id, name=name)
        asked = ProjectCreate(
            name="Kinder answers",
            overlap=3,
            overlap_share=0.5,
            guidelines="# Be kind\n\n- **short** wins",
            criteria=[Criterion(key="right", title="Is it right?")],
        )
        project = service.create_project(session, studio.workspace_id, asked, studio.admin_id)
        rows = [
            ItemIn(prompt=f"Why {n}?", responses=[ResponseIn(text=f"{word} {n}", source=word) for word in ("one", "two")]) for n in range(8)
        ]
        same = ItemIn(prompt="Twins?", responses=[ResponseIn(text="x", source=word) for word in ("one", "two")])
        service.add_items(session, project, [*rows, same])
        rater = accounts.add_user(session, "Rita Rater", "rater", workspace_id=studio.workspace_id)
        ids = project.id, rater.id
    rate_as(studio.database, studio.workspace_id, ids[1], ids[0], 3, comment="good")
    with studio.database.read() as session:
        found = service.page_items(session, service.get_project(session, studio.workspace_id, ids[0]))
        return Made(ids[0], found[0].id, ids[1])


def test_a_project_is_made_by_import_and_nothing_typed_is_lost(page: Page, studio: Studio) -> None:
    page.goto("/feedback")
    page.keyboard.press("g")
    page.keyboard.press("t")
    page.wait_for_url("**/feedback")
    page.goto("/feedback/new")
    page.get_by_role("link", name="Pairs Two answers").click()
    page.get_by_label("Guidelines").fill("**Kind** beats clever.")
    expect(page.locator("#guidelines-preview strong")).to_have_text("Kind")
    page.get_by_text("Import", exact=True).click()
    expect(page.get_by_label("Or typed, one a line")).to_be_hidden()
    page.get_by_label("Or pasted").fill(LINES)
    expect(page.locator("#look")).to_contain_text("12 items")
    expect(page.locator("#look")).to_contain_text("Question 0?")
    page.get_by_label("Ratings per item").fill("3")
    page.get_by_label("Of how many items, in %").fill("25")
    expect(page.locator("#plan")).to_contain_text("25 % of the items (3) are rated by 3 people, the other 9 by one: 18 ratings.")
    page.get_by_role("button", name="Make the project").click()
    expect(page.locator("#problems")).to_contain_text("Give it a name")
    expect(page.get_by_label("Or pasted")).to_have_value(LINES)
    page.reload()
    expect(page.get_by_label("Guidelines")).to_have_value("**Kind** beats clever.")
    expect(page.get_by_label("Or pasted")).to_have_value(LINES)
    page.get_by_label("Name", exact=True).fill("Made in a browser")
    page.get_by_role("button", name="Make the project").click()
    page.wait_for_url("**/feedback/prj_*")
    expect(page.locator("h1")).to_have_text("Made in a browser")
    expect(page.locator("#numbers")).to_contain_text("12")


def test_rows_of_candidates_and_questions(page: Page, studio: Studio, made: Made) -> None:
    page.goto("/feedback/new?kind=pair")
    page.get_by_label("Name", exact=True).fill("kept")
    page.get_by_label("Checkpoint 1", exact=True).select_option(label="first candidate")
    page.get_by_role("button", name="Another checkpoint").click()
    expect(page.get_by_label("Checkpoint 3", exact=True)).to_be_visible()
    expect(page.get_by_label("Pairs of each prompt")).to_be_visible()
    page.get_by_role("button", name="Leave out checkpoint 2").click()
    expect(page.get_by_label("Checkpoint 3", exact=True)).to_have_count(0)
    page.get_by_text("Extra questions").click()
    page.get_by_role("button", name="Add a question").click()
    page.get_by_label("Question 1", exact=True).fill("Is it right?")
    assert faults(page) == []
    expect(page.get_by_label("Name", exact=True)).to_have_value("kept")
    expect(page.get_by_label("Checkpoint 1", exact=True).locator("option:checked")).to_have_text("first candidate")


def test_the_overview_moves_by_itself(page: Page, studio: Studio, made: Made) -> None:
    page.goto(f"/feedback/{made.project}")
    expect(page.locator("#numbers")).to_contain_text("3of")
    rate_as(studio.database, studio.workspace_id, studio.admin_id, made.project, 1)
    expect(page.locator("#numbers")).to_contain_text("4of")
    expect(page.locator("#who")).to_contain_text("admin")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#project-status")).to_have_text("paused")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#project-status")).to_have_text("open")


def test_items_are_filtered_and_an_invite_is_made(page: Page, made: Made) -> None:
    page.goto(f"/feedback/{made.project}/items")
    page.get_by_placeholder("Search prompts…").fill("Why 3")
    expect(page.locator("#items tbody tr")).to_have_count(1)
    page.goto(f"/feedback/{made.project}/items?status=filtered")
    expect(page.locator("#items")).to_contain_text("the answers are the same")
    page.goto(f"/feedback/{made.project}/raters")
    page.get_by_label("Name", exact=True).fill("Robin")
    page.get_by_role("button", name="Make an invite").click()
    expect(page.locator("#made-link")).to_contain_text("/join?token=")


def test_a_rater_sees_one_link_and_lands_where_they_rate(page: Page, studio: Studio, made: Made) -> None:
    page.context.clear_cookies()
    page.context.add_cookies(studio.cookies(made.rater))  # type: ignore[arg-type]  # as playwright takes them
    page.goto("/feedback")
    expect(page.locator("h1")).to_have_text("Not allowed")
    expect(page.locator("nav[aria-label=Main] a")).to_have_count(1)
    page.keyboard.press("Control+k")
    expect(page.locator("dialog[open]")).to_have_count(0)
    assert faults(page) == []


PAGES = ("", "/items", "/items?status=filtered", "/items/{item}", "/raters", "/edit", "/add")


@pytest.mark.parametrize(
    "path", ["/feedback", "/feedback/new", "/feedback/new?kind=rank", *(f"/feedback/{{project}}{each}" for each in PAGES)]
)
def test_axe_finds_nothing_and_nothing_is_too_wide(page: Page, made: Made, path: str) -> None:
    for theme, width in (("light", 1440), ("dark", 1440), ("light", 1024), ("dark", 390)):
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]  # one of the two
        page.goto(path.format(project=made.project, item=made.item))
        if page.locator("#plan").count():
            page.wait_for_selector("#plan:not(.htmx-request) :is(dl, p:not(:text('Reckoned')))")
        assert faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
