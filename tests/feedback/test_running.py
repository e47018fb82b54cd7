"""What happens to a project while people rate: checkpoints deleted, raters taken out, clocks put wrong, the project itself deleted."""

from __future__ import annotations

import json
import time

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from app.checkpoints import service as checkpoints
from app.database import new_id
from app.errors import Forbidden
from app.feedback import generation, items, leaderboard, quality, service
from app.feedback.schemas import Candidate, Vote
from app.feedback.tables import Event, Item, Project, Rating
from app.jobs.tables import Job
from tests.conftest import Stack
from tests.factories import add_checkpoint
from tests.feedback.factories import add_project, add_rater, claim, expire, pair, reread


def test_a_checkpoint_deleted_with_items_and_votes_of_its_answers(
    stack: Stack, api: TestClient, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "BATCH", 2)
    with stack.database.write() as session:
        models = [add_checkpoint(session, stack.workspace_id, name=name) for name in ("old", "new")]
        things = [pair(number) for number in range(3)]
        for thing in things:
            for response, model in zip(thing.responses, models, strict=True):
                response.checkpoint, response.source = model.id, ""
        project = add_project(session, stack.workspace_id, things, overlap=2)
        rater = add_rater(session, project)
        tasks = [claim(session, project, rater, ahead) for ahead in (0, 1)]
        service.rate(session, project, rater, tasks[0].slot, Vote(preference=2), "first")
    assert api.delete(f"/api/v1/checkpoints/{models[0].id}").status_code == 204
    with stack.database.write() as session:
        there = session.get_one(Project, project.id)
        assert not service.rate(session, there, rater, tasks[1].slot, Vote(preference=2), "second").is_extra
        assert claim(session, there, rater).item_id not in (tasks[0].item_id, tasks[1].item_id)
    with stack.database.read() as session:
        there = session.get_one(Project, project.id)
        board = leaderboard.board(session, there)
        assert {(entry.name, entry.checkpoint_id) for entry in board.entries} == {("old", None), ("new", models[1].id)} and board.votes == 2
        assert quality.reckon(session, there).votes == 2
    made = api.post(f"/api/v1/feedback/projects/{project.id}/snapshots", json={"shape": "preference"})
    assert made.status_code == 201 and made.json()["counts"]["rows"] == 2, made.text
    for page in ("", "/items", f"/items/{tasks[0].item_id}", "/leaderboard", "/quality", "/train"):
        assert client.get(f"/feedback/{project.id}{page}").status_code == 200, page


def test_a_rater_taken_out_in_mid_item_hands_in_nothing_and_others_get_it_at_once(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1)
        ann, bob = add_rater(session, project), add_rater(session, project, "bob")
        task = claim(session, project, ann)
        assert service.claim(session, project, bob) is None
    with stack.database.write() as session:
        service.remove_rater(session, session.merge(ann))
    with stack.database.write() as session, pytest.raises(Forbidden, match=r"taken out of this project. Your ratings are kept"):
        add_rater(session, session.get_one(Project, project.id))
    with stack.database.write() as session:
        there = session.get_one(Project, project.id)
        again = claim(session, there, bob)
        assert again.item_id == task.item_id
        service.rate(session, there, bob, again.slot, Vote(preference=1), "bob")
        assert service.resume_rater(session, ann).status == "active"
    with stack.database.write() as session:  # let go on, the vote under way is taken, and is one too many
        assert service.rate(session, session.get_one(Project, project.id), ann, task.slot, Vote(preference=1), "ann").is_extra
    kept = reread(stack, project)
    assert (kept.slots, kept.done, kept.extras) == (1, 1, 1)


@pytest.mark.parametrize("wrong", [-3600.0, 3600.0])
def test_a_clock_that_is_an_hour_wrong_ends_no_lease_and_doubles_nothing(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    """Leases go by the database's clock alone; only what is shown of a moment is the web process's."""
    right = time.time
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 2, lease_seconds=60)
        ann, bob = add_rater(session, project), add_rater(session, project, "bob")
        first = claim(session, project, ann)
        service.rate(session, project, ann, first.slot, Vote(preference=1), "one")
        second = claim(session, project, ann)
    monkeypatch.setattr(time, "time", lambda: right() + wrong)
    with stack.database.write() as session:
        there = session.get_one(Project, project.id)
        assert service.claim(session, there, bob) is None, "ann has the only one that is left"
        assert claim(session, there, ann).slot == second.slot and abs(service.renew(session, ann, second.slot) - right() - 60) < 30
        expire(session, second)
        taken = claim(session, there, bob)
        assert taken.item_id == second.item_id
        service.release(session, bob, taken.slot)
        assert not service.rate(session, there, ann, second.slot, Vote(preference=-1), "two").is_extra
    with stack.database.write() as session:
        ids = list(session.scalars(select(Event.id).order_by(Event.at if wrong > 0 else Event.at.desc())))
        assert ids == sorted(ids) and new_id("evt") > ids[-1], "what came later sorts later in one process, whatever its clock does"
        undone = service.undo(session, session.get_one(Project, project.id), ann, "undo")
        assert undone is not None and undone.item_id == second.item_id and undone.earlier == {"preference": -1}
        assert session.scalars(select(Rating.item_id)).all() == [first.item_id]
    assert reread(stack, project).done == 1


def test_deleting_by_page_and_by_rest_is_the_same(
    stack: Stack, client: TestClient, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "training_paths", lambda session, checkpoint: {"path": "there"})
    ids = []
    with stack.database.write() as session:
        model = add_checkpoint(session, stack.workspace_id)
        for name in ("by page", "by rest"):
            project = add_project(session, stack.workspace_id, 1, name=name)
            job = generation.start(session, project, prompt_texts=["Hello?"], candidates=[Candidate(checkpoint=model.id)])
            ids.append((project.id, job.id))
    assert client.post(f"/feedback/{ids[0][0]}/delete").status_code == 303
    assert api.delete(f"/api/v1/feedback/projects/{ids[1][0]}").status_code == 204
    with stack.database.read() as session:
        assert session.scalars(select(Item.id)).all() == []
        assert {session.get_one(Job, job_id).status for _, job_id in ids} == {"cancelled"}
    entries = api.get("/api/v1/audit?action=feedback").json()["data"]
    noted = {(entry["action"], entry["subject"], json.dumps(entry["details"])) for entry in entries}
    assert noted == {
        ("feedback.delete", project_id, json.dumps({"name": name}))
        for (project_id, _), name in zip(ids, ("by page", "by rest"), strict=True)
    }
