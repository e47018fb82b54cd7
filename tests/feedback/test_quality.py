"""What the quality report concludes: hand-reckoned small cases, injected biases, what is counted and what not, who may look."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.feedback import kept, quality, verdicts
from app.feedback.items import responses
from app.feedback.quality import QualityReport
from app.feedback.tables import Item, Project, Rater
from tests.conftest import Stack
from tests.feedback.rated import add_item, add_project, add_rater, say


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    kept.forget()


def seen(stack: Stack, project_id: str) -> QualityReport:
    with stack.database.read() as session:
        return quality.report(session, session.get_one(Project, project_id))


def figure(report: QualityReport, key: str) -> quality.Figure:
    return next(each for each in report.figures if each.key == key)


def items(session: Session, project: Project, count: int, lengths: tuple[int, int] = (3, 3), **fields: object) -> list[Item]:
    """Items whose answers have so many words."""
    answers = [{"text": "word " * n, "style": {"words": n, "headers": 0, "lists": 0, "bold": 0}} for n in lengths]
    return [add_item(session, project, f"Question {number} {fields}?", answers, **fields) for number in range(count)]


def two(session: Session, project: Project) -> tuple[Rater, Rater]:
    return add_rater(session, project, "Ada"), add_rater(session, project, "Bob")


def test_agreement_as_reckoned_by_hand(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        ada, bob = two(session, project)
        for item, (first, second) in zip(items(session, project, 5), [(2, 1), (-3, -1), (1, -1), (0, 0), (0, 3)], strict=True):
            say(session, item, ada, first)
            say(session, item, bob, second)
        project_id = project.id
    report = seen(stack, project_id)
    raw, decisive = figure(report, "raw"), figure(report, "decisive")
    assert raw.estimate.value == pytest.approx(3 / 5) and (raw.items, raw.raters, raw.pairs) == (5, 2, 5)
    assert decisive.estimate.value == pytest.approx(2 / 3) and (decisive.items, decisive.pairs) == (3, 3)
    # nominal alpha on sides: 2 of 5 pairs differ; of 10 values -1, 0, 1 stand 3, 3 and 4 times
    assert figure(report, "alpha-side").estimate.value == pytest.approx(1 - 9 * (2 * 2) / (100 - 9 - 9 - 16))
    prevalence = (0.3, 0.3, 0.4)
    chance = sum(p * (1 - p) for p in prevalence) / 2
    assert figure(report, "ac1").estimate.value == pytest.approx((0.6 - chance) / (1 - chance))
    assert "Too few votes to say: 3 shared items" in report.sentence
    assert {line.who.name: line.others.value for line in report.people} == {"Ada": 0.6, "Bob": 0.6}


def test_gold_practice_repeats_automatic_and_removed_are_apart(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        ada, bob = two(session, project)
        gone = add_rater(session, project, "Gone", status="removed")
        judge = add_rater(session, project, "Judge", kind="judge")
        [item] = items(session, project, 1)
        for rater, vote in ((ada, 2), (bob, 1), (gone, -3), (judge, 1)):
            say(session, item, rater, vote)
        say(session, item, ada, -2, round=1)
        [gold] = items(session, project, 1, role="gold", gold={"preference": 2, "tolerance": 1})
        say(session, gold, ada, 3)
        say(session, gold, bob, -3)
        [practice] = items(session, project, 1, role="practice", gold={"preference": 2})
        say(session, practice, ada, -3)
        say(session, practice, bob, 3)
        [flagged] = items(session, project, 1, status="flagged")
        say(session, flagged, ada, -3)
        say(session, flagged, bob, None, kind="flag")
        late = items(session, project, 1, (1, 2))[0]
        say(session, late, ada, 1, is_extra=True)
        say(session, late, bob, 1)
        project_id = project.id
    report = seen(stack, project_id)
    assert (figure(report, "raw").estimate.value, report.shared, report.votes, report.raters) == (1.0, 2, 4, 2)
    assert report.gold.accuracy.value == 0.5 and report.gold.accuracy.n == 2
    assert report.repeats.flips.value == 1.0 and report.repeats.flips.n == 1
    assert [line.who.name for line in report.people] == ["Ada", "Bob"]
    [machine] = report.automatic
    assert machine.who.name == "Judge" and (machine.others.value, machine.others.n) == (1.0, 1)
    assert report.left_out["on practice items"] == 2 and report.left_out["second votes on repeated items"] == 1
    assert report.left_out["of automatic raters"] == 1 and report.left_out["of raters who were taken out"] == 1


def test_the_left_is_where_the_answer_was_shown(stack: Stack) -> None:
    """Votes are stored by place: a rater who always presses left votes for place 0 or 1 as the sides were drawn."""
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        lefty, honest = add_rater(session, project, "Lefty"), add_rater(session, project, "Honest")
        for number, item in enumerate(items(session, project, 60)):
            left = number % 2
            say(session, item, lefty, -2 if left == 0 else 2, left=left)
            say(session, item, honest, -2 if number % 4 < 2 else 2, left=left)
        project_id = project.id
    lines = {line.who.name: line for line in seen(stack, project_id).people}
    assert lines["Lefty"].position.left.value == 1.0 and lines["Lefty"].position.found == "left"
    assert "leans to the left" in lines["Lefty"].remarks and "one key 60 times in a row" in lines["Lefty"].remarks
    assert lines["Honest"].position.left.value == 0.5 and lines["Honest"].remarks == []


def test_injected_biases_are_found(stack: Stack) -> None:
    draw = random.Random(3)
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        left, longer, clicker = (add_rater(session, project, name) for name in ("Left", "Longer", "Clicker"))
        for _ in range(100):
            words = (60, 20) if draw.random() < 0.5 else (20, 60)
            [item] = items(session, project, 1, words)
            side = draw.randrange(2)
            say(session, item, left, -1 if (draw.random() < 0.7) == (side == 0) else 1, left=side)
            say(session, item, longer, -2 if (words[0] > words[1]) == (draw.random() < 0.9) else 2, left=draw.randrange(2), active_ms=300)
        for gold in items(session, project, 20, role="gold", gold={"preference": 2, "tolerance": 1}):
            say(session, gold, clicker, draw.choice((-2, 2)), left=draw.randrange(2))
        project_id = project.id
    lines = {line.who.name: line for line in seen(stack, project_id).people}
    assert "leans to the left" in lines["Left"].remarks and "goes for the longer answer" not in lines["Left"].remarks
    assert {"goes for the longer answer", "often faster than one can read"} <= set(lines["Longer"].remarks)
    assert lines["Clicker"].gold.verdict == "below" and "gold below the gate" in lines["Clicker"].remarks


def test_rankings_and_single_answers(stack: Stack) -> None:
    with stack.database.write() as session:
        ranked = add_project(session, stack.workspace_id, "rank")
        ada, bob = two(session, ranked)
        item = add_item(session, ranked, "Which?", ["one", "two", "three"])
        a, b, c = (response.id for response in responses(session, [item.id])[item.id])
        say(session, item, ada, ranking=[[a], [b], [c]])
        say(session, item, bob, ranking=[[b], [a], [c]])
        single = add_project(session, stack.workspace_id, "single")
        ada, bob = two(session, single)
        for number, (first, second) in enumerate([(5, 4), (1, 5), (3, 3)]):
            item = add_item(session, single, f"How good {number}?", ["so so"])
            say(session, item, ada, score=first)
            say(session, item, bob, score=second)
        ids = ranked.id, single.id
    report = seen(stack, ids[0])
    assert figure(report, "raw").estimate.value == pytest.approx(2 / 3) and figure(report, "raw").pairs == 3
    assert figure(report, "alpha-side").estimate.low is None and report.shared == 1
    report = seen(stack, ids[1])
    assert figure(report, "raw").estimate.value == pytest.approx(2 / 3)
    assert figure(report, "decisive").estimate.value == pytest.approx(1 / 2)


def test_words_never_condemn_by_one_number() -> None:
    assert "within what studies of open questions report" in verdicts.sentence("pair", 0.72, 0.66, 0.78, 200, 4)
    assert "told from guessing" in verdicts.sentence("pair", 0.52, 0.45, 0.59, 200, 4)
    assert "plainly right" in verdicts.sentence("pair", 0.94, 0.9, 0.97, 200, 4)
    assert "Too few" in verdicts.sentence("pair", 0.9, 0.6, 1.0, 12, 2) and "No two people" in verdicts.sentence(
        "pair", None, None, None, 0, 1
    )
    assert "AC1" in verdicts.skewed(0.97, -0.01) and verdicts.skewed(0.7, 0.3) == ""


def test_kept_until_something_changes(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept.kept("x", 1, lambda: "one") == "one"
    assert kept.kept("x", 1, lambda: "two") == "one"
    assert kept.kept("x", 2, lambda: "two") == "two"
    monkeypatch.setattr(kept, "SLOW", -1.0)
    monkeypatch.setattr(kept, "PATIENCE", 1e9)
    assert kept.kept("x", 3, lambda: "three") == "two"


def test_page_rest_and_who_may(stack: Stack, client: TestClient, as_role: Callable[[str], TestClient], api: TestClient) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        empty = add_project(session, stack.workspace_id).id
        ada, bob = two(session, project)
        for number, item in enumerate(items(session, project, 60)):
            say(session, item, ada, 2, left=number % 2, active_ms=4000)
            say(session, item, bob, 2 if number % 4 else -1, left=number % 2)
        project_id = project.id
    page = client.get(f"/feedback/{project_id}/quality")
    assert page.status_code == 200
    for words in ("75.0 %", "InstructGPT", "Krippendorff", "Gwet", "Two by two", "Ada", "Against the others", "pairs of votes"):
        assert words in page.text
    assert "No votes yet" in client.get(f"/feedback/{empty}/quality").text
    assert as_role("viewer").get(f"/feedback/{project_id}/quality").status_code == 200
    for part in ("quality", "leaderboard", "adjudicate"):
        assert as_role("rater").get(f"/feedback/{project_id}/{part}").status_code == 403
        assert client.get(f"/feedback/prj_other/{part}").status_code == 404
    answer = api.get(f"/api/v1/feedback/projects/{project_id}/quality")
    assert answer.status_code == 200
    assert answer.json()["shared"] == 60 and answer.json()["people"][0]["who"]["name"] == "Ada"
