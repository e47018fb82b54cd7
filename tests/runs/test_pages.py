"""The pages of runs over HTTP: every tab of every state, filters, fragments, forms, and what each role may do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.runs.tables import Run
from tests.browser.seed import fill_workspace
from tests.conftest import Stack

PARTIAL = {"HX-Request": "true", "HX-Request-Type": "partial"}
TABS = ("charts", "samples", "logs", "config", "checkpoints", "history")


@pytest.fixture
def ids(stack: Stack) -> dict[str, str]:
    """Runs in every state, by a short name."""
    with stack.database.write() as session:
        return fill_workspace(session, stack.workspace_id, every=20)


def test_every_tab_of_every_state_can_be_shown(client: TestClient, ids: dict[str, str]) -> None:
    for run_id in ids.values():
        for tab in TABS:
            answer = client.get(f"/runs/{run_id}?tab={tab}")
            assert answer.status_code == 200, answer.text
            assert f'href="/runs/{run_id}?tab={tab}" aria-current="page"' in answer.text or tab == "charts"
            part = client.get(f"/runs/{run_id}?tab={tab}", headers=PARTIAL)
            assert part.status_code == 200 and "<html" not in part.text


def test_an_empty_workspace_says_how_to_begin(client: TestClient) -> None:
    text = client.get("/runs").text
    assert "No run yet" in text and "Try the sample" in text and 'href="/datasets/new"' in text


def test_the_list_filters_and_counts(client: TestClient, ids: dict[str, str]) -> None:
    text = client.get("/runs").text
    assert text.count('<tr id="row-') == len(ids)
    assert "The GPU ran out of memory" in text and "next in line" in text
    found = client.get("/runs?q=lr1e4", headers=PARTIAL).text
    assert found.count('<tr id="row-') == 1 and "<html" not in found and 'hx-target="#segments"' in found
    assert "No run matches" in client.get("/runs?q=%25").text  # a percent sign is no wildcard
    assert client.get("/runs?status=failed").text.count('<tr id="row-') == 1
    assert client.get("/runs?tag=lora-r16").text.count('<tr id="row-') == 1


def test_long_lists_come_in_pages(client: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    with stack.database.write() as session:
        first = session.get(Run, ids["live"])
        assert first is not None
        common: dict[str, Any] = {"workspace_id": first.workspace_id, "method": "sft", "tuner": "lora", "dataset_id": first.dataset_id}
        session.add_all([Run(name=f"run {number}", checkpoint_id=first.checkpoint_id, **common) for number in range(60)])
    text = client.get("/runs?status=queued").text
    assert text.count('<tr id="row-') == 50
    older = re.search(r'href="(/runs\?[^"]*after=[^"]*)">Older runs', text)
    assert older
    second = client.get(older[1].replace("&amp;", "&")).text
    assert second.count('<tr id="row-') == 11 and "Newest runs" in second and "Older runs" not in second


def test_names_and_reasons_are_escaped(client: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    with stack.database.write() as session:
        run = session.get(Run, ids["failed"])
        assert run is not None
        run.name, run.reason, run.tags = "<script>alert(1)</script>", "<img src=x>. <b>", ["<i>"]
        run.notes = "<u>"
    for path in ("/runs", f"/runs/{ids['failed']}", f"/runs/{ids['failed']}?tab=config", "/palette"):
        text = client.get(path).text
        assert not re.search(r"<script>|<img|<i>|<u>", text), path


def test_before_and_after_with_wilson_intervals(client: TestClient, ids: dict[str, str]) -> None:
    text = client.get(f"/runs/{ids['outcome']}").text
    assert "on 200 held-out prompts" in text
    assert "1.5 %" in text and "72.0 %" in text and "65.4 % to 77.8 %" in text and "+70.5" in text


def test_a_failed_run_says_why_and_offers_to_go_on(client: TestClient, ids: dict[str, str]) -> None:
    text = client.get(f"/runs/{ids['failed']}").text
    assert "The GPU ran out of memory at step 388: 2.31 GB more were needed." in text
    assert "Lower the batch size to 8" in text and "Retry from step 350" in text
    answer = client.post(f"/runs/{ids['failed']}/resume")
    assert answer.status_code == 303 and answer.headers["location"] == f"/runs/{ids['failed']}"
    assert 'badge queued">queued' in client.get(f"/runs/{ids['failed']}").text


def test_steering_by_htmx_answers_the_live_block(client: TestClient, ids: dict[str, str]) -> None:
    answer = client.post(f"/runs/{ids['live']}/pause", headers=PARTIAL)
    assert answer.status_code == 200
    assert 'hx-target="#live"' in answer.text and "pausing" in answer.text and 'hx-target="#run-actions"' in answer.text
    refused = client.post(f"/runs/{ids['live']}/resume", headers=PARTIAL)
    assert refused.status_code == 409 and "still writing its checkpoint" in refused.text and "<html" not in refused.text


def test_edit_and_two_editors(client: TestClient, ids: dict[str, str]) -> None:
    url = f"/runs/{ids['live']}/edit"
    assert client.post(url, data={"name": "new name", "tags": "a, b", "notes": "why", "version": "1"}).status_code == 303
    text = client.get(f"/runs/{ids['live']}").text
    assert "<h1>new name</h1>" in text and ">b</a>" in text and "why" in text
    assert client.post(url, data={"name": "other", "version": "1"}).status_code == 409
    assert client.post(url, data={"name": " ", "version": "2"}).status_code == 422


def test_delete_one_and_several(client: TestClient, ids: dict[str, str]) -> None:
    assert client.post(f"/runs/{ids['tools']}/delete").headers["location"] == "/runs"
    assert client.get(f"/runs/{ids['tools']}").status_code == 404
    both = {"run": [ids["r64"], ids["live"]]}
    assert client.post("/runs/delete", data=both).status_code == 409  # one of them is running, so neither goes
    assert client.get(f"/runs/{ids['r64']}").status_code == 200
    assert client.post("/runs/delete", data={"run": [ids["r64"], ids["lr1e4"]]}).status_code == 303
    assert client.get(f"/runs/{ids['lr1e4']}").status_code == 404


def test_metrics_as_csv(client: TestClient, ids: dict[str, str]) -> None:
    lines = client.get(f"/runs/{ids['outcome']}/metrics.csv?name=loss").text.splitlines()
    assert lines[0] == "metric,step,value" and len(lines) == 1 + 45 + 2
    assert "loss,610,nan" in lines and "loss,611,inf" in lines
    assert math.isfinite(float(lines[1].split(",")[2]))
    whole = client.get(f"/runs/{ids['outcome']}/metrics.csv").text
    assert "eval_loss,100," in whole and "exact_match,0,0.015" in whole


def test_logs_as_text(client: TestClient, ids: dict[str, str]) -> None:
    answer = client.get(f"/runs/{ids['live']}/logs.txt")
    assert "WARNING" in answer.text and "attachment" in answer.headers["content-disposition"]


def test_the_palette_finds_pages_and_runs(client: TestClient, ids: dict[str, str]) -> None:
    assert 'href="/datasets"' in client.get("/palette").text
    found = client.get("/palette?q=gemma").text
    assert f'href="/runs/{ids["outcome"]}"' in found and "/datasets" not in found
    assert "No page and no run" in client.get("/palette?q=zzz").text


def test_a_viewer_looks_and_changes_nothing(as_role: Callable[[str], TestClient], ids: dict[str, str]) -> None:
    viewer = as_role("viewer")
    text = viewer.get(f"/runs/{ids['live']}").text
    assert 'class="reads-only"' in text and 'id="run-actions"' not in text and 'id="edit"' not in text
    assert "New run</a>" not in viewer.get("/runs").text
    assert viewer.get("/runs/new").status_code == 403
    for action in ("pause", "resume", "cancel", "delete", "edit"):
        assert viewer.post(f"/runs/{ids['live']}/{action}").status_code == 403
    rater = as_role("rater")
    assert rater.get("/runs").status_code == 403 and rater.get(f"/runs/{ids['live']}").status_code == 403


def test_strangers_see_nothing(anonymous: TestClient, ids: dict[str, str]) -> None:
    for path in ("/runs", f"/runs/{ids['live']}", "/palette", f"/runs/{ids['live']}/metrics.csv", f"/runs/{ids['live']}/logs.txt"):
        answer = anonymous.get(path)
        assert answer.status_code == 401 and "qwen3" not in answer.text
