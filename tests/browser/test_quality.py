"""Quality, leaderboard and disputed items in a browser: axe finds nothing, nothing is wider than the screen, a decision leads on."""

from __future__ import annotations

import random

import pytest
from playwright.sync_api import Page, expect

from app.feedback.tables import Project
from tests.browser.conftest import Studio
from tests.browser.test_axe import faults
from tests.factories import add_checkpoint
from tests.feedback.rated import add_item, add_project, add_rater, say

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def project_id(studio: Studio) -> str:
    """A project with three models, three people, a judge and some disputes."""
    draw = random.Random(7)
    with studio.database.write() as session:
        project: Project = add_project(session, studio.workspace_id, name="Kinder answers", question="Which answer is kinder?")
        names = ("SmolLM2 base", "SmolLM2 tuned", "SmolLM2 tuned twice")
        models = [add_checkpoint(session, studio.workspace_id, name=name) for name in names]
        for model in models[1:]:
            model.kind = "full"
        people = [add_rater(session, project, name) for name in ("Ada Lovelace", "Bob", "Cid Clicker")]
        judge = add_rater(session, project, "Judge", kind="judge")
        for number in range(160):
            pair = draw.sample(range(3), 2)
            words = [draw.randint(10, 120) for _ in pair]
            answers = [
                {"text": f"An answer **{number}**.", "source": names[n], "checkpoint_id": models[n].id,
                 "style": {"words": w, "headers": 0, "lists": draw.randint(0, 3), "bold": 1}}
                for n, w in zip(pair, words, strict=True)
            ]  # fmt: skip
            item = add_item(session, project, f"Why is the sky {number} times blue?", answers)
            truth = 1 if pair[1] > pair[0] else -1
            for rater in [*people[:2], judge] if number % 3 else [*people, judge]:
                left = draw.randrange(2)
                sure = 0.5 if rater is people[2] else 0.8
                grade = draw.choice((1, 2, 2, 3)) * (truth if draw.random() < sure else -truth)
                vote = "both_bad" if draw.random() < 0.06 else grade
                at = 1_790_000_000 + number * 1800
                say(session, item, rater, vote, left=left, active_ms=draw.randint(2000, 20000), at=at)
        for number in range(24):
            gold = add_item(session, project, f"Gold {number}?", ["x", "y"], role="gold", gold={"preference": 2, "tolerance": 1})
            for rater in people:
                say(session, gold, rater, draw.choice((-2, 2)) if rater is people[2] else 2)
        return project.id


@pytest.mark.parametrize("part", ["quality", "leaderboard", "leaderboard?adjusted=1", "adjudicate", "train", "judges", "answer"])
def test_axe_finds_nothing(page: Page, project_id: str, part: str) -> None:
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"/feedback/{project_id}/{part}")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            assert faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_decision_leads_to_the_next(page: Page, project_id: str) -> None:
    page.goto(f"/feedback/{project_id}/adjudicate")
    first = page.locator(".disputed").first
    name = first.get_attribute("id")
    first.get_by_role("button", name="1 better", exact=True).click()
    expect(page.locator(f"#{name}")).to_have_count(0)
    expect(page.locator(".disputed").first).to_be_visible()
