"""The pages of chains over HTTP: list, form, YAML, one chain in every state, and what a viewer sees."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from app.chains import service
from app.chains.schemas import ChainCreate
from app.chains.tables import Chain
from app.runs.tables import Run
from tests.chains.links import add, all_runs, fail, finish, made, now_is, start, statuses, steps
from tests.conftest import Stack

pytestmark = pytest.mark.one_stack
PARTIAL = {"HX-Request": "true", "HX-Request-Type": "partial"}


def _classic(ids: dict[str, str], **changes: str) -> dict[str, str]:
    fields = {"checkpoint": ids["model"], "answers": ids["answers"], "pairs": ids["pairs"], "prompts": ids["prompts"]}
    return {"way": "classic", **fields, "method": "rloo", "tuner": "lora", "name": "Polite", **changes}


def test_an_empty_workspace_says_what_chains_are_for(client: TestClient) -> None:
    text = client.get("/chains").text
    assert "No chain yet" in text and 'href="/chains/new"' in text and "Queue them as one" in text
    assert 'href="/chains"' in client.get("/runs").text or "No run yet" in client.get("/runs").text


def test_the_classic_three_steps_are_started_by_a_form(stack: Stack, client: TestClient) -> None:
    ids = start(stack)
    text = client.get("/chains/new").text
    assert f'<option value="{ids["model"]}" selected>' in text, "what there is only one of is chosen"
    assert text.count('name="method"') == 3 and "answers · 10 rows" in text and "pairs (holds preference rows)" in text
    answer = client.post("/chains/new", data=_classic(ids))
    assert answer.status_code == 303, answer.text
    chain_id = answer.headers["location"].removeprefix("/chains/")
    told = now_is(stack, chain_id)
    assert told["name"] == "Polite" and [each["request"]["method"] for each in told["steps"]] == ["sft", "reward", "rloo"]
    assert told["steps"][2]["request"]["params"] == {"rewards": [{"kind": "model", "checkpoint": "$2"}]}
    assert client.post("/chains/new", data=_classic(ids), headers=PARTIAL).headers["hx-redirect"].startswith("/chains/chain_")


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_each_way_to_learn_from_the_reward_model_passes_the_checks(stack: Stack, client: TestClient, method: str) -> None:
    ids = start(stack)
    assert client.post("/chains/new", data=_classic(ids, method=method)).status_code == 303


def test_what_is_missing_or_wrong_comes_back_at_its_field(stack: Stack, client: TestClient) -> None:
    ids = start(stack)
    answer = client.post("/chains/new", data=_classic(ids, pairs="", checkpoint=""))
    assert answer.status_code == 422 and "Choose a model to start from." in answer.text and "Choose pairs of a better" in answer.text
    assert answer.text.count('aria-invalid="true"') == 2 and 'value="Polite"' in answer.text
    answer = client.post("/chains/new", data=_classic(ids, prompts=ids["pairs"]), headers=PARTIAL)
    assert answer.status_code == 422 and "holds preference rows" in answer.text and "<html" not in answer.text
    assert re.search(r'<select id="f-prompts"[^>]*aria-invalid="true"', answer.text)
    answer = client.post("/chains/new", data=_classic(ids, tuner="nothing"))
    assert answer.status_code == 422 and "There is no tuner" in answer.text
    assert all_runs(stack) == []


def test_the_classic_chain_is_shown_as_yaml_and_started_from_it(stack: Stack, client: TestClient) -> None:
    ids = start(stack)
    text = client.post("/chains/new", data=_classic(ids, do="yaml")).text
    shown = re.search(r"<textarea[^>]*>(.*?)</textarea>", text, re.DOTALL)
    assert shown and all_runs(stack) == []
    written = shown[1].replace("&#34;", '"').replace("&#39;", "'")
    assert "checkpoint: $1" in written and "checkpoint: $2" in written and 'value="yaml"' in text
    written = written.replace(ids["pairs"], "pairs").replace(ids["model"], "tiny").replace("name: Polite", "name: By name")
    answer = client.post("/chains/new", data={"way": "yaml", "yaml": written})
    assert answer.status_code == 303, answer.text
    told = now_is(stack, answer.headers["location"].removeprefix("/chains/"))
    assert told["name"] == "By name" and told["steps"][1]["request"]["dataset"] == ids["pairs"]


NO_CHAINS = [
    ("", "Paste the steps first"),
    ("steps: [", "not valid YAML in line"),
    ("- a", "must hold names and values"),
    ("steps: &a [1]\nmore: *a", "References"),
    ("steps: 3", "steps: Must be a list"),
    ("steps:\n - method: sft\n - method: sft", "steps.0.checkpoint: This is needed"),
    ("steps: [1, 2]\nname: x", "steps.0"),
    ("stepps: []", "stepps"),
    ("steps:\n - {method: sft, checkpoint: tiny, dataset: answers}\n - {method: dpo, checkpoint: $1, dataset: answers}", "Step 2: "),
    ("steps:\n - {method: sft, checkpoint: none, dataset: answers}\n - {method: dpo, checkpoint: $1, dataset: pairs}", "Step 1: "),
]


def test_yaml_that_is_no_chain_is_refused_in_words(stack: Stack, client: TestClient) -> None:
    start(stack)
    for text, words in NO_CHAINS:
        answer = client.post("/chains/new", data={"way": "yaml", "yaml": text})
        assert answer.status_code == 422 and words in answer.text, text
    assert all_runs(stack) == []


def test_the_plan_has_the_figures_of_the_first_step_and_what_stands_in_the_way(stack: Stack, client: TestClient) -> None:
    ids = start(stack)
    text = client.post("/chains/new/plan", data=_classic(ids), headers=PARTIAL).text
    assert "All 3 steps were checked" in text and "<dt>Learning rate</dt>" in text and "<html" not in text
    text = client.post("/chains/new/plan", data=_classic(ids, prompts="")).text
    assert "Choose prompts to answer." in text and "<dt>" not in text
    text = client.post("/chains/new/plan", data={"way": "yaml", "yaml": "steps: 1"}).text
    assert "Must be a list" in text
    assert all_runs(stack) == []


def test_a_chain_shows_its_steps_while_they_move_and_stops_asking_when_it_is_over(stack: Stack, client: TestClient) -> None:
    chain_id, _ = made(stack)
    url = f"/chains/{chain_id}"
    text = client.get(url).text
    assert "step 1 of 3" in text and f'hx-get="{url}/live"' in text and "what step 1 makes" in text and text.count('<li class="card"') == 3
    with stack.database.write() as session:
        run = finish(session)
    service.advance(stack.database)
    part = client.get(f"{url}/live", headers=PARTIAL).text
    assert "<html" not in part and "step 2 of 3" in part and f'href="/runs/{run.id}"' in part and "<dt>Loss</dt>" in part
    assert f'hx-get="{url}/row"' in client.get("/chains").text
    assert "reward<span" in client.get(f"{url}/row", headers=PARTIAL).text
    client.post(f"{url}/cancel")
    text = client.get(url).text
    assert f'hx-get="{url}/live"' not in text and f'action="{url}/delete"' in text and "cancelled" in text
    assert f'hx-get="{url}/row"' not in client.get("/chains").text
    assert client.post(f"{url}/delete").headers["location"] == "/chains"
    assert client.get(url).status_code == 404


def test_the_page_of_a_run_says_which_step_it_is(stack: Stack, client: TestClient) -> None:
    chain_id, _ = made(stack)
    text = client.get(f"/runs/{all_runs(stack)[0].id}").text
    assert f'href="/chains/{chain_id}"' in text and "step 1 of 3 of the chain RLHF" in text


def test_a_paused_chain_says_why_and_goes_on_by_a_button_or_with_other_settings(stack: Stack, client: TestClient) -> None:
    chain_id, ids = made(stack)
    url = f"/chains/{chain_id}"
    with stack.database.write() as session:
        fail(session)
    text = client.get(url).text
    assert "Step 1 failed: The loss was no number." in text and f'action="{url}/continue"' in text and "method: sft" in text
    assert "The loss was no number" in client.get("/chains").text
    wrong = f"method: sft\ncheckpoint: tiny\ndataset: {ids['pairs']}"
    answer = client.post(f"{url}/continue", data={"step": wrong})
    assert answer.status_code == 422 and "holds preference rows" in answer.text and "dataset: ds_" in answer.text
    assert now_is(stack, chain_id)["status"] == "paused"
    answer = client.post(f"{url}/continue", data={"step": "[1"})
    assert answer.status_code == 422 and "not valid YAML" in answer.text
    assert client.post(f"{url}/continue", data={"step": "method: sft\ncheckpoint: tiny\ndataset: answers\nseed: 3"}).status_code == 303
    assert [run.seed for run in all_runs(stack)] == [42, 3] and statuses(stack, chain_id)[0] == "queued"
    with stack.database.write() as session:
        fail(session)
    assert client.post(f"{url}/continue").status_code == 303
    assert statuses(stack, chain_id)[0] == "queued" and len(all_runs(stack)) == 2


def test_names_and_reasons_are_escaped(stack: Stack, client: TestClient) -> None:
    ids = start(stack)
    asked = steps(ids)
    with stack.database.write() as session:
        chain_id = add(session, stack, [{**asked[0], "notes": "<b>"}, *asked[1:]], name="<script>alert(1)</script>")
        fail(session, "<img src=x>")
    for path in ("/chains", f"/chains/{chain_id}", f"/runs/{all_runs(stack)[0].id}"):
        text = client.get(path).text
        assert "<script>alert" not in text and "<img src=x" not in text and "&lt;script&gt;" in text, path


def test_a_viewer_looks_and_changes_nothing(stack: Stack, as_role: Callable[[str], TestClient]) -> None:
    chain_id, _ = made(stack)
    viewer = as_role("viewer")
    for path in ("/chains", f"/chains/{chain_id}", f"/chains/{chain_id}/live", f"/chains/{chain_id}/row"):
        text = viewer.get(path).text
        assert "RLHF" in text or "Supervised" in text
        assert "/cancel" not in text and "/chains/new" not in text
    assert viewer.post(f"/chains/{chain_id}/cancel").status_code == 403


def test_long_lists_come_in_pages(stack: Stack, client: TestClient) -> None:
    ids = start(stack)
    kept = ChainCreate.model_validate({"steps": steps(ids)}).model_dump()["steps"]
    with stack.database.write() as session:
        session.add_all([Chain(workspace_id=stack.workspace_id, name=f"chain {number}", steps=kept) for number in range(55)])
    text = client.get("/chains").text
    assert text.count('<tr id="row-') == 50
    older = re.search(r'href="(/chains\?after=[^"]+)"', text)
    assert older and client.get(older[1]).text.count('<tr id="row-') == 5
    assert "No older chain" in client.get("/chains?after=chain_0").text


def test_a_run_without_a_chain_says_nothing_of_one(stack: Stack, client: TestClient) -> None:
    from tests.factories import add_run

    with stack.database.write() as session:
        run_id = add_run(session, stack.workspace_id).id
        assert session.get(Run, run_id)
    assert "of the chain" not in client.get(f"/runs/{run_id}").text
