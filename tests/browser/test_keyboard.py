"""The whole way by keyboard alone, in a studio that really works: upload, run, watch, compare, chat, export. The mouse is never touched."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import watch
from tests.faults.studio import Up, until
from tests.models import tiny_llama_folder

pytestmark = [pytest.mark.train, pytest.mark.browser, pytest.mark.slow]

MOST_TABS = 120
ROWS = "".join(json.dumps({"prompt": f"What is {a} + {a}?", "completion": str(2 * a)}) + "\n" for a in range(40))


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    home = tmp_path / "home"
    home.mkdir()
    studio = Up(home, {"LUTHIER_DEVICE": "cpu", "LUTHIER_SAMPLE_PROMPTS": "1"})
    made = studio.ask("POST", "/checkpoints", json={"source": "folder", "ref": str(tiny_llama_folder()), "name": "tiny"})
    until(lambda: studio.ask("GET", f"/checkpoints/{made['id']}")["status"] == "ready", 120, "the model did not become ready")
    yield studio
    studio.stop()


def link(up: Up) -> str:
    """An address that signs the admin in, as the command prints it."""
    command = [sys.executable, "-c", "from app.cli import main; main()", "user", "link"]
    environment = {"LUTHIER_HOME": str(up.home), "LUTHIER_PORT": str(up.port), "PATH": "/usr/bin:/bin"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.search(r"http://\S+", printed)
    assert found, printed
    return found.group()


def reach(page: Page, wanted: Locator) -> None:
    """Press Tab until something has the focus, and see that the focus shows."""
    expect(wanted.first).to_be_visible()
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        if wanted.first.evaluate("(each) => each === document.activeElement"):
            shown = wanted.first.evaluate("(each) => getComputedStyle(each).outlineStyle + getComputedStyle(each).boxShadow")
            assert shown != "nonenone", f"{wanted} does not show that it has the focus"
            return
    raise AssertionError(f"{wanted} is not reached by {MOST_TABS} presses of Tab")


def press(page: Page, wanted: Locator, key: str = "Enter") -> None:
    """Go to something and press a key on it."""
    reach(page, wanted)
    page.keyboard.press(key)


def jump(page: Page, letter: str, address: str) -> None:
    """G, then a letter."""
    page.keyboard.press("g")
    page.keyboard.press(letter)
    page.wait_for_url(re.compile(address))


def choose(page: Page, wanted: Locator, text: str) -> None:
    """Choose an option of a select by typing its beginning."""
    reach(page, wanted)
    page.keyboard.type(text)
    expect(wanted).not_to_have_value("")


def start_run(page: Page, up: Up, steps: int) -> str:
    """Fill the number of steps, start, and wait for the end; the run's id."""
    reach(page, page.get_by_label("Steps", exact=True))
    page.keyboard.press("Control+a")
    page.keyboard.type(str(steps))
    press(page, page.get_by_role("button", name="Start run"))
    page.wait_for_url(re.compile(r"/runs/run_"))
    run_id = page.url.rpartition("/")[2].partition("?")[0]
    expect(page.locator("#live .badge")).to_have_text("succeeded", timeout=120_000)
    expect(page.locator('[data-key="loss"]')).to_have_attribute("aria-label", re.compile(f"at step {steps}$"), timeout=10_000)
    return run_id


def test_the_whole_way_by_keyboard(up: Up, browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "doubles.jsonl"
    file.write_text(ROWS)
    page = browser.new_page()
    page.set_default_timeout(30_000)
    faults = watch(page, up.url)
    page.goto(link(up))

    jump(page, "d", "/datasets$")
    press(page, page.get_by_role("link", name="Add data").first)
    page.wait_for_url(re.compile("/datasets/new"))
    with page.expect_file_chooser() as chooser:
        press(page, page.get_by_label("File", exact=True))
    chooser.value.set_files(file)
    press(page, page.get_by_role("button", name="Add", exact=True))
    page.wait_for_url(re.compile(r"/datasets/ds_"))

    press(page, page.get_by_role("link", name="Train on this"))
    page.wait_for_url(re.compile("/runs/new"))
    choose(page, page.get_by_label("Model", exact=True), "tiny")
    first = start_run(page, up, 6)
    press(page, page.get_by_role("link", name="Duplicate"))
    page.wait_for_url(re.compile("/runs/new"))
    second = start_run(page, up, 4)
    assert first != second

    jump(page, "r", "/runs$")
    for _ in range(2):
        page.keyboard.press("j")
        page.keyboard.press("x")
    press(page, page.get_by_role("button", name="Compare"))
    page.wait_for_url(re.compile(r"/runs/compare\?"))
    assert first in page.url and second in page.url
    page.wait_for_selector(".uplot")

    jump(page, "m", "/models$")
    tuned = up.ask("GET", f"/runs/{first}/checkpoints")["data"][0]
    press(page, page.locator(f"#main a[href='/models/{tuned['id']}']"))
    page.wait_for_url(re.compile(tuned["id"]))
    press(page, page.get_by_role("link", name="Try it"))
    page.wait_for_url(re.compile("/playground"))
    box = page.get_by_label("Message", exact=True)
    expect(box).to_be_focused()
    page.keyboard.type("What is 3 + 3?")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".reply:not([aria-busy])").first).to_be_visible(timeout=90_000)
    chat = up.ask("GET", "/chats")["data"][0]
    until(lambda: _status(up, chat["id"]) in ("done", "stopped"), 60, "the answer did not end")

    page.keyboard.press("Escape")
    press(page, page.locator(f".reply a[href='/models/{tuned['id']}']"))
    page.wait_for_url(re.compile(tuned["id"]))
    press(page, page.get_by_role("link", name="Export", exact=True))
    page.wait_for_url(re.compile("/exports/new"))
    press(page, page.get_by_role("button", name="Export", exact=True))
    page.wait_for_url(re.compile(r"/exports/exp_|/exports/[a-z]+_"))
    with page.expect_download(timeout=60_000) as download:
        press(page, page.get_by_role("link", name="Download"))
    assert download.value.suggested_filename.endswith(".zip")
    assert not faults, faults
    page.close()


def _status(up: Up, chat_id: str) -> str:
    answers = [answer for turn in up.ask("GET", f"/chats/{chat_id}")["turns"] for answer in turn["answers"]]
    return str(answers[-1]["status"])
