"""Items in use become gold or practice items and back: votes stay, slots and counters follow, nothing of them is trained on."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from app.errors import Conflict, Invalid
from app.feedback import kept, quality, service
from app.feedback.gather import Tally, judged
from app.feedback.rules import Rules
from app.feedback.schemas import Gold, Task, Vote
from app.feedback.tables import Item, Project, Rater, Rating, Slot
from tests.conftest import Stack
from tests.feedback import rated
from tests.feedback.factories import add_project, add_rater, claim, pair, vote_for


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    kept.forget()


def counters(stack: Stack, project: Project) -> tuple[int, int, int]:
    with stack.database.read() as session:
        found = session.get_one(Project, project.id)
        return found.items, found.slots, found.done


def said(stack: Stack, project: Project) -> tuple[int, int, int]:
    """Votes that would be trained on, that agreement is reckoned from, and that test raters."""
    with stack.database.read() as session:
        project = session.get_one(Project, project.id)
        trained = sum(len(item.votes) for item in judged(session, project, Rules(), "", Tally()))
        report = quality.reckon(session, project)
        return trained, report.votes, report.gold.accuracy.n


def rate_all(stack: Stack, project: Project, user: str, place: int = 1) -> list[Task]:
    """Have somebody prefer the answer of a place on everything they get."""
    tasks = []
    while True:
        with stack.database.write() as session:
            rater = add_rater(session, project, user)
            task = service.claim(session, session.get_one(Project, project.id), rater)
        if task is None:
            return tasks
        with stack.database.write() as session:
            service.rate(session, session.get_one(Project, project.id), rater, task.slot, vote_for(stack, task, place), task.slot)
        tasks.append(task)


def rater_of(stack: Stack, user: str) -> Rater:
    with stack.database.read() as session:
        return session.scalars(select(Rater).where(Rater.name == user)).one()


def test_an_item_becomes_gold_and_ordinary_again(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 2, overlap=2, gold_rate=0.5)
    begun = rate_all(stack, project, "ann")
    assert counters(stack, project) == (2, 4, 2) and said(stack, project) == (2, 2, 0)
    golden = begun[0].item_id
    with stack.database.write() as session:
        service.mark_gold(session, session.get_one(Project, project.id), golden, Gold(preference=-3))
    assert counters(stack, project) == (1, 2, 1)
    assert said(stack, project) == (1, 1, 0), "the vote from before neither trains nor tests its rater"
    assert (rater_of(stack, "ann").gold_seen, rater_of(stack, "ann").done) == (0, 2)
    drawn = 0
    for number in range(12):  # gold is drawn at half of the looks: that nobody of twelve gets it happens once in 4,000 times
        drawn += golden in [task.item_id for task in rate_all(stack, project, f"rater {number}")]
    assert drawn and said(stack, project)[2] == drawn
    tested = [rater_of(stack, f"rater {number}") for number in range(12)]
    assert {(each.gold_seen, each.gold_right) for each in tested} <= {(0, 0), (1, 0)} and sum(each.gold_seen for each in tested) == drawn
    with stack.database.write() as session:  # the other answer was the right one
        service.mark_gold(session, session.get_one(Project, project.id), golden, Gold(preference=2))
    assert sum(rater_of(stack, f"rater {number}").gold_right for number in range(12)) == drawn
    with stack.database.write() as session:
        service.unmark_gold(session, session.get_one(Project, project.id), golden)
    assert sum(rater_of(stack, f"rater {number}").gold_seen for number in range(12)) == 0
    items, slots, done = counters(stack, project)
    assert items == 2 and done == said(stack, project)[0] == 3 + drawn and slots - done <= 1
    with stack.database.read() as session:
        assert not session.scalars(select(Slot).where(Slot.item_id == golden, Slot.done_at.is_(None), Slot.rank == 2)).all()
        assert session.get_one(Item, golden).gold is None


def test_who_changes_or_takes_back_an_old_vote_is_not_tested_twice(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1)
    [task] = rate_all(stack, project, "ann")
    with stack.database.write() as session:
        service.mark_gold(session, session.get_one(Project, project.id), task.item_id, Gold(preference=2))
    ann = rater_of(stack, "ann")
    with stack.database.write() as session:
        service.rate(session, session.get_one(Project, project.id), ann, task.slot, vote_for(stack, task, 0), "changed")
    assert (rater_of(stack, "ann").gold_seen, rater_of(stack, "ann").gold_right) == (1, 0), "a vote given to a gold item is a test"
    for key, seen in (("one", 0), ("two", 0)):
        with stack.database.write() as session:
            service.undo(session, session.get_one(Project, project.id), ann, key)
        assert rater_of(stack, "ann").gold_seen == seen


def test_who_is_at_an_item_that_becomes_gold_may_end_that(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1, overlap=3)
        rater = add_rater(session, project)
        task = claim(session, project, rater)
        service.mark_gold(session, project, task.item_id, Gold(preference=2))
        assert (project.items, project.slots) == (0, 0)
    with stack.database.write() as session:
        done = service.rate(session, session.get_one(Project, project.id), rater, task.slot, vote_for(stack, task, 1), "k")
        assert not done.is_extra
    assert counters(stack, project) == (0, 0, 0) and rater_of(stack, "ann").gold_right == 1


def test_practice_is_made_of_gold_and_what_is_refused_changes_nothing(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, [pair(1), pair(2, gold={"preference": 1})], practice=1)
        usual, golden = (session.scalars(select(Item.id).where(Item.role == role)).one() for role in ("normal", "gold"))
        with pytest.raises(Invalid, match="preference"):
            service.mark_gold(session, project, usual, Gold(score=3))
        with pytest.raises(Conflict, match="ordinary item already"):
            service.unmark_gold(session, project, usual)
        assert add_rater(session, project, "early").status == "active"
        service.mark_gold(session, project, golden, Gold(preference=2, why="Plainly."), practice=True)
    with stack.database.write() as session:
        late = add_rater(session, session.get_one(Project, project.id), "late")
        task = claim(session, session.get_one(Project, project.id), late)
        assert late.status == "practice" and task.practice and task.item_id == golden
        feedback = service.rate(session, session.get_one(Project, project.id), late, task.slot, Vote(preference=0), "k").feedback
        assert feedback and feedback["why"] == "Plainly."
        with pytest.raises(Conflict, match="been told its answer"):
            service.unmark_gold(session, session.get_one(Project, project.id), golden)
        service.remove_item(session, session.get_one(Project, project.id), usual)
        with pytest.raises(Conflict, match="removed"):
            service.mark_gold(session, session.get_one(Project, project.id), usual, Gold(preference=1))


@pytest.mark.parametrize(
    ("kind", "agreed", "not_agreed", "gold"),
    [
        ("pair", [-2, -3, -2], [[2, 3, 1], [3, 3], [3, -3, 3]], {"preference": -2}),
        ("single", [5, 4, 5], [[5, 3, 5], [1, 2], [3, 3, 3]], {"score": 5.0}),
        ("rank", ["ab", "ab", "ab"], [["ab", "ba", "ab"], ["ab", "ab"], ["ab", "=", "ab"]], {"best": 0}),
    ],
)
def test_what_three_say_alike_and_strongly_is_proposed(
    stack: Stack, kind: str, agreed: list[Any], not_agreed: list[list[Any]], gold: dict[str, Any]
) -> None:
    with stack.database.write() as session:
        project = rated.add_project(session, stack.workspace_id, kind)
        raters = [rated.add_rater(session, project, name) for name in ("Ada", "Bob", "Cid")]
        made = []
        for votes in (agreed, *not_agreed):
            item = rated.add_item(session, project, f"{votes}?", ["one"] if kind == "single" else ["one", "two"])
            one, two = [response.id for response in service.responses_of(session, [item.id])[item.id]][:2] * (2 if kind == "single" else 1)
            tiers = {"ab": [[one], [two]], "ba": [[two], [one]], "=": [[one, two]]}
            for rater, vote in zip(raters, votes, strict=False):
                fields = {"pair": {}, "single": {"score": vote}, "rank": {"ranking": tiers.get(vote) if kind == "rank" else None}}[kind]
                rated.say(session, item, rater, vote if kind == "pair" else None, **fields)
            made.append(item.id)
        [found] = service.proposed_gold(session, project)
        assert (found.item_id, found.raters) == (made[0], 3)
        assert {name: value for name, value in found.gold.model_dump().items() if name in gold} == gold


@pytest.mark.one_stack
def test_page_and_rest(stack: Stack, client: TestClient, api: TestClient) -> None:
    with stack.database.write() as session:
        project = rated.add_project(session, stack.workspace_id)
        item = rated.add_item(session, project, "Which?", ["one", "two"])
        for name in ("Ada", "Bob", "Cid"):
            rated.say(session, item, rated.add_rater(session, project, name), 3)
        to, rest = f"/feedback/{project.id}/items", f"/api/v1/feedback/projects/{project.id}/items"
    listed = client.get(to).text
    assert "1 could be gold" in listed and "Which?" in client.get(f"{to}?status=proposed").text
    assert [one["proposed"]["preference"] for one in api.get(f"{rest}?status=proposed").json()["data"]] == [3]
    page = client.get(f"{to}/{item.id}").text
    assert "3 raters say the same" in page and '<option value="3" selected>' in page
    wrong = client.post(f"{to}/{item.id}/gold", data={"answer": "7"})
    assert wrong.status_code == 422 and "Choose the right answer" in wrong.text
    assert client.post(f"{to}/{item.id}/gold", data={"answer": "3", "why": "Plain", "use": "gold"}).status_code == 303
    page = client.get(f"{to}/{item.id}").text
    assert "A gold item" in page and 'value="Plain"' in page and "could be gold" not in client.get(to).text
    changed = api.put(f"{rest}/{item.id}/gold", json={"preference": 2, "practice": True})
    assert changed.json()["role"] == "practice" and changed.json()["gold"]["preference"] == 2
    assert api.put(f"{rest}/{item.id}/gold", json={"score": 2}).json()["error"]["field"] == "gold.preference"
    assert client.post(f"{to}/{item.id}/ordinary").status_code == 409
    assert api.put(f"{rest}/{item.id}/gold", json={"preference": 2}).json()["role"] == "gold"
    assert api.delete(f"{rest}/{item.id}/gold").json()["role"] == "normal"
    with stack.database.read() as session:
        assert len(session.scalars(select(Rating).where(Rating.item_id == item.id)).all()) == 3
