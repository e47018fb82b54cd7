"""The pages of exports: the way from a model to its file, what is said when it cannot be made, and who may ask."""

from __future__ import annotations

from collections.abc import Callable

from starlette.testclient import TestClient

from app import storage
from app.exports.tables import Export
from tests.conftest import Stack
from tests.factories import add_checkpoint

HTMX = {"HX-Request": "true", "HX-Request-Type": "partial"}
SCRIPT = "<script>alert(1)</script>"


def add_model(stack: Stack, **fields: object) -> str:
    """A base whose folder is there; returns its id."""
    storage.path("checkpoints/base").mkdir(parents=True, exist_ok=True)
    with stack.database.write() as session:
        return add_checkpoint(session, stack.workspace_id, **{"path": "checkpoints/base", "size_bytes": 2_000_000, **fields}).id


def test_the_empty_list_leads_on(client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    assert "No export yet" in client.get("/exports").text and 'href="/exports/new"' in client.get("/exports").text
    assert "Nothing to export yet" in client.get("/exports/new").text
    viewer = as_role("viewer")
    assert 'href="/exports/new"' not in viewer.get("/exports").text and viewer.get("/exports/new").status_code == 403


def test_from_the_form_to_the_page(client: TestClient, stack: Stack, as_role: Callable[[str], TestClient]) -> None:
    model = add_model(stack, name=SCRIPT)
    form = client.get(f"/exports/new?checkpoint={model}").text
    assert f'value="{model}" selected' in form and 'value="merged" checked' in form and "<script>alert" not in form
    made = client.post("/exports", data={"checkpoint": model, "format": "merged", "dtype": "bfloat16"})
    assert made.status_code == 303, made.text
    to = made.headers["location"]
    page, listed = client.get(to).text, client.get("/exports").text
    assert f'hx-get="{to}/progress"' in page and "Waiting for a worker" in page and "merged-bfloat16.zip" in page
    assert f'hx-get="{to}/row"' in listed and "<script>alert" not in page + listed
    assert "<html" not in client.get(f"{to}/progress", headers=HTMX).text
    with stack.database.write() as session:
        export = session.get_one(Export, to.rsplit("/", 1)[1])
        export.status, export.size_bytes, export.sha256 = "ready", 1_000_000, "a" * 64
        export.log = [[1.0, "Packing"]]
        export.finished_at = export.created_at + 61
    assert client.get(f"{to}/progress", headers=HTMX).headers["hx-redirect"] == to
    page = as_role("viewer").get(to).text
    for words in ("a" * 64, f'href="/api/v1{to}/file"', "1.91 MB", "977 kB", "Packing", "1m 01s", "vllm serve ./", "AutoModelForCausalLM"):
        assert words in page, words
    assert "Delete" not in page and "hx-trigger" not in client.get(f"{to}/row").text
    assert client.get(f"/api/v1{to}/file").status_code == 409  # its file is not there


def test_what_cannot_be_exported_is_said_at_the_field(client: TestClient, stack: Stack) -> None:
    model, failed = add_model(stack), add_model(stack, status="failed", name="broken")
    for data, words in (
        ({"checkpoint": model, "format": "adapter"}, "has no adapter to pack"),
        ({"checkpoint": model, "format": "merged", "dtype": "int3"}, "Choose one of the four."),
        ({"checkpoint": "", "format": "merged"}, "Choose a checkpoint."),
        ({"checkpoint": model, "format": "zip"}, "Choose adapter or merged."),
        ({"checkpoint": failed, "format": "merged"}, "cannot be used"),
        ({"checkpoint": "ckpt_none", "format": "merged"}, "There is no such checkpoint"),
    ):
        answer = client.post("/exports", data=data)
        assert answer.status_code == 422 and words in answer.text and "The export was not started." in answer.text, data
    assert "No export yet" in client.get("/exports").text


def test_a_failed_export_says_why(client: TestClient, stack: Stack) -> None:
    model = add_model(stack)
    to = client.post("/exports", data={"checkpoint": model, "format": "merged"}).headers["location"]
    with stack.database.write() as session:
        export = session.get_one(Export, to.rsplit("/", 1)[1])
        export.status, export.reason = "failed", "The disk is full."
    page = client.get(to).text
    assert "The disk is full." in page and f"/exports/new?checkpoint={model}&amp;format=merged" in page
    assert "The disk is full." in client.get("/exports").text
    assert client.get("/exports?checkpoint=ckpt_other").text.count("No export matches") == 1
    assert client.get("/exports/exp_none").status_code == 404
