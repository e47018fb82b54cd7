"""Row shapes: what is detected, what rows become, and what is said about rows that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import shapes
from app.datasets.views import turns

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def read(row: dict[str, Any]) -> tuple[str, dict[str, Any], list[tuple[str, str]]]:
    form = shapes.detect(row)
    assert form is not None
    finding = shapes.read(row, form)
    return shapes.FORMS[form].shape, finding.row, finding.warnings


@pytest.mark.parametrize(
    ("row", "shape", "canonical"),
    [
        ({"messages": [USER, ANSWER], "id": 4}, "chat", {"messages": [USER, ANSWER]}),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}, "chat", {"messages": [USER, ANSWER]}),
        ({"conversations": [USER, ANSWER]}, "chat", {"messages": [USER, ANSWER]}),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "hello"}]}]}, "chat", {"messages": [USER, ANSWER]}),
        ({"instruction": "add", "input": "1 2", "output": "3"}, "prompt_completion", {"prompt": "add\n\n1 2", "completion": "3"}),
        ({"instruction": "add", "input": "", "output": "3"}, "prompt_completion", {"prompt": "add", "completion": "3"}),
        ({"prompt": "a", "completion": "b", "text": "c"}, "prompt_completion", {"prompt": "a", "completion": "b"}),
        ({"prompt": [USER], "completion": "hello"}, "prompt_completion", {"prompt": [USER], "completion": [ANSWER]}),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference", {"prompt": "a", "chosen": "b", "rejected": "c"}),
        (
            {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "no"}], "prompt": "hi"},
            "preference",
            {"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "no"}]},
        ),
        ({"prompt": "a", "completion": "b", "label": "true"}, "unpaired", {"prompt": "a", "completion": "b", "label": True}),
        ({"prompt": "a", "completion": "b", "label": 0}, "unpaired", {"prompt": "a", "completion": "b", "label": False}),
        ({"prompt": "a", "completion": "b", "label": "sport"}, "prompt_completion", {"prompt": "a", "completion": "b"}),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "0.5"}, "preference", {**PAIR, "margin": 0.5}),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": ""}, "preference", PAIR),
        ({"prompt": "a", "completion": "b", "score": 4}, "rated", {"prompt": "a", "completion": "b", "score": 4.0}),
        ({"prompt": "a", "completion": "b", "score": "2.5", "label": None}, "rated", {"prompt": "a", "completion": "b", "score": 2.5}),
        ({"prompt": "a", "completion": "b", "score": "good"}, "prompt_completion", {"prompt": "a", "completion": "b"}),
        ({"prompt": "a"}, "prompt", {"prompt": "a"}),
        ({"text": "a"}, "text", {"text": "a"}),
        ({"text": "a", "label": 3}, "labelled", {"text": "a", "label": 3}),
        ({"text": "a", "messages": None}, "text", {"text": "a"}),
    ],
)
def test_forms(row: dict[str, Any], shape: str, canonical: dict[str, Any]) -> None:
    assert read(row) == (shape, canonical, [])
    assert turns(canonical, shape)


@pytest.mark.parametrize(
    ("row", "place", "words"),
    [
        ({"messages": []}, "messages", "empty"),
        ({"messages": "hi"}, "messages", "list of messages, and it is text"),
        ({"messages": "[{]"}, "messages", "not valid JSON"),
        ({"messages": [USER]}, "messages", "No assistant message, so there is nothing to learn from."),
        ({"messages": [ANSWER, USER]}, "messages[0]", "begins with the answer"),
        (
            {"messages": [USER, {"role": "asistant", "content": "x"}]},
            "messages[1].role",
            "Role “asistant” is not one of system, user, assistant, tool.",
        ),
        ({"messages": [USER, {"content": "x"}]}, "messages[1].role", "does not say whose"),
        ({"messages": [USER, "x"]}, "messages[1]", "object with role and content"),
        ({"messages": [USER, {"role": "assistant", "content": 4}]}, "messages[1].content", "must be text, and it is a number"),
        ({"messages": [USER, {"role": "assistant"}]}, "messages[1].content", "no “content”"),
        ({"messages": [USER, {"role": "assistant", "content": "  "}]}, "messages[1]", "last answer is empty"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "image_url"}]}]}, "messages[1].content[0]", "Only text"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "conversations[0].from", "Role “robot”"),
        ({"prompt": "a", "completion": " "}, "completion", "The completion is empty"),
        ({"prompt": "", "completion": "b"}, "prompt", "The prompt is empty"),
        ({"prompt": 3, "completion": "b"}, "prompt", "Must be text, and it is a number."),
        ({"prompt": [USER, ANSWER], "completion": "b"}, "prompt", "must end with what is to be answered"),
        ({"prompt": "a", "completion": [USER]}, "completion", "ends with one of “user”"),
        ({"chosen": "a", "rejected": "b"}, "prompt", "There is no prompt"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "chosen", "empty"),
        ({"chosen": [USER, ANSWER], "rejected": [{"role": "user", "content": "other"}, ANSWER]}, "rejected", "different messages"),
        ({"instruction": "a", "output": ""}, "output", "empty"),
        ({"text": "a", "label": ""}, "label", "class"),
        ({"text": "a", "label": True}, "label", "class"),
        ({"text": 1}, "text", "Must be text"),
    ],
)
def test_rows_that_cannot_be_used(row: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(shapes.Wrong) as found:
        read(row)
    assert (found.value.place, words in found.value.message) == (place, True), (found.value.place, found.value.message)


def test_what_is_odd_is_warned_of() -> None:
    assert read({"prompt": "a", "chosen": "b", "rejected": "b"})[2] == [
        ("rejected", "chosen and rejected are the same, so this pair teaches nothing.")
    ]
    assert read({"messages": [USER, ANSWER, USER]})[2] == [("messages[2]", "What comes after the last answer is not learned.")]
    assert read({"messages": [{"role": "system", "content": ""}, USER, ANSWER]})[2] == [("messages[0].content", "This message is empty.")]


def test_a_row_of_another_form_says_which() -> None:
    with pytest.raises(shapes.Wrong, match="of the form text, and the others are prompt_completion: the field “prompt” is missing"):
        shapes.read({"text": "x"}, "prompt_completion")
    with pytest.raises(shapes.Wrong, match="The field “prompt” is missing"):
        shapes.read({"completion": "b", "prompt": None}, "prompt_completion")


def test_mapping_keeps_only_what_makes_the_form() -> None:
    row = {"question": "q", "answer": "a", "messages": "note"}
    assert shapes.mapped(row, {"prompt": "question", "completion": "answer"}) == {"prompt": "q", "completion": "a"}
    assert shapes.detect(shapes.mapped({"prompt": "p", "reply": "r"}, {"completion": "reply"})) == "prompt_completion"


def test_suggestions() -> None:
    assert shapes.suggest(["id", "Question", "Answer"]) == {"prompt": "Question", "completion": "Answer"}
    assert shapes.suggest(["a", "b"]) is None


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(st.dictionaries(st.sampled_from([*shapes.TARGETS, "from", "role"]), JSONISH | st.just([USER, ANSWER]), max_size=5))
def test_no_row_breaks_the_reader(row: dict[str, Any]) -> None:
    """Whatever a row holds, it is read, or refused in words."""
    form = shapes.detect(row)
    if form is None:
        return
    try:
        found = shapes.read(row, form)
    except shapes.Wrong as wrong:
        assert wrong.message.endswith(".")
        return
    shape = shapes.FORMS[form].shape
    assert set(found.row) - set(shapes.SHAPES[shape].optional) == set(shapes.SHAPES[shape].fields)
    assert turns(found.row, shape) and shapes.prompt_of(found.row, shape)
