"""Keys of the rating page: every one works, stands on a real button, and is dead while somebody types or a dialog is open."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from app.feedback import service
from app.feedback.schemas import ItemIn, ProjectCreate, ResponseIn
from app.feedback.tables import Rating, Response
from tests.browser.conftest import Studio
from tests.browser.test_axe import faults
from tests.browser.test_rate import held, rated, slot, until

pytestmark = pytest.mark.browser
LONG = "\n\n".join(f"Line {number} goes on for a while." for number in range(80))


def start(studio: Studio, kind: str, texts: list[str], items: int = 3, **fields: Any) -> str:
    """A project whose items all have the same answers."""
    with studio.database.write() as session:
        asked = ProjectCreate.model_validate({"name": f"keys of {kind}", "kind": kind, **fields})
        project = service.create_project(session, studio.workspace_id, asked, studio.admin_id)
        answers = [ResponseIn(text=text, source=f"model {place}") for place, text in enumerate(texts)]
        service.add_items(session, project, [ItemIn(prompt=f"Item {number}", responses=answers) for number in range(items)])
        return project.id


def ranked(studio: Studio, project: str) -> dict[str, str]:
    """What was said of each item, in the texts of its answers: `a b=c` by item id."""
    with studio.database.read() as session:
        ratings = session.scalars(select(Rating).where(Rating.project_id == project)).all()
        answers = select(Response.id, Response.text).where(Response.item_id.in_([each.item_id for each in ratings]))
        texts = {one: text for one, text in session.execute(answers)}
        return {each.item_id: " ".join("=".join(sorted(texts[one] for one in tied)) for tied in each.ranking or []) for each in ratings}


def weak_orders(texts: list[str]) -> list[list[list[str]]]:
    """Every order of some texts, ties allowed."""
    found = {}
    for order in permutations(texts):
        for cuts in range(2 ** (len(texts) - 1)):
            groups = [[order[0]]]
            for place, text in enumerate(order[1:]):
                if cuts >> place & 1:
                    groups[-1].append(text)
                else:
                    groups.append([text])
            found[str([sorted(group) for group in groups])] = groups
    return list(found.values())


def test_every_order_that_is_typed_is_the_order_that_is_kept(page: Page, studio: Studio) -> None:
    wanted = weak_orders(["a", "b", "c"])
    assert len(wanted) == 13
    project = start(studio, "rank", ["a", "b", "c"], len(wanted))
    page.goto(f"/rate/{project}")
    said = {}
    for groups in wanted:
        expect(page.locator("form.task")).to_be_visible()
        said[slot(page).partition(".")[0]] = " ".join("=".join(sorted(group)) for group in groups)
        for place, text in enumerate(text for group in groups for text in group):
            page.locator(".rate-card", has=page.locator(".raw", has_text=text)).focus()
            page.keyboard.press(str(place + 1))
        for group in groups:
            for text in group[1:]:
                page.locator(".rate-card", has=page.locator(".raw", has_text=text)).focus()
                page.keyboard.press("=")
        page.keyboard.press("Enter")
    until(page, lambda: rated(studio, project) == len(wanted), "not every ranking came")
    assert ranked(studio, project) == said


def letters(page: Page) -> str:
    """The answers from the first to the last as they stand: `B A=C`."""
    return str(
        page.evaluate("""[...document.querySelectorAll(".rate-card")].map((each, index) =>
            (index ? each.classList.contains("is-tied") ? "=" : " " : "") + each.querySelector(".letter").textContent).join("")""")
    )


def test_a_ranking_by_tab_arrows_mouse_and_cut_line(page: Page, studio: Studio) -> None:
    project = start(studio, "rank", ["one", "two", "three", "four"])
    page.goto(f"/rate/{project}")
    first = slot(page)
    focused = page.locator(".rate-card:focus .letter")
    expect(focused).to_have_text("A")
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("The order is as it came")
    page.keyboard.press("Tab")
    expect(focused).to_have_text("B")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+Tab")
    expect(focused).to_have_text("C")
    page.keyboard.press("Alt+ArrowUp")
    page.keyboard.press("Alt+ArrowUp")
    assert letters(page) == "C A B D"
    page.keyboard.press("Alt+ArrowUp")
    assert letters(page) == "C A B D"
    page.keyboard.press("=")  # nothing is above it
    page.keyboard.press("ArrowDown")
    page.keyboard.press("=")
    assert letters(page) == "C=A B D"
    page.keyboard.press("x")
    assert letters(page) == "C B D A"
    expect(focused).to_have_text("A")
    page.keyboard.press("1")  # below the cut line it stays
    assert letters(page) == "C B D A"
    page.get_by_role("button", name="Move B down").click()
    assert letters(page) == "C D B A"
    page.locator("#answer-1 .grip").drag_to(page.locator("#answer-2 header"), target_position={"x": 200, "y": 2})
    assert letters(page) == "B C D A"
    assert faults(page) == []
    page.locator("#answer-1").focus()
    page.keyboard.press("c")
    page.keyboard.type("x=1")
    page.keyboard.press("Control+Enter")
    expect(page.locator(f'form.task:not([data-slot="{first}"])')).to_be_visible()
    page.keyboard.press("u")
    again = page.locator(f'form.task[data-slot="{first}"]')
    expect(again).to_be_visible()
    assert letters(page) == "B C D A"
    expect(again.locator("#answer-0 input[type=checkbox]")).to_be_checked()
    expect(again.locator("[name=comment]")).to_have_value("x=1")


def test_every_key_of_a_pair_stands_on_a_button(page: Page, studio: Studio) -> None:
    criteria = [{"key": "right", "title": "Right?"}, {"key": "safe", "title": "Safe?", "options": ["yes", "no", "unsure"], "each": True}]
    project = start(studio, "pair", [LONG, LONG.replace("while", "time")], guidelines="# Kind", criteria=criteria)
    page.goto(f"/rate/{project}")
    shown = page.eval_on_selector_all(
        "[aria-keyshortcuts]",
        """all => all.filter((each) => each.checkVisibility())
            .map((each) => [each.getAttribute("aria-keyshortcuts"), each.querySelector("kbd")?.textContent, each.tagName])""",
    )
    assert {tag for _, _, tag in shown} == {"BUTTON", "SUMMARY"}
    assert all(keys.split()[0] == key for keys, key, _ in shown), shown
    assert {keys.split()[0] for keys, _, _ in shown} == {*"1234567", "0", "9", *"SFCUPGMDZLJKQW", "[", "]"}

    tops = "[...document.querySelectorAll('.rate-card > .body')].map((each) => Math.round(each.scrollTop))"
    for key, tall in (("j", [120, 120]), ("[", [240, 120]), ("]", [240, 240]), ("Shift+]", [240, 120]), ("k", [120, 0])):
        page.keyboard.press(key)
        assert page.evaluate(tops) == tall, key
    # All within one frame: the events of the first two keys come after the last one, and must not undo it.
    quick = """keys => keys.forEach((key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })))"""
    page.evaluate(quick, ["j", "k", "l", "]"])
    until(page, lambda: page.evaluate(tops) == [240, 240], "A did not follow B")
    page.locator("#answer-0 > .body").hover()
    page.mouse.wheel(0, 300)
    until(page, lambda: page.evaluate(tops) == [540, 540], "B did not follow A")
    page.keyboard.press("l")
    for key, sides in (("z", [True, False]), ("z", [False, True]), ("z", [True, True])):
        page.keyboard.press(key)
        assert [page.locator(f"#answer-{side}").is_visible() for side in (0, 1)] == sides
    page.keyboard.press("m")
    expect(page.locator("#answer-0 .raw")).to_be_visible()
    expect(page.locator("#answer-0 .rendered")).to_be_hidden()
    page.keyboard.press("m")
    page.keyboard.press("d")
    expect(page.locator("#answer-0 .apart mark").first).to_be_visible()
    page.keyboard.press("d")
    expect(page.locator("#answer-0 .apart")).to_be_hidden()


def test_keys_are_dead_in_fields_and_dialogs_and_a_held_key_votes_once(page: Page, studio: Studio) -> None:
    project = start(studio, "pair", ["this", "that"], 4, guidelines="# Kind")
    page.goto(f"/rate/{project}")
    until(page, lambda: held(studio, project) == 4, "not all were fetched")
    first = slot(page)
    for opener in ("g", "?"):
        page.keyboard.press(opener)
        expect(page.locator("dialog[open]")).to_be_visible()
        for key in ("1", "0", "s", "u", "p", "ArrowLeft", "m"):
            page.keyboard.press(key)
        expect(page.locator("[data-view=raw]")).to_have_attribute("aria-pressed", "false")
        page.keyboard.press("Escape")
        expect(page.locator("dialog[open]")).to_have_count(0)
    page.keyboard.press("c")
    page.keyboard.type("1 2 s u p m j x")
    expect(page.locator("[name=comment]")).to_have_value("1 2 s u p m j x")
    page.keyboard.press("Escape")
    expect(page.locator("[data-pop=c]")).not_to_have_attribute("open", "")
    assert slot(page) == first and rated(studio, project) == 0
    page.keyboard.down("2")
    page.keyboard.down("2")  # as a key that is held repeats
    page.keyboard.down("2")
    page.keyboard.up("2")
    until(page, lambda: rated(studio, project) == 1, "the vote did not come")
    page.wait_for_load_state("networkidle")
    assert rated(studio, project) == 1
    page.keyboard.press("p")
    expect(page.get_by_role("heading", name="Paused")).to_be_visible()
    until(page, lambda: held(studio, project) == 0, "the items were not given back")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    expect(page.locator("form.task")).to_be_visible()
    assert rated(studio, project) == 1


def test_a_careful_project_saves_at_enter_and_thumbs_have_arrows(page: Page, studio: Studio) -> None:
    project = start(studio, "single", ["this"], scale="thumbs", careful=True)
    page.goto(f"/rate/{project}")
    first = slot(page)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".is-chosen")).to_have_text("Bad ↓")
    assert slot(page) == first
    page.keyboard.press("Enter")
    expect(page.locator(f'form.task:not([data-slot="{first}"])')).to_be_visible()
    page.get_by_role("button", name="Good").click()
    page.get_by_role("button", name="Save", exact=False).click()
    until(page, lambda: rated(studio, project) == 2, "the votes did not come")
    with studio.database.read() as session:
        assert sorted(each for each in session.scalars(select(Rating.score).where(Rating.project_id == project)) if each is not None) == [
            0,
            1,
        ]
    expect(page.locator(".is-chosen")).to_have_count(0)
