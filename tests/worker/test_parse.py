"""Importing sources: every format, every kind of bad input, the split, doubles, and the memory it takes."""

from __future__ import annotations

import gzip
import json
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worker.parse import main
from worker.reporting import Failed, Report

LIMITS = {"max_line_bytes": 1024**2, "max_rows": 1_000_000, "max_bytes": 10**9}


def parse(folder: Path, content: bytes | str, kind: str = "jsonl", **spec: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    (folder / f"source.{kind}").write_bytes(content.encode() if isinstance(content, str) else content)
    return main({"folder": str(folder), "source": f"source.{kind}", "format": kind, **LIMITS, **spec}, Report())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


PAIR = {"prompt": "What is 2 + 2?", "completion": "4"}
PAIRS = [{"prompt": f"What is {n} + 1?", "completion": str(n + 1)} for n in range(40)]


# --- formats --------------------------------------------------------------------------------------------------------------


def test_jsonl_rows_and_index(tmp_path: Path) -> None:
    found = parse(tmp_path, "\n" + lines(*PAIRS))
    assert (found["rows"], found["shape"], found["columns"], found["errors"]) == (40, "prompt_completion", ["prompt", "completion"], 0)
    rows = rows_of(tmp_path)
    assert rows[0] == {"split": "train", "line": 2, "row": PAIRS[0], "source": PAIRS[0]}
    offsets = np.fromfile(tmp_path / "rows.idx", dtype="<u8")
    assert len(offsets) == 41
    content = (tmp_path / "rows.jsonl").read_bytes()
    assert json.loads(content[offsets[7] : offsets[8]])["line"] == 9
    assert offsets[-1] == len(content)


def test_byte_order_mark_is_no_part_of_the_data(tmp_path: Path) -> None:
    for kind, text in (("jsonl", lines(PAIR)), ("json", json.dumps([PAIR])), ("csv", "prompt,completion\nWhat is 2 + 2?,4\n")):
        found = parse(tmp_path / kind, b"\xef\xbb\xbf" + text.encode(), kind)
        assert found["columns"] == ["prompt", "completion"], kind
        assert rows_of(tmp_path / kind)[0]["row"] == PAIR, kind


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PAIRS),
        json.dumps(PAIRS, indent=2),
        json.dumps({"version": 1, "about": {"by": ["us"]}, "data": PAIRS}),
        lines(*PAIRS),  # JSON Lines under the name .json
    ],
    ids=["list", "indented", "wrapped", "lines"],
)
def test_json(tmp_path: Path, text: str) -> None:
    found = parse(tmp_path, text, "json")
    assert (found["rows"], found["errors"]) == (40, 0)
    assert [record["line"] for record in rows_of(tmp_path)] == list(range(1, 41))


def test_json_with_brackets_quotes_and_long_strings_across_chunks(tmp_path: Path) -> None:
    rows = [{"prompt": 'a "quoted" \\ [{,}] ' + "x" * (300_000 + n), "completion": '\\\\"' + "]" * n} for n in range(12)]
    assert parse(tmp_path, json.dumps(rows), "json")["rows"] == 12
    assert [record["row"] for record in rows_of(tmp_path)] == rows


def test_csv_with_quoted_newlines_and_another_delimiter(tmp_path: Path) -> None:
    text = 'prompt;completion\r\n"first\nsecond; ""third""";one\r\nplain;two\r\n'
    found = parse(tmp_path, text, "csv")
    assert found["rows"] == 2
    first, second = rows_of(tmp_path)
    assert first["row"] == {"prompt": 'first\nsecond; "third"', "completion": "one"}
    assert (first["line"], second["line"]) == (2, 4)


def test_csv_holds_messages_as_json(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    text = 'messages\n"' + json.dumps(messages).replace('"', '""') + '"\n'
    assert parse(tmp_path, text, "csv")["shape"] == "chat"
    assert rows_of(tmp_path)[0]["row"] == {"messages": messages}


def test_parquet(tmp_path: Path) -> None:
    messages = [[{"role": "user", "content": f"hi {n}"}, {"role": "assistant", "content": "hello"}] for n in range(600)]
    table = pa.table({"messages": messages, "when": [1.5] * 600})
    tmp_path.joinpath("d").mkdir()
    pq.write_table(table, tmp_path / "d" / "source.parquet")
    found = parse(tmp_path / "d", (tmp_path / "d" / "source.parquet").read_bytes(), "parquet")
    assert (found["rows"], found["shape"], found["columns"]) == (600, "chat", ["messages", "when"])
    assert rows_of(tmp_path / "d")[599]["line"] == 600


# --- bad input: the file ----------------------------------------------------------------------------------------------------


def refusal(folder: Path, content: bytes | str, kind: str = "jsonl", **spec: Any) -> str:
    """Why a source is not taken, by exception or by result; nothing may be left behind."""
    try:
        found = parse(folder, content, kind, **spec)
        assert "failed" in found, found
        reason = found["failed"]
    except Failed as failed:
        reason = failed.reason
    assert sorted(file.name for file in folder.iterdir()) == [f"source.{kind}"]
    return str(reason)


def test_empty_file(tmp_path: Path) -> None:
    assert "empty" in refusal(tmp_path, b"")
    assert "no usable row" in refusal(tmp_path, b"\n\n")


def test_latin1_is_refused_with_its_line(tmp_path: Path) -> None:
    text = lines(*PAIRS).encode() + '{"prompt": "Grüße", "completion": "hallo"}\n'.encode("latin-1")
    reason = refusal(tmp_path, text)
    assert "Line 41 is not UTF-8 (byte 0xFC at column 15)" in reason and "Latin-1" in reason and "save it as UTF-8" in reason
    assert "Line 3 is not UTF-8" in refusal(tmp_path / "c", "prompt,completion\na,b\nGrüße,c\n".encode("latin-1"), "csv")
    array = json.dumps([PAIR, {"prompt": "Grüße", "completion": "x"}], indent=1, ensure_ascii=False).encode("latin-1")
    assert "Line 7 is not UTF-8" in refusal(tmp_path / "j", array, "json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_utf16_is_refused(tmp_path: Path, encoding: str) -> None:
    reason = refusal(tmp_path, lines(PAIR).encode(encoding))
    assert "Line 1" in reason and "UTF-16" in reason and "Save it as UTF-8" in reason


def test_archives_are_refused_unread(tmp_path: Path) -> None:
    packed = tmp_path / "bomb.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", b"0" * 50_000_000)
    assert "zip archive" in refusal(tmp_path / "z", packed.read_bytes())
    assert "gzip" in refusal(tmp_path / "g", gzip.compress(b"0" * 10_000_000), "csv")


def test_parquet_that_is_none(tmp_path: Path) -> None:
    assert "Not readable as Parquet" in refusal(tmp_path, b"PAR1 and then nothing of it", "parquet")
    assert "name says otherwise" in refusal(tmp_path / "x", b"PAR1....")


def test_parquet_bomb(tmp_path: Path) -> None:
    """A small file whose rows are huge: refused by what its metadata says, or by what it unpacks to."""
    text = "x" * 100_000
    table = pa.table({"prompt": pa.array([text] * 3000).dictionary_encode(), "completion": ["a"] * 3000})
    file = tmp_path / "bomb.parquet"
    pq.write_table(table, file, compression="zstd")
    assert file.stat().st_size < 100_000
    assert "unpacks to more than" in refusal(tmp_path / "a", file.read_bytes(), "parquet", max_bytes=20_000_000)
    assert "3,000 rows" in refusal(tmp_path / "b", file.read_bytes(), "parquet", max_rows=100)
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"text": ["y" * 100_000] * 2000}), plain, compression="zstd", use_dictionary=False)
    assert "unpacks to more than" in refusal(tmp_path / "c", plain.read_bytes(), "parquet", max_bytes=10_000_000)


def test_too_many_rows(tmp_path: Path) -> None:
    assert "more than 10 rows" in refusal(tmp_path, lines(*PAIRS), max_rows=10)


def test_columns_without_meaning_name_a_mapping(tmp_path: Path) -> None:
    found = parse(tmp_path, lines(*({"question": f"q{n}", "answer": "a"} for n in range(5))))
    assert "“question”, “answer”" in found["failed"] and '{"prompt":"question","completion":"answer"}' in found["failed"]
    assert found["columns"] == ["question", "answer"] and len(found["preview"]) == 3


def test_mapping(tmp_path: Path) -> None:
    data = lines({"question": "q", "answer": "a", "label": "x"}, {"question": "r", "answer": "", "label": "x"})
    found = parse(tmp_path, data, mapping={"prompt": "question", "completion": "answer"})
    assert (found["rows"], found["errors"], found["shape"]) == (1, 1, "prompt_completion")
    assert found["problems"][0]["field"] == "answer"
    assert rows_of(tmp_path)[0]["source"] == {"question": "q", "answer": "a", "label": "x"}
    reason = refusal(tmp_path / "m", data, mapping={"prompt": "question", "completion": "reply"})
    assert reason == "There is no column “reply”. The file has the columns “question”, “answer”, “label”."
    assert "make no row shape" in refusal(tmp_path / "n", data, mapping={"chosen": "answer"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}', "object without a list"),
        ('"text"', "not a list"),
        ('{"a": [1], "b": [2]}', "more than one list"),
        ('[{"prompt": "a", "completion": "b"}] and more', "Not valid JSON"),
        ("[" * 5000 + "]" * 5000, "Nested more than 32 levels"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested more than 32 levels"),
    ],
)
def test_json_that_is_no_list_of_rows(tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(tmp_path, text, "json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('prompt,completion\na,"b\nc,d\n', "line 2 is never closed"),
        ("prompt,,x\na,b,c\n", "Column 2 of the header"),
        ("prompt,prompt\na,b\n", "“prompt” twice"),
    ],
)
def test_csv_that_cannot_be_read(tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(tmp_path, text, "csv")


# --- bad input: single lines ------------------------------------------------------------------------------------------------


def problem(folder: Path, bad: str, kind: str = "jsonl", **spec: Any) -> dict[str, Any]:
    """The one problem of a bad line among good ones."""
    found = parse(folder, lines(*PAIRS) + bad, kind, **spec)
    assert (found["rows"], found["errors"]) == (40, 1), found
    [only] = found["problems"]
    assert only["line"] == 41
    return dict(only)


def test_truncated_last_line(tmp_path: Path) -> None:
    found = problem(tmp_path, '{"prompt": "What is 9 + 9?", "comple')
    assert "ends in the middle of this row" in found["message"] and found["excerpt"].startswith('{"prompt": "What is 9')


def test_truncated_json(tmp_path: Path) -> None:
    found = parse(tmp_path, json.dumps(PAIRS)[:-20], "json")
    assert (found["rows"], found["errors"]) == (39, 1)
    assert "cut off" in found["problems"][0]["message"]


def test_wrong_json_says_where(tmp_path: Path) -> None:
    found = problem(tmp_path, '{"prompt": "a" "completion": "b"}\n')
    assert found["message"] == "Not valid JSON: expected “,” at column 16."


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_nan_is_no_json(tmp_path: Path, value: str) -> None:
    assert f"{value} is not a JSON value" in problem(tmp_path, '{"prompt": "a", "completion": "b", "score": ' + value + "}\n")["message"]


def test_deep_json(tmp_path: Path) -> None:
    for number, bad in enumerate(('{"a":' * 5000 + "1" + "}" * 5000, "[" * 200_000)):
        assert "more than 32 levels" in problem(tmp_path / str(number), bad + "\n")["message"]
    parse(tmp_path / "fine", lines({"prompt": "{[" * 500, "completion": "}]"}))


def test_rows_that_are_no_objects_and_doubled_keys(tmp_path: Path) -> None:
    assert "must be an object" in problem(tmp_path, '["prompt", "completion"]\n')["message"]
    assert parse(tmp_path / "k", '{"prompt": "a", "prompt": "b", "completion": "c"}\n')["rows"] == 1


def test_mixed_shapes(tmp_path: Path) -> None:
    found = problem(tmp_path, '{"messages": [{"role": "user", "content": "hi"}]}\n')
    assert found["message"] == "This row is of the form chat, and the others are prompt_completion: the field “prompt” is missing."


def test_line_over_the_limit_is_passed_over(tmp_path: Path) -> None:
    text = lines(*PAIRS[:3]) + '{"prompt": "' + "x" * 3_000_000 + '"}\n' + lines(*PAIRS[3:])
    found = parse(tmp_path, text)
    assert (found["rows"], found["errors"]) == (40, 1)
    assert "longer than 1 MiB" in found["problems"][0]["message"] and found["problems"][0]["line"] == 4
    assert len(found["problems"][0]["excerpt"]) < 300
    array = parse(
        tmp_path / "j", "[" + ",".join([json.dumps(PAIR), json.dumps({"prompt": "x" * 3_000_000}), json.dumps(PAIRS[0])]) + "]", "json"
    )
    assert (array["rows"], array["errors"], array["problems"][0]["line"]) == (2, 1, 2)
    table = parse(tmp_path / "c", "prompt,completion\na,b\n" + "x" * 3_000_000 + ",y\nc,d\n", "csv")
    assert (table["rows"], table["errors"], table["problems"][0]["line"]) == (2, 1, 3)


def test_csv_rows_that_do_not_fit_the_header(tmp_path: Path) -> None:
    found = parse(tmp_path, 'prompt,completion\na,b\nonly one\nc,"d"e\ne,f\n', "csv")
    assert (found["rows"], found["errors"]) == (2, 2)
    assert [each["line"] for each in found["problems"]] == [3, 4]
    assert "1 values" in found["problems"][0]["message"] and "Not valid CSV" in found["problems"][1]["message"]


def test_leave_out(tmp_path: Path) -> None:
    data = lines(*PAIRS) + "nonsense\n" + lines(PAIR)
    found = parse(tmp_path, data, leave_out=True)
    assert (found["rows"], found["errors"], found["left_out"], found["problems"]) == (41, 0, 1, [])
    with_errors = parse(tmp_path / "again", data)
    assert with_errors["sha256"] == found["sha256"]


def test_version_shares_the_source_of_another(tmp_path: Path) -> None:
    parse(tmp_path / "one", lines(*PAIRS))
    spec = {"folder": str(tmp_path / "two"), "source": "source.jsonl", "format": "jsonl", "link_from": str(tmp_path / "one"), **LIMITS}
    assert main(spec, Report())["rows"] == 40
    assert (tmp_path / "one" / "source.jsonl").samefile(tmp_path / "two" / "source.jsonl")
    with pytest.raises(Failed, match="was deleted"):
        main({**spec, "folder": str(tmp_path / "three"), "link_from": str(tmp_path / "gone")}, Report())


def test_at_most_a_thousand_problems_of_a_kind_are_kept(tmp_path: Path) -> None:
    found = parse(tmp_path, lines(PAIR, *({"prompt": "a", "completion": ""} for _ in range(1500)), *(PAIR for _ in range(1200))))
    assert (found["errors"], found["warnings"]) == (1500, 1200)
    assert len(found["problems"]) == 2000


# --- doubles and split ------------------------------------------------------------------------------------------------------


def test_doubles_are_warned_of(tmp_path: Path) -> None:
    found = parse(tmp_path, lines(*PAIRS, PAIRS[7], PAIRS[7]))
    assert (found["rows"], found["warnings"]) == (42, 2)
    assert [(each["line"], each["message"]) for each in found["problems"]] == [(n, "Same prompt and answer as line 8.") for n in (41, 42)]
    assert found["problems"][0]["excerpt"] == "What is 7 + 1?"


def test_split_keeps_prompts_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n % 50}", "completion": str(n)} for n in range(200)]
    found = parse(tmp_path, lines(*rows), split={"eval": 0.1, "seed": 7})
    assert (found["train_rows"], found["eval_rows"]) == (180, 20)
    sides: dict[str, set[str]] = {}
    for record in rows_of(tmp_path):
        sides.setdefault(record["row"]["prompt"], set()).add(record["split"])
    assert all(len(side) == 1 for side in sides.values())
    offsets = np.fromfile(tmp_path / "rows.idx", dtype="<u8")
    content = (tmp_path / "rows.jsonl").read_bytes()
    assert [json.loads(content[a:b])["line"] for a, b in pairwise(offsets)] == list(range(1, 201))
    again = parse(tmp_path / "b", lines(*rows), split={"eval": 0.1, "seed": 7})
    other = parse(tmp_path / "c", lines(*rows), split={"eval": 0.1, "seed": 8})
    assert again["sha256"] == found["sha256"] != other["sha256"]
    assert parse(tmp_path / "d", lines(*rows))["eval_rows"] == 0


def test_split_leaves_something_to_train_on(tmp_path: Path) -> None:
    found = parse(tmp_path, lines(PAIR, PAIR, PAIR), split={"eval": 0.5, "seed": 1})
    assert (found["train_rows"], found["eval_rows"]) == (3, 0)
