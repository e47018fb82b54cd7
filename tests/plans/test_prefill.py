"""Settings in a link: filled into the form where the field takes them, else left out and said. Nothing is started by it."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.testclient import TestClient

from app.methods.dpo import DpoParams
from app.plans.prefill import usable


def opened(client: TestClient, **query: str) -> str:
    answer = client.get(f"/runs/new?{urlencode({name.replace('__', '.'): value for name, value in query.items()})}")
    assert answer.status_code == 200
    return unescape(answer.text)


def note_of(page: str) -> str:
    found = re.search(r'id="from-link">(.*?)<form class="newrun"', page, re.S)
    return found.group(1) if found else ""


@pytest.mark.parametrize("stack", ["sqlite"], indirect=True)
def test_settings_of_a_link_stand_in_the_form(client: TestClient) -> None:
    page = opened(client, method="dpo", params__loss="robust", params__label_smoothing="0.12", params__epochs="1", tuner_params__r="4")
    assert re.search(r'<option value="robust" selected', page) and re.search(r'name="params.label_smoothing" value="0.12"', page)
    assert re.search(r'name="tuner_params.r" value="4"', page) and "Filled in by the link" in note_of(page) and "Loss" in note_of(page)
    assert not note_of(opened(client, method="dpo"))


@pytest.mark.parametrize("stack", ["sqlite"], indirect=True)
def test_what_a_link_cannot_have_is_left_out_and_said(client: TestClient) -> None:
    page = opened(
        client,
        method="dpo",
        params__beta="-1",
        params__colour="<script>alert(1)</script>",
        params__epochs="2",
        params__label_smoothing="0." + "1" * 300,
        tuner_params__r="many",
    )
    note = note_of(page)
    assert "beta:" in note and "colour: There is no setting" in note and "r:" in note and "200 characters" in note
    assert re.search(r'name="params.epochs" value="2"', page) and not re.search(r'name="params.beta" value="-1"', page)
    assert "<script>alert(1)" not in client.get("/runs/new?method=dpo&params.%3Cscript%3Ealert(1)=1").text
    note = note_of(opened(client, method="nonsense", tuner="nope"))
    assert "There is no method “nonsense”" in note and "There is no tuner “nope”" in note


def test_values_that_do_not_fit_together_are_left_out() -> None:
    kept, refused = usable(DpoParams, {"loss": "robust", "beta": "0.2"})
    assert kept == {} and "label_smoothing" in next(iter(refused.values()))
    kept, refused = usable(DpoParams, {"loss": "robust", "label_smoothing": "0.1", "beta": "x", "epochs": "1"})
    assert kept == {"loss": "robust", "label_smoothing": "0.1", "epochs": "1"} and list(refused) == ["beta"]


def test_nothing_but_fields_gets_in() -> None:
    odd: dict[str, Any] = {"__class__": "x", "": "1", "model_config": "y"}
    assert usable(DpoParams, odd)[0] == {}
