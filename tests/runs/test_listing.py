"""The list of runs over HTTP: orders that page without doubles or gaps, filters as chips, columns, and what is done to several at once."""

from __future__ import annotations

import html
import random
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.database import new_id
from app.runs import bulk, listing, service
from app.runs.schemas import ACTIVE, STATUSES
from app.runs.tables import Run, RunLog
from tests.browser.seed import fill_workspace
from tests.conftest import Stack
from tests.factories import add_run

PARTIAL = {"HX-Request": "true", "HX-Request-Type": "partial"}


@pytest.fixture
def ids(stack: Stack) -> dict[str, str]:
    """Runs in every state, by a short name."""
    with stack.database.write() as session:
        return fill_workspace(session, stack.workspace_id, every=20)


@pytest.fixture
def many(stack: Stack) -> int:
    """130 runs with all sorts of values: equal ones, missing ones, such that are no numbers."""
    chance = random.Random(3)
    with stack.database.write() as session:
        first = add_run(session, stack.workspace_id, name="Alpha", status="running")
        common: dict[str, Any] = {
            name: getattr(first, name) for name in ("workspace_id", "method", "tuner", "checkpoint_id", "dataset_id", "params")
        }
        for number in range(129):
            latest = chance.choice([{}, {"loss": "nan"}, {"loss": round(chance.random(), 1)}, {"loss": 1, "eval_loss": chance.random()}])
            fields = {"status": chance.choice(STATUSES), "latest": latest, "created_at": 1000.0 + number // 3}
            session.add(Run(id=new_id("run"), name=chance.choice(["beta", "Gamma|x", "ähm", f"run {number}"]), **common, **fields))
    return 130


def shown(text: str) -> list[str]:
    """Ids of the rows of a page."""
    return re.findall(r'<tr id="row-(\w+)"', text)


@pytest.mark.parametrize("sort", ["", *(sign + name for name in listing.SORTS for sign in ("", "-"))])
def test_every_order_pages_through_all_runs_once(client: TestClient, stack: Stack, many: int, sort: str) -> None:
    seen: list[str] = []
    url = f"/runs?sort={sort}"
    for _ in range(5):
        text = client.get(url).text
        seen += shown(text)
        more = re.search(r'href="(/runs\?[^"]*after=[^"]*)">More runs', text)
        if not more:
            break
        url = html.unescape(more[1])
    assert len(seen) == len(set(seen)) == many
    with stack.database.read() as session:
        runs = [session.get_one(Run, run_id) for run_id in seen]
    if sort in ("", "status"):
        active = [run.status in ACTIVE for run in runs]
        assert sort or active == sorted(active, reverse=True)
    if sort.endswith("loss"):
        values = [run.latest["loss"] for run in runs if isinstance(run.latest.get("loss"), int | float)]
        assert values == sorted(values, reverse=sort.startswith("-"))
        assert all(isinstance(run.latest.get("loss"), int | float) for run in runs[: len(values)])  # those without come last


def test_a_cursor_holds_while_runs_come_and_move(client: TestClient, stack: Stack, many: int) -> None:
    text = client.get("/runs?sort=-loss").text
    before, more = shown(text), re.search(r'href="(/runs\?[^"]*after=[^"]*)">More runs', text)
    assert more
    with stack.database.write() as session:
        session.get_one(Run, before[-1]).latest = {"loss": 99.0}  # the run the cursor stands on moves to the front
        run = session.get_one(Run, before[0])
        add_run(session, stack.workspace_id, name="new", checkpoint_id=run.checkpoint_id, dataset_id=run.dataset_id, latest={"loss": 98.0})
    assert not set(before) & set(shown(client.get(html.unescape(more[1])).text))


@pytest.mark.parametrize("after", ["nonsense", "nan|x", "1e999|x", "|", "x|y"])
def test_a_made_up_cursor_breaks_nothing(client: TestClient, ids: dict[str, str], after: str) -> None:
    for sort in ("", "loss", "name", "-started"):
        assert client.get("/runs", params={"sort": sort, "after": after}).status_code in (200, 422)


def test_only_known_orders_are_taken(client: TestClient, ids: dict[str, str]) -> None:
    plain = shown(client.get("/runs").text)
    for sort in ("params", "-id;drop", "latest", "--loss"):
        assert shown(client.get("/runs", params={"sort": sort}).text) == plain


def test_active_runs_stand_on_top(client: TestClient, ids: dict[str, str]) -> None:
    assert set(shown(client.get("/runs").text)[:2]) == {ids["live"], ids["fresh"]}


def test_each_filter_is_a_chip_that_can_be_taken_away(client: TestClient, ids: dict[str, str]) -> None:
    for query, names in {
        "method=dpo": {"stopped", "queued"},
        "tuner=full": {"outcome"},
        "model=gemma-3-1b-it": {"outcome"},
        "dataset=intent-router": {"failed", "outcome"},
        "tag=lora-r16": {"lr1e4"},
        "method=sft&dataset=support-tickets&status=succeeded": {"r64", "lr1e4"},
    }.items():
        text = client.get(f"/runs?{query}&sort=name").text
        assert set(shown(text)) == {ids[name] for name in names}, query
        name, _, value = query.partition("&")[0].partition("=")
        chip = re.search(rf'<a class="chip" href="([^"]*)" aria-label="Remove the filter {name}: {value}"', text)
        assert chip and f"{name}=" not in chip[1] and "sort=name" in chip[1]
        assert f'<option value="{value}" selected>' in text
    part = client.get("/runs?tag=lora-r16", headers=PARTIAL)
    assert 'hx-target="#asked"' in part.text and part.headers["hx-replace-url"] == "/runs?tag=lora-r16"


def test_the_answer_to_no_match_says_what_was_asked(client: TestClient, ids: dict[str, str]) -> None:
    text = client.get("/runs?method=dpo&tag=nothing&status=failed").text
    assert "There is no run that is failed with the method dpo and with the tag nothing." in html.unescape(re.sub(r"\s+", " ", text))
    assert "Clear filters" in text


def test_columns_are_kept_in_a_cookie(client: TestClient, ids: dict[str, str]) -> None:
    assert 'data-columns="method model progress loss eval time started"' in client.get("/runs").text
    answer = client.post("/runs/columns", data={"column": ["tuner", "loss", "<x>"], "back": "x"})
    assert answer.status_code == 303
    assert 'data-columns="tuner loss"' in client.get("/runs").text


def test_tags_are_put_on_and_taken_off(client: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    both = [ids["r64"], ids["lr1e4"]]
    answer = client.post("/runs/tag", data={"run": both, "tag": "keep, good one", "act": "add"}, headers=PARTIAL)
    assert answer.status_code == 200 and "2 runs" in answer.headers["hx-trigger"] and "runs-changed" in answer.headers["hx-trigger"]
    assert set(shown(client.get("/runs?tag=good one").text)) == set(both)
    plain = client.post("/runs/tag", data={"run": both[:1], "tag": "keep", "act": "remove", "back": "/runs?q=x"})
    assert plain.status_code == 303 and plain.headers["location"] == "/runs?q=x"
    with stack.database.read() as session:
        assert session.get_one(Run, both[0]).tags == ["lora-r64", "good one"]
    assert client.post("/runs/tag", data={"run": both, "tag": " "}).status_code == 422
    assert client.post("/runs/tag", data={"run": both, "tag": ",".join(f"t{n}" for n in range(20))}).status_code == 422
    assert client.post("/runs/tag", data={"run": [*both, "nope"], "tag": "all or none"}).status_code == 404
    assert "all or none" not in client.get("/runs").text


def test_a_tag_with_letters_of_all_kinds_is_found(client: TestClient, ids: dict[str, str]) -> None:
    for tag in ('a "quoted" one', "größer", "日本", "100%", "under_score"):
        client.post("/runs/tag", data={"run": ids["tools"], "tag": tag})
        assert shown(client.get("/runs", params={"tag": tag}).text) == [ids["tools"]], tag


def test_several_are_cancelled_or_deleted_at_once(client: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    assert client.post("/runs/cancel", data={"run": [ids["live"], ids["queued"], ids["r64"]]}).status_code == 303
    with stack.database.read() as session:
        assert [session.get_one(Run, ids[name]).status for name in ("live", "queued", "r64")] == ["stopping", "cancelled", "succeeded"]
    refused = client.post("/runs/cancel", data={"run": [ids["r64"]]}, headers=PARTIAL)
    assert refused.status_code == 409 and "ended already" in refused.text
    gone = client.post("/runs/delete", data={"run": [ids["r64"], ids["lr1e4"]]}, headers=PARTIAL)
    assert gone.status_code == 200 and "Deleted 2 runs" in gone.headers["hx-trigger"]
    assert client.post("/runs/delete", data={"run": ["x"] * 1 + [f"x{n}" for n in range(250)]}).status_code == 422


def test_the_way_back_stays_in_the_studio(client: TestClient, ids: dict[str, str]) -> None:
    for back in ("https://elsewhere.example/x", "//elsewhere.example", "javascript:alert(1)", "/settings"):
        answer = client.post("/runs/tag", data={"run": ids["r64"], "tag": "x", "back": back})
        assert answer.headers["location"] == "/runs"


def test_rest_filters_too(client: TestClient, ids: dict[str, str]) -> None:
    def found(query: str) -> set[str]:
        return {run["id"] for run in client.get(f"/api/v1/runs?{query}").json()["data"]}

    assert found("tuner=full") == {ids["outcome"]} == found("model=gemma-3-1b-it")
    assert found("dataset=intent-router") == {ids["failed"], ids["outcome"]}


def test_what_is_done_to_several_runs_locks_them_in_one_order(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with stack.database.write() as session:
        ids = [add_run(session, stack.workspace_id, name=f"run {number}").id for number in range(3)]
    locked: list[str] = []
    real = {name: getattr(bulk.service, name) for name in ("get", "cancel", "delete")}

    def noting(name: str) -> Any:
        def note(session: Any, workspace_id: str, run_id: str, **more: Any) -> Any:
            locked.append(run_id)
            return real[name](session, workspace_id, run_id, **more)

        return note

    for name in real:
        monkeypatch.setattr(bulk.service, name, noting(name))
    for chosen in (ids, ids[::-1], [ids[1], ids[2], ids[0], ids[1]]):
        for act in (lambda s, c: bulk.tag(s, stack.workspace_id, c, "x"), lambda s, c: bulk.cancel(s, stack.workspace_id, c)):
            locked.clear()
            with stack.database.write() as session:
                act(session, chosen)
                session.rollback()
            assert list(dict.fromkeys(locked)) == sorted(ids, reverse=True)
    locked.clear()
    with stack.database.write() as session:
        bulk.cancel(session, stack.workspace_id, ids)
        locked.clear()
        assert bulk.delete(session, stack.workspace_id, ids) == 3
    assert list(dict.fromkeys(locked)) == sorted(ids, reverse=True)


def test_a_search_minds_no_case_in_any_script(stack: Stack) -> None:
    with stack.database.write() as session:
        run = add_run(session, stack.workspace_id, name="ÄHNLICHE Łódź", status="running")
        session.add(RunLog(run_id=run.id, seq=1, number=0, at=1.0, attempt=1, level="info", text="GRÖSSE der Батча"))
    with stack.database.read() as session:
        for q in ("ähnlich", "Ähnlich", "łÓDŹ"):
            assert [each.id for each in listing.list_runs(session, stack.workspace_id, q=q)] == [run.id], q
        for q in ("größe", "батча", "GRÖSSE"):
            found = service.logs(session, stack.workspace_id, run.id, q=q)
            assert len(found) == (q != "größe"), q
