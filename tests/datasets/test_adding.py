"""Adding data: what is pasted or dropped is recognised, shown as it would be read, and mapped, before anything is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.datasets import glance
from tests.datasets.test_upload import LINES, ROWS, left, send

HTMX = {"HX-Request": "true", "HX-Request-Type": "partial"}
TABLE = 'question,answer\nWhat is 2 + 2?,4\n"a, b","two\nlines"\n'


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (LINES, "jsonl"),
        (ROWS and json.dumps(ROWS[0]), "jsonl"),
        (json.dumps(ROWS), "json"),
        (json.dumps(ROWS, indent=2), "json"),
        ('{"rows": [{"text": "a"}]}', "json"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "jsonl"),
        ('{\n "rows": [{"text": "a"}]\n}', "json"),
        ("\ufeff" + LINES, "jsonl"),
        ('{"prompt": "cut\n{"prompt": "b"}\n', "jsonl"),
        (TABLE, "csv"),
        ("a\tb\n1\t2\n", "csv"),
        ("text\nsome words\n", "csv"),
        ("Just a sentence, with a comma.", None),
        ("hello\nworld\n", None),
        ("   \n", None),
    ],
)
def test_how_text_is_written_is_recognised(text: str, kind: str | None) -> None:
    assert glance.recognise(text) == kind


def test_the_first_rows_are_read_as_the_worker_will() -> None:
    seen = glance.look(LINES + '{"prompt": "x"}\nnonsense\n', None, cut=False)
    assert (seen.shape, seen.fits, seen.wrong, seen.columns) == ("Prompt and completion", 30, 2, ["prompt", "completion"])
    assert [row.line for row in seen.rows[:2]] == [31, 32] and "completion" in (seen.rows[0].problem or "")
    table = glance.look(TABLE, None, cut=False)
    assert table.mapping == {"prompt": "question", "completion": "answer"} and table.fits == 2
    assert [turn.text for turn in table.rows[1].turns] == ["a, b", "two\nlines"]
    unclear = glance.look("a,b\n1,2\n", None, cut=False)
    assert unclear.asks and unclear.shape is None
    mapped = glance.look("a,b\n1,2\n", None, cut=False, mapping={"prompt": "a", "completion": "b"})
    assert mapped.shape == "Prompt and completion" and mapped.fits == 1


@pytest.mark.parametrize("text", [json.dumps(ROWS), json.dumps({"data": ROWS}), LINES, "question,answer\n" + 'a,"b\n' * 9])
def test_a_beginning_that_breaks_off_is_no_problem(text: str) -> None:
    for end in range(40, min(len(text), 400), 7):
        seen = glance.look(text[:end], glance.recognise(text), cut=True)
        assert not [row.problem for row in seen.rows if row.problem and "prompt" not in row.problem], text[:end]


def test_preview(client: TestClient, as_role: Callable[[str], TestClient], stack: Any) -> None:
    page = client.post("/datasets/preview", data={"head": TABLE, "file": "", "cut": ""}, headers=HTMX).text
    assert "Recognised as CSV: 2 rows, 2 columns." in page and "Use this mapping" in page and "<html" not in page
    assert "<option selected>question</option>" in page and "What is 2 + 2?" in page
    chosen = {"head": TABLE, "file": "rows.csv", "mapped": "1", "map.text": "answer", "map.prompt": ""}
    again = client.post("/datasets/preview", data=chosen, headers=HTMX).text
    assert '<span class="chip">Text</span>' in again
    nothing = client.post("/datasets/preview", data={"head": "hello", "file": ""}, headers=HTMX).text
    assert "neither JSON nor CSV" in nothing
    wrong = client.post("/datasets/preview", data={"head": "x", "file": "rows.zip"}, headers=HTMX).text
    assert "Unpack it first" in wrong
    assert "after the upload" in client.post("/datasets/preview", data={"head": "", "file": "rows.parquet"}, headers=HTMX).text
    twice = {"head": TABLE, "file": "", "mapped": "1", "map.prompt": "answer", "map.completion": "answer"}
    assert "mapped to two fields" in client.post("/datasets/preview", data=twice, headers=HTMX).text
    evil = json.dumps({"prompt": "<img src=x onerror=alert(1)>", "completion": "<b>"})
    assert "<img" not in client.post("/datasets/preview", data={"head": evil}, headers=HTMX).text
    assert as_role("viewer").post("/datasets/preview", data={"head": TABLE}).status_code == 403
    assert left(stack) == []


def test_pasted_tables_and_lists(client: TestClient, api: TestClient, work: Callable[..., None]) -> None:
    made = client.post(
        "/datasets",
        files={"file": ("", b""), "text": (None, TABLE)},
        data={"name": "t", "map.prompt": "question", "map.completion": "answer"},
    )
    assert made.status_code == 303, made.text
    other = api.post("/api/v1/datasets", files={"text": (None, json.dumps(ROWS))}, data={"name": "l"})
    work(runs=False)
    found = api.get(f"/api/v1{made.headers['location']}").json()
    assert (found["status"], found["rows"], found["source_name"]) == ("ready", 2, "pasted.csv")
    assert api.get(f"/api/v1/datasets/{other.json()['id']}").json()["rows"] == 30
    refused = client.post("/datasets", files={"file": ("", b""), "text": (None, "hello world")}, data={"name": "x"})
    assert refused.status_code == 422 and "neither JSON nor CSV" in refused.text


def test_columns_that_come_late_are_offered_and_named(api: TestClient, work: Callable[..., None]) -> None:
    """A column that only later rows have is found, whatever the first thousand rows look like."""
    lines = "".join(json.dumps({"question": f"q{n}"}) + "\n" for n in range(1500))
    lines += "".join(json.dumps({"question": f"q{n}", "reply": f"a{n}"}) + "\n" for n in range(1500, 1600))
    made = send(api, lines, name="late").json()
    mapped = send(api, lines, name="late mapped", mapping='{"prompt": "question", "completion": "reply"}').json()
    wrong = send(api, lines, name="late wrong", mapping='{"prompt": "question", "completion": "nothing"}').json()
    extra = send(api, LINES * 40 + json.dumps({**ROWS[0], "note": "x"}) + "\n", name="late extra").json()
    work(runs=False)
    found = api.get(f"/api/v1/datasets/{made['id']}").json()
    assert found["status"] == "failed" and found["columns"] == ["question", "reply"]
    assert "“reply”" in found["reason"]
    found = api.get(f"/api/v1/datasets/{mapped['id']}").json()
    assert (found["status"], found["rows"], found["problems"]["errors"], found["shape"]) == ("ready", 100, 1500, "prompt_completion")
    problem = api.get(f"/api/v1/datasets/{mapped['id']}/problems?limit=1").json()["data"][0]
    assert (problem["line"], problem["field"]) == (1, "reply")
    found = api.get(f"/api/v1/datasets/{wrong['id']}").json()
    assert found["reason"] == "There is no column “nothing”. The file has the columns “question”, “reply”."
    assert api.get(f"/api/v1/datasets/{extra['id']}").json()["columns"] == ["prompt", "completion", "note"]
