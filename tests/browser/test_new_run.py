"""The form of a new run in a browser: plan beside it, errors in place, nothing typed is lost, start leads to the run."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from app.runs import service
from tests.browser.conftest import Studio

pytestmark = pytest.mark.browser


def test_the_plan_follows_what_is_typed(page: Page, studio: Studio) -> None:
    page.goto("/runs/new")
    expect(page.locator("#plan")).to_contain_text("Choose a model to start from.")
    page.get_by_label("Model", exact=True).select_option(label="Qwen3-4B")
    page.get_by_label("Dataset", exact=True).select_option(index=1)
    expect(page.locator("#plan dl")).to_contain_text("Trainable")
    page.get_by_label("Steps", exact=True).fill("77")
    expect(page.locator("#plan dl")).to_contain_text(re.compile(r"Steps\s*77"))
    page.get_by_role("button", name="Show as YAML").click()
    expect(page.locator("#yaml-text")).to_contain_text("max_steps: 77")
    expect(page.locator("#command-text")).to_contain_text("-p max_steps=77")
    expect(page.locator("#curl-text")).to_contain_text('"max_steps": 77')


@pytest.mark.parametrize("way", ["reload", "back"])
def test_reload_and_back_lose_nothing(page: Page, studio: Studio, way: str) -> None:
    page.goto("/runs/new")
    page.get_by_text("Direct preference optimisation").click()
    page.get_by_label("Beta").fill("0.25")
    page.get_by_label("Notes").fill("half typed")
    page.get_by_text("Advanced").first.click()
    if way == "reload":
        page.reload()
    else:
        page.goto("/datasets")
        page.go_back()
    expect(page.get_by_label("Beta")).to_have_value("0.25")
    expect(page.get_by_label("Notes")).to_have_value("half typed")
    expect(page.get_by_role("radio", name="Direct preference optimisation")).to_be_checked()
    page.goto("/runs/new")
    expect(page.get_by_label("Notes")).to_have_value("")


def test_pasted_yaml_fills_the_form(page: Page, studio: Studio) -> None:
    page.goto("/runs/new")
    page.get_by_label("Notes").fill("typed before")
    page.get_by_role("button", name="Paste YAML").click()
    box = page.locator("#paste-text")
    box.fill("method: [")
    page.get_by_role("button", name="Fill the form").click()
    expect(page.locator("#paste-problem")).to_contain_text("not valid YAML")
    expect(box).to_have_value("method: [")
    box.fill("method: dpo\ncheckpoint: Qwen3-4B\ndataset: support-prefs\nnotes: pasted\nparams: {beta: 0.3}")
    page.get_by_role("button", name="Fill the form").click()
    expect(page.locator("#paste")).to_be_hidden()
    expect(page.get_by_label("Beta")).to_have_value("0.3")
    expect(page.get_by_label("Notes")).to_have_value("pasted")
    expect(page.locator("#plan dl")).to_contain_text("Trainable")


def test_what_differs_from_the_source_is_marked_while_typing(page: Page, studio: Studio) -> None:
    page.goto(f"/runs/new?from={studio.ids['lr1e4']}")
    rate = page.get_by_label("Learning rate")
    rate.fill("0.0003")
    differs = page.locator(".field.differs", has=page.get_by_label("Learning rate"))
    expect(differs).to_have_count(1)
    expect(page.locator("#plan .differences")).to_contain_text("Learning rate")
    rate.fill("0.0002")
    expect(differs).to_have_count(0)


def test_unusable_data_say_why(page: Page, studio: Studio) -> None:
    page.goto("/runs/new")
    options = page.locator("#f-dataset option")
    expect(options.filter(has_text="has-errors (3 lines with errors)")).to_have_attribute("disabled", "")
    expect(options.filter(has_text="support-prefs (holds preference rows)")).to_have_attribute("disabled", "")
    page.get_by_text("Direct preference optimisation").click()
    expect(options.filter(has_text="support-prefs (holds")).to_have_count(0)
    expect(page.get_by_label("Beta")).to_be_visible()


def test_errors_stand_at_their_fields_and_nothing_is_lost(page: Page, studio: Studio) -> None:
    page.goto(f"/runs/new?from={studio.ids['live']}")
    rate = page.get_by_label("Learning rate")
    page.get_by_label("Notes").fill("a note")
    page.get_by_label("Epochs").fill("many")
    rate.fill("5")
    rate.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("2 fields need attention")
    expect(page.get_by_role("alert")).to_contain_text("Must be at most 1.0, and it is 5.")
    expect(rate).to_have_attribute("aria-invalid", "true")
    expect(rate).to_be_focused()
    expect(rate).to_have_value("5")
    expect(page.get_by_label("Notes")).to_have_value("a note")
    page.get_by_role("link", name="Epochs").click()
    expect(page.get_by_label("Epochs")).to_be_focused()


def test_start_leads_to_the_run(page: Page, studio: Studio) -> None:
    page.goto(f"/runs/new?from={studio.ids['lr1e4']}")
    page.get_by_label("Name", exact=True).fill("made in a browser")
    page.get_by_role("button", name="Start run").click()
    expect(page).to_have_url(re.compile("/runs/run_"))
    expect(page.get_by_role("heading", name="made in a browser")).to_be_visible()
    expect(page.locator("#live .badge")).to_have_text("queued")
    with studio.database.write() as session:
        made = service.list_runs(session, studio.workspace_id, q="made in a browser")[0]
        assert made.parent_run_id == studio.ids["lr1e4"]
        assert made.params["learning_rate"] == 2e-4
        service.cancel(session, studio.workspace_id, made.id)
