"""Runs side by side over HTTP: REST and page agree, best is the right way round, a deleted run is named, the address holds all."""

from __future__ import annotations

import html
import math
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.accounts.tables import Workspace
from app.metrics import service as metrics
from app.runs import compare
from app.runs.tables import Run, RunSample
from tests.browser.seed import fill_workspace
from tests.conftest import Stack
from tests.factories import add_run


@pytest.fixture
def ids(stack: Stack) -> dict[str, str]:
    """Runs in every state, by a short name."""
    with stack.database.write() as session:
        ids = fill_workspace(session, stack.workspace_id, every=20)
        for name, loss, accuracy in (("r64", 0.5, 0.7), ("lr1e4", 0.4, 0.6)):
            run = session.get_one(Run, ids[name])
            run.latest = {**run.latest, "loss": loss, "exact_match": accuracy, "learning_rate": loss}
        session.get_one(Run, ids["lr1e4"]).params = {**session.get_one(Run, ids["lr1e4"]).params, "learning_rate": 1e-4}
        return ids


def facts(client: TestClient, *runs: str) -> Any:
    answer = client.get("/api/v1/runs/compare", params={"runs": ",".join(runs)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_settings_tell_what_differs(client: TestClient, ids: dict[str, str]) -> None:
    found = facts(client, ids["r64"], ids["lr1e4"])
    assert [run["id"] for run in found["runs"]] == [ids["r64"], ids["lr1e4"]]
    assert [(row["name"], row["values"]) for row in found["config"] if row["differs"]] == [("params.learning_rate", [2e-4, 1e-4])]
    text = client.get(f"/runs/compare?runs={ids['r64']},{ids['lr1e4']}").text
    assert "<code>params.learning_rate</code>" in text and "<code>params.batch_size</code>" not in text
    assert "<code>params.batch_size</code>" in client.get(f"/runs/compare?runs={ids['r64']},{ids['lr1e4']}&all=1").text


def test_best_is_least_loss_and_most_accuracy(client: TestClient, ids: dict[str, str]) -> None:
    rows = {row["name"]: row for row in facts(client, ids["r64"], ids["lr1e4"])["metrics"]}
    assert (rows["loss"]["direction"], rows["loss"]["best"], rows["loss"]["values"]) == ("down", 1, [0.5, 0.4])
    assert (rows["exact_match"]["direction"], rows["exact_match"]["best"]) == ("up", 0)
    assert (rows["learning_rate"]["direction"], rows["learning_rate"]["best"]) == (None, None)
    text = client.get(f"/runs/compare?runs={ids['r64']},{ids['lr1e4']}").text
    loss = re.search(r'<tr data-metric="loss">.*?</tr>', text, re.DOTALL)
    assert loss and '<small class="ok">-20.0 %</small>' in loss[0] and "<b>0.4000</b>" in loss[0]
    other = client.get(f"/runs/compare?runs={ids['r64']},{ids['lr1e4']}&base={ids['lr1e4']}").text
    assert '<small class="bad">+25.0 %</small>' in other


@pytest.mark.parametrize(
    ("values", "direction", "best"),
    [
        ([0.3, 0.2, None], "down", 1),
        ([0.3, "nan", 0.4], "down", 0),
        (["nan", 0.4], "down", None),
        ([0.5, 0.5], "up", None),
        ([1.0, 2.0], None, None),
        ([1.0, math.pi], "up", 1),
    ],
)
def test_the_best_of_values(values: list[Any], direction: Any, best: int | None) -> None:
    assert compare.MetricRow("x", direction, values).best == best


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("loss", "down"),
        ("eval_loss", "down"),
        ("eval_rewards/accuracies", "up"),
        ("mean_token_accuracy", "up"),
        ("rewards/margins", "up"),
        ("exact_match", "up"),
        ("grad_norm", None),
        ("memory_bytes", "down"),
    ],
)
def test_directions(name: str, direction: str | None) -> None:
    assert compare.direction(name) == direction


def test_what_is_no_number_is_null_and_told_on_the_page(client: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    with stack.database.write() as session:
        run = session.get_one(Run, ids["r64"])
        run.latest = {**run.latest, "loss": "nan"}
    rows = {row["name"]: row for row in facts(client, ids["r64"], ids["lr1e4"])["metrics"]}
    assert rows["loss"]["values"] == [None, 0.4] and rows["loss"]["best"] is None
    assert "NaN" in client.get(f"/runs/compare?runs={ids['r64']},{ids['lr1e4']}").text


def test_the_best_evaluation_is_not_the_last(client: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    with stack.database.write() as session:
        metrics.record(session, ids["r64"], attempt=1, seq=1, points=[("eval_loss", 101, 0.01)])
    rows = {row["name"]: row for row in facts(client, ids["r64"], ids["lr1e4"])["metrics"]}
    assert rows["best_eval_loss"]["values"][0] == 0.01 != rows["eval_loss"]["values"][0]


def test_runs_of_different_methods(client: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    with stack.database.write() as session:
        session.get_one(Run, ids["stopped"]).params = {"beta": 0.1}
    found = facts(client, ids["r64"], ids["stopped"], ids["queued"])
    rows = {row["name"]: row for row in found["config"]}
    assert rows["method"]["values"] == ["sft", "dpo", "dpo"]
    assert rows["params.beta"]["values"] == [None, 0.1, None] and rows["params.beta"]["differs"]
    assert client.get(f"/runs/compare?runs={ids['r64']},{ids['stopped']},{ids['queued']}").status_code == 200


def test_a_deleted_run_is_named_as_gone(client: TestClient, ids: dict[str, str]) -> None:
    client.delete(f"/api/v1/runs/{ids['tools']}")
    both = f"{ids['tools']},{ids['r64']}"
    found = facts(client, ids["tools"], ids["r64"])
    assert found["gone"] == [ids["tools"]] and [run["id"] for run in found["runs"]] == [ids["r64"]]
    answer = client.get(f"/runs/compare?runs={both}")
    assert answer.status_code == 200
    assert f"<code>{ids['tools']}</code>" in answer.text and "deleted, or of another workspace" in answer.text
    assert "Add one more run" in answer.text
    assert client.get("/runs/compare?runs=x,y").status_code == 200
    assert client.get("/runs/compare").status_code == 200


def test_how_many_can_be_compared(client: TestClient, ids: dict[str, str]) -> None:
    assert client.get("/api/v1/runs/compare", params={"runs": ids["r64"]}).status_code == 422
    assert client.get("/api/v1/runs/compare").status_code == 422
    nine = ",".join(f"run_{n}" for n in range(9))
    for path in ("/api/v1/runs/compare", "/runs/compare"):
        answer = client.get(path, params={"runs": nine})
        assert answer.status_code == 422 and "At most 8 runs" in answer.text


def test_ticks_of_the_list_lead_to_an_address_that_can_be_sent(client: TestClient, ids: dict[str, str]) -> None:
    answer = client.get("/runs/compare", params={"run": [ids["r64"], ids["lr1e4"]]})
    assert answer.status_code == 303 and answer.headers["location"] == f"/runs/compare?runs={ids['r64']},{ids['lr1e4']}"


def test_links_change_one_thing_and_keep_the_rest(client: TestClient, ids: dict[str, str]) -> None:
    a, b, c = ids["r64"], ids["lr1e4"], ids["live"]
    text = html.unescape(client.get(f"/runs/compare?runs={a},{b},{c}&base={b}&hide={c}&all=1").text)
    assert f'href="/runs/compare?runs={a},{c}&hide={c}&all=1"' in text  # without the baseline
    assert f'href="/runs/compare?runs={a},{b},{c}&base={b}&all=1"' in text  # the hidden one shown again
    assert f'href="/runs/compare?runs={a},{b},{c}&base={a}&hide={c}&all=1"' in text
    charted = re.search(r'data-runs="([^"]*)"', text) or re.search(r"data-runs='([^']*)'", text)
    assert charted and c not in text[text.index("data-runs=") : text.index("data-in-address")]


def test_a_search_finds_runs_to_add(client: TestClient, ids: dict[str, str]) -> None:
    part = {"HX-Request": "true", "HX-Request-Type": "partial"}
    text = html.unescape(client.get(f"/runs/compare?runs={ids['r64']}&find=gemma", headers=part).text)
    assert f'href="/runs/compare?runs={ids["r64"]},{ids["outcome"]}"' in text and "<html" not in text
    assert "No other run holds “zzz”" in client.get(f"/runs/compare?runs={ids['r64']}&find=zzz", headers=part).text


def test_answers_stand_side_by_side_at_the_step_asked_for(client: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    with stack.database.write() as session:
        for name, steps in (("r64", (0, 100)), ("lr1e4", (0, 50))):
            for step in steps:
                session.add(
                    RunSample(run_id=ids[name], step=step, number=0, prompt="2 + 2?", text=f"{name} at {step}", expected="4", seq=1)
                )
        session.add(RunSample(run_id=ids["r64"], step=100, number=1, prompt="only one was asked", text="yes", expected=None, seq=1))
    url = f"/runs/compare?runs={ids['r64']},{ids['lr1e4']}"
    last = client.get(url).text
    assert "r64 at 100" in last and "lr1e4 at 50" in last and last.index("2 + 2?") < last.index("only one was asked")
    early = client.get(f"{url}&step=60").text
    assert "r64 at 0" in early and "lr1e4 at 50" in early and "at 100" not in early


def test_another_workspace_sees_none_of_it(client: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    with stack.database.write() as session:
        other = Workspace(name="other")
        session.add(other)
        session.flush()
        hidden = add_run(session, other.id, name="hidden from others").id
    found = facts(client, hidden, ids["r64"])
    assert found["gone"] == [hidden] and "hidden from others" not in client.get(f"/runs/compare?runs={hidden},{ids['r64']}").text
