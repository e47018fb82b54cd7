"""The playground in a browser: an answer flows in, is stopped, asked again, kept; and the page of the system. A thread plays the worker."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.chats import progress
from app.chats.tables import Answer
from app.workers import service as workers
from tests.browser.conftest import Studio
from tests.browser.test_axe import faults
from tests.factories import add_checkpoint, add_dataset

pytestmark = pytest.mark.browser

WORDS = "Here are **three** colours:\n\n- red\n- green\n- blue\n"


@pytest.fixture
def models(studio: Studio) -> Iterator[list[str]]:
    """Two checkpoints to ask, and a worker that says it can answer."""
    with studio.database.write() as session:
        made = [add_checkpoint(session, studio.workspace_id, name=name).id for name in ("play one", "play two")]
        worker = workers.register(
            session,
            lanes=["device", "cpu", "chat"],
            devices=[{"name": "CPU", "kind": "cpu", "memory_bytes": 2**30}],
            versions={},
            problem=None,
        ).id
    yield made
    with studio.database.write() as session:
        workers.leave(session, worker)


@contextmanager
def speaker(studio: Studio, *, pause: float = 0.03) -> Iterator[Any]:
    """Answers what is asked, word by word, until it is told to stop."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            with studio.database.write() as session:
                mine = progress.claim(session, "w", 60)
            if mine is None:
                continue
            with studio.database.write() as session:
                progress.loading(session, mine, {"done": 1, "total": 3, "text": "Reading the weights"})
            over.wait(0.3)
            said, finish = "", "stop"
            for count, word in enumerate(re.findall(r"\S+\s*", WORDS * 4), start=1):
                with studio.database.read() as session:
                    if session.get_one(Answer, mine.id).status == "stopping":
                        finish = "stopped"
                        break
                said += word
                with studio.database.write() as session:
                    progress.add(session, mine, word, count)
                over.wait(pause)
            with studio.database.write() as session:
                progress.finish(
                    session, mine, {"text": said, "tokens": len(said.split()), "prompt_tokens": 9, "seconds": 1.0, "finish": finish}
                )

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(20)


def test_two_answers_flow_in_and_the_better_one_is_kept(page: Page, studio: Studio, models: list[str]) -> None:
    page.goto(f"/playground?checkpoint={models[0]}")
    page.select_option("#f-with", models[1])
    expect(page).to_have_url(re.compile(f"checkpoint={models[0]}&with={models[1]}"))
    page.fill("#text", "Name three colours.")
    with speaker(studio):
        page.keyboard.press("Control+Enter")
        expect(page).to_have_url(re.compile("/playground/chat_"))
        expect(page.locator(".reply").first.locator("li").first).to_have_text("red")
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        expect(page.locator(".reply strong").nth(4)).to_have_text("three", timeout=60_000)
        expect(page.get_by_text("Which is better?")).to_be_visible(timeout=60_000)
    expect(page.locator(".reply footer").first).to_contain_text("tok/s")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.locator("[data-raw]").check()
    expect(page.locator(".reply .raw").first).to_contain_text("**three**")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]  # one of the two it knows
        assert faults(page) == []
    page.get_by_text("A is better").click()
    refused = page.locator(".prefer [open]")
    refused.get_by_role("button", name="Add").click()
    expect(refused).to_contain_text("Both answers are the same")


def test_an_answer_is_stopped_edited_and_survives_a_reload(page: Page, studio: Studio, models: list[str]) -> None:
    with studio.database.write() as session:
        add_dataset(session, studio.workspace_id, name="kept", shape="chat")
    page.goto(f"/playground?checkpoint={models[0]}")
    page.fill("#text", "Go on for ever.")
    with speaker(studio, pause=0.4):
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".reply .rendered")).to_be_visible()
        page.reload()
        expect(page.locator(".reply strong")).to_have_text("three", timeout=60_000)
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".reply footer")).to_contain_text("Stopped")
    page.locator(".edit summary").click()
    page.fill("#said", "Say it again.")
    with speaker(studio):
        page.keyboard.press("Control+Enter")
        expect(page.locator(".said").first).to_have_text("Say it again.")
        expect(page.locator(".reply")).to_have_count(1)
        expect(page.get_by_role("button", name="Retry")).to_be_visible(timeout=60_000)
        page.fill("#text", "And more.")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#text")).to_have_value("")
        expect(page.locator(".turn")).to_have_count(2)
        expect(page.get_by_role("button", name="Retry")).to_be_visible(timeout=60_000)
    page.locator(".reply .keep summary").last.click()
    page.select_option(".keep[open] select", label="kept · 10 rows")
    page.locator(".keep[open]").get_by_role("button", name="Add").click()
    expect(page.locator(".keep[open]")).to_contain_text("missing from the storage folder")


def test_keys_and_palette_lead_to_the_playground_and_the_system(page: Page, studio: Studio, models: list[str]) -> None:
    page.goto("/runs")
    page.keyboard.press("g")
    page.keyboard.press("p")
    expect(page).to_have_url(re.compile("/playground$"))
    page.wait_for_load_state("load")
    page.keyboard.press("Escape")
    page.locator("h1").click(force=True)
    page.keyboard.press("Control+k")
    page.keyboard.type("system")
    expect(page.locator("#palette-list a")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/system$"))
    expect(page.get_by_role("heading", name="Workers")).to_be_visible()
    page.wait_for_load_state("load")
    page.keyboard.press("Control+k")
    page.keyboard.type("dark")
    page.keyboard.press("Enter")  # before the list has come: it waits for it
    expect(page.locator("#palette")).to_be_hidden()
    expect(page.locator("html")).to_have_attribute("data-theme", re.compile("dark|light"))
