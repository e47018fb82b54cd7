"""The pages of datasets, as a browser without JavaScript and as htmx ask for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.datasets.test_datasets import BAD, ready
from tests.datasets.test_upload import LINES, ROWS, left, send

pytestmark = pytest.mark.one_stack

HTMX = {"HX-Request": "true", "HX-Request-Type": "partial"}


def test_empty_list_leads_on(client: TestClient) -> None:
    page = client.get("/datasets").text
    assert "No data yet" in page and 'href="/datasets/new"' in page and "Make arithmetic data" in page


def test_upload_by_form(client: TestClient, work: Callable[..., None]) -> None:
    made = send(client, to="/datasets", name="sums", split="0.1")
    assert made.status_code == 303, made.text
    to = made.headers["location"]
    waiting = client.get(to).text
    assert 'hx-trigger="every 1s"' in waiting and "Waiting for a worker" in waiting
    assert 'hx-trigger="every 1s"' in client.get(f"{to}/progress", headers=HTMX).text
    work(runs=False)
    assert client.get(f"{to}/progress", headers=HTMX).headers["hx-redirect"] == to
    page = client.get(to).text
    assert "every 1s" not in page and "No problems" in page and "27 train · 3 eval" in page and "Example 1" in page
    assert f'href="/runs/new?dataset={to.rsplit("/", 1)[-1]}"' in page
    listed = client.get("/datasets?q=sum").text
    assert "sums" in listed and "every 1s" not in listed
    assert "No dataset matches" in client.get("/datasets?q=nothing").text


def test_paste(client: TestClient, work: Callable[..., None]) -> None:
    for text in (LINES, json.dumps(ROWS)):
        files = {"file": ("", b""), "text": (None, text)}
        made = client.post("/datasets", files=files, data={"name": "pasted"})
        assert made.status_code == 303, made.text
        work(runs=False)
        assert "30" in client.get(made.headers["location"]).text


def test_refusals_come_back_with_the_form(client: TestClient, stack: Any) -> None:
    answer = send(client, b"PK\x03\x04", "rows.zip", to="/datasets")
    assert answer.status_code == 422 and "Unpack it first" in answer.text and 'name="file"' in answer.text
    nothing = client.post("/datasets", files={"file": ("", b""), "text": (None, "")})
    assert nothing.status_code == 422 and "Choose a file, or paste rows." in nothing.text
    assert left(stack) == []


def test_problems_come_first_and_are_left_out_by_one_click(client: TestClient, api: TestClient, work: Callable[..., None]) -> None:
    made = ready(api, work, BAD, name="mixed")
    page = client.get(f"/datasets/{made['id']}").text
    assert "Leave out the 2 lines" in page and "2 errors" in page and "Train on this" not in page
    assert page.index("Problems</h2>") < page.index("Example 1")
    report = client.get(f"/datasets/{made['id']}/problems.csv")
    assert report.headers["content-disposition"].endswith("problems.csv") and "32,error,completion" in report.text
    answer = client.post(f"/datasets/{made['id']}/leave-out")
    assert answer.status_code == 303
    work(runs=False)
    new = client.get(answer.headers["location"]).text
    assert "2 left out" in new and "version 1, without 2 lines" in new and "Train on this" in new
    again = client.post(f"{answer.headers['location']}/leave-out")
    assert again.status_code == 409 and "nothing to leave out" in again.text


def test_columns_are_mapped_on_the_page(client: TestClient, work: Callable[..., None]) -> None:
    text = "".join(json.dumps({"question": row["prompt"], "answer": row["completion"]}) + "\n" for row in ROWS)
    to = send(client, text, to="/datasets", name="qa").headers["location"]
    work(runs=False)
    page = client.get(to).text
    assert "Map columns" in page and "<option selected>question</option>" in page and "What is 0 + 1?" in page
    preview = client.get(f"{to}/map?map.text=answer", headers=HTMX).text
    assert "Text, as the first rows become" in preview and "<html" not in preview
    assert "make no row shape yet" in client.get(f"{to}/map?map.chosen=answer", headers=HTMX).text
    answer = client.post(f"{to}/map", data={"map.prompt": "question", "map.completion": "answer", "map.text": ""})
    assert answer.headers["location"] == to
    work(runs=False)
    assert "all usable" in client.get(to).text


def test_examples(client: TestClient, api: TestClient, work: Callable[..., None]) -> None:
    made = ready(api, work)
    first = client.get(f"/datasets/{made['id']}").text
    assert "row=2&amp;view=chat" in first and 'class="trained"' in first
    fragment = client.get(f"/datasets/{made['id']}/example?row=30&view=json", headers=HTMX).text
    assert "<html" not in fragment and "Example 30" in fragment and "row=31" not in fragment and "&#34;prompt&#34;" in fragment
    assert "Example 30" in client.get(f"/datasets/{made['id']}?row=999").text


def test_data_is_text_wherever_it_is_shown(client: TestClient, api: TestClient, work: Callable[..., None]) -> None:
    evil = '<img src=x onerror=alert(1)><div hx-get="/datasets" hx-trigger="load">'
    rows = [{"prompt": evil, "completion": evil}, {"prompt": evil, "completion": ""}]
    made = ready(api, work, "".join(json.dumps(row) + "\n" for row in rows), name=evil)
    for view in ("chat", "json"):
        assert "<img" not in client.get(f"/datasets/{made['id']}?view={view}").text
    assert "<img" not in client.get("/datasets").text


def test_viewers_look_and_change_nothing(as_role: Callable[[str], TestClient], api: TestClient, work: Callable[..., None]) -> None:
    made = ready(api, work, BAD)
    viewer = as_role("viewer")
    page = viewer.get(f"/datasets/{made['id']}").text
    assert "Problems</h2>" in page and "Leave out" not in page and "Delete" not in page
    assert viewer.post(f"/datasets/{made['id']}/leave-out").status_code == 403
    assert viewer.get("/datasets/new").status_code == 403


def test_delete(client: TestClient, api: TestClient, work: Callable[..., None]) -> None:
    made = ready(api, work)
    assert client.post(f"/datasets/{made['id']}/delete").headers["location"] == "/datasets"
    assert client.get(f"/datasets/{made['id']}").status_code == 404
