"""Looking at a dataset: search, splits, doubles and leaks, what a version changed, lengths, exports as Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.datasets import service
from app.datasets.tables import TokenCount
from tests.datasets.test_datasets import BAD, ready
from tests.datasets.test_upload import LINES, ROWS
from tests.factories import add_checkpoint, add_run

pytestmark = pytest.mark.one_stack

HTMX = {"HX-Request": "true", "HX-Request-Type": "partial"}


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_rows_are_found_by_a_text(api: TestClient, client: TestClient, work: Callable[..., None]) -> None:
    rows = [{"prompt": f"Question {n}", "completion": "answer", "note": "not shown"} for n in range(60)]
    rows[41]["completion"] = 'Das “Wetter” \\ in <b>Köln</b> "zitiert"'
    made = ready(api, work, lines(rows), name="searched")
    path = f"/api/v1/datasets/{made['id']}/search"
    for text in ("köln", "“wetter”", '"Zitiert"', "\\ in <B>"):
        hits = api.get(path, params={"q": text}).json()["data"]
        assert [hit["number"] for hit in hits] == [42], text
    assert api.get(path, params={"q": "completion"}).json() == {"data": [], "next": None}  # a name of a field is no text of a row
    first = api.get(path, params={"q": "QUESTION", "limit": 50}).json()
    assert len(first["data"]) == 50 and first["next"] == 50
    rest = api.get(path, params={"q": "question", "limit": 50, "after": first["next"]}).json()
    assert len(rest["data"]) == 10 and rest["next"] is None
    page = client.get(f"/datasets/{made['id']}?q=köln").text
    assert "<mark>Köln</mark>" in page and "&lt;b&gt;" in page and f"/datasets/{made['id']}?row=42&amp;view=chat" in page
    fragment = client.get(f"/datasets/{made['id']}/example?row=3&q=zzz", headers=HTMX).text
    assert "No row holds “zzz”." in fragment and "<html" not in fragment and "Example 3" in fragment
    assert "<html" in client.get(f"/datasets/{made['id']}/example?row=3").text


def test_a_search_that_takes_long_says_where_to_go_on(
    api: TestClient, client: TestClient, work: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ready(api, work)
    monkeypatch.setattr(service, "SEARCH_SECONDS", 0.0)
    monkeypatch.setattr(service, "_SEARCH_BYTES", 500)
    at, seen = 0, 0
    while at is not None:
        answer = api.get(f"/api/v1/datasets/{made['id']}/search", params={"q": "30?", "after": at}).json()
        assert answer["next"] is None or answer["next"] > at
        at, seen = answer["next"], seen + 1
    assert seen > 3
    assert "Search on after row" in client.get(f"/datasets/{made['id']}?q=zzz").text


def test_a_split_makes_a_version(api: TestClient, client: TestClient, work: Callable[..., None]) -> None:
    made = ready(api, work, BAD, name="mixed")
    clean = client.post(f"/datasets/{made['id']}/leave-out").headers["location"].rsplit("/", 1)[1]
    work(runs=False)
    assert 'id="split-dialog"' in client.get(f"/datasets/{clean}").text
    to = client.post(f"/datasets/{clean}/split", data={"share": "0.2", "seed": "7"}).headers["location"]
    work(runs=False)
    found = api.get(f"/api/v1{to}").json()
    assert (found["version"], found["eval_rows"], found["split"], found["problems"]["errors"]) == (3, 6, {"eval": 0.2, "seed": 7}, 0)
    assert found["checks"]["changes"] == {"added": 0, "removed": 0, "version": 2}
    again = client.post(f"{to}/split", data={"share": "0.2", "seed": "7"})
    assert again.status_code == 409 and "split like that already" in again.text
    assert client.post(f"{to}/split", data={"share": "2"}).status_code == 422
    none = api.post(f"/api/v1{to}/split", json={"split": None})
    work(runs=False)
    assert api.get(f"/api/v1/datasets/{none.json()['id']}").json()["eval_rows"] == 0


def test_leaks_are_counted_and_named(api: TestClient, client: TestClient, work: Callable[..., None]) -> None:
    rows = [{"prompt": f"Question {n // 2}" if n % 2 else f"  question   {n // 2} ", "completion": str(n)} for n in range(200)]
    made = ready(api, work, lines(rows), name="leaky", split='{"eval": 0.5}')
    assert made["checks"]["leaks"] > 10 and made["checks"]["duplicates"] == 0
    named = api.get(f"/api/v1/datasets/{made['id']}/problems?limit=500").json()["data"]
    leaks = [each for each in named if "for training asks the same" in each["message"]]
    assert len(leaks) == made["checks"]["leaks"] == made["problems"]["warnings"]
    line = leaks[0]["line"]
    assert f"line {line + 1 if line % 2 else line - 1} for training" in leaks[0]["message"]
    assert "named under Problems" in client.get(f"/datasets/{made['id']}").text
    fine = ready(api, work, LINES, name="fine", split='{"eval": 0.2}')
    assert fine["checks"]["leaks"] == 0 and "no prompt is on both sides" in client.get(f"/datasets/{fine['id']}").text


def test_prompts_that_two_datasets_share(api: TestClient, client: TestClient, work: Callable[..., None]) -> None:
    made = ready(api, work, LINES, name="train")
    other = ready(api, work, lines([{"prompt": "WHAT is 6  + 1?", "completion": "x"}, {"prompt": "else", "completion": "y"}]), name="test")
    found = api.get(f"/api/v1/datasets/{made['id']}/overlap", params={"with": other["id"]}).json()
    assert found == {"with": other["id"], "count": 1, "rows": [{"row": 7, "other": 1}]}
    assert api.get(f"/api/v1/datasets/{other['id']}/overlap", params={"with": made["id"]}).json()["rows"] == [{"row": 1, "other": 7}]
    fragment = client.get(f"/datasets/{made['id']}/overlap?with={other['id']}", headers=HTMX).text
    assert "1 prompt is" in fragment and f"/datasets/{made['id']}?row=7#example" in fragment and "<html" not in fragment
    assert "<h1>train and test</h1>" in client.get(f"/datasets/{made['id']}/overlap?with={other['id']}").text
    (service.storage.path(f"datasets/{other['id']}") / service.KEYS).unlink()
    assert api.get(f"/api/v1/datasets/{made['id']}/overlap", params={"with": other["id"]}).status_code == 409


def test_a_version_says_what_it_changed(api: TestClient, client: TestClient, work: Callable[..., None]) -> None:
    ready(api, work, LINES, name="grown")
    second = ready(api, work, lines([*ROWS[3:], ROWS[5], {"prompt": "new", "completion": "row"}]), name="grown")
    assert second["checks"]["changes"] == {"added": 2, "removed": 3, "version": 1}
    assert second["checks"]["duplicates"] == 1
    page = client.get(f"/datasets/{second['id']}").text
    assert '<span class="plus">+2</span> <span class="minus">−3</span>' in page
    assert "Characters per example" in page and "As a table" in page and "characters</td>" in page


def test_what_needs_a_dataset_is_named_when_it_is_deleted(
    api: TestClient, client: TestClient, work: Callable[..., None], stack: Any
) -> None:
    made = ready(api, work)
    with stack.database.write() as session:
        for number in range(5):
            add_run(session, stack.workspace_id, dataset_id=made["id"], name=f"run {number}")
    answer = client.post(f"/datasets/{made['id']}/delete")
    assert answer.status_code == 409 and "used by 5 runs: “run 4”, “run 3”, “run 2” and more. Delete those first." in answer.text
    assert client.get(f"/datasets/{made['id']}").status_code == 200


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        [{"messages": [{"role": "user", "content": "=1"}, {"role": "assistant", "content": "ü"}]}],
        [{"prompt": "p", "completion": "c", "label": True}, {"prompt": "p2", "completion": "c", "label": False}],
        [{"text": "t", "label": 1}, {"text": "u", "label": "one"}],
        [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}],
    ],
)
def test_parquet_holds_what_the_rows_hold(api: TestClient, work: Callable[..., None], rows: list[dict[str, Any]]) -> None:
    import pyarrow.parquet as pq

    made = ready(api, work, lines(rows), name="p")
    answer = api.get(f"/api/v1/datasets/{made['id']}/export?format=parquet")
    assert answer.status_code == 200 and answer.headers["content-disposition"].endswith("p-1.parquet")
    back = pq.read_table(io.BytesIO(answer.content)).to_pylist()
    known = [json.loads(line) for line in api.get(f"/api/v1/datasets/{made['id']}/export").text.splitlines()]
    plain = [{name: value if isinstance(value, str) else json.loads(json.dumps(value)) for name, value in row.items()} for row in known]
    kinds = {name: {type(row[name]) for row in plain} for name in plain[0]}

    def cell(name: str, value: Any) -> Any:
        return value if len(kinds[name]) == 1 or isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    expected = [{name: cell(name, value) for name, value in row.items()} for row in plain]
    assert back == expected


def test_the_list_says_what_there_is_to_know(client: TestClient, api: TestClient, work: Callable[..., None], stack: Any) -> None:
    made = ready(api, work, BAD, name="listed")
    with stack.database.write() as session:
        add_run(session, stack.workspace_id, dataset_id=made["id"])
        add_run(session, stack.workspace_id, eval_dataset_id=made["id"])
        checkpoint = add_checkpoint(session, stack.workspace_id)
        session.add(TokenCount(dataset_id=made["id"], checkpoint_id=checkpoint.id, status="ready", tokens=1_234_567))
    row = client.get(f"/datasets/{made['id']}/row").text
    for words in ("1.23 M", "2 errors", "2 runs"):
        assert words in row and words in client.get("/datasets?q=listed").text, words


def test_a_split_of_made_data_remembers_the_recipe(api: TestClient, client: TestClient, work: Callable[..., None]) -> None:
    made = api.post("/api/v1/recipes/arithmetic/runs", json={"name": "sums", "rows": 60}).json()["id"]
    work(runs=False)
    split = api.post(f"/api/v1/datasets/{made}/split", json={"split": {"eval": 0.2}}).json()["id"]
    work(runs=False)
    found = api.get(f"/api/v1/datasets/{split}").json()
    assert (found["status"], found["eval_rows"], found["lineage"]["recipe"]) == ("ready", 12, "arithmetic")
    assert "recipe <b>arithmetic</b>" in client.get(f"/datasets/{split}").text
    assert api.post(f"/api/v1/datasets/{split}/map", json={"mapping": {"text": "prompt"}}).status_code == 409
