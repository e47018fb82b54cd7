"""The pages of models: empty, importing, ready, failed; a form that says what is wrong where it is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from app import storage
from app.checkpoints.manifest import weights_sha256, write_manifest
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_run

SCRIPT = "<script>alert(1)</script>"


def test_the_empty_list_says_what_to_do(client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    text = client.get("/models").text
    assert "No model yet" in text and 'href="/models/import"' in text
    viewer = as_role("viewer")
    assert "No model yet" in viewer.get("/models").text and 'href="/models/import"' not in viewer.get("/models").text
    assert viewer.get("/models/import").status_code == 403 and as_role("rater").get("/models").status_code == 403


def test_an_import_is_followed_live_until_it_ends(client: TestClient, stack: Stack) -> None:
    answer = client.post("/models/import", data={"source": "folder", "ref": "/models/tiny", "name": SCRIPT})
    assert answer.status_code == 303
    place = answer.headers["location"]
    checkpoint_id = place.rpartition("/")[2]
    shown, listed = client.get(place).text, client.get("/models").text
    assert f'hx-get="{place}/progress"' in shown and f'hx-get="{place}/row"' in listed and "Waiting for a worker" in shown
    assert "Copying the files" in shown and "<script>alert" not in shown + listed
    with stack.database.write() as session:
        from app.checkpoints import service

        checkpoint = service.get(session, stack.workspace_id, checkpoint_id)
        checkpoint.progress = {"done": 1.5, "total": 3, "text": "Copying the files: 1 of 2 MB"}
    fragment = client.get(f"{place}/progress", headers={"HX-Request": "true", "HX-Request-Type": "partial"}).text
    assert (
        "<html" not in fragment
        and "Copying the files: 1 of 2 MB" in fragment
        and "--p:0.500" in fragment
        and 'aria-current="step"' in fragment
    )
    with stack.database.write() as session:
        service.get(session, stack.workspace_id, checkpoint_id).status = "failed"
        service.get(session, stack.workspace_id, checkpoint_id).reason = "“a.bin” is a pickle file."
    assert client.get(f"{place}/progress", headers={"HX-Request": "true"}).headers["HX-Redirect"] == place
    row = client.get(f"{place}/row").text
    assert "hx-trigger" not in row and "“a.bin” is a pickle file." in row
    assert "“a.bin” is a pickle file." in client.get(place).text


def test_a_checkpoint_shows_where_it_comes_from(client: TestClient, stack: Stack) -> None:
    folder = storage.path("checkpoints/base")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("weights")
    manifest = write_manifest(folder, run_id=None, step=None, attempt=None, config_hash="")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "max_position_embeddings": 8192,
        "vocab_size": 49152,
    }
    with stack.database.write() as session:
        base = add_checkpoint(
            session,
            stack.workspace_id,
            name="the base",
            path="checkpoints/base",
            sha256=weights_sha256(manifest),
            size_bytes=7,
            config=config,
            parameters=134_515_008,
        )
        run = add_run(session, stack.workspace_id, checkpoint_id=base.id, name="the run", status="succeeded")
        tuned = add_checkpoint(
            session,
            stack.workspace_id,
            name="the adapter",
            kind="adapter",
            source="run",
            run_id=run.id,
            step=20,
            base_id=base.id,
            size_bytes=9,
            metrics={"loss": 1.25},
            config=None,
            shapes=None,
        )
    text = client.get(f"/models/{base.id}").text
    for words in (
        "LlamaForCausalLM",
        "134,515,008",
        "model.safetensors",
        base.sha256 or "",
        f"/runs/new?checkpoint={base.id}",
        f"/runs/{run.id}",
        "the adapter",
    ):
        assert words in text, words
    text = client.get(f"/models/{tuned.id}").text
    for words in (f"/models/{base.id}", "the run", "step 20", "1.2500", "Nothing yet."):
        assert words in text, words
    listed = client.get("/models").text
    assert "on the base" in listed and "134,515,008" in listed
    assert "the adapter" not in client.get("/models?kind=base").text and "No name holds" in client.get("/models?q=zzz").text
    assert client.get("/models/ckpt_none").status_code == 404


def test_deleting_from_the_page(client: TestClient, stack: Stack, as_role: Callable[[str], TestClient]) -> None:
    with stack.database.write() as session:
        used = add_run(session, stack.workspace_id, name="needs it").checkpoint_id
        free = add_checkpoint(session, stack.workspace_id).id
    refused = client.post(f"/models/{used}/delete")
    assert refused.status_code == 409 and "needs it" in refused.text and "<h1>" in refused.text
    assert as_role("viewer").post(f"/models/{free}/delete").status_code == 403
    assert client.post(f"/models/{free}/delete").headers["location"] == "/models"
    assert client.get(f"/models/{free}").status_code == 404


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "Fill this in."),
        ({"ref": "relative"}, "Give an absolute path"),
        ({"source": "zip"}, "Choose one of the three."),
        ({"source": "hub", "ref": "not an id"}, "owner/name"),
        ({"name": "x" * 200}, "too long"),
    ],
)
def test_the_form_says_what_is_wrong(client: TestClient, change: dict[str, str], words: str) -> None:
    given = {"source": "folder", "ref": "/models/tiny", "name": "tiny", **change}
    answer = client.post("/models/import", data=given)
    assert answer.status_code == 422 and words in answer.text and 'aria-invalid="true"' in answer.text
    assert f'value="{given["ref"]}"' in answer.text


def test_the_tree_leads_from_the_base_to_what_was_made_of_it(client: TestClient, stack: Stack) -> None:
    with stack.database.write() as session:
        base = add_checkpoint(session, stack.workspace_id, name="the base")
        first = add_run(session, stack.workspace_id, checkpoint_id=base.id, name="first run", status="succeeded")
        tuned = [
            add_checkpoint(
                session, stack.workspace_id, name=f"made {step}", kind="adapter", source="run", run_id=first.id, step=step, base_id=base.id
            )
            for step in range(10, 110, 10)
        ]
        again = add_run(session, stack.workspace_id, checkpoint_id=tuned[-1].id, name="second run", status="failed")
    text = client.get(f"/models/{base.id}").text
    tree = text[text.index('class="tree"') : text.index('id="used-h"')]
    order = ["the base", "first run", "made 100", "second run", "made 90", "and 2 more"]
    assert sorted(order, key=tree.index) == order and "made 20<" not in tree
    text = client.get(f"/models/{tuned[-1].id}").text
    tree = text[text.index('class="tree"') : text.index('id="used-h"')]
    assert f'href="/models/{base.id}"' in tree and f'href="/runs/{first.id}"' in tree and f'href="/runs/{again.id}"' in tree
    assert '<b aria-current="page">made 100</b>' in tree and "made 90" not in tree
    assert f'href="/playground?checkpoint={tuned[-1].id}"' in text and f'href="/exports/new?checkpoint={tuned[-1].id}"' in text
    only = client.get("/models?kind=tuned").text
    assert "made 100" in only and "the base</a>" not in only.replace("on the base", "")


def test_names_and_notes_are_changed(client: TestClient, api: TestClient, stack: Stack, as_role: Callable[[str], TestClient]) -> None:
    with stack.database.write() as session:
        made = add_checkpoint(session, stack.workspace_id, name="old").id
    answer = client.post(f"/models/{made}/edit", data={"name": "new", "notes": f"**good** {SCRIPT}"})
    assert answer.headers["location"] == f"/models/{made}"
    text = client.get(f"/models/{made}").text
    assert "<strong>good</strong>" in text and "<script>alert" not in text and "<h1>new</h1>" in text
    refused = client.post(f"/models/{made}/edit", data={"name": " ", "notes": ""})
    assert refused.status_code == 422 and "Fill this in." in refused.text
    assert api.patch(f"/api/v1/checkpoints/{made}", json={"notes": ""}).json()["notes"] == ""
    assert api.patch(f"/api/v1/checkpoints/{made}", json={"name": "x\u0007"}).status_code == 422
    assert api.get(f"/api/v1/checkpoints/{made}").json()["name"] == "new"
    assert as_role("viewer").post(f"/models/{made}/edit", data={"name": "y"}).status_code == 403


def test_files_are_fetched_one_by_one(client: TestClient, api: TestClient, stack: Stack) -> None:
    folder = storage.path("checkpoints/base")
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "optimizer.pt"):
        (folder / name).write_text(name * 300)
    write_manifest(folder, run_id=None, step=None, attempt=None, config_hash="")
    (folder / "secret.json").write_text("not in the manifest")
    with stack.database.write() as session:
        made = add_checkpoint(session, stack.workspace_id, path="checkpoints/base").id
    listed = {each["name"]: each for each in api.get(f"/api/v1/checkpoints/{made}/files").json()}
    assert listed["optimizer.pt"]["download"] is None and len(listed["config.json"]["sha256"]) == 64
    address = listed["model.safetensors"]["download"]
    whole = api.get(address, headers={"Accept-Encoding": "gzip"})
    assert whole.content == b"model.safetensors" * 300 and whole.headers["content-disposition"].startswith("attachment")
    assert api.get(address, headers={"Range": "bytes=5-9"}).content == b".safe"
    assert address in client.get(f"/models/{made}").text
    for name in ("optimizer.pt", "secret.json", "../base/config.json", "/etc/hostname"):
        assert api.get(f"/api/v1/checkpoints/{made}/download", params={"file": name}).status_code == 404, name
