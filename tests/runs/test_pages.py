"""The pages of runs over HTTP: every tab of every state, filters, fragments, forms, and what each role may do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.runs import progress
from app.runs.tables import Run
from tests.browser.seed import fill_workspace
from tests.conftest import Stack
from tests.factories import claim_run

pytestmark = pytest.mark.one_stack

PARTIAL = {"HX-Request": "true", "HX-Request-Type": "partial"}
TABS = ("charts", "samples", "logs", "config", "checkpoints", "system", "history")


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
    older = re.search(r'href="(/runs\?[^"]*after=[^"]*)">More runs', text)
    assert older
    second = client.get(older[1].replace("&amp;", "&")).text
    assert second.count('<tr id="row-') == 11 and "First runs" in second and "More runs" not in second


def test_names_and_reasons_are_escaped(client: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    with stack.database.write() as session:
        run = session.get(Run, ids["failed"])
        assert run is not None
        run.name, run.reason, run.tags = "<script>alert(1)</script>", "<img src=x>. <b>", ["<s>"]
        run.notes = "<u>"
    own = [f"/runs/{ids['failed']}{tab}" for tab in ("", "?tab=config", f"?tab=config&against={ids['live']}", "?tab=system")]
    other = [f"/runs/compare?runs={ids['failed']},{ids['live']},<script>", "/runs?tag=<s>&q=<u>", f"/runs/new?from={ids['failed']}"]
    for path in ("/runs", *own, *other):
        text = client.get(path).text
        assert not re.search(r"<script>|<img|<s>|<u>", text), path


def test_before_and_after_with_wilson_intervals(client: TestClient, ids: dict[str, str]) -> None:
    text = client.get(f"/runs/{ids['outcome']}").text
    assert "on 200 held-out prompts" in text
    assert "1.5 %" in text and "72.0 %" in text and "65.4 % to 77.8 %" in text and "+70.5" in text


def test_a_failed_run_says_why_and_offers_to_go_on(client: TestClient, ids: dict[str, str]) -> None:
    text = client.get(f"/runs/{ids['failed']}").text
    assert "The GPU ran out of memory at step 388: 2.31 GB more were needed." in text
    assert "Lower the batch size to 8" in text and "Retry from the last checkpoint" in text
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
    mine = {"name": "my name", "tags": "mine", "notes": "my long thoughts", "version": "1"}
    for headers in (PARTIAL, {}):
        refused = client.post(url, data=mine, headers=headers)
        assert refused.status_code == 409 and ("<html" in refused.text) == (not headers)
        for words in ('value="my name"', 'value="mine"', ">my long thoughts</textarea>", "new name", "a, b", "<ins>why</ins>", 'value="2"'):
            assert words in refused.text, words
    emptied = client.post(url, data={**mine, "tags": "", "version": "1"}, headers=PARTIAL)
    assert emptied.status_code == 409 and 'name="tags" value=""' in emptied.text
    assert client.post(url, data={**mine, "tags": "", "version": "2"}).status_code == 303
    assert 'href="/runs?tag=' not in client.get(f"/runs/{ids['live']}").text  # emptied tags are gone
    assert "my long thoughts" in client.get(f"/runs/{ids['live']}").text


def test_a_name_is_changed_alone(client: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    url = f"/runs/{ids['live']}/edit"
    done = client.post(url, data={"name": "renamed", "version": "1", "tab": "logs"}, headers=PARTIAL)
    assert done.headers["hx-redirect"] == f"/runs/{ids['live']}?tab=logs"
    with stack.database.read() as session:
        run = session.get_one(Run, ids["live"])
        assert (run.name, run.tags) == ("renamed", ["lora-r32"])
    refused = client.post(url, data={"name": "typed by another", "version": "1"}, headers=PARTIAL)
    assert refused.status_code == 409 and 'value="typed by another"' in refused.text and "called “renamed” now" in refused.text
    for name, words in ((" ", "at least one visible"), ("x" * 300, "at most 200 characters; this one has 300")):
        answer = client.post(url, data={"name": name, "version": "2"}, headers=PARTIAL)
        assert answer.status_code == 422 and words in answer.text and f'value="{name}"' in answer.text


def test_rest_tells_what_stands_there_after_a_conflict(client: TestClient, ids: dict[str, str]) -> None:
    client.patch(f"/api/v1/runs/{ids['live']}", json={"name": "theirs", "version": 1})
    answer = client.patch(f"/api/v1/runs/{ids['live']}", json={"name": "mine", "version": 1})
    assert answer.status_code == 409
    assert answer.json()["error"]["details"] | {"name": "theirs", "version": 2} == answer.json()["error"]["details"]


def test_a_finished_run_says_how_it_went_and_what_next(client: TestClient, ids: dict[str, str]) -> None:
    text = client.get(f"/runs/{ids['outcome']}").text
    card = text[text.index('class="card summary"') : text.index("</section>", text.index('class="card summary"'))]
    for words in (
        "Best eval loss",
        "Final train loss",
        "Training time",
        "Tokens",
        "/playground?checkpoint=",
        "/models/",
        "best checkpoint, step 900",
    ):
        assert words in card, words
    assert f"parent={ids['outcome']}" in card and f"/runs/compare?runs={ids['outcome']}" in card
    assert "card summary" not in client.get(f"/runs/{ids['live']}").text
    assert "card summary" not in client.get(f"/runs/{ids['failed']}").text


def test_the_log_is_searched_and_lines_are_linked(client: TestClient, ids: dict[str, str]) -> None:
    url = f"/runs/{ids['live']}?tab=logs"
    text = client.get(f"{url}&q=PADDING").text
    assert "no padding token" in text and "allocator" not in text and "1 line holds “PADDING”" in text
    assert "0 lines hold" in client.get(f"{url}&q=%25").text
    link = re.search(r'href="(/runs/\w+\?tab=logs&amp;at=1\.3)#L1\.3"', client.get(url).text)
    assert link
    around = client.get(link[1].replace("&amp;", "&")).text
    assert 'id="L1.3"' in around and "around one line" in around and 'id="L1.60"' in around
    assert client.get(f"{url}&at=nonsense").status_code == 422
    found = client.get(f"/api/v1/runs/{ids['live']}/logs?q=padding").json()["data"]
    assert [line["level"] for line in found] == ["warning"]


def test_the_config_beside_that_of_another_run(client: TestClient, ids: dict[str, str]) -> None:
    text = client.get(f"/runs/{ids['outcome']}?tab=config&against={ids['lr1e4']}").text
    assert "Differences to" in text and "<code>tuner</code>" in text and "<code>params.batch_size</code>" not in text
    assert "does not exist any more" in client.get(f"/runs/{ids['outcome']}?tab=config&against=gone").text
    for words in ("luthier run create", "--fail-with-body", "$LUTHIER_TOKEN", "-p learning_rate=0.0002"):
        assert words in text, words


def test_the_machine_has_a_tab(client: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    with stack.database.write() as session:
        mine = claim_run(session)
        progress.begin(session, mine, 0)
        progress.record(session, mine, progress.Batch(points=[("system/cpu_percent", 1, 40.0)], resolved={"versions": {"torch": "2.13.0"}}))
    text = client.get(f"/runs/{mine.id}?tab=system").text
    assert "data-system" in text and "<dd>w</dd>" in text and "2.13.0" in text


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
    assert "Nothing holds" in client.get("/palette?q=zzz").text


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
