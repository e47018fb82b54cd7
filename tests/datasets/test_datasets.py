"""Datasets after the upload: leaving lines out, mapping columns, problems, exports, deletion, what blocks a run."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from app.database import new_id
from app.datasets import imports, service, tokens
from app.datasets.tables import Dataset
from app.errors import Conflict
from app.jobs.tables import Job
from tests.datasets.test_upload import LINES, ROWS, send
from tests.factories import add_checkpoint, add_dataset, add_run

BAD = LINES + '{"prompt": "cut off"\n{"prompt": "a", "completion": ""}\n' + json.dumps(ROWS[7]) + "\n"


def ready(api: TestClient, work: Callable[..., None], content: str = LINES, **fields: str) -> dict[str, Any]:
    answer = send(api, content, **fields)
    assert answer.status_code == 201, answer.text
    work(runs=False)
    found: dict[str, Any] = api.get(f"/api/v1/datasets/{answer.json()['id']}").json()
    return found


def test_lines_with_errors_block_runs_until_left_out(api: TestClient, work: Callable[..., None], stack: Any) -> None:
    made = ready(api, work, BAD, name="mixed")
    assert (made["status"], made["rows"], made["problems"]) == ("ready", 31, {"errors": 2, "warnings": 1})
    listed = api.get(f"/api/v1/datasets/{made['id']}/problems").json()["data"]
    assert [(each["line"], each["severity"]) for each in listed] == [(31, "error"), (32, "error"), (33, "warning")]
    assert listed[1]["field"] == "completion" and listed[2]["message"] == "Same prompt and answer as line 8."
    with stack.database.read() as session:
        dataset = service.get(session, stack.workspace_id, made["id"])
        with pytest.raises(Conflict, match="2 lines with errors"):
            service.usable_for_run(dataset)
    answer = api.post(f"/api/v1/datasets/{made['id']}/leave-out")
    assert answer.status_code == 201, answer.text
    work(runs=False)
    new = api.get(f"/api/v1/datasets/{answer.json()['id']}").json()
    assert (new["version"], new["parent"], new["rows"], new["left_out"], new["problems"]["errors"]) == (2, made["id"], 31, 2, 0)
    assert new["sha256"] == made["sha256"]
    with stack.database.read() as session:
        service.usable_for_run(service.get(session, stack.workspace_id, new["id"]))
    assert api.post(f"/api/v1/datasets/{new['id']}/leave-out").status_code == 409
    assert api.delete(f"/api/v1/datasets/{made['id']}").status_code == 204
    assert len(api.get(f"/api/v1/datasets/{new['id']}/rows").json()["data"]) == 31


def test_columns_that_say_nothing_are_mapped(api: TestClient, work: Callable[..., None]) -> None:
    text = "".join(json.dumps({"question": row["prompt"], "answer": row["completion"]}) + "\n" for row in ROWS)
    made = ready(api, work, text, name="qa")
    assert made["status"] == "failed" and "mapping" in made["reason"]
    assert made["suggested_mapping"] == {"prompt": "question", "completion": "answer"}
    wrong = api.post(f"/api/v1/datasets/{made['id']}/map", json={"mapping": {"prompt": "question", "completion": "reply"}})
    assert wrong.status_code == 201
    work(runs=False)
    failed = api.get(f"/api/v1/datasets/{made['id']}").json()
    assert failed["reason"] == "There is no column “reply”. The file has the columns “question”, “answer”."
    again = api.post(f"/api/v1/datasets/{made['id']}/map", json={"mapping": made["suggested_mapping"]})
    assert again.json()["id"] == made["id"]
    work(runs=False)
    found = api.get(f"/api/v1/datasets/{made['id']}").json()
    assert (found["status"], found["rows"], found["mapping"]) == ("ready", 30, made["suggested_mapping"])
    other = api.post(f"/api/v1/datasets/{made['id']}/map", json={"mapping": {"text": "answer"}})
    work(runs=False)
    text_only = api.get(f"/api/v1/datasets/{other.json()['id']}").json()
    assert (text_only["version"], text_only["shape"], text_only["rows"]) == (2, "text", 30)
    assert api.post(f"/api/v1/datasets/{made['id']}/map", json={"mapping": {"nothing": "answer"}}).status_code == 422


def test_gsm8k(api: TestClient, work: Callable[..., None]) -> None:
    file = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "train.jsonl"
    if not file.is_file():
        pytest.skip("the GSM8K file is not beside this checkout")
    made = ready(api, work, file.read_text(), name="gsm8k", mapping='{"prompt": "question", "completion": "answer"}')
    assert (made["status"], made["rows"], made["problems"]) == ("ready", 7473, {"errors": 0, "warnings": 0})


def test_unreadable_is_failed_with_its_reason(api: TestClient, work: Callable[..., None]) -> None:
    answer = send(api, LINES.encode() + b'{"prompt": "\xe9"}\n', name="latin")
    work(runs=False)
    found = api.get(f"/api/v1/datasets/{answer.json()['id']}").json()
    assert found["status"] == "failed" and "Line 31 is not UTF-8" in found["reason"]
    assert api.get(f"/api/v1/datasets/{found['id']}/rows").json()["data"] == []
    assert api.get(f"/api/v1/datasets/{found['id']}/export").status_code == 409


def test_exports(api: TestClient, work: Callable[..., None]) -> None:
    rows = [{"prompt": "=1+1", "completion": 'a, "b"\nc'}, {"prompt": "@x", "completion": "-2"}]
    made = ready(api, work, "".join(json.dumps(row) + "\n" for row in rows), name="a/b ü")
    answer = api.get(f"/api/v1/datasets/{made['id']}/export")
    assert [json.loads(line) for line in answer.text.splitlines()] == rows
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''a%2Fb%20%C3%BC-1.jsonl"
    table = list(csv.reader(io.StringIO(api.get(f"/api/v1/datasets/{made['id']}/export?format=csv").text)))
    assert table == [["prompt", "completion"], ["'=1+1", 'a, "b"\nc'], ["'@x", "'-2"]]
    assert api.get(f"/api/v1/datasets/{made['id']}/export?format=xlsx").status_code == 422


def test_delete(api: TestClient, work: Callable[..., None], stack: Any) -> None:
    made = ready(api, work)
    with stack.database.write() as session:
        run = add_run(session, stack.workspace_id, dataset_id=made["id"], status="failed")
    answer = api.delete(f"/api/v1/datasets/{made['id']}")
    assert answer.status_code == 409 and "used by a run" in answer.json()["error"]["message"]
    with stack.database.write() as session:
        session.delete(session.merge(run))
    folder = stack.settings.storage / "datasets" / made["id"]
    assert folder.exists()
    assert api.delete(f"/api/v1/datasets/{made['id']}").status_code == 204
    assert not folder.exists() and api.get(f"/api/v1/datasets/{made['id']}").status_code == 404


def test_deleted_while_it_waits(api: TestClient, work: Callable[..., None]) -> None:
    made = send(api).json()
    assert api.delete(f"/api/v1/datasets/{made['id']}").status_code == 204
    work(runs=False)
    assert api.get("/api/v1/datasets").json()["data"] == []


def test_line_numbers_lead_to_examples(api: TestClient, client: TestClient, work: Callable[..., None]) -> None:
    made = ready(api, work, "\n\nnonsense\n" + BAD)
    for line, to in ((4, "row=1#example"), (36, "row=31#example"), (3, "#problems"), (999, "#problems")):
        assert client.get(f"/datasets/{made['id']}/lines/{line}").headers["location"].endswith(to), line


# --- tokens -----------------------------------------------------------------------------------------------------------------


def test_summary_of_lengths(stack: Any) -> None:
    """Cutting at a limit drops what has nothing left to learn and shortens the rest."""
    import numpy as np

    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id)
        adapter = add_checkpoint(session, stack.workspace_id, kind="adapter", base_id=checkpoint.id)
        dataset = Dataset(
            workspace_id=stack.workspace_id,
            name="d",
            version=1,
            status="ready",
            source_name="d.jsonl",
            path=f"datasets/{new_id('ds')}",
            rows=4,
        )
        session.add(dataset)
        session.flush()
        assert tokens.summary(session, dataset.id, adapter.id)["status"] == "none"
        count = tokens.request(session, dataset, adapter)
        assert count.checkpoint_id == checkpoint.id and tokens.request(session, dataset, checkpoint) is count
        assert tokens.summary(session, dataset.id, adapter.id)["status"] == "counting"
        file = stack.settings.storage / dataset.path / "x.npy"
        file.parent.mkdir(parents=True)
        np.save(file, np.array([[5, 10], [20, 30], [8, 25], [2, 4]], dtype=np.uint32))
        np.save(file.with_suffix(".eval.npy"), np.array([False, False, False, True]))
        count.status, count.path = "ready", f"{dataset.path}/x.npy"
        whole = tokens.summary(session, dataset.id, adapter.id)
        assert (whole["tokens"], whole["trained_tokens"], whole["longest"], whole["dropped"], whole["cut"]) == (69, 34, 30, 0, 0)
        cut = tokens.summary(session, dataset.id, adapter.id, max_length=20)
        assert (cut["tokens"], cut["trained_tokens"], cut["dropped"], cut["cut"]) == (34, 19, 1, 1)
        assert tokens.summary(session, dataset.id, adapter.id, split="eval")["tokens"] == 4
        assert sum(tokens.histogram(count)[1]) == 4


@pytest.mark.train
def test_counting(api: TestClient, client: TestClient, work: Callable[..., None], stack: Any) -> None:
    pytest.importorskip("transformers")
    from tests.models import save_tiny_tokenizer

    made = ready(api, work)
    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id, path="checkpoints/tiny")
    folder = stack.settings.storage / "checkpoints" / "tiny"
    folder.mkdir(parents=True)
    save_tiny_tokenizer(folder)
    path = f"/api/v1/datasets/{made['id']}/tokens?checkpoint={checkpoint.id}"
    assert api.get(path).json()["status"] == "none"
    assert api.get(f"{path}&row=1").status_code == 404
    assert api.post(path).json()["status"] == "counting"
    assert "Counting…" in client.get(f"/datasets/{made['id']}").text
    work(runs=False)
    found = api.get(path).json()
    assert found["status"] == "ready" and 0 < found["trained_tokens"] < found["tokens"]
    row = api.get(f"{path}&row=2&max_length=5").json()
    assert row["truncated"] and {token["trained"] for token in row["tokens"]} == {True, False}
    trained = "".join(token["text"] for token in row["tokens"] if token["trained"])
    assert trained == "2<|im_end|>\n"
    assert api.get(f"/api/v1/datasets/{made['id']}").json()["tokens"][0]["tokens"] == found["tokens"]
    page = client.get(f"/datasets/{made['id']}?row=2&view=tokens").text
    assert "<mark>" in page and "Histogram of tokens" in page


def test_of_two_who_map_a_dataset_at_the_same_moment_one_starts_an_import(stack: Any) -> None:
    with stack.database.write() as session:
        dataset_id = add_dataset(session, stack.workspace_id, status="failed", lineage={"kind": "upload"}).id
    start = threading.Barrier(2)

    def map_it(column: str) -> bool:
        try:
            with stack.database.write() as session:
                service.get(session, stack.workspace_id, dataset_id)
                if not stack.database.is_sqlite:  # there the second waits for the first from the beginning
                    start.wait()
                imports.remap(session, stack.workspace_id, None, dataset_id, {"text": column})
                time.sleep(0.2)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(map_it, ["a", "b"])) == [False, True]
    with stack.database.write() as session:
        assert len(session.scalars(select(Job).where(Job.subject_id == dataset_id)).all()) == 1
        session.execute(update(Dataset).where(Dataset.id == dataset_id).values(status="failed"))
        with pytest.raises(Conflict, match="still being imported"):
            imports.remap(session, stack.workspace_id, None, dataset_id, {"text": "c"})
