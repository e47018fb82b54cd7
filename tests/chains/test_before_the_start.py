"""What a chain would break on after hours is found before it starts, with the step and the field; a refusal leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app import queue
from app.accounts.tables import Workspace
from app.chains.tables import Chain
from app.checkpoints.tables import Checkpoint
from app.runs.tables import Run, RunEvent
from app.settings import get_settings
from tests.chains.links import start, steps
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset

RL: dict[str, Any] = {"rewards": [{"kind": "model", "checkpoint": "$2"}]}


def _wrong(ids: dict[str, str]) -> dict[str, tuple[list[dict[str, Any]], str, str]]:
    """Steps that cannot be, each with the field and words of its refusal."""
    sft, reward, rloo = steps(ids)
    return {
        "no such method": ([{**sft, "method": "stf"}, reward, rloo], "steps.0.method", "There is no method “stf”"),
        "no such model": ([{**sft, "checkpoint": "ckpt_x"}, reward, rloo], "steps.0", "no such checkpoint"),
        "no such dataset": ([sft, {**reward, "dataset": "ds_x"}, rloo], "steps.1", "no such dataset"),
        "rows that do not fit": ([sft, {**reward, "dataset": ids["prompts"]}, rloo], "steps.1.dataset", "holds prompt rows"),
        "a setting out of range": ([sft, {**reward, "params": {"epochs": 0}}, rloo], "steps.1.params.epochs", "Must be more than 0"),
        "an unknown setting": ([sft, reward, {**rloo, "params": {**RL, "gama": 1}}], "steps.2.params.gama", "no setting"),
        "a tuner that does not go with it": ([sft, {**reward, "tuner": "experts"}, rloo], "steps.1.tuner", "cannot be combined"),
        "the first step names one": ([{**sft, "checkpoint": "$1"}, reward, rloo], "steps.0.checkpoint", "first step can name none"),
        "a step names itself": ([sft, {**reward, "checkpoint": "$2"}, rloo], "steps.1.checkpoint", "step 2 can name $1"),
        "a step names a later one": (
            [sft, reward, {**rloo, "params": {"rewards": [{"kind": "model", "checkpoint": "$4"}]}}],
            "steps.2.params.rewards.0.checkpoint",
            "step 3 can name $1 to $2",
        ),
        "nought": ([sft, {**reward, "checkpoint": "$0"}, rloo], "steps.1.checkpoint", "no step that comes before"),
        "a writer where a reward is needed": (
            [sft, reward, {**rloo, "params": {"rewards": [{"kind": "length", "target": 9}, {"kind": "model", "checkpoint": "$1"}]}}],
            "steps.2.params.rewards.1.checkpoint",
            "“what step 1 makes” writes text; this needs a reward model",
        ),
        "a reward model as the start": ([sft, reward, {**rloo, "checkpoint": "$2"}], "steps.2.checkpoint", "writes no text"),
        "a tuner that cannot go on": (
            [{**sft, "tuner": "ia3"}, {**reward, "checkpoint": ids["model"]}, rloo],
            "steps.2.tuner",
            "an adapter of the kind ia3",
        ),
        "rewards that need answers": (
            [sft, reward, {**rloo, "params": {"rewards": [{"kind": "similarity"}, {"kind": "model", "checkpoint": "$2"}]}}],
            "steps.2.params.rewards",
            "prompts without answers",
        ),
    }


def _left(stack: Stack) -> list[int]:
    with stack.database.read() as session:
        return [session.scalar(select(func.count()).select_from(table)) or 0 for table in (Chain, Run, RunEvent, Checkpoint)]


def test_each_refusal_names_step_and_field_and_leaves_nothing(stack: Stack, api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = start(stack)
    rung: list[str] = []
    monkeypatch.setattr(queue, "tick", rung.append)
    before, wrong = _left(stack), []
    for name, (asked, field, words) in _wrong(ids).items():
        answer = api.post("/api/v1/chains", json={"steps": asked})
        error = answer.json().get("error", {})
        number = int(field.split(".")[1]) + 1
        said = error.get("message", "")
        right = answer.status_code in (404, 422) and error.get("field") == field
        if not (right and words in said and said.startswith(f"Step {number}: ")):
            wrong.append((name, answer.status_code, error))
    assert not wrong
    assert _left(stack) == before and not rung
    assert api.post("/api/v1/chains", json={"steps": steps(ids)}).status_code == 201 and rung == ["device"]


@pytest.mark.one_stack
def test_all_findings_of_a_step_are_told(stack: Stack, api: TestClient) -> None:
    sft, reward, rloo = steps(start(stack))
    answer = api.post("/api/v1/chains", json={"steps": [sft, {**reward, "params": {"epochs": 0, "batch_size": 0}}, rloo]})
    assert {each["field"] for each in answer.json()["error"]["details"]} == {"steps.1.params.epochs", "steps.1.params.batch_size"}


@pytest.mark.one_stack
@pytest.mark.parametrize(("body", "field"), [({"steps": []}, "steps"), ({"steps": [{}] * 21}, "steps"), ({}, "steps")])
def test_a_body_that_is_no_chain_is_refused(stack: Stack, api: TestClient, body: dict[str, Any], field: str) -> None:
    answer = api.post("/api/v1/chains", json=body)
    assert answer.status_code == 422 and answer.json()["error"]["field"].startswith(field)


def test_the_rehearsal_takes_no_place_in_the_queue(stack: Stack, api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = start(stack)
    monkeypatch.setattr(get_settings(), "max_queued_runs", 1)
    assert api.post("/api/v1/chains", json={"steps": steps(ids)}).status_code == 201
    answer = api.post("/api/v1/chains", json={"steps": steps(ids)})
    assert answer.status_code == 409 and "already wait" in answer.json()["error"]["message"]


@pytest.mark.one_stack
def test_a_mixture_of_the_loras_of_two_steps_is_checked_by_their_base(stack: Stack, api: TestClient) -> None:
    ids = start(stack)
    with stack.database.write() as session:
        other = add_checkpoint(session, stack.workspace_id, name="other").id
    sft = {"method": "sft", "checkpoint": ids["model"], "dataset": ids["answers"]}
    mixed = {**sft, "tuner": "xlora", "tuner_params": {"adapters": ["$1", "$2"]}}
    answer = api.post("/api/v1/chains", json={"steps": [sft, {**sft, "checkpoint": other}, mixed]})
    assert answer.json()["error"]["field"] == "steps.2.tuner_params.adapters.1", answer.text
    answer = api.post("/api/v1/chains", json={"steps": [sft, sft, mixed]})
    assert answer.status_code == 201, answer.text


@pytest.mark.one_stack
def test_a_sign_that_stands_where_no_checkpoint_is_asked_for_is_left_alone(stack: Stack, api: TestClient) -> None:
    ids = start(stack)
    sft = {"method": "sft", "checkpoint": ids["model"], "dataset": ids["answers"]}
    answer = api.post("/api/v1/chains", json={"steps": [{**sft, "notes": "$9", "name": "$9"}, {**sft, "checkpoint": " $1 "}]})
    assert answer.status_code == 201, answer.text


def test_what_belongs_to_another_workspace_is_not_found(stack: Stack, api: TestClient) -> None:
    ids = start(stack)
    with stack.database.write() as session:
        elsewhere = Workspace(name="elsewhere")
        session.add(elsewhere)
        session.flush()
        dataset = add_dataset(session, elsewhere.id).id
        chain = Chain(workspace_id=elsewhere.id, name="theirs", steps=[])
        session.add(chain)
        session.flush()
    sft = {"method": "sft", "checkpoint": ids["model"], "dataset": ids["answers"]}
    answer = api.post("/api/v1/chains", json={"steps": [sft, {**sft, "dataset": dataset}]})
    assert answer.status_code == 404 and answer.json()["error"]["message"].startswith("Step 2: ")
    url = f"/api/v1/chains/{chain.id}"
    asked = [api.get(url), api.post(f"{url}/cancel"), api.post(f"{url}/continue"), api.delete(url)]
    assert [each.status_code for each in asked] == [404] * 4 and api.get("/api/v1/chains").json()["data"] == []
