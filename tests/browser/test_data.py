"""Data, models and exports in a browser: paste, drop, cancel, map; the viewer by keyboard; nothing axe objects to, nothing too wide."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest
from playwright.sync_api import Page, expect

from app.accounts import service as accounts
from app.exports.tables import Export
from app.settings import get_settings
from tests.browser.conftest import Studio
from tests.browser.test_axe import faults
from tests.factories import add_checkpoint, add_run

pytestmark = pytest.mark.browser

TABLE = 'question,reply\nWhat is 2 + 2?,4\nWho?,Me\n"",x\n'
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Question {n} " + "and more " * (n % 40)},
            {"role": "assistant", "content": f"Answer **{n}**"},
        ]
    }
    for n in range(80)
]
DROP = """([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


@dataclass
class Made:
    """Ids of what the pages under test show."""

    dataset: str
    failed: str
    tuned: str
    export: str


@pytest.fixture(scope="module")
def work(studio: Studio) -> Iterator[Callable[[], None]]:
    """Do what waits in the studio's queue, here and now."""
    from worker.tasks import drain

    patch = pytest.MonkeyPatch()
    patch.setenv("LUTHIER_HOME", str(studio.settings.home))
    get_settings.cache_clear()
    yield lambda: drain(studio.database, studio.settings, runs=False)
    patch.undo()
    get_settings.cache_clear()


@pytest.fixture(scope="module")
def made(studio: Studio, work: Callable[[], None]) -> Made:
    """A dataset with problems, a split and a second version; one that waits for a mapping; a tuned model; an export."""
    with studio.database.write() as session:
        _, token = accounts.create_token(session, name="data", role="admin", user_id=studio.admin_id, workspace_id=studio.workspace_id)
        base = add_checkpoint(session, studio.workspace_id, name="a base")
        run = add_run(session, studio.workspace_id, checkpoint_id=base.id, name="a run", status="succeeded")
        tuned = add_checkpoint(
            session,
            studio.workspace_id,
            name="a run · step 20",
            kind="adapter",
            source="run",
            run_id=run.id,
            step=20,
            base_id=base.id,
            notes="**good**",
        )
        export = Export(
            workspace_id=studio.workspace_id,
            checkpoint_id=tuned.id,
            checkpoint_name=tuned.name,
            format="adapter",
            dtype="stored",
            status="ready",
            file_name="a-run-step-20-adapter.zip",
            log=[[1.0, "Packing"]],
            size_before=9,
            size_bytes=9,
            sha256="a" * 64,
            facts={"base": "a base", "on_hub": False, "revision": None, "rank": 8, "plain_lora": True},
        )
        session.add(export)
        session.flush()
        ids = tuned.id, export.id
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"{studio.url}/api/v1", headers=headers, timeout=60) as api:
        lines = "".join(json.dumps(row) + "\n" for row in ROWS)
        api.post("/datasets", files={"file": ("viewed.jsonl", lines)}, data={"name": "viewed"})
        bad = json.dumps({"messages": [{"role": "user", "content": "hi"}]})
        files = {"file": ("viewed.jsonl", lines + bad + "\n" + json.dumps(ROWS[3]) + "\n")}
        dataset = api.post("/datasets", files=files, data={"name": "viewed", "split": "0.1"}).json()["id"]
        failed = api.post("/datasets", files={"file": ("unclear.csv", "frage,antwort\na,b\n")}, data={"name": "unclear"}).json()["id"]
        work()
        assert api.get(f"/datasets/{dataset}").json()["status"] == "ready"
    return Made(dataset, failed, *ids)


def test_pasted_rows_are_shown_and_mapped_before_they_are_kept(page: Page, studio: Studio, work: Callable[[], None]) -> None:
    page.goto("/datasets/new")
    page.get_by_label("Or paste rows").fill(TABLE)
    expect(page.locator("#glance")).to_contain_text("Recognised as CSV: 3 rows, 2 columns.")
    expect(page.locator("#glance")).to_contain_text("It is not clear which column is what.")
    page.get_by_label("prompt", exact=True).select_option("question")
    expect(page.locator("#glance .chip")).to_have_text("Prompts")
    page.get_by_label("completion", exact=True).select_option("reply")
    expect(page.locator("#glance")).to_contain_text("2 of the rows looked at can be used, 1 cannot.")
    expect(page.locator("#glance")).to_contain_text("Row 4: prompt: The prompt is empty.")
    assert faults(page) == []
    page.get_by_label("Name").first.fill("pasted in a browser")
    page.get_by_role("button", name="Use this mapping").click()
    page.wait_for_url("**/datasets/ds_*")
    work()
    expect(page.locator(".kpis")).to_contain_text("1 unusable")
    expect(page.locator("#example")).to_contain_text("What is 2 + 2?")


def test_a_dropped_file_is_taken_anywhere_and_can_be_cancelled(page: Page, studio: Studio) -> None:
    page.goto("/datasets")
    page.route("**/api/v1/datasets", lambda route: None)  # an upload that does not get through
    page.evaluate(DROP, ["dropped.jsonl", '{"text": "a"}\n'])
    expect(page.locator("#upload")).to_contain_text("Adding dropped.jsonl")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("Cancelled. Nothing was kept.")
    page.unroute("**/api/v1/datasets")
    page.evaluate(DROP, ["dropped.zip", "PK"])
    expect(page.get_by_role("alert")).to_contain_text("Unpack it first.")
    page.evaluate(DROP, ["dropped.jsonl", '{"text": "a"}\n'])
    page.wait_for_url("**/datasets/ds_*")
    expect(page.locator("h1")).to_have_text("dropped")
    page.goto("/datasets/new")
    page.evaluate(DROP, ["rows.jsonl", '{"prompt": "a", "completion": "b"}\n'])
    expect(page.locator("#glance")).to_contain_text("1 of the rows looked at can be used.")
    assert page.get_by_label("File", exact=True).evaluate("input => input.files[0].name") == "rows.jsonl"


def test_examples_by_keyboard(page: Page, made: Made) -> None:
    page.goto(f"/datasets/{made.dataset}")
    title = page.locator("#example-h")
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text("Example 2")
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text("Example 3")
    page.keyboard.press("ArrowLeft")
    expect(title).to_have_text("Example 2")
    page.keyboard.press("/")
    page.keyboard.type("QUESTION 41 ")
    page.keyboard.press("ArrowLeft")  # moves in the field, not among the examples
    page.keyboard.press("Enter")
    page.locator(".hits a").click()
    expect(title).to_have_text("Example 42")
    page.get_by_label("Row", exact=True).fill("7")
    page.keyboard.press("Enter")
    expect(title).to_have_text("Example 7")
    page.get_by_role("link", name="JSON", exact=True).click()
    expect(page.locator("#example pre")).to_contain_text('"role": "assistant"')


def test_the_split_dialog(page: Page, made: Made, work: Callable[[], None]) -> None:
    page.goto(f"/datasets/{made.dataset}")
    page.get_by_role("button", name="Split").click()
    assert faults(page) == []
    page.get_by_label("Keep for evaluation").select_option(label="20 % of the prompts")
    page.locator("#split-dialog button.primary").click()
    page.wait_for_url(lambda url: made.dataset not in url)
    work()
    expect(page.locator(".kpis")).to_contain_text("80 / 20")
    expect(page.locator("body")).to_contain_text("version 2, split anew")


PAGES = [
    "/datasets/{dataset}",
    "/datasets/{dataset}?view=json&q=more",
    "/datasets/{failed}",
    "/datasets/new",
    "/models/{tuned}",
    "/models?kind=tuned",
    "/exports",
    "/exports/new?checkpoint={tuned}",
    "/exports/{export}",
]


@pytest.mark.parametrize("path", PAGES)
def test_everybody_can_use_the_pages(page: Page, made: Made, path: str) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]  # one of the two it knows
        page.goto(path.format(**vars(made)))
        assert faults(page) == []
    for width in (390, 1024):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
