"""The whole loop on real workers: votes, a snapshot, a run, its accuracy by grade, its answers beside its start, and the leaderboard."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

pytest.importorskip("torch", reason="needs the train extra")

from app.datasets.tables import Dataset
from app.feedback.tables import Item, Project, Response
from app.runs.tables import Run
from tests.conftest import Stack
from tests.feedback.rated import add_item, add_project, add_rater, say
from tests.feedback.test_generation import add_model

pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")]
QUICK = {"params.max_steps": "2", "params.batch_size": "4", "params.sample_tokens": "4", "params.precision": "fp32"}


@pytest.mark.parametrize("stack", ["sqlite"], indirect=True)
def test_from_votes_to_the_leaderboard(client: TestClient, api: TestClient, stack: Stack, work: Callable[..., None]) -> None:
    start = add_model(stack, "start")
    sampling = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 5}
    with stack.database.write() as session:
        candidates = [{"checkpoint_id": start.id, "name": "start", "sampling": sampling}]
        project = add_project(session, stack.workspace_id, candidates=candidates)
        raters = [add_rater(session, project, name) for name in ("Ada", "Ben")]
        for number in range(24):
            answers = [{"text": f"It is {number}.", "checkpoint_id": start.id}, f"Surely {number}, my friend."]
            item = add_item(session, project, f"What is {number}?", answers)
            for rater in raters:
                say(session, item, rater, 1 + number % 3)

    # Freeze and start the run that the page suggests, with fewer steps.
    asked = client.post(f"/feedback/{project.id}/train", data={"checkpoint": start.id, "rules.held_out": "0.25", "go": "train"})
    assert asked.status_code == 303, asked.text
    values = dict(parse_qsl(urlsplit(asked.headers["location"]).query))
    assert values["method"] == "dpo" and values["checkpoint"] == start.id
    started = client.post("/runs/new", data={"tuner": "lora", **values, **QUICK})
    assert started.status_code == 303, started.text
    work()
    page = client.get(started.headers["location"]).text
    with stack.database.read() as session:
        run = session.scalars(select(Run)).one()
        dataset = session.get_one(Dataset, run.dataset_id)
    assert run.status == "succeeded", run.reason
    told = api.get(f"/api/v1/runs/{run.id}/held-out").json()
    assert {each["step"] for each in told["data"]} == {2} and sum(each["pairs"] for each in told["data"]) == dataset.eval_rows == 6
    assert all(0 <= each["low"] <= each["accuracy"] <= each["high"] <= 1 for each in told["data"])
    assert told["project"] == project.id and {share["value"] for share in told["people"].values()} == {1.0}
    for words in ("Held-out pairs by grade", "People agree", "Let it answer", f'href="/feedback/{project.id}/train#snapshots"'):
        assert words in page, words
    listed = api.get(f"/api/v1/feedback/projects/{project.id}/snapshots").json()["data"][0]["runs"]
    assert [(each["id"], each["status"], each["joined"]) for each in listed] == [(run.id, "succeeded", False)] and listed[0]["checkpoint"]

    # One click: its answers to the held-out prompts, beside those of the model it was trained from.
    trained = listed[0]["checkpoint"]
    assert f'name="checkpoint" value="{trained}"' in page
    assert client.post(f"/feedback/{project.id}/answer", data={"checkpoint": trained}).status_code == 303
    work()
    with stack.database.write() as session:
        found = session.scalars(select(Item).join(Response).where(Response.checkpoint_id == trained).order_by(Item.id)).all()
        sources = session.scalars(select(Response.checkpoint_id).where(Response.item_id.in_([item.id for item in found]))).all()
        assert len(found) == 6 and sorted(map(str, sources)) == sorted([start.id, trained] * 6)
        # Answers of a random model are cut off and so put aside; the owner lets them be rated.
        session.execute(update(Item).where(Item.id.in_([item.id for item in found])).values(status="open", reason=None))
        for number, item in enumerate(found):
            say(session, item, raters[0], -2 if number % 2 else 2)
        again = session.get_one(Project, project.id)
        again.seq += 1
    board = api.get(f"/api/v1/feedback/projects/{project.id}/leaderboard").json()
    assert {start.id, trained} <= {each["key"] for each in board["entries"]}
    assert "answers here" in client.get(f"/feedback/{project.id}/train").text
