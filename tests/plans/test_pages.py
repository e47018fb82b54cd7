"""The form of a new run over HTTP: made from the schemas, errors in place, a plan beside it, filled in from a run or a link."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from app.runs import service
from app.runs.tables import Run
from tests.browser.seed import fill_workspace
from tests.conftest import Stack

pytestmark = pytest.mark.one_stack

PARTIAL = {"HX-Request": "true", "HX-Request-Type": "partial"}


@pytest.fixture
def ids(stack: Stack) -> dict[str, str]:
    """Runs in every state, by a short name."""
    with stack.database.write() as session:
        return fill_workspace(session, stack.workspace_id, every=20)


@pytest.fixture
def typed(stack: Stack, ids: dict[str, str]) -> dict[str, str]:
    """A form that can be sent."""
    with stack.database.read() as session:
        run = session.get(Run, ids["live"])
        assert run is not None
        return {"method": "sft", "tuner": "lora", "checkpoint": run.checkpoint_id, "dataset": run.dataset_id, "params.epochs": "2"}


def test_the_form_shows_every_setting_of_the_chosen_method(client: TestClient, ids: dict[str, str]) -> None:
    text = client.get("/runs/new?method=dpo").text
    for name in ("params.beta", "params.learning_rate", "tuner_params.r", "seed", "notes"):
        assert f'name="{name}"' in text
    assert 'name="params.beta"' not in client.get("/runs/new").text


def test_start_queues_what_was_typed(client: TestClient, stack: Stack, typed: dict[str, str]) -> None:
    answer = client.post("/runs/new", data={**typed, "name": "typed", "tags": "a, b", "seed": "7", "params.group_by_length": "false"})
    assert answer.status_code == 303
    with stack.database.read() as session:
        run = service.get(session, stack.workspace_id, answer.headers["location"].rpartition("/")[2])
        assert (run.name, run.tags, run.seed, run.params["epochs"], run.params["group_by_length"]) == ("typed", ["a", "b"], 7, 2.0, False)
    by_htmx = client.post("/runs/new", data=typed, headers=PARTIAL)
    assert by_htmx.headers["hx-redirect"].startswith("/runs/run_")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("params.learning_rate", "5", "Must be at most 1.0, and it is 5."),
        ("params.epochs", "many", "Must be a number."),
        ("tuner_params.r", "0", "Must be at least 1, and it is 0."),
        ("seed", "x", "Must be a whole number."),
        ("dataset", "", "Choose a dataset to learn from."),
        ("checkpoint", "nope", "no such checkpoint"),
    ],
)
def test_what_cannot_be_used_is_said_at_its_field(client: TestClient, typed: dict[str, str], field: str, value: str, words: str) -> None:
    answer = client.post("/runs/new", data={**typed, field: value, "notes": "kept"}, headers=PARTIAL)
    assert answer.status_code in (404, 422) and words in answer.text
    assert "<html" not in answer.text and ">kept</textarea>" in answer.text
    if value and field != "checkpoint":
        assert f'value="{value}"' in answer.text
    whole = client.post("/runs/new", data={**typed, field: value})
    assert "<html" in whole.text and words in whole.text


def test_data_with_errors_cannot_be_chosen_and_say_why(client: TestClient, ids: dict[str, str]) -> None:
    assert "disabled>has-errors (3 lines with errors)" in client.get("/runs/new").text


def test_the_plan_says_what_it_takes_or_what_is_missing(client: TestClient, typed: dict[str, str]) -> None:
    text = client.post("/runs/new/plan", data=typed, headers=PARTIAL).text
    assert "Trainable" in text and "counting…" in text and "epochs: 2.0" in text
    assert "Choose a model to start from." in client.post("/runs/new/plan", data={"method": "sft"}, headers=PARTIAL).text


def test_another_method_keeps_what_was_typed(client: TestClient, typed: dict[str, str]) -> None:
    text = client.post("/runs/new/fields", data={**typed, "method": "dpo", "params.batch_size": "3", "name": "kept"}, headers=PARTIAL).text
    assert 'name="params.beta"' in text and 'value="3"' in text and 'value="kept"' in text and "holds chat rows" in text


def test_duplicate_fills_the_form_in(client: TestClient, ids: dict[str, str]) -> None:
    text = client.get(f"/runs/new?from={ids['lr1e4']}").text
    assert "qwen3-4b-support-sft-lr1e4 (copy)" in text and f'value="{ids["lr1e4"]}"' in text and 'value="lora-r16"' in text
    assert client.get("/runs/new?from=nope").status_code == 404
