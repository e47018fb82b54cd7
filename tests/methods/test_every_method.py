"""Every objective with every tuner, from the registries: trains, moves its weights, saves, and loads again outside the studio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

from app import methods, tuners
from app.checkpoints import manifest as manifests
from tests.methods import child
from tests.models import tiny_llama_folder

# peft calls names of transformers that are to go; that is between the two.
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")]

ONE_STEP = ("features",)  # fitted at once, and tested in a file of its own
ALL = [(method, tuner) for method, each in methods.registry().items() if method not in ONE_STEP for tuner in each.accepts_tuners]
COVERING = {(method, tuner) for method, tuner in ALL if method == "sft" or tuner == "lora" or (method, tuner) == ("dpo", "full")} | {
    next((method, tuner) for method, tuner in ALL if tuner == name) for name in tuners.registry() if ("sft", name) not in ALL
}
"""Every tuner and every method at least once; the rest is run by `make test-methods`."""
PAIRS = [pair if pair in COVERING else pytest.param(*pair, marks=pytest.mark.every) for pair in ALL]


def numbers(method: str) -> int:
    """How many numbers a head gives."""
    objective = methods.registry()[method]
    return 0 if not objective.head else 3 if objective.produces == "classifier" else 1


def reloaded(folder: Path, kind: str, head: int = 0) -> Any:
    """A checkpoint, loaded with nothing but transformers and peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    def load(place: Path | str) -> Any:
        return (
            AutoModelForSequenceClassification.from_pretrained(place, num_labels=head)
            if head
            else AutoModelForCausalLM.from_pretrained(place)
        )

    if kind == "full":
        return load(folder).eval()
    import worker.engines.bottleneck  # noqa: F401  # PEFT has to know our own kind of adapter

    config = json.loads((folder / "adapter_config.json").read_text())
    if config["peft_type"] == "XLORA":  # PEFT alone keeps only a part of its router
        from worker.loading import load_model

        return load_model(str(tiny_llama_folder()), str(folder), "float32").eval()
    base = config["base_model_name_or_path"]
    assert Path(base).is_absolute() and Path(base) == tiny_llama_folder()
    return PeftModel.from_pretrained(load(base), folder).eval()


@pytest.mark.parametrize(("method", "tuner"), PAIRS)
def test_it_trains_saves_and_loads_elsewhere(tmp_path: Path, method: str, tuner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker import callbacks

    seen: dict[str, Any] = {}

    class Watching(callbacks.Reporter):
        def on_train_begin(self, *args: Any, **options: Any) -> None:
            super().on_train_begin(*args, **options)
            seen["before"] = {
                name: weight.detach().clone() for name, weight in self.trainer.model.named_parameters() if weight.requires_grad
            }
            seen["had_gradient"] = {}

        def on_pre_optimizer_step(self, *args: Any, **options: Any) -> None:
            for name, weight in self.trainer.model.named_parameters():
                if weight.requires_grad and weight.grad is not None:
                    seen["had_gradient"][name] = seen["had_gradient"].get(name, False) | (weight.grad != 0)

        def on_save(self, *args: Any, **options: Any) -> None:
            super().on_save(*args, **options)
            seen["model"] = self.trainer.model

    monkeypatch.setattr(callbacks, "Reporter", Watching)
    job = child.spec(tmp_path, method, tuner, held_out=4, params={"eval_steps": 3, "save_steps": 3}, sample_prompts=1)
    result, report = child.run(job)
    assert result == {"outcome": "finished", "step": 6}
    assert report.of("total")[0]["steps"] == 6
    assert [message["step"] for message in report.of("step")] == [1, 2, 3, 4, 5, 6]
    assert [message["step"] for message in report.of("checkpoint")] == [3, 6]
    assert {"loss", "grad_norm", "learning_rate", "tokens", "tokens_per_second", "elapsed_seconds", "memory_bytes"} <= {
        name for message in report.of("metrics") for name in message["values"]
    }
    assert sorted(report.curve("eval_loss")) == [3, 6]

    # The weights that a gradient reached have moved, and are kept in 32 bits.
    moved = total = 0
    for name, weight in seen["model"].named_parameters():
        if weight.requires_grad:
            assert weight.dtype == torch.float32
            reached = seen["had_gradient"].get(name)
            if reached is not None:
                total += int(reached.sum())
                moved += int(((weight != seen["before"][name]) & reached).sum())
    assert total and moved / total >= 0.9

    kind = report.of("checkpoint")[-1]["tuner_kind"]
    assert kind == tuners.registry()[tuner].family
    folder = Path(report.of("checkpoint")[-1]["folder"])
    assert report.of("checkpoint")[-1]["task"] == methods.registry()[method].produces
    manifest = manifests.verify_manifest(folder)
    assert (manifest["run_id"], manifest["step"], manifest["attempt"]) == ("run_1", 6, 1)
    assert not [name for name in manifest["files"] if name.endswith((".bin", ".pkl"))]
    ids = torch.tensor([[1, 40, 41, 42, 43, 44]])
    trained = seen["model"].eval()
    with torch.no_grad():
        head = numbers(method)
        torch.manual_seed(job["seed"])  # a head that is not in the files is drawn as the run drew it
        base = reloaded(tiny_llama_folder(), "full", head)(input_ids=ids).logits
        expected, found = trained(input_ids=ids).logits, reloaded(folder, kind, head)(input_ids=ids).logits
        if not head:  # virtual tokens have logits of their own, before those of the prompt
            expected, found = expected[:, -ids.shape[1] :], found[:, -ids.shape[1] :]
    assert (found - expected).abs().max() <= 1e-5
    assert (found - base).abs().max() > 1e-3, "nothing was learned"


@pytest.mark.parametrize("tuner", ["lora", "full"])
@pytest.mark.parametrize("method", ["sft", "dpo", *(pytest.param(name, marks=pytest.mark.every) for name in ("kto", "reward", "score"))])
def test_a_run_can_start_from_an_adapter(tmp_path: Path, method: str, tuner: str) -> None:
    first = child.spec(tmp_path / "first", "sft", "lora")
    _, report = child.run(first)
    adapter = report.of("checkpoint")[-1]["folder"]
    second = child.spec(tmp_path / "second", method, tuner, params={"max_steps": 4, "save_steps": 2})
    second["model"] = {**second["model"], "adapter": adapter}
    result, report = child.run(second)
    assert result["outcome"] == "finished"
    folder = Path(report.of("checkpoint")[-1]["folder"])
    reloaded(folder, report.of("checkpoint")[-1]["tuner_kind"], numbers(method))
    assert not (folder / "ref").exists()
    if method == "dpo":
        assert report.curve("loss")[1] == pytest.approx(0.6931, abs=1e-3), "the reference is the model with its adapter, not the bare base"
    result, rest = child.run(child.resumed(second, 2, tmp_path / "second"))
    assert rest.curve("loss") == {step: loss for step, loss in report.curve("loss").items() if step > 2}


def test_frozen_weights_are_bfloat16_where_the_processor_reckons_in_it_and_trained_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import loading

    monkeypatch.setattr(loading, "_cpu_has_bf16", lambda: True)
    _, report = child.run(child.spec(tmp_path / "lora", "sft", "lora", params={"precision": "auto", "max_steps": 2}))
    told = report.of("resolved")[0]["config"]
    assert (told["weights"], told["trained_weights"], told["autocast"]) == ("bfloat16", "float32", None)
    assert told["arguments"]["use_cpu"] is True
    _, report = child.run(child.spec(tmp_path / "full", "sft", "full", params={"precision": "auto", "max_steps": 2}))
    assert report.of("resolved")[0]["config"]["weights"] == "float32"


def test_what_a_plan_says_about_trainable_weights_is_what_is_trained(tmp_path: Path) -> None:
    from worker.loading import load_model

    shapes = {name: list(weight.shape) for name, weight in load_model(str(tiny_llama_folder()), None, "float32").named_parameters()}
    for number, (tuner, settings) in enumerate(
        [("lora", {}), ("lora", {"r": 4, "use_dora": True, "target_modules": "q_proj,v_proj"}), ("full", {})]
    ):
        _, report = child.run(child.spec(tmp_path / str(number), "sft", tuner, params={"max_steps": 1}, tuner_params=settings))
        each = tuners.registry()[tuner]
        told = report.of("resolved")[0]["config"]
        assert each.trainable(shapes, {}, each.params.model_validate(settings)) == told["trainable_parameters"]
        assert told["total_parameters"] == 90_624


@pytest.mark.parametrize(
    ("tuner", "settings"),
    [
        ("lora", {"loss": "ipo"}),
        ("lora", {"loss": "hinge"}),
        ("lora", {"loss": "robust", "label_smoothing": 0.1}),
        ("full", {"precompute_reference": True}),
    ],
)
def test_every_loss_of_dpo_trains(tmp_path: Path, tuner: str, settings: dict[str, Any]) -> None:
    _, report = child.run(child.spec(tmp_path, "dpo", tuner, params={"max_steps": 3, **settings}))
    losses = report.curve("loss")
    assert len(losses) == 3 and all(loss == loss for loss in losses.values())
    if settings.get("precompute_reference"):
        assert losses[1] == pytest.approx(0.6931, abs=1e-3)


def test_gradient_checkpointing_changes_memory_and_nothing_else(tmp_path: Path) -> None:
    _, without = child.run(child.spec(tmp_path / "a", "sft", "lora", params={"gradient_checkpointing": "off"}))
    _, with_it = child.run(child.spec(tmp_path / "b", "sft", "lora", params={"gradient_checkpointing": "on"}, held_out=2, sample_prompts=1))
    assert with_it.of("resolved")[0]["config"]["gradient_checkpointing"] is True
    assert with_it.curve("loss") == pytest.approx(without.curve("loss"), abs=1e-6)
