"""From ratings to training, by page and by REST: the sheet, what is wrong with rules, freezing, exports, who may."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi import FastAPI
from sqlalchemy import select
from starlette.testclient import TestClient

from app.datasets.tables import Dataset
from app.feedback import api_train, pages_train
from app.feedback.tables import Project, Snapshot
from app.jobs.tables import Job
from app.main import create_app
from app.runs.tables import Run
from tests.conftest import Stack
from tests.factories import add_checkpoint
from tests.feedback.rated import add_item, add_project, add_rater, rated_pairs, say
from tests.feedback.test_answering import loop

pytestmark = pytest.mark.one_stack


@pytest.fixture
def app(stack: Stack) -> FastAPI:
    """The application, with the routes under test even where the noun does not take them in yet."""
    made = create_app()
    known = {getattr(route, "path", "") for route in made.routes}
    for part in (pages_train, api_train):
        if not {getattr(route, "path", "") for route in part.router.routes} <= known:
            made.include_router(part.router)
    return made


@pytest.fixture
def project_id(stack: Stack) -> str:
    """A project of 40 rated pairs."""
    with stack.database.write() as session:
        return rated_pairs(session, stack.workspace_id, 40).id


def datasets_of(stack: Stack) -> list[Dataset]:
    with stack.database.read() as session:
        return list(session.scalars(select(Dataset).order_by(Dataset.id)))


def test_the_page_shows_the_sheet(client: TestClient, project_id: str) -> None:
    shown = client.get(f"/feedback/{project_id}/train")
    assert shown.status_code == 200
    for words in (
        "Direct preference optimisation",
        "36",
        "very few",
        "model 1",
        "Snapshots",
        "The longer answer is chosen",
        "Leave out the votes of",
    ):
        assert words in shown.text


def test_rules_are_counted_as_they_change(client: TestClient, project_id: str) -> None:
    part = client.post(f"/feedback/{project_id}/train/sheet", data={"rules.shape": "margin", "rules.min_grade": "3", "rules.held_out": "0"})
    assert part.status_code == 200 and "<html" not in part.text and "below the least grade" in part.text
    wrong = client.post(f"/feedback/{project_id}/train/sheet", data={"rules.min_grade": "7"})
    assert wrong.status_code == 200 and "at most 3" in unescape(wrong.text)


def test_freeze_and_train_leads_to_a_new_run(client: TestClient, stack: Stack, project_id: str) -> None:
    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id).id
    answer = client.post(f"/feedback/{project_id}/train", data={"rules.shape": "preference", "checkpoint": checkpoint, "go": "train"})
    [dataset] = datasets_of(stack)
    assert answer.status_code == 303
    where = urlsplit(answer.headers["location"])
    asked = {"method": ["dpo"], "dataset": [dataset.id], "checkpoint": [checkpoint], "params.epochs": ["1"]}
    assert where.path == "/runs/new" and parse_qs(where.query) == asked
    form = client.get(answer.headers["location"])
    assert f'value="{dataset.id}" selected' in form.text and "taste-preference" in form.text and "Left out" not in form.text
    started = client.post("/runs/new", data={"method": "dpo", "tuner": "lora", "dataset": dataset.id, "checkpoint": checkpoint})
    assert started.status_code == 303, started.text
    page = client.get(f"/feedback/{project_id}/train").text
    assert "taste-preference v1" in page and dataset.sha256 and dataset.sha256[:12] in page
    run = started.headers["location"]
    assert f'href="{run}"' in page and "queued" in page and f"{run}?" not in page
    assert f'href="/feedback/{project_id}/train#snapshots"' in client.get(run).text
    assert client.get(f"/datasets/{dataset.id}").status_code == 200


def test_what_the_votes_measure_is_filled_into_the_new_run(client: TestClient, stack: Stack) -> None:
    with stack.database.write() as session:
        start = add_checkpoint(session, stack.workspace_id, name="start", shapes={"model.layers.0.self_attn.q_proj.weight": [64, 64]})
        project = add_project(session, stack.workspace_id, candidates=[{"checkpoint_id": start.id, "name": "start", "sampling": {}}])
        raters = [add_rater(session, project, name) for name in "abc"]
        for number in range(20):
            answers = [{"text": "ours", "checkpoint_id": start.id}, "theirs"]
            item = add_item(session, project, f"prompt {number}", answers)
            for place, rater in enumerate(raters):
                say(session, item, rater, 2 if place == 0 and number % 5 == 0 else -2 - number % 2)
    shown = client.get(f"/feedback/{project.id}/train").text
    for words in (
        "People agree on much better",
        "Same prompt on both sides",
        "Length of a row",
        "Wrong labels",
        "robust",
        "Time",
        "Memory",
    ):
        assert words in shown, words
    assert f'<option value="{start.id}" selected' in shown  # what answered first is what is trained, unless another is chosen
    answer = client.post(f"/feedback/{project.id}/train", data={"checkpoint": start.id, "go": "train"})
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert asked["params.loss"] == ["robust"] and 0 < float(asked["params.label_smoothing"][0]) < 0.2
    form = unescape(client.get(answer.headers["location"]).text)
    assert '<option value="robust" selected' in form and f'value="{asked["params.label_smoothing"][0]}"' in form
    [dataset] = datasets_of(stack)
    filled = {name.removeprefix("f-"): values[0] for name, values in asked.items()}
    started = client.post("/runs/new", data={"tuner": "lora", **filled})
    assert started.status_code == 303, started.text
    with stack.database.read() as session:
        run = session.scalars(select(Run)).one()
    assert (run.params["loss"], run.params["epochs"], run.dataset_id) == ("robust", 1.0, dataset.id)


def test_a_finished_run_joins_with_one_click(client: TestClient, stack: Stack) -> None:
    with stack.database.write() as session:
        project, start, trained, _ = loop(session, stack)
    page = client.get(f"/feedback/{project.id}/train").text
    assert f"/feedback/{project.id}/answer?checkpoint={trained.id}" in page
    form = client.get(f"/feedback/{project.id}/answer?checkpoint={trained.id}").text
    assert f'name="against.{start.id}" value="on" checked' in form and "it was trained from this" in form and 'value="0.9"' in form
    wrong = client.post(f"/feedback/{project.id}/answer", data={"checkpoint": trained.id, "chosen": "1", "temperature": "hot"})
    assert wrong.status_code == 422 and "Choose at least one other model" in wrong.text
    data = {"checkpoint": trained.id, "chosen": "1", f"against.{start.id}": "on", "temperature": "hot", "limit": "5"}
    wrong = client.post(f"/feedback/{project.id}/answer", data=data)
    assert wrong.status_code == 422 and "temperature" in wrong.text and 'value="hot"' in wrong.text
    assert client.post(f"/feedback/{project.id}/answer", data={"checkpoint": "<b>"}).status_code == 404
    with stack.database.read() as session:
        assert not list(session.scalars(select(Job)))
    answer = client.post(f"/feedback/{project.id}/answer", data={"checkpoint": trained.id})
    assert answer.status_code == 303 and answer.headers["location"] == f"/feedback/{project.id}"
    assert "Waiting for a worker" in client.get(answer.headers["location"]).text
    again = client.post(f"/feedback/{project.id}/answer", data={"checkpoint": trained.id})
    assert again.status_code == 409 and "generated for this project already" in again.text


def test_freezing_twice_keeps_one(client: TestClient, stack: Stack, project_id: str) -> None:
    for _ in range(2):
        answer = client.post(f"/feedback/{project_id}/train", data={"go": "keep"})
        assert answer.headers["location"] == f"/feedback/{project_id}/train#snapshots"
    assert len(datasets_of(stack)) == 1


def test_a_rule_that_cannot_be_used_comes_back_with_the_form(client: TestClient, stack: Stack, project_id: str) -> None:
    for field, value, words in (
        ("rules.held_out", "2", "at most 0.9"),
        ("rules.shape", "rated", "cannot give rows"),
        ("rules.seed", "x", "whole number"),
    ):
        answer = client.post(f"/feedback/{project_id}/train", data={field: value, "go": "train"})
        assert answer.status_code == 422 and words in unescape(answer.text), words
    nothing = client.post(f"/feedback/{project_id}/train", data={"rules.shape": "unpaired"})
    assert nothing.status_code == 409 and "No vote gives a row" in nothing.text
    assert not datasets_of(stack)


def test_raters_can_be_left_out(client: TestClient, stack: Stack, project_id: str) -> None:
    with stack.database.write() as session:
        project = session.get_one(Project, project_id)
        other = add_rater(session, project, "Eve <script>")
        say(session, add_item(session, project, "one more", ["a", "b"]), other, 2)
    assert "Eve &lt;script&gt;" in client.get(f"/feedback/{project_id}/train").text
    client.post(f"/feedback/{project_id}/train", data={f"without.{other.id}": "on", "go": "keep"})
    assert [each.rows for each in datasets_of(stack)] == [40]
    unknown = client.post(f"/feedback/{project_id}/train", data={"without.rtr_x": "on", "go": "keep"})
    assert unknown.status_code == 422 and "is no rater of this project" in unknown.text


@pytest.mark.parametrize(
    ("kind", "fields", "usual"),
    [("rank", {}, "Pairs"), ("single", {"scale": "thumbs"}, "Good and bad"), ("single", {"scale": "five"}, "score")],
)
def test_every_kind_of_project_has_its_page(client: TestClient, stack: Stack, kind: str, fields: dict[str, Any], usual: str) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, kind, **fields)
        add_rater(session, project)
    shown = client.get(f"/feedback/{project.id}/train")
    assert shown.status_code == 200 and usual in shown.text and "No vote gives a row" in shown.text


# --- REST -----------------------------------------------------------------------------------------------------------------


def test_preflight_and_snapshot_by_rest(api: TestClient, stack: Stack, project_id: str) -> None:
    url = f"/api/v1/feedback/projects/{project_id}"
    sheet = api.post(f"{url}/preflight", json={"shape": "margin", "rules": {"held_out": 0.25}})
    assert sheet.status_code == 200 and sheet.json()["rows"] == 40 and sheet.json()["eval_rows"] == 10 and not datasets_of(stack)
    made = api.post(f"{url}/snapshots", json={"shape": "margin", "rules": {"held_out": 0.25}}, headers={"Idempotency-Key": "k"})
    assert made.status_code == 201
    [dataset] = datasets_of(stack)
    found = made.json()
    assert found["dataset"] == dataset.id and found["dataset_name"] == "taste-margin" and found["method"] == "reward"
    assert found["counts"] == sheet.json() and found["sha256"] == dataset.sha256 and found["created_at"]
    again = api.post(f"{url}/snapshots", json={"shape": "margin", "rules": {"held_out": 0.25}}, headers={"Idempotency-Key": "k"})
    assert again.json() == found and again.headers["Idempotency-Replayed"] == "true"
    assert api.get(f"{url}/snapshots").json()["data"] == [found]
    rows = api.get(f"/api/v1/datasets/{dataset.id}/rows").json()["data"]
    assert all(isinstance(each["row"]["margin"], float) for each in rows)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"shape": "text"}, "shape"),
        ({"rules": {"min_grade": 9}}, "min_grade"),
        ({"rules": {"seeds": 1}}, "seeds"),
        ({"shape": "margin", "rules": {"shape": "preference"}}, "shape"),
        ({"rules": {"held_out": "nan"}}, "held_out"),
    ],
)
def test_wrong_rules_are_named(api: TestClient, stack: Stack, project_id: str, body: dict[str, Any], field: str) -> None:
    for what in ("preflight", "snapshots"):
        answer = api.post(f"/api/v1/feedback/projects/{project_id}/{what}", json=body)
        assert answer.status_code == 422 and answer.json()["error"]["field"] == field, answer.text
    assert not datasets_of(stack)


def test_rows_are_exported_as_trl_takes_them(api: TestClient, project_id: str) -> None:
    url = f"/api/v1/feedback/projects/{project_id}/export"
    lines = api.get(url).text.splitlines()
    assert len(lines) == 40 and set(json.loads(lines[0])) == {"prompt", "chosen", "rejected"}
    strong = [json.loads(line) for line in api.get(url, params={"shape": "margin", "min_grade": 3, "meta": True}).text.splitlines()]
    assert {each["margin"] for each in strong} == {1.0} and {each["meta"]["grade"] for each in strong} == {3.0}
    assert api.get(url, params={"shape": "rated"}).json()["error"]["field"] == "shape"
    assert api.get(url, params={"combine": "none"}).json()["error"]["field"] == "combine"


def test_who_may(anonymous: TestClient, as_role: Callable[[str], TestClient], stack: Stack, project_id: str) -> None:
    viewer, rater = as_role("viewer"), as_role("rater")
    assert viewer.get(f"/feedback/{project_id}/train").status_code == 200
    assert "Freeze and train" not in viewer.get(f"/feedback/{project_id}/train").text
    assert viewer.post(f"/feedback/{project_id}/train", data={"go": "keep"}).status_code == 403
    assert rater.get(f"/feedback/{project_id}/train").status_code == 403
    assert rater.get(f"/api/v1/feedback/projects/{project_id}/export").status_code in (401, 403)
    assert anonymous.get(f"/feedback/{project_id}/train").status_code in (303, 401)
    with stack.database.read() as session:
        assert session.scalars(select(Snapshot)).all() == []


def test_projects_of_other_workspaces_are_not_there(client: TestClient, api: TestClient) -> None:
    assert client.get("/feedback/prj_other/train").status_code == 404
    assert client.post("/feedback/prj_other/train", data={"go": "keep"}).status_code == 404
    for method, what in (("POST", "preflight"), ("POST", "snapshots"), ("GET", "snapshots"), ("GET", "export")):
        answer = api.request(method, f"/api/v1/feedback/projects/prj_other/{what}", json={})
        assert answer.status_code == 404, what
