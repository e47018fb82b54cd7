"""Methods and tuners as people meet them: in REST, in forms, in the documentation, and as refusals in plain words."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app import forms, methods, tuners
from app.errors import Invalid
from app.methods import service
from app.methods.dpo import DpoParams
from app.methods.sft import SftParams
from app.tuners.lora import LoraParams, adapted

OBJECTIVE = '''
"""An objective somebody dropped in."""

from pydantic import Field

from app.methods.sft import Sft, SftParams


class PoliteParams(SftParams):
    """Settings of polite tuning."""

    courtesy: int = Field(3, ge=1, le=9, title="Courtesy", json_schema_extra={"group": "Manners"})
    """How many times the model says please."""


class Polite(Sft):
    """Learns to say please, from rows that do."""

    name = "polite"
    title = "Polite tuning"
    summary = "Learn manners."
    params = PoliteParams
'''
TUNER = '''
"""A tuner somebody dropped in."""

from app.tuners.lora import Lora


class Thin(Lora):
    """LoRA for a diet."""

    name = "thin"
    title = "Thin LoRA"
    summary = "Like LoRA."
'''


@pytest.fixture
def dropped_in(tmp_path: Path) -> Iterator[None]:
    """A file each in two folders that are added to the packages, as an installation of one's own would do."""
    places = [(methods, "polite", OBJECTIVE), (tuners, "thin", TUNER)]
    for package, name, text in places:
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        package.__path__.append(str(folder))
    importlib.invalidate_caches()
    yield
    for package, name, _ in places:
        package.__path__.pop()
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


def test_a_file_that_is_dropped_in_is_in_rest_forms_and_documentation(dropped_in: None, api: TestClient) -> None:
    from docs.reference import generate  # the script brings its neighbours along

    told = {each["name"]: each for each in api.get("/api/v1/methods").json()}
    assert told["polite"]["params"]["properties"]["courtesy"]["description"] == "How many times the model says please."
    assert "thin" in told["polite"]["accepts_tuners"] and "thin" in told["dpo"]["accepts_tuners"]
    assert "thin" in {each["name"] for each in api.get("/api/v1/tuners").json()}

    manners = next(group for group in forms.groups(methods.registry()["polite"].params, "params") if group.title == "Manners")
    assert [(field.id, field.kind, field.default, field.minimum) for field in manners.fields] == [("params.courtesy", "integer", "3", 1)]
    params, _ = service.validate("polite", "thin", {"courtesy": "5"}, {}, "chat")
    assert params["courtesy"] == 5 and params["learning_rate"] == 2e-4

    written = generate()
    assert "methods/polite.md" in written["methods.md"] and "tuners/thin.md" in written["methods.md"]
    assert "# Polite tuning" in written["methods/polite.md"] and "How many times the model says please." in written["methods/polite.md"]


@pytest.mark.train
def test_a_file_that_is_dropped_in_trains(dropped_in: None, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tests.methods import child

    result, _ = child.run(child.spec(tmp_path, "polite", "thin", params={"max_steps": 2, "courtesy": 2}))
    assert result == {"outcome": "finished", "step": 2}


def test_what_was_dropped_in_is_gone_again() -> None:
    assert "polite" not in methods.registry() and "thin" not in tuners.registry()
    assert {"sft", "dpo", "kto", "reward", "score"} <= set(methods.registry())


def test_what_goes_together_is_what_the_matrix_says(api: TestClient) -> None:
    lines = [line.split() for line in Path(__file__).with_name("matrix.txt").read_text().splitlines() if line[0] != "#"]
    columns = lines.pop(0)
    matrix = {name: {tuner for tuner, sign in zip(columns, signs, strict=True) if sign == "+"} for name, *signs in lines}
    quantised = matrix.pop("quantised")
    told = {each["name"]: set(each["accepts_tuners"]) for each in api.get("/api/v1/methods").json()}
    assert told == matrix and set(columns) == set(tuners.registry())
    assert quantised == {name for name, each in tuners.registry().items() if "quantization" in each.params.model_fields}


def test_rest_describes_methods_and_tuners(api: TestClient) -> None:
    told = {each["name"]: each for each in api.get("/api/v1/methods").json()}
    assert told["sft"]["consumes"] == ["chat", "prompt_completion"] and told["sft"]["produces"] == "policy"
    assert told["sft"]["learning_rate"] | {"lora": 2e-4, "full": 2e-5, "bitfit": 1e-3, "ia3": 0.01} == told["sft"]["learning_rate"]
    assert told["dpo"]["learning_rate"] | {"lora": 1e-4, "full": 1e-6} == told["dpo"]["learning_rate"]
    assert "head" in told["sft"]["refuses"]["head_only"] and "head_only" in told["reward"]["accepts_tuners"]
    common = {"max_steps", "epochs", "batch_size", "gradient_accumulation", "learning_rate", "max_length", "logging_steps"}
    for each in told.values():
        properties = each["params"]["properties"]
        if each["name"] != "features":  # it takes no steps
            assert common | {"eval_steps", "save_steps", "keep_checkpoints"} <= set(properties)
        assert all(one["description"] and one["group"] and one["title"] for one in properties.values())
    found = {each["name"]: each for each in api.get("/api/v1/tuners").json()}
    assert (found["full"]["family"], found["lora"]["family"]) == ("full", "adapter")
    assert found["lora"]["mergeable"] and not found["prefix"]["mergeable"]


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"method": "sftt"}, "method", "There is no method “sftt”. Did you mean “sft”?"),
        ({"tuner": "qlora"}, "tuner", "There is no tuner “qlora”. Did you mean “lora”?"),
        ({"params": {"learning_rat": 1}}, "params.learning_rat", "Did you mean “learning_rate”?"),
        ({"params": {"learning_rate": 5}}, "params.learning_rate", "Must be at most 1.0, and it is 5."),
        ({"params": {"learning_rate": 0}}, "params.learning_rate", "Must be more than 0"),
        ({"params": {"learning_rate": float("nan")}}, "params.learning_rate", "Must be a finite number."),
        ({"params": {"batch_size": "many"}}, "params.batch_size", "Must be a whole number."),
        ({"params": {"batch_size": 2.5}}, "params.batch_size", "Must be a whole number."),
        ({"params": {"batch_size": 10**400}}, "params.batch_size", "Must be at most 4096"),
        ({"params": {"precision": "fp16"}}, "params.precision", "Must be 'auto', 'fp32' or 'bf16'"),
        ({"tuner_params": {"r": 0}}, "tuner_params.r", "Must be at least 1, and it is 0."),
        ({"tuner_params": {"target_modules": "lm_head"}}, "tuner_params.target_modules", "lm_head"),
        ({"tuner_params": {"target_modules": "q_proj;v_proj"}}, "tuner_params.target_modules", "separated by commas"),
        ({"params": {"answer_check": "last_integer"}}, "params.answer_check", "no evaluation rows"),
        ({"shape": "preference"}, "dataset", "preference rows; sft needs chat rows (messages) or prompt/completion rows"),
        ({"shape": "text"}, "dataset", "Take another dataset, or the method pretrain."),
        ({"method": "dpo", "params": {"loss": "robust"}, "shape": "preference"}, "params", "label_smoothing"),
        ({"method": "dpo", "shape": "chat"}, "dataset", "or the method sft"),
    ],
)
def test_a_refusal_names_the_field_and_says_what_to_do(change: dict[str, Any], field: str, words: str) -> None:
    asked = {"method": "sft", "tuner": "lora", "params": {}, "tuner_params": {}, "shape": "chat", **change}
    with pytest.raises(Invalid) as refused:
        service.validate(asked["method"], asked["tuner"], asked["params"], asked["tuner_params"], asked["shape"])
    assert refused.value.field == field and words in refused.value.message
    assert "pydantic" not in refused.value.message and "\n" not in refused.value.message


def test_all_findings_are_told_at_once() -> None:
    with pytest.raises(Invalid) as refused:
        service.validate("dpo", "lora", {"batch_size": 0, "beta": -1}, {"r": 0}, "chat")
    assert set(forms.errors_of(refused.value)) == {"params.batch_size", "params.beta", "tuner_params.r", "dataset"}


def test_defaults_are_filled_in_and_survive_a_second_time() -> None:
    params, tuner_params = service.validate("sft", "full", {"max_steps": "30"}, {}, "chat")
    assert (params["max_steps"], params["learning_rate"], params["epochs"], tuner_params) == (30, 2e-5, 1.0, {})
    assert service.validate("sft", "full", params, tuner_params, "chat") == (params, tuner_params)


def test_a_form_shows_what_was_typed_and_what_is_wrong_with_it() -> None:
    typed = {"learning_rate": " 1e-4 ", "batch_size": "many", "max_steps": "", "group_by_length": "false"}
    values = forms.values_of(SftParams, {"other": "1", **{f"params.{name}": text for name, text in typed.items()}}, "params")
    assert values == {"learning_rate": "1e-4", "batch_size": "many", "group_by_length": False}
    with pytest.raises(Invalid) as refused:
        service.validate("sft", "lora", values, {}, None)
    groups = forms.groups(SftParams, "params", values, forms.errors_of(refused.value), {"learning_rate": 2e-4})
    fields = {field.name: field for group in groups for field in group.fields}
    assert [group.title for group in groups] == ["Length", "Batch", "Optimiser", "Checks while training", "Checkpoints", "Device"]
    assert fields["batch_size"].error == "Must be a whole number." and fields["batch_size"].value == "many"
    assert fields["learning_rate"].default == "0.0002" and fields["learning_rate"].value == "1e-4" and fields["learning_rate"].optional
    assert fields["group_by_length"].kind == "boolean" and fields["group_by_length"].changed
    assert fields["scheduler"].choices == ("linear", "cosine", "constant", "constant_with_warmup") and fields["scheduler"].advanced
    assert fields["max_length"].minimum == 8 and fields["max_length"].step == "1" and not fields["max_length"].changed
    assert next(group for group in groups if group.title == "Batch").opened
    assert not next(group for group in groups if group.title == "Optimiser").opened
    assert {group.title for group in forms.groups(DpoParams, "params")} >= {"Preference"}


def test_linear_layers_are_found_by_their_shapes() -> None:
    shapes = {
        "model.embed_tokens.weight": [259, 64],
        "model.layers.0.self_attn.q_proj.weight": [64, 64],
        "model.layers.0.self_attn.q_proj.bias": [64],
        "model.layers.0.mlp.down_proj.weight": [64, 128],
        "model.layers.0.input_layernorm.weight": [64],
        "model.layers.0.mlp.experts.gate_up_proj": [4, 64, 256],
        "lm_head.weight": [259, 64],
    }
    assert [name for name, _ in adapted(shapes, "all-linear")] == ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]
    assert [name for name, _ in adapted(shapes, "mlp.down_proj, o_proj")] == ["model.layers.0.mlp.down_proj"]
    assert tuners.registry()["lora"].trainable(shapes, {}, LoraParams(r=2)) == 2 * 128 + 2 * 192
