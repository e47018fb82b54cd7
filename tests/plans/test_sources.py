"""The form of a new run filled in from elsewhere: another run, a checkpoint of it, pasted YAML; and how it tells what differs."""

from __future__ import annotations

import html
import re
import shlex
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from app.plans import sources
from app.runs import service, written
from app.runs.schemas import RunCreate
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
def source(stack: Stack, ids: dict[str, str]) -> str:
    """A run whose every setting is filled in, as runs that were really created have it."""
    with stack.database.write() as session:
        run = session.get_one(Run, ids["r64"])
        asked = RunCreate(
            method="sft", tuner="lora", checkpoint=run.checkpoint_id, dataset=run.dataset_id, seed=7, tags=["a b"], notes="why"
        )
        return service.create(session, stack.workspace_id, None, asked).id


def posted(text: str) -> dict[str, str]:
    """What a browser would send of the form in a page."""
    found: dict[str, str] = {}
    for name, value in re.findall(r'<input(?![^>]*type="(?:radio|checkbox)")[^>]* name="([^"]+)" value="([^"]*)"', text):
        if not name.startswith(("method", "tuner")) or "." in name:
            found[name] = html.unescape(value)
    for name, body in re.findall(r'<select id="[^"]*" name="([^"]+)"[^>]*>(.*?)</select>', text, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected', body)
        found[name] = html.unescape(chosen[1]) if chosen else ""
    for name, value in re.findall(r'name="([^"]+)" value="([^"]*)" checked', text):
        found[name] = html.unescape(value)
    return found


def differing(client: TestClient, form: dict[str, str]) -> str:
    """The list of differences of the plan beside a form."""
    text = client.post("/runs/new/plan", data=form, headers=PARTIAL).text
    found = re.search(r'data-differs="([^"]*)"', text)
    assert found, text
    return found[1]


def test_a_duplicate_differs_in_nothing_until_something_is_typed(client: TestClient, source: str) -> None:
    form = posted(client.get(f"/runs/new?from={source}").text)
    assert form["parent_run"] == source and form["seed"] == "7"
    assert differing(client, form) == ""
    assert "this would be the same run again" in client.post("/runs/new/plan", data=form, headers=PARTIAL).text
    changed = {**form, "params.learning_rate": "0.001", "params.batch_size": " ", "tuner_params.r": "64", "seed": "8"}
    assert set(differing(client, changed).split()) <= {"seed", "params.learning_rate", "params.batch_size", "tuner_params.r"}
    assert {"seed", "params.learning_rate", "tuner_params.r"} <= set(differing(client, changed).split())
    text = client.post("/runs/new/plan", data=changed, headers=PARTIAL).text
    assert "<del>7</del> <ins>8</ins>" in text


def test_numbers_that_are_the_same_do_not_differ(client: TestClient, source: str) -> None:
    form = posted(client.get(f"/runs/new?from={source}").text)
    assert differing(client, {**form, "params.learning_rate": f"{float(form['params.learning_rate']):.8f}"}) == ""


def test_other_models_and_data_are_named(client: TestClient, stack: Stack, source: str, ids: dict[str, str]) -> None:
    with stack.database.read() as session:
        other = session.get_one(Run, ids["outcome"]).checkpoint_id
    form = {**posted(client.get(f"/runs/new?from={source}").text), "checkpoint": other}
    text = client.post("/runs/new/plan", data=form, headers=PARTIAL).text
    assert "<del>Qwen3-4B</del> <ins>gemma-3-1b-it</ins>" in text


def test_training_further_takes_the_settings_and_another_model(client: TestClient, stack: Stack, source: str, ids: dict[str, str]) -> None:
    with stack.database.read() as session:
        other = session.get_one(Run, ids["outcome"]).checkpoint_id
    form = posted(client.get(f"/runs/new?parent={source}&checkpoint={other}").text)
    assert form["checkpoint"] == other and form["parent_run"] == source and form["name"].endswith("(further)")
    assert client.get("/runs/new?parent=nope&checkpoint=x").status_code == 404
    answer = client.post("/runs/new", data=form)
    assert answer.status_code == 303
    with stack.database.read() as session:
        assert service.get(session, stack.workspace_id, answer.headers["location"].rpartition("/")[2]).parent_run_id == source


# --- started elsewhere ----------------------------------------------------------------------------------------------------


def test_the_form_is_shown_as_yaml_command_and_call(client: TestClient, source: str) -> None:
    form = {**posted(client.get(f"/runs/new?from={source}").text), "name": "it's <mine>; rm -rf $HOME", "params.epochs": "2"}
    text = client.post("/runs/new/plan", data=form, headers=PARTIAL).text
    parts = {name: html.unescape(part) for name, part in re.findall(r'hx-target="#(\w+)-text"[^>]*>(.*?)</hx-partial>', text, re.DOTALL)}
    assert "<mine>" not in text
    values = yaml.safe_load(parts["yaml"])
    assert values["name"] == "it's <mine>; rm -rf $HOME" and values["params"]["epochs"] == 2.0 and values["parent_run"] == source
    words = shlex.split(parts["command"].replace("\\\n", " "))
    assert words[:3] == ["luthier", "run", "create"] and words[words.index("--name") + 1] == values["name"]
    assert "epochs=2.0" in words
    call = shlex.split(parts["curl"].replace("\\\n", " "))
    assert call[0] == "curl" and call[2].endswith("/api/v1/runs") and yaml.safe_load(call[-1]) == values
    assert "lt_" not in parts["curl"]


def test_what_the_page_shows_starts_the_same_run(client: TestClient, stack: Stack, source: str) -> None:
    form = posted(client.get(f"/runs/new?from={source}").text)
    text = client.post("/runs/new/plan", data=form, headers=PARTIAL).text
    found = re.search(r'hx-target="#yaml-text"[^>]*>(.*?)</hx-partial>', text, re.DOTALL)
    assert found
    made = client.post("/api/v1/runs", json=yaml.safe_load(html.unescape(found[1]))).json()
    with stack.database.read() as session:
        run = session.get_one(Run, source)
        assert (made["params"], made["tuner_params"], made["seed"]) == (run.params, run.tuner_params, run.seed)


# --- pasted YAML ----------------------------------------------------------------------------------------------------------


def test_pasted_yaml_fills_the_form(client: TestClient, ids: dict[str, str]) -> None:
    text = """
method: dpo
tuner: lora
checkpoint: Qwen3-4B
dataset: support-prefs
name: pasted
tags: [a, b]
params: {beta: 0.3, learning_rate: 1e-5}
tuner_params: {r: 8}
"""
    answer = client.post("/runs/new/yaml", data={"yaml": text}, headers=PARTIAL)
    assert answer.status_code == 200 and answer.headers["hx-trigger"] == "filled"
    form = posted(answer.text)
    assert form["method"] == "dpo" and form["params.beta"] == "0.3" and float(form["params.learning_rate"]) == 1e-5
    assert form["tuner_params.r"] == "8" and form["name"] == "pasted" and form["tags"] == "a, b"
    assert client.post("/runs/new", data=form).status_code == 303


def test_what_a_run_shows_can_be_pasted(client: TestClient, stack: Stack, source: str) -> None:
    with stack.database.read() as session:
        run = session.get_one(Run, source)
        text = written.as_yaml(written.request_of(service.as_request(run)))
        draft = sources.from_yaml(session, stack.workspace_id, text)
        assert sources.differences(session, draft, run) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "names and values"),
        ("", "names and values"),
        ("modle: x", "“modle” is no setting of a run"),
        ("params: 3", "“params” must hold names and values"),
        ("checkpoint: nothing like it", "There is no model “nothing like it”"),
        ("dataset: x@99", "There is no dataset “x@99”"),
        ("a: &a [1]\nb: *a", "References"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("x" * 200_000, "200,000 characters"),
    ],
)
def test_yaml_that_cannot_be_used_says_why(client: TestClient, ids: dict[str, str], text: str, words: str) -> None:
    answer = client.post("/runs/new/yaml", data={"yaml": text}, headers=PARTIAL)
    assert answer.status_code == 422 and words in html.unescape(answer.text) and "<html" not in answer.text
    assert client.post("/runs/new/yaml", data={"yaml": text}).status_code == 422


def test_nothing_pasted_is_dropped_in_silence(client: TestClient, ids: dict[str, str]) -> None:
    text = "method: sft\ncheckpoint: Qwen3-4B\ndataset: support-tickets\nparams: {learnig_rate: 1, epochs: -4}"
    answer = client.post("/runs/new/yaml", data={"yaml": text}, headers=PARTIAL)
    assert answer.status_code == 200 and "learnig_rate" in answer.text and 'aria-invalid="true"' in answer.text
    assert 'value="-4"' in answer.text


@pytest.mark.parametrize("value", [True, None, 3, 2e-5, "a b", ["x"]])
def test_values_of_the_command_line_come_back_as_they_were(value: Any) -> None:
    from app.commands.runs import pairs

    words = shlex.split(written.as_command({"method": "sft", "params": {"x": value}}).replace("\\\n", " "))
    assert pairs(words[words.index("-p") + 1 :], "--param") == {"x": value}
