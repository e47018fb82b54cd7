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
    expect(page.get_by_role("alert")).to_contain_text("Must be at most 0.01, and it is 5.")
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
