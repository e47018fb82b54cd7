"""Tuners beside what every pair of method and tuner is tested for: what they count, what they begin with, what they cannot go on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

from app import tuners
from app.checkpoints.bits import Bits
from tests.methods import child
from tests.models import tiny_llama_folder
from worker import loading, tuning
from worker.reporting import Failed

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")]
IDS = torch.tensor([[1, 40, 41, 42, 43, 44, 45, 46]])


def logits(folder: Path) -> Any:
    """What a checkpoint of a run makes of a few tokens, loaded as chat and export load it."""
    adapter = (folder / "adapter_config.json").is_file()
    with torch.no_grad():
        model = loading.load_model(str(tiny_llama_folder() if adapter else folder), str(folder) if adapter else None, "float32").eval()
        return model(input_ids=IDS).logits[:, -IDS.shape[1] :]


def base_logits() -> Any:
    """What the model makes of them that all runs here start from."""
    return logits(tiny_llama_folder())


def last(report: child.Kept) -> Path:
    """Folder of the last checkpoint of a run."""
    return Path(report.of("checkpoint")[-1]["folder"])


@pytest.mark.parametrize(
    ("tuner", "settings"),
    [
        ("lora", {"r": 4, "use_dora": True, "target_modules": "q_proj,v_proj"}),
        ("lora", {}),
        ("last_layers", {"layers": 1}),
        ("bitfit", {}),
        ("ia3", {}),
        ("prefix", {"num_virtual_tokens": 7}),
        ("prefix", {"num_virtual_tokens": 7, "projection": True}),
        ("prompt", {"num_virtual_tokens": 5}),
        ("p_tuning", {"encoder_hidden_size": 24}),
        ("p_tuning", {"encoder_hidden_size": 24, "encoder": "lstm"}),
        ("bottleneck", {"size": 8}),
        ("bottleneck", {"size": 8, "placement": "pfeiffer"}),
        ("experts", {"experts": 3}),
        ("full", {}),
    ],
)
def test_a_plan_counts_the_weights_that_are_trained(tuner: str, settings: dict[str, Any]) -> None:
    model = loading.load_model(str(tiny_llama_folder()), None, "float32")
    shapes = {name: list(weight.shape) for name, weight in model.named_parameters()}
    config = json.loads((tiny_llama_folder() / "config.json").read_text())
    each = tuners.registry()[tuner]
    params = each.params.model_validate(settings)
    before = loading.parameters(model)
    attached = tuning.attachment(each, params, 1, {})
    model, peft_config = each.build(model, params, attached)
    if peft_config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, peft_config)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert each.trainable(shapes, config, params) == trained > 0
    if peft_config is None:
        assert each.added(shapes, config, params) == loading.parameters(model) - before


@pytest.mark.parametrize("tuner", ["experts", "bitfit"])
def test_a_reshaped_model_writes_at_first_what_it_wrote_before(tuner: str) -> None:
    model = loading.load_model(str(tiny_llama_folder()), None, "float32").eval()
    with torch.no_grad():
        before = model(input_ids=IDS).logits
        each = tuners.registry()[tuner]
        params = each.params()
        reshaped, _ = each.build(model, params, tuning.attachment(each, params, 1, {}))
        assert (reshaped.eval()(input_ids=IDS).logits - before).abs().max() < 1e-5


@pytest.mark.parametrize(("tuner", "settings"), [("bitfit", {}), ("experts", {"balance": 0}), ("last_layers", {}), ("bottleneck", {})])
def test_dpo_compares_with_the_model_before_training(tmp_path: Path, tuner: str, settings: dict[str, Any]) -> None:
    _, report = child.run(child.spec(tmp_path, "dpo", tuner, params={"max_steps": 2}, tuner_params=settings))
    assert report.curve("loss")[1] == pytest.approx(0.693147, abs=1e-3)
    reshaped = report.of("checkpoint")[-1].get("reshaped")
    assert (reshaped is not None) == tuners.registry()[tuner].reshapes
    if reshaped:
        written = json.loads((last(report) / "config.json").read_text())
        assert reshaped["config"] == written and "model.embed_tokens.weight" in reshaped["shapes"]


@pytest.mark.parametrize(
    "init", ["pissa", pytest.param("olora", marks=pytest.mark.every), pytest.param("gaussian", marks=pytest.mark.every)]
)
def test_a_lora_that_begins_elsewhere_loads_on_the_untouched_model(tmp_path: Path, init: str) -> None:
    job = child.spec(tmp_path, "sft", "lora", params={"max_steps": 6, "save_steps": 3}, tuner_params={"init": init, "r": 4, "alpha": 8})
    _, report = child.run(job)
    first = Path(report.of("checkpoint")[0]["folder"])
    config = json.loads((last(report) / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == ((4, 8) if init == "gaussian" else (8, 16))
    assert (logits(last(report)) - base_logits()).abs().max() > 1e-3
    # Nothing is lost or drawn anew when a run goes on.
    result, rest = child.run(child.resumed(job, 3, tmp_path))
    assert result["outcome"] == "finished" and rest.curve("loss") == {s: loss for s, loss in report.curve("loss").items() if s > 3}
    assert torch.equal(logits(last(rest)), logits(last(report))) and not torch.equal(logits(first), logits(last(report)))


def test_an_adapter_that_begins_in_the_weights_changes_nothing_before_it_is_trained(tmp_path: Path) -> None:
    job = child.spec(tmp_path, "sft", "lora", params={"max_steps": 1, "learning_rate": 1e-12}, tuner_params={"init": "pissa", "r": 4})
    _, report = child.run(job)
    assert (logits(last(report)) - base_logits()).abs().max() < 1e-4


def test_a_lora_of_any_rank_can_be_cut(tmp_path: Path) -> None:
    from worker.engines.lora import cut_to_rank

    settings = {"any_rank": True, "r": 8, "alpha": 8}
    job = child.spec(tmp_path, "sft", "lora", params={"max_steps": 6, "save_steps": 3}, tuner_params=settings)
    _, report = child.run(job)
    result, rest = child.run(child.resumed(job, 3, tmp_path))
    assert result["outcome"] == "finished" and rest.curve("loss") == {s: loss for s, loss in report.curve("loss").items() if s > 3}
    cut = tmp_path / "cut"
    shutil.copytree(last(report), cut)
    cut_to_rank(cut, 3)
    model = loading.load_model(str(tiny_llama_folder()), str(last(report)), "float32").eval()
    for name, layer in model.named_modules():
        if name.endswith("lora_B.default"):
            layer.register_forward_pre_hook(lambda _, given: (given[0] * (torch.arange(8) < 3), *given[1:]))
    with torch.no_grad():
        assert (logits(cut) - model(input_ids=IDS).logits).abs().max() < 1e-5
    with pytest.raises(ValueError, match="between 1 and 3"):
        cut_to_rank(cut, 4)


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ("prefix", "lora", "Take prefix, or start from the model below it"),
        ("prompt", "full", "cannot be merged into the weights. Take the tuner prompt"),
        ("bottleneck", "last_layers", "cannot be merged into the weights. Take the tuner bottleneck"),
    ],
)
def test_a_tuner_does_not_start_from_an_adapter_it_cannot_go_on_with(tmp_path: Path, first: str, then: str, words: str) -> None:
    _, report = child.run(child.spec(tmp_path / "first", "sft", first, params={"max_steps": 1}))
    second = child.spec(tmp_path / "second", "sft", then, params={"max_steps": 1})
    second["model"] = {**second["model"], "adapter": str(last(report))}
    with pytest.raises(Failed, match=words) as refused:
        child.run(second)
    assert refused.value.code == "config"


@pytest.mark.every
@pytest.mark.parametrize("tuner", ["prefix", "ia3", "bottleneck", "prompt"])
def test_an_adapter_goes_on_where_it_was(tmp_path: Path, tuner: str) -> None:
    _, report = child.run(child.spec(tmp_path / "first", "sft", tuner, params={"max_steps": 2}))
    second = child.spec(tmp_path / "second", "sft", tuner, params={"max_steps": 2, "learning_rate": 1e-12})
    second["model"] = {**second["model"], "adapter": str(last(report))}
    _, further = child.run(second)
    assert further.of("checkpoint")[-1]["peft_type"] == tuners.registry()[tuner].peft_type
    assert (logits(last(further)) - logits(last(report))).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("tuner", ["lora", pytest.param("bottleneck", marks=pytest.mark.every)])
def test_a_quantised_base_is_tuned_and_the_adapter_loads_on_the_whole_one(tmp_path: Path, tuner: str, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    _, whole = child.run(child.spec(tmp_path / "whole", "sft", tuner))
    _, report = child.run(child.spec(tmp_path / kind, "sft", tuner, tuner_params={"quantization": kind}))
    told = report.of("resolved")[0]["config"]
    assert told["total_parameters"] == 90_624 and told["trained_weights"] == "float32"
    assert report.curve("loss")[6] == pytest.approx(whole.curve("loss")[6], rel=0.1)
    assert (logits(last(report)) - base_logits()).abs().max() > 1e-3


@pytest.mark.every
@pytest.mark.parametrize(
    ("method", "tuner", "settings"),
    [
        ("sft", "prefix", {"projection": True}),
        ("sft", "prompt", {}),
        ("sft", "p_tuning", {}),
        ("reward", "p_tuning", {}),
        ("sft", "bottleneck", {}),
        ("sft", "experts", {}),
        ("sft", "bitfit", {}),
    ],
)
def test_a_run_goes_on_bit_by_bit_with_every_tuner(tmp_path: Path, method: str, tuner: str, settings: dict[str, Any]) -> None:
    job = child.spec(tmp_path, method, tuner, params={"max_steps": 4, "save_steps": 2}, tuner_params=settings)
    _, report = child.run(job)
    _, rest = child.run(child.resumed(job, 2, tmp_path))
    assert rest.curve("loss") == {step: loss for step, loss in report.curve("loss").items() if step > 2}
    if method == "sft":
        assert torch.equal(logits(last(rest)), logits(last(report)))


def mixture(folder: Path, **changes: Any) -> dict[str, Any]:
    """A run that mixes two LoRAs, which were trained apart."""
    others = {}
    for number, seed in enumerate((1, 2)):
        _, report = child.run(child.spec(folder / f"lora-{number}", "sft", "lora", params={"max_steps": 3}, seed=seed))
        others[f"ckpt_{number}"] = {"path": str(tiny_llama_folder()), "adapter": str(last(report)), "name": f"lora {number}"}
    settings = {"adapters": list(others), "depth": 2, "width": 16}
    return child.spec(folder, "sft", "xlora", tuner_params=settings, others=others, **changes)


def test_a_mixture_of_loras_is_trained_kept_and_gone_on_with(tmp_path: Path) -> None:
    job = mixture(tmp_path, params={"max_steps": 6, "save_steps": 3, "learning_rate": 0.01}, held_out=4, sample_prompts=1)
    _, report = child.run(job)
    assert report.of("resolved")[0]["config"]["trainable_parameters"] == 65 * 16 + 17 * 2
    assert set(report.curve("loss")) == {1, 2, 3, 4, 5, 6} and report.curve("eval_loss")
    assert len(report.of("sample")) >= 2
    # The checkpoint carries its LoRAs: those it was made of may be deleted.
    kept = tmp_path / "kept"
    shutil.copytree(last(report), kept)
    for each in job["others"].values():
        shutil.rmtree(each["adapter"])
    first = logits(kept)
    assert torch.equal(first, logits(kept)) and (first - base_logits()).abs().max() > 1e-3
    assert (first - logits(Path(report.of("checkpoint")[0]["folder"]))).abs().max() > 0, "the router has learned"


def test_loras_of_rounded_weights_are_mixed_on_such_weights(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    job = mixture(tmp_path, params={"max_steps": 1})
    for each in job["others"].values():
        Bits("nf4").keep(Path(each["adapter"]))
    _, report = child.run(job)
    assert Bits.of(last(report)) == Bits("nf4")
    rounded = logits(last(report))
    (last(report) / "quantization.json").unlink()
    assert (rounded - logits(last(report))).abs().max() > 1e-3


@pytest.mark.every
def test_a_mixture_resumes_bit_by_bit_and_refuses_what_it_cannot_mix(tmp_path: Path) -> None:
    job = mixture(tmp_path, params={"max_steps": 4, "save_steps": 2})
    _, report = child.run(job)
    _, rest = child.run(child.resumed(job, 2, tmp_path))
    assert rest.curve("loss") == {step: loss for step, loss in report.curve("loss").items() if step > 2}
    assert torch.equal(logits(last(rest)), logits(last(report)))
    _, other = child.run(child.spec(tmp_path / "ia3", "sft", "ia3", params={"max_steps": 1}))
    held = tmp_path / "held"
    shutil.copytree(str(job["others"]["ckpt_1"]["adapter"]), held)
    Bits("nf4").keep(held)
    for change, words in (
        ({"adapter": str(last(other))}, "only LoRAs can be mixed"),
        ({"path": "/elsewhere"}, "trained on another model"),
        ({"adapter": str(held)}, "held in other bits"),
    ):
        wrong = {**job, "work": str(tmp_path), "others": {**job["others"], "ckpt_1": {**job["others"]["ckpt_1"], **change}}}
        with pytest.raises(Failed, match=words):
            child.run(wrong)
