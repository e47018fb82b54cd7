"""Votes: normalised, idempotent, late, changed, skipped, flagged and undone; counters follow."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import pytest
from sqlalchemy import func, select

from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.feedback import service
from app.feedback.schemas import ItemIn, ProjectChange, Vote
from app.feedback.tables import Event, Item, Project, Rater, Rating, Response, Slot
from tests.conftest import Stack
from tests.feedback.factories import add_project, add_rater, claim, expire, pair, reread, vote_for


def ratings(stack: Stack, project: Project) -> list[Rating]:
    with stack.database.read() as session:
        return list(session.scalars(select(Rating).where(Rating.project_id == project.id).order_by(Rating.at)))


def counts(stack: Stack, project: Project) -> tuple[int, int, int]:
    """Counters as they were kept; counting anew must give the same."""
    kept = reread(stack, project)
    with stack.database.write() as session:
        there = session.get_one(Project, project.id)
        service.recount(session, there)
        assert (there.items, there.slots, there.done, there.extras) == (kept.items, kept.slots, kept.done, kept.extras)
    return kept.slots, kept.done, kept.extras


def test_votes_mean_responses_and_not_sides(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 30)
        rater = add_rater(session, project)
    lefts = set()
    for _ in range(30):
        with stack.database.write() as session:
            task = claim(session, project, rater)
        with stack.database.write() as session:
            service.rate(session, project, rater, task.slot, vote_for(stack, task, 1, 3), task.slot)
    for rating in ratings(stack, project):
        assert rating.preference == 3 and rating.left in (0, 1)
        lefts.add(rating.left)
    assert lefts == {0, 1}
    assert counts(stack, project) == (30, 30, 0)


@pytest.mark.parametrize("said", ["both_good", "both_bad"])
def test_ties_say_of_which_kind_they_are(stack: Stack, said: Any) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1)
        rater = add_rater(session, project)
        task = claim(session, project, rater)
        service.rate(session, project, rater, task.slot, Vote(preference=said), "k")
    assert [(rating.preference, rating.quality) for rating in ratings(stack, project)] == [(0, said)]


def test_the_same_key_is_one_vote(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 2)
        rater = add_rater(session, project)
        task = claim(session, project, rater)
    answers = set()
    for _ in range(3):
        with stack.database.write() as session:
            answers.add(service.rate(session, project, rater, task.slot, Vote(preference=1), "k").event_id)
    assert len(answers) == 1 and counts(stack, project) == (2, 1, 0)
    with stack.database.write() as session:
        other = claim(session, project, rater)
        with pytest.raises(Conflict, match="Idempotency-Key"):
            service.rate(session, project, rater, other.slot, Vote(preference=1), "k")


def test_late_votes_fill_what_is_free_and_else_are_extras(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1)
        ann, bob = add_rater(session, project), add_rater(session, project, "bob")
        task = claim(session, project, ann)
        expire(session, task)
    with stack.database.write() as session:  # nobody took it
        assert not service.rate(session, project, ann, task.slot, Vote(preference=1), "late").is_extra
    with stack.database.write() as session:
        service.undo(session, project, ann, "undo")
        expire(session, task)
    with stack.database.write() as session:
        theirs = claim(session, project, bob)
        assert theirs.slot == task.slot
        service.rate(session, project, bob, theirs.slot, Vote(preference=1), "bob")
    with stack.database.write() as session:
        done = service.rate(session, project, ann, task.slot, Vote(preference=2), "later")
        assert done.is_extra
        again = service.rate(session, project, ann, task.slot, Vote(preference=2), "later")
        assert again.is_extra and again.event_id == done.event_id
    assert counts(stack, project) == (1, 1, 1)


def test_a_later_vote_replaces_the_earlier_one(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1)
        rater = add_rater(session, project)
        task = claim(session, project, rater)
    with stack.database.write() as session:
        service.rate(session, project, rater, task.slot, vote_for(stack, task, 0, 1), "first")
    with stack.database.write() as session:
        service.rate(session, project, rater, task.slot, vote_for(stack, task, 1, 3), "second")
    assert [rating.preference for rating in ratings(stack, project)] == [3]
    assert counts(stack, project) == (1, 1, 0)
    with stack.database.write() as session:
        again = service.undo(session, project, rater, "undo")
        assert again is not None and again.earlier is not None and abs(again.earlier["preference"]) == 3
    assert [rating.preference for rating in ratings(stack, project)] == [-1]
    assert counts(stack, project) == (1, 1, 0)


def test_undo_goes_twenty_back_and_the_log_keeps_all(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 25)
        rater = add_rater(session, project)
    tasks, given = [], []
    for number in range(25):
        with stack.database.write() as session:
            tasks.append(claim(session, project, rater))
            vote = Vote(preference=(number % 7) - 3, comment=f"c{number}")
            given.append(vote)
            service.rate(session, project, rater, tasks[-1].slot, vote, f"k{number}")
    for number in range(24, 4, -1):
        with stack.database.write() as session:
            back = service.undo(session, project, rater, f"u{number}")
            assert back is not None and back.slot == tasks[number].slot and back.responses == tasks[number].responses
            assert back.earlier == {"preference": given[number].preference, "comment": f"c{number}"}
            assert service.undo(session, project, rater, f"u{number}") == back, "the same key undoes once"
    with stack.database.write() as session:
        assert service.undo(session, project, rater, "one more") is None
        assert session.scalar(select(func.count()).select_from(Event)) == 45
    assert counts(stack, project) == (25, 5, 0)
    with stack.database.write() as session:
        first = claim(session, project, rater)
        assert first.slot == tasks[5].slot and first.earlier is not None, "what was undone last comes first"
        there = session.get_one(Rater, rater.id)
        assert there.done == 5
    for number in range(5, 25):
        with stack.database.write() as session:
            task = claim(session, project, rater)
            service.rate(session, project, rater, task.slot, Vote(preference=0), f"again{number}")
    assert counts(stack, project) == (25, 25, 0)


def test_skipped_items_go_to_others_and_never_come_back(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1)
        ann, bob = add_rater(session, project), add_rater(session, project, "bob")
        task = claim(session, project, ann)
        service.skip(session, project, ann, task.slot, "cannot_judge", "s")
        assert service.claim(session, project, ann) is None
        assert claim(session, project, bob).item_id == task.item_id
        with pytest.raises(Invalid, match="no reason"):
            service.skip(session, project, bob, task.slot, "bored", "b")
    assert counts(stack, project) == (1, 0, 0)
    with stack.database.write() as session:
        assert service.undo(session, project, ann, "u") is not None
        service.rate(session, project, bob, task.slot, Vote(preference=1), "b")
        assert service.rate(session, project, ann, task.slot, Vote(preference=1), "a").is_extra
    assert counts(stack, project) == (1, 1, 1)


def test_a_flag_closes_an_item_and_undo_opens_it(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1, overlap=3)
        ann, bob = add_rater(session, project), add_rater(session, project, "bob")
        task = claim(session, project, ann)
        service.flag(session, project, ann, task.slot, "leak", "f")
        assert service.claim(session, project, bob) is None
    with stack.database.read() as session:
        item = session.get_one(Item, task.item_id)
        assert (item.status, item.reason) == ("flagged", "leak")
    assert counts(stack, project) == (0, 0, 0)
    with stack.database.write() as session:
        service.undo(session, project, ann, "u")
        assert claim(session, project, bob).item_id == task.item_id
    assert counts(stack, project) == (3, 0, 0)
    with stack.database.write() as session:
        service.flag(session, project, ann, task.slot, "unsafe", "g")
        item = service.reopen_item(session, project, task.item_id, 2)
        assert item.status == "open"
        service.remove_item(session, project, task.item_id)
        assert service.claim(session, project, bob) is None
        with pytest.raises(Conflict):
            service.reopen_item(session, project, task.item_id, 1)
        assert service.rate(session, project, bob, task.slot, Vote(preference=1), "b").is_extra, "what was under way is kept"
    counts(stack, project)


def test_every_ranking_comes_back_as_it_was_given(stack: Stack) -> None:
    for many in range(2, 6):
        answers = [{"text": f"Answer {number}", "source": f"s{number}"} for number in range(many)]
        item = ItemIn.model_validate({"prompt": "Which?", "responses": answers})
        with stack.database.write() as session:
            project = add_project(session, stack.workspace_id, [item], kind="rank")
            rater = add_rater(session, project)
            task = claim(session, project, rater)
            ids = [response.id for response in task.responses]
            orders = [[[one] for one in order] for order in permutations(ids)]
            if many == 3:
                orders += [[[a, b], [c]] for a, b, c in permutations(ids)] + [[ids]]
            for number, order in enumerate(orders):
                service.rate(session, project, rater, task.slot, Vote(ranking=order), f"{number}")
                rating = session.scalars(select(Rating).where(Rating.project_id == project.id)).one()
                session.refresh(rating)
                assert rating.ranking == order
            for wrong in ([[ids[0]]], [[one, ids[0]] for one in ids], [ids, []], None):
                with pytest.raises(Invalid):
                    service.rate(session, project, rater, task.slot, Vote(ranking=wrong), "wrong")


@pytest.mark.parametrize(("scale", "good", "bad"), [("five", 4, 6), ("thumbs", 1, 2), ("five", 1, 0), ("thumbs", 0, 0.5)])
def test_single_answers_take_their_scale_only(stack: Stack, scale: str, good: float, bad: float) -> None:
    item = ItemIn.model_validate({"prompt": "How?", "responses": [{"text": "So."}]})
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, [item], kind="single", scale=scale)
        rater = add_rater(session, project)
        task = claim(session, project, rater)
        service.rate(session, project, rater, task.slot, Vote(score=good), "k")
        for wrong in (Vote(score=bad), Vote(), Vote(preference=1)):
            with pytest.raises(Invalid):
                service.rate(session, project, rater, task.slot, wrong, "w")
    assert [rating.score for rating in ratings(stack, project)] == [good]


def test_labels_are_of_the_questions_asked(stack: Stack) -> None:
    asked = [{"key": "safe", "title": "Safe?"}, {"key": "right", "title": "Right?", "each": True}]
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1, criteria=asked)
        rater = add_rater(session, project)
        task = claim(session, project, rater)
        each = {response.id: "yes" for response in task.responses}
        service.rate(session, project, rater, task.slot, Vote(preference=0, labels={"safe": "no", "right": each}), "k")
        for labels in ({"safe": "maybe"}, {"right": {"nobody": "yes"}}, {"safe": [1]}):
            with pytest.raises(Invalid):
                service.rate(session, project, rater, task.slot, Vote(preference=0, labels=labels), "w")
    assert ratings(stack, project)[0].labels == {"safe": "no", "right": each}


def test_a_better_answer_becomes_a_response_nobody_is_shown(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1, overlap=2)
        ann, bob = add_rater(session, project), add_rater(session, project, "bob")
        task = claim(session, project, ann)
        service.rate(session, project, ann, task.slot, Vote(preference=1, better="This is how.\x00"), "k")
        made = session.scalars(select(Response).where(Response.finish == "edited")).one()
        assert (made.text, made.source, made.place) == ("This is how.", "ann", 2)
        assert len(claim(session, project, bob).responses) == 2
        again = service.undo(session, project, ann, "u")
        assert again is not None and again.earlier is not None and again.earlier["better"] == "This is how."
        assert session.scalar(select(func.count()).select_from(Response)) == 2


def test_who_is_paused_hands_in_what_was_under_way_and_nothing_else(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 2, overlap=2)
        ann, bob = add_rater(session, project), add_rater(session, project, "bob")
        task, other = claim(session, project, ann), claim(session, project, bob, 0)
        service.pause_rater(session, ann, "Look at the guidelines.")
        assert not service.rate(session, project, ann, task.slot, Vote(preference=1), "k").is_extra
        assert service.claim(session, project, ann) is None
        if other.item_id == task.item_id:
            other = claim(session, project, bob, 1)
        with pytest.raises(Forbidden, match="paused"):
            service.rate(session, project, ann, other.slot, Vote(preference=1), "l")
        with pytest.raises(NotFound):
            service.rate(session, project, ann, "itm_none.3", Vote(preference=1), "m")


def test_a_paused_project_takes_votes_and_gives_no_items(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 2)
        rater = add_rater(session, project)
        task = claim(session, project, rater)
        service.change_project(session, project, ProjectChange(status="paused"))
        with pytest.raises(Conflict, match="is paused"):
            service.claim(session, project, rater)
        assert not service.rate(session, project, rater, task.slot, Vote(preference=1), "k").is_extra
    assert counts(stack, project) == (2, 1, 0)


def test_history_is_the_raters_own_and_blind(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 3)
        ann, bob = add_rater(session, project), add_rater(session, project, "bob")
        for rater, said in product((ann, bob), (-2, 3)):
            task = claim(session, project, rater) if rater is ann or said < 0 else None
            if task:
                service.rate(session, project, rater, task.slot, Vote(preference=said), f"{said}")
        service.undo(session, project, ann, "u")
        mine = service.history(session, project, ann, 10)
    assert [(entry["kind"], entry["answer"]["preference"], entry["undone"]) for entry in mine] == [("rate", 3, True), ("rate", -2, False)]
    assert "secret" not in str(mine)


def test_votes_on_a_deleted_slot_are_extras(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, [pair(1)], overlap=2)
        ann, bob = add_rater(session, project), add_rater(session, project, "bob")
        task, theirs = claim(session, project, ann), claim(session, project, bob)
        expire(session, task)
        service.change_project(session, project, ProjectChange(overlap=1))
        assert session.scalar(select(func.count()).select_from(Slot)) == 1
        done = [
            service.rate(session, project, rater, slot, Vote(preference=1), "k") for rater, slot in ((ann, task.slot), (bob, theirs.slot))
        ]
    assert sorted(one.is_extra for one in done) == [False, True]
    assert counts(stack, project) == (1, 1, 1)
