"""A run's page in a browser: the curve grows, points that are no numbers show, runs are steered, logs follow, the stream is let go."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from app.runs import progress, service
from app.runs.schemas import RunUpdate
from app.runs.tables import Run
from tests.browser.conftest import Studio
from tests.browser.seed import Trainer, fill
from tests.factories import add_run

pytestmark = pytest.mark.browser


@pytest.fixture
def own(studio: Studio) -> Iterator[Trainer]:
    """A trainer of a run that is this test's alone; it moves when told to."""
    with studio.database.write() as session:
        first = session.get(Run, studio.ids["live"])
        assert first is not None
        run = add_run(
            session,
            studio.workspace_id,
            name="own",
            status="running",
            attempt=1,
            checkpoint_id=first.checkpoint_id,
            dataset_id=first.dataset_id,
            params=first.params,
        )
        fill(session, run, 100, 400, 11)
        run.started_at = time.time() - 92
        run_id = run.id
    trainer = Trainer(studio.database, run_id)
    yield trainer
    with studio.database.write() as session:
        session.delete(session.get(Run, run_id))


def plot(page: Page, name: str = "loss") -> str:
    """What a chart says of itself."""
    return page.locator(f'[data-key="{name}"]').get_attribute("aria-label") or ""


def opened(page: Page, path: str) -> None:
    """Open a run's page and wait for its curve and its stream."""
    with page.expect_response(re.compile("/events")):
        page.goto(path)
    page.wait_for_selector("#charts .uplot")


def test_the_curve_grows_and_ends_at_the_last_loss(page: Page, studio: Studio, own: Trainer) -> None:
    opened(page, f"/runs/{own.run_id}")
    assert plot(page).endswith("at step 100")
    own.step(5)
    expect(page.locator('[data-key="loss"]')).to_have_attribute("aria-label", re.compile("at step 105$"))
    expect(page.locator("#live")).to_contain_text("step 105 of 400")
    with studio.database.read() as session:
        run = session.get(Run, own.run_id)
        assert run is not None
        assert plot(page).startswith(f"Training loss: {run.latest['loss']:.4g}"[:19])


def test_points_of_a_void_attempt_go(page: Page, studio: Studio, own: Trainer) -> None:
    opened(page, f"/runs/{own.run_id}")
    with studio.database.write() as session:
        progress.begin(session, own.claim, 60)
        run = session.get(Run, own.run_id)
        assert run is not None
        service.add_event(session, run, "attempt", "Attempt 2 goes on at step 60.", step=60, truncate=60)
    expect(page.locator('[data-key="loss"]')).to_have_attribute("aria-label", re.compile("at step 60$"))


def test_what_is_no_number_shows_as_such(page: Page, studio: Studio, own: Trainer) -> None:
    opened(page, f"/runs/{own.run_id}")
    with studio.database.write() as session:
        progress.record(session, own.claim, progress.Batch(points=[("loss", 101, math.nan), ("grad_norm", 101, math.inf)], step=101))
    expect(page.locator('[data-key="loss"]')).to_have_attribute("aria-label", "Training loss: NaN at step 101")
    expect(page.locator('[data-key="grad_norm"]')).to_have_attribute("aria-label", "Gradient norm: ∞ at step 101")
    expect(page.locator("#live .kpi.bad dd.num")).to_have_text("NaN")


def test_zoom_is_kept_while_points_come(page: Page, own: Trainer) -> None:
    opened(page, f"/runs/{own.run_id}")
    box = page.locator('[data-key="loss"] .u-over').bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 100, steps=5)
    page.mouse.up()

    def ends() -> list[str]:
        """The steps at both ends of what is shown."""
        found = []
        for x in (2, box["width"] - 2):
            page.mouse.move(box["x"] + x, box["y"] + 80)
            found.append(page.locator('[data-key="loss"] .u-tip b').inner_text())
        return found

    zoomed = ends()
    assert zoomed[0] != "step 1" and zoomed[1] != "step 100"
    own.step(3)
    expect(page.locator('[data-key="loss"]')).to_have_attribute("aria-label", re.compile("at step 103$"))
    assert ends() == zoomed
    page.mouse.dblclick(box["x"] + 200, box["y"] + 80)
    assert ends() == ["step 1", "step 103"]


def test_the_tools_of_the_charts(page: Page, studio: Studio, own: Trainer) -> None:
    opened(page, f"/runs/{own.run_id}")
    picture = "document.querySelector('[data-key=loss] canvas').toDataURL()"
    seen = {page.evaluate(picture)}
    page.keyboard.press("l")
    seen.add(page.evaluate(picture))
    page.keyboard.press("]")
    expect(page.locator("#chart-tools output")).to_have_text("0.85")
    seen.add(page.evaluate(picture))
    page.get_by_role("radio", name="Time").check()
    seen.add(page.evaluate(picture))
    assert len(seen) == 4
    page.get_by_text("Overlay runs").click()
    page.locator(f'[data-overlay][value="{studio.ids["r64"]}"]').check()
    expect(page.locator("[data-legend]")).to_contain_text("qwen3-4b-support-sft-r64")
    expect(page).to_have_url(re.compile(f"with={studio.ids['r64']}"))
    page.reload()
    expect(page.locator("[data-legend]")).to_contain_text("qwen3-4b-support-sft-r64")


def test_a_chart_is_read_by_keys(page: Page, own: Trainer) -> None:
    opened(page, f"/runs/{own.run_id}")
    page.locator('[data-key="loss"]').focus()
    page.keyboard.press("Home")
    read = page.locator("#chart-read")
    expect(read).to_have_text(re.compile(r"^Training loss, step 1: \d\.\d+$"))
    page.keyboard.press("ArrowRight")
    expect(read).to_contain_text("step 2:")
    page.keyboard.press("Shift+ArrowRight")
    expect(read).to_contain_text("step 12:")
    page.keyboard.press("End")
    expect(read).to_contain_text("step 100:")
    expect(page.locator('[data-key="loss"] .u-tip')).to_contain_text("step 100")
    page.keyboard.press("ArrowLeft")
    expect(read).to_contain_text("step 99:")


def test_outliers_can_be_left_out_of_view(page: Page, studio: Studio, own: Trainer) -> None:
    with studio.database.write() as session:
        progress.record(session, own.claim, progress.Batch(points=[("loss", 101, 900.0)], step=101))
    opened(page, f"/runs/{own.run_id}")
    picture = "document.querySelector('[data-key=loss] canvas').toDataURL()"
    before = page.evaluate(picture)
    page.get_by_role("switch", name="Ignore outliers").check()
    assert page.evaluate(picture) != before
    page.evaluate("localStorage.clear()")


def test_the_machine_has_curves_of_its_own(page: Page, studio: Studio, own: Trainer) -> None:
    with studio.database.write() as session:
        points = [("system/cpu_percent", step, 50.0 + step) for step in (10, 20)]
        progress.record(session, own.claim, progress.Batch(points=[*points, ("system/rss_bytes", 20, 2.0**30)]))
    opened(page, f"/runs/{own.run_id}")
    expect(page.locator('[data-key^="system/"]')).to_have_count(0)
    opened(page, f"/runs/{own.run_id}?tab=system")
    assert plot(page, "system/cpu_percent") == "Processor, trainer: 70 % at step 20"
    assert plot(page, "system/rss_bytes") == "Memory, trainer: 1 GB at step 20"
    expect(page.locator('[data-key="loss"]')).to_have_count(0)


def test_a_name_is_edited_in_place(page: Page, studio: Studio, own: Trainer) -> None:
    page.goto(f"/runs/{own.run_id}?tab=history")
    page.get_by_role("button", name="Rename").click()
    box = page.get_by_label("Name of the run")
    expect(box).to_be_focused()
    box.fill("a better name")
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="own", level=1)).to_be_visible()
    page.get_by_role("button", name="Rename").click()
    box.fill("a better name")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="a better name", level=1)).to_be_visible()
    expect(page).to_have_url(re.compile("tab=history"))


def test_two_people_edit_one_run_and_nothing_is_lost(page: Page, studio: Studio, own: Trainer) -> None:
    page.goto(f"/runs/{own.run_id}?tab=history")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Notes").fill("what I found out")
    with studio.database.write() as session:
        service.update(session, studio.workspace_id, own.run_id, RunUpdate(name="theirs", notes="what they found out"))
    page.get_by_role("button", name="Save", exact=True).last.click()
    dialog = page.locator("#edit")
    expect(dialog.get_by_role("alert")).to_contain_text("Somebody else saved this run")
    expect(dialog).to_contain_text("what they found out")
    expect(dialog.get_by_label("Notes")).to_have_value("what I found out")
    dialog.get_by_role("button", name="Save mine").click()
    expect(page.locator(".head")).to_contain_text("what I found out")


def test_a_line_of_the_log_is_searched_and_linked(page: Page, studio: Studio) -> None:
    page.goto(f"/runs/{studio.ids['live']}?tab=logs")
    page.get_by_label("Search the log").fill("padding")
    expect(page.locator("#log li:visible")).to_have_count(1)
    page.locator("#log li:visible a").click()
    expect(page).to_have_url(re.compile(r"at=1\.3#L1\.3$"))
    expect(page.locator("#log li:target")).to_contain_text("padding token")
    expect(page.locator("#log li:target")).to_be_in_viewport()
    expect(page.get_by_role("switch", name="Follow")).not_to_be_checked()


def test_the_tooltip_tells_step_and_value(page: Page, own: Trainer) -> None:
    opened(page, f"/runs/{own.run_id}")
    page.locator('[data-key="loss"] .u-over').hover(position={"x": 200, "y": 80})
    expect(page.locator('[data-key="loss"] .u-tip')).to_contain_text(re.compile(r"step \d+.*own.*\d\.\d", re.DOTALL))


def test_pause_and_stop_without_loading_anew(page: Page, studio: Studio, own: Trainer) -> None:
    opened(page, f"/runs/{own.run_id}")
    page.evaluate("window.same = true")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#live .badge")).to_have_text("pausing")
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#live .badge")).to_have_text("pausing")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop run").click()
    expect(page.locator("#live .badge")).to_have_text("stopping")
    assert page.evaluate("window.same")


def test_the_stream_is_let_go_when_the_run_is_over(page: Page, studio: Studio, own: Trainer) -> None:
    opened(page, f"/runs/{own.run_id}")
    with studio.database.write() as session:
        run = session.get(Run, own.run_id)
        assert run is not None
        service.set_status(session, run, "succeeded")
    expect(page.locator("#live .badge")).to_have_text("succeeded")
    expect(page.locator("#stream")).to_have_count(0, timeout=8000)


def test_logs_follow_and_filter(page: Page, studio: Studio) -> None:
    with page.expect_response(re.compile("/events")):
        page.goto(f"/runs/{studio.ids['live']}?tab=logs")
    trainer = Trainer(studio.database, studio.ids["live"])
    trainer.step()
    with studio.database.read() as session:
        run = session.get(Run, studio.ids["live"])
        assert run is not None
        newest = page.locator("#log li", has_text=re.compile(f"step {run.step}$"))
    expect(newest).to_be_in_viewport()
    expect(page.locator("#log .debug").first).to_be_hidden()
    page.locator("[data-log-level]").select_option("warning")
    expect(newest).to_be_hidden()
    expect(page.locator("#log .warning").first).to_be_visible()
    expect(page).to_have_url(re.compile("level=warning"))


def test_a_lost_connection_is_said_quietly(page: Page, own: Trainer, studio: Studio) -> None:
    opened(page, f"/runs/{own.run_id}")
    page.evaluate("document.querySelector('#stream').dispatchEvent(new CustomEvent('htmx:sse:error', {bubbles: true}))")
    expect(page.get_by_text("Live updates paused, trying again")).to_be_visible()
    page.evaluate("document.querySelector('#stream').dispatchEvent(new CustomEvent('htmx:sse:after:connection', {bubbles: true}))")
    expect(page.locator("#connection")).to_be_hidden()


def test_text_of_a_model_is_inert(page: Page, studio: Studio, own: Trainer) -> None:
    evil = (
        'x <img src=x onerror=alert(1)> <b hx-get="/runs" hx-trigger="load">b</b>\n\n[go](javascript:alert(1)) ![p](http://192.0.2.1/p.png)'
        '\n\n<hx-partial hx-target="#live">gone</hx-partial>'
    )
    with studio.database.write() as session:
        batch = progress.Batch(
            samples=[{"step": 100, "number": 0, "prompt": evil, "text": evil, "expected": evil}], logs=[(time.time(), "info", evil)]
        )
        progress.record(session, own.claim, batch)
    page.goto(f"/runs/{own.run_id}?tab=samples")
    expect(page.locator(".samples .prose").first).to_contain_text("hx-partial")
    assert page.locator(".samples :is(img, [hx-get], [onerror], a[href^=javascript])").count() == 0
    expect(page.locator("#live .badge")).to_be_visible()
    page.goto(f"/runs/{own.run_id}?tab=logs")
    expect(page.locator("#log .text").last).to_contain_text("<img src=x")


def test_a_question_that_is_open_when_the_run_ends_does_nothing_else(page: Page, studio: Studio, own: Trainer) -> None:
    """The button to stop becomes one to delete meanwhile; who agreed to stop has not agreed to that."""
    page.goto(f"/runs/{own.run_id}")
    page.locator("#run-actions").get_by_role("button", name="Stop").click()
    expect(page.locator("#confirm")).to_contain_text("Stop this run for good?")
    with studio.database.write() as session:
        run = session.get_one(Run, own.run_id)
        service.set_status(session, run, "succeeded")
    expect(page.locator("#run-actions button", has_text="Delete")).to_have_count(1)
    page.locator("#confirm").get_by_role("button", name="Stop run").click()
    expect(page.locator("#toasts")).to_contain_text("changed meanwhile")
    with studio.database.read() as session:
        assert session.get(Run, own.run_id) is not None
