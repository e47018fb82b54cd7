"""Rows with numbers of people: margins of pairs and ratings of single answers, from the reader to the table of an export."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from app import shapes
from app.datasets import exporting


def stored(file: Path, sources: list[dict[str, Any]]) -> Path:
    """A dataset's file, as an import leaves it."""
    form = shapes.detect(sources[0])
    assert form is not None
    rows = [shapes.read(source, form).row for source in sources]
    file.write_text("".join(json.dumps({"line": number, "split": "train", "row": row}) + "\n" for number, row in enumerate(rows, 1)))
    return file


def test_margins_of_some_rows_are_exported_and_absent_ones_stay_empty(tmp_path: Path) -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    file = stored(tmp_path / "rows.jsonl", [pair, {**pair, "margin": "0.5"}])
    lines = b"".join(exporting._as_csv(file, "preference")).decode().splitlines()
    assert lines == ["prompt,chosen,rejected,margin", "a,b,c,", "a,b,c,0.5"]
    assert b"margin" not in b"".join(exporting._as_csv(stored(tmp_path / "plain.jsonl", [pair]), "preference"))
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO(b"".join(exporting._as_parquet(file, "preference"))))
    assert table.column("margin").to_pylist() == [None, 0.5]


def test_ratings_are_numbers_in_a_table(tmp_path: Path) -> None:
    file = stored(
        tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b", "score": 4}, {"prompt": "a", "completion": "c", "score": 2.5}]
    )
    assert b"".join(exporting._as_csv(file, "rated")).decode().splitlines()[1:] == ["a,b,4.0", "a,c,2.5"]
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO(b"".join(exporting._as_parquet(file, "rated"))))
    assert table.column("score").to_pylist() == [4.0, 2.5]


@pytest.mark.parametrize(
    ("row", "form", "place", "words"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "big"}, "preference", "margin", "by how much"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": float("nan")}, "preference", "margin", "be left out"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": True}, "preference", "margin", "be left out"),
        ({"prompt": "a", "completion": "b"}, "rated", "score", "the field “score” is missing"),
        ({"prompt": "a", "completion": "b", "score": "good"}, "rated", "score", "such as a rating from 1 to 5"),
        ({"prompt": "a", "completion": "b", "score": 1e999}, "rated", "score", "such as a rating from 1 to 5"),
    ],
)
def test_what_is_no_number_is_refused_with_its_place(row: dict[str, Any], form: str, place: str, words: str) -> None:
    with pytest.raises(shapes.Wrong) as wrong:
        shapes.read(row, form)
    assert wrong.value.place == place and words in wrong.value.message
