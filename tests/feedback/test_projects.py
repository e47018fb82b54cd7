"""Projects: made, changed while raters work, counted, deleted; overlap by share."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError
from sqlalchemy import func, select

from app.errors import Invalid, NotFound
from app.feedback import service
from app.feedback.schemas import ProjectChange, ProjectCreate, Vote
from app.feedback.tables import Item, Project, Rating, Response, Slot
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset
from tests.feedback.factories import add_project, add_rater, claim, pair, reread


def test_a_project_has_sensible_settings_and_bad_ones_are_refused(stack: Stack) -> None:
    with stack.database.write() as session:
        project = service.create_project(session, stack.workspace_id, ProjectCreate(name=" a\x00b "), "usr_1")
        assert (project.name, project.kind, project.scale, project.status) == ("ab", "pair", "graded", "open")
        assert project.question == "Which answer is better?"
        dataset = add_dataset(session, stack.workspace_id)
        named = service.create_project(session, stack.workspace_id, ProjectCreate(name="x", prompts=dataset.name), None)
        assert named.prompts_dataset_id == dataset.id
        with pytest.raises(NotFound):
            service.create_project(session, stack.workspace_id, ProjectCreate(name="x", prompts="nothing"), None)
        twice = [{"key": "safe", "title": "Safe?"}, {"key": "safe", "title": "Safe?"}]
        with pytest.raises(Invalid, match="key"):
            service.create_project(session, stack.workspace_id, ProjectCreate.model_validate({"name": "x", "criteria": twice}), None)
        with pytest.raises(NotFound):
            service.get_project(session, "wsp_other", project.id)
    with pytest.raises(ValidationError):
        ProjectCreate(name="x", kind="pair", scale="five")


def test_overlap_may_be_raised_and_lowered_at_any_time(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 10, overlap=2)
        raters = [add_rater(session, project, user) for user in ("ann", "bob", "cid")]
        for rater in raters[:2]:
            for _ in range(4):
                task = claim(session, project, rater)
                service.rate(session, project, rater, task.slot, Vote(preference=1), task.slot)
        held = claim(session, project, raters[2])
    for overlap in (3, 1, 2):
        with stack.database.write() as session:
            there = service.get_project(session, stack.workspace_id, project.id)
            service.change_project(session, there, ProjectChange(overlap=overlap))
        with stack.database.read() as session:
            open_or_done = Counter(session.scalars(select(Slot.item_id)))
            done = Counter(session.scalars(select(Slot.item_id).where(Slot.done_at.is_not(None))))
        for item_id, many in open_or_done.items():
            assert many == max(overlap, done[item_id]) or item_id == held.item_id
        assert len(open_or_done) == 10 and sum(done.values()) == 8
        assert (reread(stack, project).slots, reread(stack, project).done) == (sum(open_or_done.values()), 8)
    with stack.database.write() as session:
        assert not service.rate(session, project, raters[2], held.slot, Vote(preference=1), "held").is_extra


def test_a_share_of_the_items_gets_the_overlap(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 300, overlap=3, overlap_share=0.2)
        each = Counter(session.scalars(select(Item.overlap)))
        assert set(each) == {1, 3} and 30 <= each[3] <= 95
        assert project.slots == each[1] + 3 * each[3]
        service.change_project(session, project, ProjectChange(overlap_share=1.0))
        assert (project.items, project.slots) == (300, 900)
        service.change_project(session, project, ProjectChange(overlap_share=0.2))
        assert project.slots == each[1] + 3 * each[3], "the same share is drawn again"


def test_new_guidelines_are_a_new_version(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1)
        service.change_project(session, project, ProjectChange(guidelines="Be fair.", name="better"))
        service.change_project(session, project, ProjectChange(guidelines="Be fair."))
        assert (project.guideline_version, project.name) == (2, "better")


def test_deleting_takes_everything_along_and_a_deleted_checkpoint_nothing(stack: Stack) -> None:
    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id, name="base")
        item = pair(1)
        item.responses[0].checkpoint = checkpoint.id
        project = add_project(session, stack.workspace_id, [item])
        rater = add_rater(session, project)
        task = claim(session, project, rater)
        service.rate(session, project, rater, task.slot, Vote(preference=1), "k")
    with stack.database.write() as session:
        session.delete(session.merge(checkpoint))
    with stack.database.write() as session:
        assert [response.checkpoint_id for response in service.responses_of(session, [task.item_id])[task.item_id]] == [None, None]
        service.delete_project(session, service.get_project(session, stack.workspace_id, project.id))
    with stack.database.read() as session:
        for table in (Project, Item, Response, Slot, Rating):
            assert session.scalar(select(func.count()).select_from(table)) == 0
