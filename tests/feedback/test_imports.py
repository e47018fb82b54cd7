"""Pairs of other tools become items: each format in the words it is really written in, and each spoiled line said by its number."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import Invalid
from app.feedback.import_formats import FORMATS
from app.feedback.imports import Unreadable, detect, read, rows
from app.feedback.schemas import ItemIn

USER = [{"role": "user", "content": "Name a colour."}]
RED, BLUE = {"role": "assistant", "content": "Red."}, {"role": "assistant", "content": "Blue, like the sea."}

PAIRS = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Blue, like the sea."}
HH = {
    "chosen": "\n\nHuman: Hi! Name a colour.\n\nAssistant: Which kind?\n\nHuman: A warm one: any.\n\nAssistant: Red.\n\nIt is warm.",
    "rejected": "\n\nHuman: Hi! Name a colour.\n\nAssistant: Which kind?\n\nHuman: A warm one: any.\n\nAssistant: Blue.",
}
ULTRAFEEDBACK = {"prompt": "Name a colour.", "chosen": [*USER, RED], "rejected": [*USER, BLUE], "score_chosen": 8.5}
HELPSTEER2 = {
    "split": "train",
    "prompt": "c#",
    "response_1": "C# is a language.",
    "response_2": "Did you mean music?",
    "preference_strength": -2,
    "preference_statement": "Response 1 is better.",
}
HELPSTEER2_TURNS = {
    **HELPSTEER2,
    "prompt": "Hi\n<extra_id_1>Assistant\nHello! How can I help?\n<extra_id_1>User\nName a colour.",
    "preference_strength": 3,
}
HELPSTEER3 = {
    "domain": "general",
    "language": "english",
    "context": [*USER, RED, {"role": "user", "content": "Another."}],
    "response1": "Blue.",
    "response2": "Green.",
    "overall_preference": 1,
    "individual_preference": [{"score": 1, "reasoning": "…", "feedback1": "…", "feedback2": "…"}],
}
ARGILLA2 = {
    "id": "7f0c",
    "fields": {"prompt": "Name a colour.", "response-1": "Red.", "response-2": "Blue."},
    "metadata": {"response-1-model": "small"},
    "suggestions": {},
    "responses": {
        "preference": [{"value": "response-2", "user_id": "a"}, {"value": "response-2", "user_id": "b"}],
        "comment": [{"value": "fine", "user_id": "a"}],
    },
}
ARGILLA1 = {
    "fields": {"instruction": "Name a colour.", "response-1": "Red.", "response-2": "Blue."},
    "responses": [
        {
            "user_id": "a",
            "status": "submitted",
            "values": {"ranking": {"value": [{"value": "response-1", "rank": 1}, {"value": "response-2", "rank": 2}]}},
        },
        {"user_id": "b", "status": "discarded", "values": {"ranking": {"value": [{"value": "response-2", "rank": 1}]}}},
    ],
}
LABEL_STUDIO = {
    "id": 1,
    "annotations": [
        {
            "id": 11,
            "completed_by": 1,
            "result": [
                {
                    "value": {"selected": "left"},
                    "id": "wvRZ",
                    "from_name": "comparison",
                    "to_name": ["answer1", "answer2"],
                    "type": "pairwise",
                    "origin": "manual",
                }
            ],
            "was_cancelled": False,
            "lead_time": 4.2,
        },
        {"id": 12, "result": [{"value": {"selected": "right"}, "type": "pairwise"}], "was_cancelled": True},
    ],
    "predictions": [],
    "data": {"prompt": "Name a colour.", "answer1": "Red.", "answer2": "Blue."},
    "project": 1,
}
ARENA = {
    "question_id": "58210e39b3fd4441a2bd4a518bb44c2d",
    "model_a": "chatglm-6b",
    "model_b": "koala-13b",
    "winner": "model_b",
    "judge": "arena_user_973",
    "conversation_a": [{"content": "Name a colour.", "role": "user"}, {"content": "Red.", "role": "assistant"}],
    "conversation_b": [{"content": "Name a colour.", "role": "user"}, {"content": "Blue.", "role": "assistant"}],
    "turn": 1,
    "anony": True,
}
ARENA_TABLE = {
    "id": "30192",
    "model_a": "gpt-4-1106-preview",
    "model_b": "gpt-4-0613",
    "prompt": '["Name a colour."]',
    "response_a": '["Red."]',
    "response_b": '["Blue."]',
    "winner_model_a": "1",
    "winner_model_b": "0",
    "winner_tie": "0",
}
SIDES = {"prompt": "Name a colour.", "response_a": "Red.", "response_b": "Blue.", "preference": "tie"}
MANY = {"prompt": "Name a colour.", "responses": ["Red.", {"text": "Blue.", "model": "big"}, {"content": "Green."}]}


def items(*given: dict[str, Any], name: str | None = None) -> list[ItemIn]:
    return list(read(name, [json.dumps(row) + "\n" for row in given]))


def texts(item: ItemIn) -> list[str]:
    return [response.text for response in item.responses]


@pytest.mark.parametrize(
    ("name", "row", "prompt", "answers", "preference"),
    [
        ("helpsteer", HELPSTEER2, "c#", ["C# is a language.", "Did you mean music?"], -2),
        ("helpsteer", HELPSTEER2_TURNS, ["user: Hi", "assistant: Hello! How can I help?", "user: Name a colour."], None, 3),
        ("helpsteer", HELPSTEER3, ["user: Name a colour.", "assistant: Red.", "user: Another."], ["Blue.", "Green."], 1),
        ("argilla", ARGILLA2, "Name a colour.", ["Red.", "Blue."], 2),
        ("argilla", ARGILLA1, "Name a colour.", ["Red.", "Blue."], -2),
        ("label_studio", LABEL_STUDIO, "Name a colour.", ["Red.", "Blue."], -2),
        ("arena", ARENA, ["user: Name a colour."], ["Red.", "Blue."], 2),
        ("arena", ARENA_TABLE, "Name a colour.", ["Red.", "Blue."], -2),
        ("ab", SIDES, "Name a colour.", ["Red.", "Blue."], 0),
        ("ab", {**SIDES, "preference": -3}, "Name a colour.", ["Red.", "Blue."], -3),
        ("ab", {"prompt": "?", "answer1": "a", "answer2": "b", "preference": "left"}, "?", ["a", "b"], -2),
        ("responses", MANY, "Name a colour.", ["Red.", "Blue.", "Green."], None),
    ],
)
def test_a_row_of_each_format(name: str, row: dict[str, Any], prompt: Any, answers: list[str] | None, preference: int | None) -> None:
    assert detect([row]) == name
    (item,) = items(row)
    said = [f"{each['role']}: {each['content']}" for each in item.prompt] if isinstance(item.prompt, list) else item.prompt
    assert said == prompt and item.preference == preference
    assert answers is None or texts(item) == answers


@pytest.mark.parametrize("row", [PAIRS, ULTRAFEEDBACK, HH])
def test_the_place_of_the_better_answer_tells_nothing(row: dict[str, Any]) -> None:
    better = "Red.\n\nIt is warm." if row is HH else "Red."
    firsts = 0
    for seed in range(200):
        (item,) = read(None, [json.dumps(row)], seed=seed)
        assert item.preference is not None and texts(item)[0 if item.preference < 0 else 1] == better
        firsts += item.preference < 0
    assert 70 < firsts < 130
    assert list(read(None, [json.dumps(row)])) == list(read(None, [json.dumps(row)]))


def test_a_transcript_keeps_its_turns_and_a_conversation_its_context() -> None:
    (item,) = items(HH)
    assert isinstance(item.prompt, list) and [each["role"] for each in item.prompt] == ["user", "assistant", "user"]
    assert item.prompt[-1]["content"] == "A warm one: any."
    (item,) = items(ULTRAFEEDBACK)
    assert item.prompt == USER
    (item,) = items({**PAIRS, "margin": 1.0})
    assert item.preference in (-3, 3)


def test_names_stay_as_sources() -> None:
    assert [each.source for each in items(ARENA)[0].responses] == ["chatglm-6b", "koala-13b"]
    assert [each.source for each in items(MANY)[0].responses] == ["", "big", ""]
    assert [each.source for each in items(ARGILLA2)[0].responses] == ["small", ""]


def test_json_lists_tables_and_wrapped_lists() -> None:
    several = [LABEL_STUDIO, {**LABEL_STUDIO, "id": 2}]
    for text in (
        json.dumps(several),
        json.dumps(several, indent=2),
        json.dumps({"tasks": several}),
        json.dumps({"tasks": several}, indent=1),
    ):
        assert len(list(read(None, io.StringIO(text)))) == 2, text[:20]
    assert [line for line, _ in rows(io.StringIO(json.dumps([{"a": 1}, {"a": 2}], indent=1)))] == [2, 5]
    for delimiter in ",;\t":
        out = io.StringIO()
        writer = csv.DictWriter(out, ["prompt", "chosen", "rejected"], delimiter=delimiter)
        writer.writeheader()
        writer.writerow({**PAIRS, "chosen": 'Two\nlines, and "quotes"; yes'})
        writer.writerow(PAIRS)
        found = list(read(None, io.StringIO("\ufeff" + out.getvalue())))
        assert len(found) == 2 and 'Two\nlines, and "quotes"; yes' in texts(found[0])
        assert [line for line, _ in rows(io.StringIO(out.getvalue()))] == [2, 4]
    out = io.StringIO()
    table = csv.DictWriter(out, list(ARENA_TABLE))
    table.writeheader()
    table.writerow(ARENA_TABLE)
    assert texts(next(read(None, out.getvalue().splitlines()))) == ["Red.", "Blue."]


@pytest.mark.parametrize(
    ("lines", "line", "field", "words"),
    [
        ([json.dumps(PAIRS), json.dumps({**PAIRS, "rejected": 5})], 2, "rejected", "must be text"),
        ([json.dumps(PAIRS), "", json.dumps({**PAIRS, "prompt": " "})], 3, "prompt", "prompt is empty"),
        ([json.dumps(PAIRS), json.dumps({"prompt": "?", "chosen": "a"})], 2, "", "not of the form"),
        ([json.dumps(PAIRS), '{"prompt": "x", "chosen": '], 2, "", "Not valid JSON"),
        ([json.dumps(PAIRS), "[1]"], 2, "", "must be an object"),
        ([json.dumps(PAIRS), "[" * 100_000], 2, "", "nested too deep|Not valid JSON"),
        ([json.dumps({**SIDES, "preference": 4})], 1, "preference", "from -3"),
        ([json.dumps({**SIDES, "preference": "perhaps"})], 1, "preference", "“perhaps” is no preference"),
        ([json.dumps({**SIDES, "preference": float("inf")})], 1, "preference", "from -3"),
        ([json.dumps({**MANY, "responses": []})], 1, "responses", "one to nine"),
        ([json.dumps({**MANY, "responses": ["a", {"text": 5}]})], 1, "responses[1].text", "must be text"),
        ([json.dumps({**HH, "rejected": HH["rejected"].replace("Which", "What")})], 1, "rejected", "do not answer the same prompt"),
        ([json.dumps({**ULTRAFEEDBACK, "rejected": [*USER, RED, *USER]})], 1, "rejected", "ends with one of “user”"),
        ([json.dumps({**ARENA, "conversation_b": [*USER, BLUE, *USER, RED]})], 1, "conversation_b", "several turns"),
        ([json.dumps({**ARENA_TABLE, "response_a": '["a", "b"]'})], 1, "response_a", "several turns"),
        ([json.dumps({**LABEL_STUDIO, "data": {"prompt": "?"}})], 1, "data", "No two answers"),
        ([json.dumps({**ARGILLA2, "fields": {"prompt": "?"}})], 1, "fields", "No answers"),
        ([json.dumps({**HELPSTEER3, "context": "  "})], 1, "prompt", "prompt is empty"),
        (["prompt,chosen,rejected\n", "a,b\n"], 2, "", "2 cells, and the header has 3"),
        (["prompt,chosen,rejected\n", '"a"x,b,c\n'], 2, "", "Not valid CSV"),
        (["just one column\n", "x\n"], 1, "", "neither JSON nor CSV"),
        (["[\n", json.dumps(PAIRS) + ",\n", '{"prompt": }\n', "]"], 3, "", "Not valid JSON"),
        (["[\n", json.dumps(PAIRS) + ",\n"], 2, "", "does not end"),
        ([json.dumps({**PAIRS, "chosen": "x" * 2_000_001})], 1, "text", "at most 2000000 characters"),
    ],
)
def test_a_spoiled_line_is_named_and_ends_the_import(lines: Sequence[str], line: int, field: str, words: str) -> None:
    with pytest.raises(Unreadable, match=words) as caught:
        list(read(None, lines))
    assert caught.value.line == line and (caught.value.field or "") == field
    assert caught.value.details == {"line": line, "field": field, "message": caught.value.details["message"]}
    assert f"Line {line}" in caught.value.message


def test_spoiled_lines_can_be_left_out() -> None:
    lines = [json.dumps(HH), "{spoiled", json.dumps({**HH, "rejected": "x"}), json.dumps(HH)]
    skipped: list[Unreadable] = []
    assert len(list(read(None, lines, skipped=skipped))) == 2 and sorted(each.line for each in skipped) == [2, 3]


def test_files_that_are_nothing() -> None:
    for lines, words in (([], "empty"), (["\n", " \n"], "empty"), ([json.dumps({"a": 1})], "no format that can be imported: a")):
        with pytest.raises(Invalid, match=words):
            list(read(None, lines))
    with pytest.raises(Invalid, match="Take one of"):
        list(read("parquet", []))
    with pytest.raises(Unreadable, match="not of the form"):
        items(PAIRS, name="arena")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["user", "assistant", "Human: a", "[{"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "value", "result", "text"]), inner),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([PAIRS, HH, ULTRAFEEDBACK, HELPSTEER2, HELPSTEER3, ARGILLA1, ARGILLA2, LABEL_STUDIO, ARENA, ARENA_TABLE, SIDES, MANY]),
    st.data(),
)
def test_nothing_a_row_holds_is_a_crash(row: dict[str, Any], data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(row)))
    inner = row[name]
    value = data.draw(VALUES)
    if isinstance(inner, dict) and inner and data.draw(st.booleans()):
        value = {**inner, data.draw(st.sampled_from(sorted(inner))): value}
    try:
        found = items({**row, name: value}, name=detect([row]))
    except Invalid:
        return
    assert len(found) == 1 and found[0].responses


def test_every_format_has_words_for_people() -> None:
    assert all(each.title and each.example and each.name == name for name, each in FORMATS.items())
