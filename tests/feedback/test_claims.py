"""Claims: exact overlap whatever raters do at once, sides, gold, practice, repeats, leases."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import event, func, select, update
from sqlalchemy.exc import OperationalError

from app.database import new_id, now
from app.errors import Conflict, Forbidden, NotFound
from app.feedback import claims, service
from app.feedback.schemas import Vote
from app.feedback.tables import Item, Project, Rater, Rating, Response, Slot
from tests.conftest import Stack
from tests.feedback.factories import add_project, add_rater, claim, expire, pair, principal, reread

RATERS = 20


def test_every_item_gets_exactly_its_overlap(stack: Stack) -> None:
    """20 raters at once; a tenth of the leases is abandoned, a tenth of the votes comes twice at the same moment."""
    items = 25
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, items, overlap=3, lease_seconds=30)
        raters = [add_rater(session, project, f"r{number}") for number in range(RATERS)]
    keys: list[tuple[str, str]] = []
    failures: list[BaseException] = []

    def vote(rater: Rater, slot: str, key: str) -> None:
        for _ in range(50):
            try:
                with stack.database.write() as session:
                    service.rate(session, project, rater, slot, Vote(preference=1), key)
                return
            except OperationalError:  # the database was busy: as a page does it, the same vote is sent again
                continue
            except BaseException as error:
                failures.append(error)
                return
        failures.append(AssertionError(key))

    def work(number: int) -> None:
        rater, draw, empty = raters[number], random.Random(number), 0
        late: list[str] = []
        while empty < 8 and not failures:
            try:
                with stack.database.write() as session:
                    task = service.claim(session, project, rater)
                    if task is not None and draw.random() < 0.1:  # the laptop is closed
                        gone = update(Slot).where(Slot.item_id == task.item_id, Slot.rater_id == rater.id, Slot.done_at.is_(None))
                        session.execute(gone.values(lease_until=now() - 1))
                        late.append(task.slot)
                        continue
            except OperationalError:
                continue
            except BaseException as error:
                failures.append(error)
                return
            if task is None:
                empty += 1
                time.sleep(0.02)
                continue
            empty = 0
            key = f"{task.slot}/{draw.random()}"
            keys.append((rater.id, key))
            twice = [threading.Thread(target=vote, args=(rater, task.slot, key)) for _ in range(2 if draw.random() < 0.1 else 1)]
            for thread in twice:
                thread.start()
            for thread in twice:
                thread.join()
        for slot in late[-1:]:  # the laptop is opened again when all is over
            key = f"late/{slot}"
            with stack.database.read() as session:
                said = session.get(Rating, (slot.rpartition(".")[0], rater.id, 0))
            if said is None:
                keys.append((rater.id, key))
                vote(rater, slot, key)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(RATERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    with stack.database.read() as session:
        filled = Counter(session.scalars(select(Slot.item_id).where(Slot.project_id == project.id, Slot.done_at.is_not(None))))
        wanted = Counter(session.scalars(select(Rating.item_id).where(Rating.project_id == project.id, ~Rating.is_extra)))
        extras = session.scalar(select(func.count()).select_from(Rating).where(Rating.is_extra)) or 0
    assert set(filled.values()) == {3} and len(filled) == items and wanted == filled
    kept = reread(stack, project)
    assert (kept.slots, kept.done, kept.extras) == (items * 3, items * 3, extras)
    assert len(keys) == len(set(keys)) == items * 3 + extras, "no vote is lost and none is doubled"


def test_two_tabs_have_the_same_item_and_ahead_is_another(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 5)
        rater = add_rater(session, project)
        first = claim(session, project, rater)
        assert claim(session, project, rater).slot == first.slot
        further = [claim(session, project, rater, ahead).slot for ahead in (1, 2)]
        assert len({first.slot, *further}) == 3
        assert [claim(session, project, rater, ahead).slot for ahead in (0, 1, 2)] == [first.slot, *further]
        there = {
            f"{slot.item_id}.{slot.k}": slot.lease_until or 0.0 for slot in session.scalars(select(Slot).where(Slot.rater_id == rater.id))
        }
        assert there[first.slot] - there[further[0]] > 400, "what is fetched ahead is free again soon"
        service.rate(session, project, rater, first.slot, Vote(preference=1), "k")
        assert claim(session, project, rater).slot == further[0]


def test_a_lease_is_renewed_given_back_and_lost(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1)
        ann, bob = add_rater(session, project), add_rater(session, project, "bob")
        task = claim(session, project, ann)
        assert service.renew(session, ann, task.slot) >= task.lease_until
        assert service.claim(session, project, bob) is None
        service.release(session, ann, task.slot)
        assert claim(session, project, bob).slot == task.slot
        with pytest.raises(Conflict, match="no longer kept"):
            service.renew(session, ann, task.slot)
        service.release(session, ann, task.slot)
        assert claim(session, project, bob).slot == task.slot, "nobody gives back what another has"
        expire(session, task)
        assert claim(session, project, bob).slot == task.slot, "the own lease that ran out comes back first"


def test_started_items_are_finished_first(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 20, overlap=2)
        ann, bob = add_rater(session, project), add_rater(session, project, "bob")
        begun = []
        for _ in range(5):
            task = claim(session, project, ann)
            begun.append(task.item_id)
            service.rate(session, project, ann, task.slot, Vote(preference=1), task.slot)
        assert len(set(begun)) == 5
        for _ in range(5):
            task = claim(session, project, bob)
            assert task.item_id in begun
            service.rate(session, project, bob, task.slot, Vote(preference=1), task.slot)


def test_submit_and_next_stay_few_statements(stack: Stack) -> None:
    """Each statement is a way to the database and back: with fifty raters they are what the studio spends its time on."""
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 12, overlap=2)
        people = [principal(stack.workspace_id, user) for user in ("ann", "bob")]
        tasks = [claim(session, project, service.rater_for(session, project, who)) for who in people]
    counted: list[str] = []

    def note(*given: Any) -> None:
        counted.append(given[2])

    event.listen(stack.database.engine, "before_cursor_execute", note)
    try:
        for number in range(8):  # both begin items and finish them
            counted.clear()
            with stack.database.write() as session:
                there, rater = service.enter(session, people[number % 2], project.id, voting=True)
                service.rate(session, there, rater, tasks[number % 2].slot, Vote(preference=1), f"{number}")
                tasks[number % 2] = claim(session, there, rater)
            assert len(counted) <= {"postgres": 6, "sqlite": 12}[stack.name], "\n".join(counted)
    finally:
        event.remove(stack.database.engine, "before_cursor_execute", note)
    assert reread(stack, project).done == 8


def test_somebody_alone_gets_every_item_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "WINDOW", 3)
    claims._queue.cache_clear()
    monkeypatch.setattr(claims, "_queue", claims._queue.__wrapped__)
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 12, overlap=3)
        rater = add_rater(session, project)
        seen = []
        while (task := service.claim(session, project, rater)) is not None:
            seen.append(task.item_id)
            service.rate(session, project, rater, task.slot, Vote(preference=1), task.slot)
        assert len(seen) == len(set(seen)) == 12


def test_sides_are_drawn_evenly_and_stay() -> None:
    answers = [Response(id=f"rsp_{place}", place=place, finish="stop") for place in (0, 1)]
    pairs = [(new_id("rtr"), new_id("itm")) for _ in range(10_000)]
    lefts = sum(claims.shown(rater, item, 0, answers)[0].place == 0 for rater, item in pairs)
    assert (lefts - 5000) ** 2 / 2500 < 15.1, "chi-square with one degree of freedom; chance gives more once in 10,000 times"
    rater = pairs[0][0]
    for each, item in pairs[:200]:
        once = [one.id for one in claims.shown(each, item, 0, answers)]
        assert once == [one.id for one in claims.shown(each, item, 0, answers[::-1])]
        assert once == [one.id for one in claims.shown(each, item, 1, answers)][::-1]
    same = sum(claims.shown(rater, item, 0, answers)[0].place == 0 for _, item in pairs)
    assert (same - 5000) ** 2 / 2500 < 15.1, "nor has one rater a favourite side"
    edited = Response(id="rsp_2", place=2, finish="edited")
    assert edited not in claims.shown("a", "b", 0, [*answers, edited])


GOLD = {"gold": {"preference": 3, "why": "The second is right."}}


def test_gold_items_come_once_to_everybody_and_look_like_the_rest(stack: Stack) -> None:
    things = [pair(number) for number in range(60)] + [pair(100 + number, **GOLD) for number in range(10)]
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, things, gold_rate=0.3, overlap=2, gate_accuracy=0)
        assert (project.items, project.slots) == (60, 120)
        golden = set(session.scalars(select(Item.id).where(Item.role == "gold")))
        for user in ("ann", "bob"):
            rater, seen = add_rater(session, project, user), []
            while (task := service.claim(session, project, rater)) is not None:
                seen.append(task.item_id)
                assert len(task.slot) == len(task.item_id) + 1 + len(task.slot.rpartition(".")[2]) and not task.practice
                service.rate(session, project, rater, task.slot, Vote(preference=1), task.slot)
            assert len(seen) == len(set(seen)) and 5 <= len(golden & set(seen)) <= 10
            session.refresh(rater)
            assert rater.gold_seen == len(golden & set(seen)) and rater.done == len(seen)
    kept = reread(stack, project)
    assert (kept.slots, kept.done) == (120, 120)


def test_the_gate_pauses_and_deletes_nothing(stack: Stack) -> None:
    things = [pair(number) for number in range(30)] + [pair(100 + number, **GOLD) for number in range(20)]
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, things, gold_rate=0.5, gate_items=5)
        rater = add_rater(session, project)
        given = 0
        while (task := service.claim(session, project, rater)) is not None:
            wrong = Vote(preference=-3 if claims_place(session, task.responses[0].id) == 0 else 3)
            service.rate(session, project, rater, task.slot, wrong, task.slot)
            given += 1
        session.refresh(rater)
        assert (rater.status, rater.gold_seen, rater.gold_right) == ("paused", 5, 0)
        assert rater.reason == "Only 0 of 5 answers to items with a known answer agreed with it."
        with pytest.raises(Forbidden, match="paused"):
            add_rater(session, project)
        assert session.scalar(select(func.count()).select_from(Rating)) == given
        service.resume_rater(session, rater)
        assert service.claim(session, project, rater) is not None


def claims_place(session: Any, response_id: str) -> int:
    return int(session.get_one(Response, response_id).place)


def test_practice_comes_first_and_says_what_was_right(stack: Stack) -> None:
    things = [pair(number) for number in range(3)] + [pair(100 + number, practice=True, **GOLD) for number in range(3)]
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, things, practice=2)
        rater = add_rater(session, project)
        assert rater.status == "practice"
        for number in range(2):
            task = claim(session, project, rater)
            assert task.practice
            second = claims_place(session, task.responses[1].id) == 1
            done = service.rate(session, project, rater, task.slot, Vote(preference=3 if second else -3), f"{number}")
            assert done.feedback == {"right": True, "why": "The second is right.", "expected": 3 if second else -3}
            assert service.rate(session, project, rater, task.slot, Vote(preference=3), f"{number}") == done
        task = claim(session, project, rater)
        assert not task.practice and service.rate(session, project, rater, task.slot, Vote(preference=1), "k").feedback is None
        session.refresh(rater)
        assert (rater.status, rater.practised, rater.done) == ("active", 2, 1)
        assert service.undo(session, project, rater, "u") is not None
        assert service.undo(session, project, rater, "v") is None, "practice is not taken back"


def test_repeats_are_turned_round_and_far_away(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 80, repeat_rate=0.3)
        rater = add_rater(session, project)
        sides: dict[str, list[str]] = {}
        order: list[str] = []
        while (task := service.claim(session, project, rater)) is not None:
            order.append(task.item_id)
            ids = [response.id for response in task.responses]
            if task.item_id in sides:
                assert sides[task.item_id] == ids[::-1]
                assert len(set(order[order.index(task.item_id) + 1 : -1])) >= 20
            sides[task.item_id] = ids
            service.rate(session, project, rater, task.slot, Vote(preference=1), task.slot)
        many = Counter(order)
        assert set(many.values()) == {1, 2} and len(many) == 80 and 5 <= len(order) - 80 <= 75
        rounds = {(item, said) for item, said in session.execute(select(Rating.round, func.count()).group_by(Rating.round))}
        assert rounds == {(0, 80), (1, len(order) - 80)}
    kept = reread(stack, project)
    assert (kept.slots, kept.done) == (80, 80)


def test_who_may_rate(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        for role in ("rater", "engineer", "admin"):
            assert service.rater_for(session, project, principal(stack.workspace_id, role, role)).name == role
        with pytest.raises(Forbidden, match="viewer"):
            service.rater_for(session, project, principal(stack.workspace_id, "v", "viewer"))
        again = add_rater(session, project, "rater")
        assert session.scalar(select(func.count()).select_from(Rater)) == 3
        service.remove_rater(session, again)
        for come in (service.rater_for, lambda session, _, who: service.enter(session, who, project.id)):
            with pytest.raises(Forbidden, match="taken out"):
                come(session, project, principal(stack.workspace_id, "rater"))
            with pytest.raises(Forbidden, match="viewer"):
                come(session, project, principal(stack.workspace_id, "v", "viewer"))
        new = [service.enter(session, principal(stack.workspace_id, "new"), project.id) for _ in range(2)]
        assert new[0] == new[1] and new[0] == (project, service.rater_for(session, project, principal(stack.workspace_id, "new")))
        with pytest.raises(NotFound):
            service.enter(session, principal("wsp_other", "new"), project.id)


def test_nothing_is_claimed_of_a_draft(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, status="draft")
        rater = add_rater(session, project)
        with pytest.raises(Conflict, match="not open yet"):
            service.claim(session, project, rater)
        assert session.get_one(Project, project.id).done == 0
