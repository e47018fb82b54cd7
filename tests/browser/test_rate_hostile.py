"""Texts of strangers on the rating page, in the history and on the owner's pages: nothing of them runs, and they read well."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect

from app.feedback import service
from app.feedback.schemas import ItemIn, ProjectCreate, ResponseIn, Vote
from tests.browser.conftest import Studio
from tests.browser.test_rate import rated, slot, until
from tests.browser.test_xss import WATCH, harmless
from tests.feedback.factories import principal
from tests.xss import CALL, PAYLOADS

pytestmark = pytest.mark.browser
TEXTS = [text for text in PAYLOADS if not text.startswith("[x]:")]  # which would make a plain link of the others' [x]
AT_ONCE = 30
OWNERS = ("", "/items", "/items/{item}", "/raters", "/edit", "/add", "/quality", "/leaderboard", "/adjudicate", "/train")
ODD = {
    "right to left": "مرحبا بالعالم، هذه إجابة.\n\n- نعم\n- لا",
    "table and code": "| Way | Speed |\n|---|---|\n| open | fast |\n\n```python\nprint('" + "wide " * 60 + "')\n```\n\n" + "x" * 400,
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301\u0327 \u202eturned round\u202c " + "Z\u0335\u0322\u0328" * 20,
    "a megabyte": "| a | b |\n" * 105_000,
}


def fill(studio: Studio) -> dict[str, str]:
    """A project in which every text is of the corpus, rated a little by somebody with such a name."""
    asked: dict[str, Any] = {
        "name": PAYLOADS[0],
        "question": PAYLOADS[6],
        "guidelines": "\n\n".join(TEXTS),
        "criteria": [{"key": "one", "title": PAYLOADS[1], "options": [PAYLOADS[6][:100], PAYLOADS[-1][:100]]}],
        "overlap": 2,
        "reveals": True,
    }
    with studio.database.write() as session:
        project = service.create_project(session, studio.workspace_id, ProjectCreate.model_validate(asked), studio.admin_id)
        items = []
        for first in range(0, len(TEXTS), AT_ONCE):
            part = TEXTS[first : first + AT_ONCE]
            prompt = [{"role": role, "content": "\n\n".join(part)} for role in ("user", "assistant", "user")]
            answers = [ResponseIn(text="\n\n".join([*part, end]), source=f"{part[0]} {end}") for end in ("this", "that")]
            items.append(ItemIn(prompt=prompt, responses=answers))
        added = service.add_items(session, project, items)
        assert not added.filtered
        rater = service.rater_for(session, project, principal(studio.workspace_id, "evil"))
        rater.name = f"{PAYLOADS[7]} {PAYLOADS[6]}"
        for number, vote in enumerate(({"preference": 2}, {"preference": -3})):
            task = service.claim(session, project, rater)
            assert task is not None
            said = Vote.model_validate({**vote, "comment": "\n".join(PAYLOADS)[:9000], "better": "\n\n".join(PAYLOADS[:40])})
            service.rate(session, project, rater, task.slot, said, f"evil {number}")
        return {"project": project.id, "item": task.item_id}


def watched(browser: Browser, studio: Studio) -> tuple[Page, list[str]]:
    """A page that notices whatever a payload might do."""
    signed_in: Any = {"cookies": studio.cookies(), "origins": []}
    page = browser.new_context(storage_state=signed_in, base_url=studio.url, reduced_motion="reduce").new_page()
    page.set_default_timeout(60_000)
    page.add_init_script(WATCH)
    found: list[str] = []

    def asked(dialog: Dialog) -> None:
        found.append(f"dialog {dialog.message}")
        dialog.dismiss()

    page.on("dialog", asked)
    page.on("pageerror", lambda error: found.append(f"error {error}"))
    page.on("console", lambda said: found.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: found.append(request.url) if CALL in request.url or not request.url.startswith(studio.url) else None)
    return page, found


def test_nothing_of_prompts_and_answers_runs(browser: Browser, studio: Studio) -> None:
    ids = fill(studio)
    page, found = watched(browser, studio)
    page.goto("/rate")
    harmless(page, "the list")
    page.goto(f"/rate/{ids['project']}")
    for number in range(-(-len(TEXTS) // AT_ONCE)):
        before = slot(page)
        for key in ("m", "m", "d", "d", "g", "Escape", "q", "1", "Tab"):
            page.keyboard.press(key)
        page.locator(".earlier > summary").click()
        page.wait_for_timeout(150)  # payloads that work do so within a moment
        harmless(page, f"item {number}")
        assert found == []
        page.locator("[name=comment]").evaluate("(each, text) => (each.value = text)", PAYLOADS[number])
        page.locator("body").press("2")
        expect(page.locator(f'form.task[data-slot="{before}"]')).to_have_count(0)
        expect(page.locator("#toasts")).to_contain_text("The answers came from")
    until(page, lambda: rated(studio, ids["project"]) >= 2 + number + 1, "the votes did not come")
    for path in (f"/rate/{ids['project']}/history", "/feedback", *(f"/feedback/{ids['project']}{each.format(**ids)}" for each in OWNERS)):
        page.goto(path)
        page.wait_for_timeout(100)
        harmless(page, path)
        assert found == [], path
    page.context.close()


def test_odd_texts_read_well(page: Page, studio: Studio) -> None:
    with studio.database.write() as session:
        project = service.create_project(session, studio.workspace_id, ProjectCreate(name="odd"), studio.admin_id)
        service.add_items(
            session,
            project,
            [
                ItemIn(prompt=f"{name} {text[:200]}", responses=[ResponseIn(text=f"{text} {end}") for end in ("1", "2")])
                for name, text in ODD.items()
            ],
        )
        address = f"/rate/{project.id}"
    page.goto(address)
    for _ in ODD:
        before = slot(page)
        name = next(each for each in ODD if each in page.locator(".rate-asked").inner_text())
        body = page.locator("#answer-0 > .body")
        if name == "right to left":
            assert body.locator(".rendered").evaluate("(each) => getComputedStyle(each).direction") == "rtl"
            assert body.locator("li").count() == 2
        elif name == "table and code":
            expect(body.locator("td").first).to_have_text("open")
            expect(body.locator(".hl")).to_be_visible()
        elif name == "a megabyte":
            assert body.locator(".rendered").count() == 0 and len(body.inner_text()) > 1_000_000
        else:
            assert re.search("🏳️", body.inner_text())
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            assert page.locator("#answer-0").bounding_box()["width"] <= width  # type: ignore[index]  # it is visible
        page.keyboard.press("4")
        expect(page.locator(f'form.task[data-slot="{before}"]')).to_have_count(0)
    expect(page.get_by_text("Nothing is left for you to rate")).to_be_visible()
