"""Recipes: the arithmetic is right, held-out pairs are absent from training, the same seed makes the same rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from app import recipes
from app.errors import Invalid


def make(part: str = "train", **params: Any) -> list[dict[str, Any]]:
    recipe, checked = recipes.check("arithmetic", params)
    return list(recipe.generate(checked, part))


def operands(row: dict[str, Any]) -> tuple[int, str, int]:
    found = re.fullmatch(r"What is (\d+) ([-+*/]) (\d+)\?", row["prompt"])
    assert found
    return int(found[1]), found[2], int(found[3])


def test_answers_are_exact() -> None:
    rows = make(operations=["add", "subtract", "multiply", "divide"], min_digits=1, max_digits=6, rows=2000)
    assert len(rows) == len({row["prompt"] for row in rows}) == 2000
    for row in rows:
        a, sign, b = operands(row)
        assert int(row["completion"]) == {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else None}[sign]
        assert int(row["completion"]) >= 0 and (sign != "/" or a % b == 0)


def test_held_out_pairs_are_absent_from_training() -> None:
    params = {"rows": 2000, "held_out": 200, "held_out_operations": ["add"]}
    held, trained = make("held_out", **params), make(**params)
    assert (len(held), len(trained)) == (200, 2000)
    assert all(sign == "+" for _, sign, _ in map(operands, held))
    pairs = {frozenset((a, b)) for a, _, b in map(operands, held)}
    assert not pairs & {frozenset((a, b)) for a, _, b in map(operands, trained)}


def test_seed() -> None:
    assert make(rows=50) == make(rows=50) != make(rows=50, seed=1)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"rows": 0}, "rows"),
        ({"operations": []}, "operations"),
        ({"operations": ["power"]}, "operations.0"),
        ({"digits": 2}, "digits"),
        ({"min_digits": 3, "max_digits": 2}, None),
        ({"min_digits": 1, "max_digits": 1, "rows": 100}, None),
        ({"held_out": 5000}, None),
    ],
)
def test_settings_that_cannot_be_used(params: dict[str, Any], field: str | None) -> None:
    with pytest.raises(Invalid) as found:
        recipes.check("arithmetic", params)
    assert found.value.field == field


def test_over_rest(api: TestClient, work: Callable[..., None]) -> None:
    [known] = [each for each in api.get("/api/v1/recipes").json() if each["name"] == "arithmetic"]
    assert known["produces"] == "prompt_completion" and "description" in known["params"]["properties"]["rows"]
    answer = api.post("/api/v1/recipes/arithmetic/runs", json={"name": "sums", "operations": ["add"], "rows": 100, "held_out": 10})
    assert answer.status_code == 201, answer.text
    assert [each["name"] for each in answer.json()["datasets"]] == ["sums", "sums-heldout"]
    work(runs=False)
    train, held = (api.get(f"/api/v1/datasets/{each['id']}").json() for each in answer.json()["datasets"])
    assert (train["status"], train["rows"], held["rows"]) == ("ready", 100, 10)
    assert train["problems"] == {"errors": 0, "warnings": 0} and train["source_bytes"] > 1000
    assert train["lineage"]["params"]["rows"] == 100
    refused = api.post("/api/v1/recipes/arithmetic/runs", json={"rows": "many"})
    assert refused.status_code == 422 and refused.json()["error"]["field"] == "rows"
    assert api.post("/api/v1/recipes/nothing/runs", json={}).status_code == 404


def test_on_the_page(client: TestClient, work: Callable[..., None]) -> None:
    assert "Make arithmetic data" in client.get("/datasets/new").text
    refused = client.post("/datasets/recipes/arithmetic", data={"rows": "0", "name": "few"})
    assert refused.status_code == 422 and "Must be at least 1" in refused.text and 'value="few"' in refused.text
    made = client.post("/datasets/recipes/arithmetic", data={"rows": "60", "operations": ["add", "divide"], "held_out": ""})
    assert made.status_code == 303, made.text
    work(runs=False)
    assert "recipe arithmetic" in client.get(made.headers["location"]).text
