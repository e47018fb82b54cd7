"""Exports from the request to the file: what is packed loads with plain libraries and answers as it does here."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app import storage
from app.checkpoints.bits import Bits
from app.checkpoints.files import count_weights
from app.checkpoints.manifest import folder_size, weights_sha256, write_manifest
from app.checkpoints.tables import Checkpoint
from app.rendering import markdown, number
from app.runs.tables import Run
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset, add_run
from tests.models import tiny_llama_folder

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = pytest.mark.train

TOKENS = [[1, 5, 9, 13, 17, 40, 41, 42, 7, 3, 99, 100]]
EVIL = "<script>alert(1)</script> [x](javascript:alert(1))"


def add_base(stack: Stack, **fields: Any) -> Checkpoint:
    """The tiny Llama as an imported checkpoint, with its files."""
    folder = storage.path("checkpoints/tiny")
    shutil.copytree(tiny_llama_folder(), folder)
    manifest = write_manifest(folder, run_id=None, step=None, attempt=None, config_hash="")
    with stack.database.write() as session:
        return add_checkpoint(
            session,
            stack.workspace_id,
            path="checkpoints/tiny",
            sha256=weights_sha256(manifest),
            size_bytes=folder_size(manifest),
            **{"name": "tiny llama", "source": "gguf", "ref": "/somewhere/tiny.gguf", **fields},
        )


def add_adapter(stack: Stack, base: Checkpoint, *, r: int = 4, run_name: str = "my run", bits: Bits = Bits(), **config: Any) -> Checkpoint:
    """An adapter as a run leaves it, with weights that change the answers, and the files only a trainer reads."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = storage.path("runs/run_x/checkpoints/step-20")
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(storage.path(base.path or ""), dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=r, lora_alpha=2 * r, target_modules="all-linear", task_type="CAUSAL_LM", **config))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    tuned.save_pretrained(folder)
    written = json.loads((folder / "adapter_config.json").read_text())
    written["base_model_name_or_path"] = str(storage.path(base.path or ""))
    (folder / "adapter_config.json").write_text(json.dumps(written))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(storage.path(base.path or "") / name, folder / name)
    for name in ("optimizer.pt", "rng_state.pth", "trainer_state.json"):
        (folder / name).write_text("{}")
    bits.keep(folder)
    manifest = write_manifest(folder, run_id="run_x", step=20, attempt=1, config_hash="")
    with stack.database.write() as session:
        dataset = add_dataset(session, stack.workspace_id, name="sums", sha256="d" * 64)
        run = add_run(
            session,
            stack.workspace_id,
            name=run_name,
            checkpoint_id=base.id,
            dataset_id=dataset.id,
            status="succeeded",
            params={"learning_rate": 0.0002},
            tuner_params={"r": r},
            resolved={"versions": {"peft": "0.21"}},
        )
        return add_checkpoint(
            session,
            stack.workspace_id,
            name=f"{run_name} · step 20",
            kind="adapter",
            source="run",
            run_id=run.id,
            step=20,
            base_id=base.id,
            path="runs/run_x/checkpoints/step-20",
            sha256=weights_sha256(manifest),
            size_bytes=folder_size(manifest),
            metrics={"loss": 1.25, "eval_loss": 1.5},
            parameters=None,
            shapes=None,
            config=None,
        )


def logits(model: Any) -> Any:
    """What a model says to the same few tokens."""
    import torch

    with torch.no_grad():
        return model.float().eval()(torch.tensor(TOKENS)).logits


def inside(base: Checkpoint, adapter: Checkpoint) -> Any:
    """What the studio itself reckons with: the adapter on its base, in fp32."""
    from worker.generate import load

    return logits(load(storage.path(base.path or ""), adapter=storage.path(adapter.path or ""), dtype="float32").model)


def fetch(api: TestClient, made: dict[str, Any], folder: Path) -> Path:
    """Download an export, check its hash, unpack it."""
    found = api.get(f"/api/v1/exports/{made['id']}").json()
    assert found["status"] == "ready", found
    answer = api.get(found["file"])
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{found["file_name"]}"'
    assert hashlib.sha256(answer.content).hexdigest() == found["sha256"] and len(answer.content) == found["size_bytes"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None and {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        archive.extractall(folder)
    return folder / found["file_name"].removesuffix(".zip")


@pytest.mark.one_stack
def test_an_adapter_loads_with_plain_peft_and_answers_the_same(
    api: TestClient, client: TestClient, stack: Stack, work: Callable[..., None], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = add_base(stack)
    adapter = add_adapter(stack, base)
    made = api.post("/api/v1/exports", json={"checkpoint": adapter.id, "format": "adapter"})
    assert made.status_code == 201, made.text
    assert made.json()["status"] == "exporting" and made.json()["file"] is None
    assert api.get(f"/api/v1/exports/{made.json()['id']}/file").status_code == 409
    assert number(count_weights(adapter) or 0) in client.get(f"/models/{adapter.id}").text
    work(runs=False)
    folder = fetch(api, made.json(), tmp_path)
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny llama"
    for file in folder.glob("*[!s]"):
        if file.suffix in (".json", ".md"):
            assert str(stack.home) not in file.read_text(), file
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama_folder())
    assert count_weights(base) == plain.num_parameters()
    tuned = PeftModel.from_pretrained(plain, folder)
    assert (logits(tuned) - inside(base, adapter)).abs().max() <= 1e-5
    assert AutoTokenizer.from_pretrained(folder).chat_template
    card = (folder / "README.md").read_text()
    for words in (
        "tiny llama",
        "my run",
        "sums, version 1",
        "d" * 64,
        "learning\\_rate",
        "1.25",
        "Licence",
        "not imported from a model hub",
    ):
        assert words in card, words
    commands = api.get(f"/api/v1/exports/{made.json()['id']}").json()["commands"]
    assert 'PeftModel.from_pretrained(base, "./my-run-step-20-adapter")' in commands["peft"]
    assert commands["vLLM"] == "vllm serve ./tiny-llama-merged --enable-lora --lora-modules my-run-step-20-adapter=./my-run-step-20-adapter"


@pytest.mark.one_stack
@pytest.mark.parametrize("dtype", ["stored", "bfloat16"])
def test_a_merged_model_loads_with_plain_transformers(
    api: TestClient, stack: Stack, work: Callable[..., None], tmp_path: Path, dtype: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = add_base(stack)
    adapter = add_adapter(stack, base)
    made = api.post("/api/v1/exports", json={"checkpoint": adapter.id, "format": "merged", "dtype": dtype}).json()
    work(runs=False)
    folder = fetch(api, made, tmp_path)
    merged, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert merged.dtype == (torch.float32 if dtype == "stored" else torch.bfloat16)
    difference = (logits(merged) - inside(base, adapter)).abs().max()
    assert difference <= (1e-5 if dtype == "stored" else 0.05)
    untuned = logits(AutoModelForCausalLM.from_pretrained(tiny_llama_folder()))
    assert (untuned - inside(base, adapter)).abs().max() > 0.1  # so the test above could fail
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert str(stack.home) not in (folder / "config.json").read_text()
    found = api.get(f"/api/v1/exports/{made['id']}").json()
    log = " ".join(found["log"])
    assert "Merging the adapter" in log and "Packed" in log
    assert found["commands"]["vLLM"] == f"vllm serve ./{folder.name}"


@pytest.mark.one_stack
def test_an_adapter_of_quantised_weights_says_so_and_is_merged_into_rounded_ones(
    api: TestClient, stack: Stack, work: Callable[..., None], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    import torch
    from transformers import AutoModelForCausalLM

    from worker.loading import load_model

    base = add_base(stack)
    adapter = add_adapter(stack, base, bits=Bits("nf4"))
    made = [api.post("/api/v1/exports", json={"checkpoint": adapter.id, "format": kind}).json() for kind in ("adapter", "merged")]
    work(runs=False)
    small, whole = (fetch(api, each, tmp_path) for each in made)
    assert Bits.of(small) == Bits("nf4") and not (whole / "quantization.json").exists()
    merged = logits(AutoModelForCausalLM.from_pretrained(whole))
    assert (merged - inside(base, adapter)).abs().max() <= 1e-5
    paths = [str(storage.path(each.path or "")) for each in (base, adapter)]
    plain = logits(load_model(*paths, "float32", rounded=Bits()))
    assert (merged - plain).abs().max() > 1e-3, "the same adapter on weights that were not rounded"

    told = api.get(f"/api/v1/exports/{made[0]['id']}").json()["commands"]
    assert "vLLM" not in told and "BitsAndBytesConfig" in (small / "README.md").read_text()
    commands = told["peft"].replace("./tiny-llama-merged", str(storage.path(base.path or ""))).replace("./my-run", f"{tmp_path}/my-run")
    found: dict[str, Any] = {}
    exec(commands, found)  # the commands that people copy
    with torch.no_grad():
        said = found["model"].eval()(torch.tensor(TOKENS)).logits
    assert (said - merged).abs().max() <= 0.01, "the kernel of 4 bits rounds more"
    log = " ".join(api.get(f"/api/v1/exports/{made[1]['id']}").json()["log"])
    assert "Rounded to nf4, as the weights were that the adapter was trained on" in log


@pytest.mark.one_stack
def test_a_whole_model_is_packed_as_it_is(api: TestClient, stack: Stack, work: Callable[..., None], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = add_base(stack, source="hub", ref="owner/tiny", revision="a" * 40)
    refused = api.post("/api/v1/exports", json={"checkpoint": base.id, "format": "adapter"})
    assert refused.status_code == 422 and refused.json()["error"]["field"] == "format"
    made = api.post("/api/v1/exports", json={"checkpoint": base.id, "format": "merged"}).json()
    again = api.post("/api/v1/exports", json={"checkpoint": base.id, "format": "merged"}).json()
    assert again["id"] == made["id"]
    work(runs=False)
    folder = fetch(api, made, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == (tiny_llama_folder() / "model.safetensors").read_bytes()
    AutoModelForCausalLM.from_pretrained(folder)
    assert "base_model: owner/tiny" in (folder / "README.md").read_text()


@pytest.mark.one_stack
def test_the_base_of_the_hub_is_named_by_its_id(api: TestClient, stack: Stack, work: Callable[..., None], tmp_path: Path) -> None:
    base = add_base(stack, source="hub", ref="owner/tiny", revision="a" * 40)
    adapter = add_adapter(stack, base, r=24, run_name=EVIL)
    made = api.post("/api/v1/exports", json={"checkpoint": adapter.id, "format": "adapter"}).json()
    work(runs=False)
    folder = fetch(api, made, tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/tiny", "a" * 40)
    card = (folder / "README.md").read_text()
    shown = str(markdown(card))
    assert "my run" not in shown and "alert(1)" in shown and "<script" not in shown and 'href="javascript' not in shown
    commands = api.get(f"/api/v1/exports/{made['id']}").json()["commands"]
    assert "vllm serve owner/tiny --revision" in commands["vLLM"] and "--max-lora-rank 32" in commands["vLLM"]


def test_a_download_can_be_resumed(api: TestClient, stack: Stack, work: Callable[..., None]) -> None:
    made = api.post("/api/v1/exports", json={"checkpoint": add_base(stack).id, "format": "merged"}).json()
    work(runs=False)
    path = f"/api/v1/exports/{made['id']}/file"
    whole = api.get(path)
    first = api.get(path, headers={"Range": "bytes=0-999", "Accept-Encoding": "gzip"})
    assert first.status_code == 206 and first.headers["content-range"] == f"bytes 0-999/{len(whole.content)}"
    rest = api.get(path, headers={"Range": "bytes=1000-", "If-Range": whole.headers["etag"]})
    assert first.content + rest.content == whole.content
    assert api.get(path, headers={"Range": f"bytes={len(whole.content)}-"}).status_code == 416


def test_what_is_gone_or_damaged_is_said_in_words(api: TestClient, stack: Stack, work: Callable[..., None]) -> None:
    base = add_base(stack)
    made = api.post("/api/v1/exports", json={"checkpoint": base.id, "format": "merged"}).json()
    assert api.delete(f"/api/v1/checkpoints/{base.id}").status_code == 204
    work(runs=False)
    found = api.get(f"/api/v1/exports/{made['id']}").json()
    assert (found["status"], found["checkpoint"]) == ("failed", None)
    assert found["reason"] == "The checkpoint “tiny llama” was deleted before it could be exported."
    other = add_base(stack)
    file = storage.path("checkpoints/tiny/model.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    made = api.post("/api/v1/exports", json={"checkpoint": other.id, "format": "merged"}).json()
    work(runs=False)
    found = api.get(f"/api/v1/exports/{made['id']}").json()
    assert found["status"] == "failed" and "model.safetensors has another content" in found["reason"]
    assert not list(storage.path("exports").glob("*")) and not list((stack.settings.storage / "work").glob("*"))
    assert api.get(f"/api/v1/exports/{made['id']}/file").status_code == 409


def test_deleting_removes_the_file(api: TestClient, client: TestClient, stack: Stack, work: Callable[..., None]) -> None:
    base = add_base(stack)
    made = api.post("/api/v1/exports", json={"checkpoint": base.id, "format": "merged"}).json()
    work(runs=False)
    file = storage.path(f"exports/{made['id']}.zip")
    assert file.is_file()
    assert [each["id"] for each in api.get("/api/v1/exports", params={"checkpoint": base.id}).json()["data"]] == [made["id"]]
    assert client.post(f"/exports/{made['id']}/delete").headers["location"] == "/exports"
    assert not file.exists() and api.get(f"/api/v1/exports/{made['id']}").status_code == 404
    waiting = api.post("/api/v1/exports", json={"checkpoint": base.id, "format": "merged"}).json()
    assert api.delete(f"/api/v1/exports/{waiting['id']}").status_code == 204
    work(runs=False)
    assert not list(storage.path("exports").glob("*"))


@pytest.mark.one_stack
def test_a_lora_of_any_rank_is_cut_on_its_way_out(
    api: TestClient, client: TestClient, stack: Stack, work: Callable[..., None], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    base = add_base(stack)
    adapter = add_adapter(stack, base)
    asked = {"checkpoint": adapter.id, "format": "adapter", "rank": 2}
    refused = api.post("/api/v1/exports", json=asked)
    assert refused.status_code == 422 and refused.json()["error"]["field"] == "rank" and "any rank" in refused.json()["error"]["message"]
    with stack.database.write() as session:
        run = session.get_one(Run, adapter.run_id)
        run.tuner_params = {**run.tuner_params, "any_rank": True}
    whole = json.loads((storage.path(adapter.path or "") / "adapter_config.json").read_text())
    too_much = api.post("/api/v1/exports", json={**asked, "rank": 2 * whole["r"]})
    assert too_much.status_code == 422 and f"from 1 to {whole['r']}" in too_much.json()["error"]["message"]
    page = client.post("/exports", data={"checkpoint": adapter.id, "format": "adapter", "dtype": "stored", "rank": "many"})
    assert page.status_code == 422 and "Must be a whole number" in page.text
    made = api.post("/api/v1/exports", json=asked)
    assert made.status_code == 201 and made.json()["file_name"].endswith("-adapter-r2.zip")
    work(runs=False)
    folder = fetch(api, made.json(), tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == 2 and config["lora_alpha"] / 2 == whole["lora_alpha"] / whole["r"]
    before = load_file(storage.path(adapter.path or "") / "adapter_model.safetensors")
    for name, weight in load_file(folder / "adapter_model.safetensors").items():
        assert (weight == (before[name][:2] if ".lora_A." in name else before[name][:, :2])).all()


@pytest.mark.one_stack
def test_what_cannot_be_merged_is_not_exported_as_merged(api: TestClient, stack: Stack) -> None:
    adapter = add_adapter(stack, add_base(stack))
    with stack.database.write() as session:
        session.get_one(Checkpoint, adapter.id).config = {"peft_type": "PREFIX_TUNING"}
    refused = api.post("/api/v1/exports", json={"checkpoint": adapter.id, "format": "merged"})
    assert refused.status_code == 422 and "prefix tuning, which cannot be merged" in refused.json()["error"]["message"]
    assert api.post("/api/v1/exports", json={"checkpoint": adapter.id, "format": "adapter"}).status_code == 201
