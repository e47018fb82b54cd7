"""The whole loop of ratings on a real model: answers, votes by keyboard, a snapshot, DPO by clicks, the new model on the leaderboard."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import watch
from tests.faults.studio import Up, until
from tests.models import smollm2_folder

pytestmark = [pytest.mark.train, pytest.mark.browser, pytest.mark.soak]
PAIRS, SPARE = 40, 4
THINGS = ("a bicycle", "a bridge", "a garden", "a river", "a clock", "a map", "a violin", "a kettle", "bread", "snow", "the moon")
QUESTIONS = ("What is {}?", "Why do people like {}?", "Where would you find {}?", "What is special about {}?")
PROMPTS = [f"Answer in one short sentence: {question.format(thing)}" for thing in THINGS for question in QUESTIONS]
SLOW = 1_800_000
"""Milliseconds that a model may take for all its answers, or to learn, on a machine with much else to do."""


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    home = tmp_path / "home"
    home.mkdir()
    studio = Up(home, {"LUTHIER_DEVICE": "cpu", "LUTHIER_SAMPLE_PROMPTS": "0"})
    yield studio
    studio.stop()


def _sign_in(up: Up, page: Page) -> None:
    command = [sys.executable, "-c", "from app.cli import main; main()", "user", "link"]
    environment = {"LUTHIER_HOME": str(up.home), "LUTHIER_PORT": str(up.port), "PATH": "/usr/bin:/bin"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
    link = re.search(r"http://\S+", printed)
    assert link, printed
    page.goto(link.group())


def _rate_by_keys(page: Page) -> int:
    """Prefer the shorter answer of every pair until nothing is left, with the keyboard alone; how many were rated."""
    task, none = page.locator("form.task"), page.locator("[data-none]")
    for rated in range(1000):
        expect(task.or_(none)).to_be_visible()
        if none.is_visible():
            return rated
        slot = task.get_attribute("data-slot")
        lengths = [len((page.locator(f"#answer-{side} .raw").text_content() or "").split()) for side in (0, 1)]
        page.keyboard.press("2" if lengths[0] <= lengths[1] else "6")
        expect(page.locator(f'form.task[data-slot="{slot}"]')).to_have_count(0)
    raise AssertionError("rating never ends")


def _answered(page: Page) -> None:
    """Wait on the overview, which moves by itself, until the answers are all there."""
    expect(page.get_by_label("Generating answers")).to_have_count(0, timeout=SLOW)
    expect(page.locator("#generation [role=alert]")).to_have_count(0)


def test_from_two_checkpoints_to_a_third_on_the_leaderboard(up: Up, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(60_000)
    faults = watch(page, up.url)
    _sign_in(up, page)
    for name in ("one", "two"):
        made = up.ask("POST", "/checkpoints", json={"source": "folder", "ref": str(smollm2_folder()), "name": name})
        until(lambda made=made: up.ask("GET", f"/checkpoints/{made['id']}")["status"] == "ready", 300, f"{name} did not become ready")

    page.goto(f"{up.url}/feedback")
    page.get_by_role("link", name="New project").click()
    page.get_by_role("link", name="Pairs Two answers").click()
    page.get_by_label("Name", exact=True).fill("short answers")
    page.get_by_label("Or typed, one a line").fill("\n".join(PROMPTS))
    for number, (name, temperature) in enumerate((("one", "0.7"), ("two", "1")), 1):
        page.get_by_label(f"Checkpoint {number}", exact=True).select_option(label=name)
        page.get_by_label("Temperature", exact=True).nth(number - 1).fill(temperature)
        page.get_by_label("Tokens at most", exact=True).nth(number - 1).fill("96")
    page.get_by_role("button", name="Make the project").click()
    page.wait_for_url(re.compile(r"/feedback/prj_"))
    project = page.url.rsplit("/", 1)[1]
    _answered(page)
    there = up.ask("GET", f"/feedback/projects/{project}")
    assert there["items"] >= PAIRS, there

    page.get_by_role("link", name="Rate", exact=True).last.click()
    page.wait_for_url(f"**/rate/{project}")
    assert _rate_by_keys(page) == there["items"]

    page.goto(f"{up.url}/feedback/{project}")
    page.get_by_role("navigation", name="Project").get_by_role("link", name="Train").click()
    page.get_by_label("Kept for evaluation").fill("0.25")
    expect(page.locator("#plan")).to_contain_text("Direct preference optimisation")
    page.get_by_role("button", name="Freeze and train").click()
    page.wait_for_url(re.compile(r"/runs/new\?"))
    expect(page.get_by_role("radio", name="Direct preference optimisation")).to_be_checked()
    expect(page.get_by_label("Model", exact=True).locator("option:checked")).to_have_text(re.compile("^one"))
    page.get_by_label("Steps", exact=True).fill("4")
    page.get_by_label("Batch size", exact=True).fill("4")
    page.get_by_role("button", name="Start run").click()
    page.wait_for_url(re.compile(r"/runs/run_"))
    run = page.url.rsplit("/", 1)[1]
    until(lambda: up.ask("GET", f"/runs/{run}")["status"] in ("succeeded", "failed"), SLOW / 1000, "the run did not end")
    assert up.ask("GET", f"/runs/{run}")["status"] == "succeeded", up.ask("GET", f"/runs/{run}")["reason"]
    page.get_by_role("button", name="Let it answer").click()
    page.wait_for_url(f"**/feedback/{project}")
    _answered(page)
    more = up.ask("GET", f"/feedback/projects/{project}")["items"] - there["items"]
    assert more > 0
    page.get_by_role("link", name="Rate", exact=True).last.click()
    page.wait_for_url(f"**/rate/{project}")
    assert _rate_by_keys(page) == more

    new = up.ask("GET", "/checkpoints", params={"kind": "adapter"})["data"][0]
    page.goto(f"{up.url}/feedback/{project}")
    page.get_by_role("navigation", name="Project").get_by_role("link", name="Leaderboard").click()
    board = page.locator("table.board")
    for name in ("one", "two", new["name"]):
        expect(board.get_by_role("link", name=name, exact=True)).to_be_visible()
    assert not faults, faults
    context.close()
