"""Most uncertain first: the queue follows what votes leave open, for pairs and rankings, and goes back when it is switched off."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from sqlalchemy import select, update

from app.feedback import active, service
from app.feedback.schemas import ItemIn, ProjectChange, Vote
from app.feedback.tables import Item, Project, Response, Slot
from app.feedback.upkeep import Upkeep
from tests.conftest import Stack
from tests.feedback.factories import add_project, add_rater, claim

MODELS = ("ann", "bea", "cid", "dot")


def item(number: int, models: tuple[str, ...]) -> ItemIn:
    answers = [{"text": f"The answer {number} of number {place}.", "source": model} for place, model in enumerate(models)]
    return ItemIn.model_validate({"prompt": f"Question {number}?", "responses": answers})


def items(each: int, size: int = 2) -> list[ItemIn]:
    """As many items of each pair, or triple, of models."""
    groups = list(combinations(MODELS, size))
    return [item(number, groups[number % len(groups)]) for number in range(each * len(groups))]


def waiting(stack: Stack, project: Project, first: int) -> list[tuple[str, ...]]:
    """Models of the items at the head of the queue."""
    with stack.database.read() as session:
        queue = select(Slot.item_id).where(Slot.project_id == project.id, Slot.done_at.is_(None)).order_by(Slot.order_key).limit(first)
        ids = list(session.scalars(queue))
        there = session.execute(select(Response.item_id, Response.source).where(Response.item_id.in_(ids)).order_by(Response.source)).all()
        return [tuple(source for item_id, source in there if item_id == each) for each in ids]


def vote(stack: Stack, project: Project, known: set[str], times: int) -> None:
    """Have items of some models rated evenly: who is first in the alphabet wins every other time."""
    with stack.database.write() as session:
        rater, turns = add_rater(session, project, "rater"), Counter[tuple[str, ...]]()
        ids = list(session.scalars(select(Item.id).where(Item.project_id == project.id)))
        there = service.responses_of(session, ids)
        for item_id in [each for each in ids if {one.source for one in there[each]} <= known][:times]:
            slot = session.scalars(select(Slot).where(Slot.item_id == item_id)).one()
            order = sorted(there[item_id], key=lambda one: one.source)
            turns[tuple(one.source for one in order)] += 1
            odd = turns[tuple(one.source for one in order)] % 2
            if project.kind == "rank":
                said = Vote(ranking=[[one.id] for one in (order if odd else order[::-1])])
            else:
                from app.feedback.claims import shown

                left = shown(rater.id, item_id, 0, there[item_id])[0]
                said = Vote(preference=-2 if (left is order[0]) == bool(odd) else 2)
            service.rate(session, project, rater, f"{item_id}.{slot.k}", said, item_id)


def test_pairs_nobody_knows_come_first_and_switching_off_restores_the_order(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, items(20), active_choice=True)
    vote(stack, project, {"ann", "bea", "cid"}, 48)
    with stack.database.read() as session:
        places = dict(session.execute(select(Item.id, Item.order_key)).all())
    upkeep = Upkeep(stack.database)
    assert upkeep.look() == [project.id] and upkeep.look() == [], "nothing came since"
    head = waiting(stack, project, 12)
    assert all("dot" in models for models in head[:6]) and len(set(head[:3])) == 3, "a model without votes, against each other one in turn"
    with stack.database.write() as session:
        claimed = claim(session, project, add_rater(session, project, "next"))
        sources = set(session.scalars(select(Response.source).where(Response.item_id == claimed.item_id)))
        assert "dot" in sources
        service.release(session, add_rater(session, project, "next"), claimed.slot)
    with stack.database.write() as session:
        service.change_project(session, session.get_one(Project, project.id), ProjectChange(active_choice=False))
    with stack.database.read() as session:
        now = {slot.item_id: slot.order_key for slot in session.scalars(select(Slot).where(Slot.done_at.is_(None), Slot.rank == 1))}
    assert len(now) == 71 and now == {item_id: places[item_id] for item_id in now}
    assert upkeep.look() == []


def test_rankings_and_votes_that_come_later_draw_it_anew(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, items(30, 3), kind="rank", active_choice=True)
    upkeep = Upkeep(stack.database)
    assert upkeep.look() == [project.id]
    vote(stack, project, {"ann", "bea", "cid"}, 19)
    assert upkeep.look() == [], "too few came"
    with stack.database.write() as session:  # as if one more had come
        session.execute(update(Project).values(done=Project.done + 1))
    assert upkeep.look() == [project.id]
    assert all("dot" in models for models in waiting(stack, project, 10))


def test_half_of_the_queue_is_left_alone_and_single_answers_have_no_pairs(stack: Stack) -> None:
    with stack.database.write() as session:
        few = add_project(session, stack.workspace_id, items(1), active_choice=True)
        one = add_project(session, stack.workspace_id, items(1)[:1], active_choice=True)
        single = ItemIn.model_validate({"prompt": "p", "responses": [{"text": "a"}]})
        alone = add_project(session, stack.workspace_id, [single], kind="single", active_choice=True)
    assert [active.reorder(stack.database, each.id) for each in (few, one, alone)] == [3, 0, 0]
    assert active.reorder(stack.database, "prj_gone") == 0
    with stack.database.read() as session:
        assert session.query(Slot).where(Slot.project_id == few.id, Slot.order_key < active.FRONT).count() == 3


def test_the_more_votes_the_rarer_it_is_drawn() -> None:
    assert active.is_due(0, None) and active.is_due(20, 0) and not active.is_due(19, 0)
    assert not active.is_due(100_500, 100_000) and active.is_due(102_100, 100_000)
