"""Presets: each is a combination that can be started as it is, in REST and in the form of a new run."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from app import methods, presets
from app.methods import service

NAMES = [name for name, each in presets.registry().items() if each.method in methods.registry()]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_can_be_used_as_it_is(name: str) -> None:
    preset = presets.registry()[name]
    shape = methods.registry()[preset.method].consumes[-1]
    missing = {"teacher": "ckpt_1"} if preset.method == "distill" else {}
    params, tuner_params = service.validate(preset.method, preset.tuner, {**preset.params, **missing}, preset.tuner_params, shape)
    assert {name: params[name] for name in preset.params if name != "rewards"}.items() <= params.items()
    assert preset.tuner_params.items() <= tuner_params.items()
    assert preset.source and preset.summary.endswith(".")


def test_presets_are_in_rest_and_fill_the_form(api: TestClient, client: TestClient) -> None:
    told = {each["name"]: each for each in api.get("/api/v1/presets").json()}
    assert list(told) == NAMES and told["qlora-chat"]["tuner_params"]["quantization"] == "nf4"
    page = client.get("/runs/new?preset=qlora-chat").text
    assert "preset <b>QLoRA chat tuning</b>" in page and 'name="tuner_params.r" value="64"' in page
    assert 'href="/runs/new?preset=thumbs"' in page
    assert client.get("/runs/new?preset=nothing").status_code == 200
