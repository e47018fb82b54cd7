"""Row shapes: which forms of source rows there are, what each becomes, and what is wrong with a row. Reads no file and no table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.mappings import suggest as suggest

ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
}

Row = dict[str, Any]
Message = dict[str, str]


@dataclass(frozen=True)
class Shape:
    """What rows look like once they are read; methods name the shapes they train on."""

    name: str
    title: str
    summary: str
    fields: tuple[str, ...]
    optional: tuple[str, ...] = ()
    """Fields that a row may have besides."""


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("chat", "Chat", "Conversations whose last answer is learned.", ("messages",)),
        Shape("prompt_completion", "Prompt and completion", "A prompt and the answer to learn.", ("prompt", "completion")),
        Shape("preference", "Preference", "A prompt with a better and a worse answer.", ("prompt", "chosen", "rejected"), ("margin",)),
        Shape("unpaired", "Unpaired preference", "A prompt, one answer, and whether it is good.", ("prompt", "completion", "label")),
        Shape("rated", "Rated answer", "A prompt, one answer, and a number that says how good it is.", ("prompt", "completion", "score")),
        Shape("prompt", "Prompts", "Prompts without answers.", ("prompt",)),
        Shape("text", "Text", "Plain text to continue.", ("text",)),
        Shape("labelled", "Labelled text", "Text with its class.", ("text", "label")),
    )
}


class Wrong(Exception):
    """A row that cannot be used: where, and why in words."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


@dataclass
class Finding:
    """A row in its canonical fields, with what is odd but bearable about it (`place`, `message`)."""

    row: Row
    warnings: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Form:
    """One way source rows are written."""

    name: str
    shape: str
    fields: tuple[str, ...]
    fits: Callable[[Row], bool]
    read: Callable[[Row], Finding]


# --- the pieces of a row --------------------------------------------------------------------------------------------------


def _shown(value: Any) -> str:
    return {
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
        type(None): "nothing",
    }.get(type(value), type(value).__name__)


def _text(value: Any, place: str, empty: str) -> str:
    if not isinstance(value, str):
        raise Wrong(place, f"Must be text, and it is {_shown(value)}.")
    if not value.strip():
        raise Wrong(place, empty)
    return value


def _content(message: Mapping[str, Any], place: str, key: str, finding: Finding) -> str:
    value = message.get(key)
    if isinstance(value, list):  # OpenAI's content parts
        texts = []
        for number, part in enumerate(value):
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise Wrong(f"{place}.{key}[{number}]", "Only text can be trained on, and this part of the message is something else.")
            texts.append(part["text"])
        value = "".join(texts)
    if not isinstance(value, str):
        missing = key not in message
        raise Wrong(f"{place}.{key}", f"The message has no “{key}”." if missing else f"Content must be text, and it is {_shown(value)}.")
    if not value.strip():
        finding.warnings.append((f"{place}.{key}", "This message is empty."))
    return value


def messages(value: Any, place: str, finding: Finding) -> list[Message]:
    """A list of messages, role and content only.

    Raises:
        Wrong: it is not one; the place names the message.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):  # a column of CSV
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Wrong(place, "Looks like a list of messages, and is not valid JSON.") from None
    if not isinstance(value, list):
        raise Wrong(place, f"Must be a list of messages, and it is {_shown(value)}.")
    if not value:
        raise Wrong(place, "The list of messages is empty.")
    found = []
    for number, message in enumerate(value):
        at = f"{place}[{number}]"
        if not isinstance(message, dict):
            raise Wrong(at, f"A message is an object with role and content, and this is {_shown(message)}.")
        sharegpt = "from" in message and "role" not in message
        role = message.get("from" if sharegpt else "role")
        if sharegpt and isinstance(role, str):
            role = _SHAREGPT_ROLES.get(role.lower(), role)
        if not isinstance(role, str):
            raise Wrong(
                f"{at}.{'from' if sharegpt else 'role'}",
                "The message does not say whose it is." if role is None else "The role must be text.",
            )
        if role not in ROLES:
            raise Wrong(f"{at}.{'from' if sharegpt else 'role'}", f"Role “{role[:40]}” is not one of {', '.join(ROLES)}.")
        found.append({"role": role, "content": _content(message, at, "value" if sharegpt else "content", finding)})
        if message.get("tool_calls"):
            finding.warnings.append((f"{at}.tool_calls", "Tool calls are not learned; only the text of the message is."))
    return found


def _side(value: Any, place: str, empty: str, finding: Finding) -> str | list[Message]:
    if isinstance(value, list):
        return messages(value, place, finding)
    return _text(value, place, empty)


def _prompt(value: Any, finding: Finding) -> str | list[Message]:
    prompt = _side(value, "prompt", "The prompt is empty.", finding)
    if isinstance(prompt, list) and prompt[-1]["role"] == "assistant":
        raise Wrong("prompt", "The prompt ends with an answer of the assistant; it must end with what is to be answered.")
    return prompt


def _answer(value: Any, place: str, finding: Finding) -> str | list[Message]:
    empty = f"The {place} answer is empty." if place in ("chosen", "rejected") else "The completion is empty, so there is nothing to learn."
    answer = _side(value, place, empty, finding)
    if isinstance(answer, list):
        last = answer[-1]
        if last["role"] != "assistant":
            raise Wrong(place, f"Must end with a message of the assistant, and it ends with one of “{last['role']}”.")
        if not last["content"].strip():
            raise Wrong(place, empty)
    return answer


def _alike(row: Row, answers: Iterable[str]) -> Row:
    """Make all sides lists of messages, when one of them is."""
    if any(isinstance(row[name], list) for name in ("prompt", *answers)):
        for name in ("prompt", *answers):
            if isinstance(row[name], str):
                row[name] = [{"role": "user" if name == "prompt" else "assistant", "content": row[name]}]
    return row


# --- the forms ------------------------------------------------------------------------------------------------------------


def _chat(key: str) -> Callable[[Row], Finding]:
    def read(row: Row) -> Finding:
        finding = Finding({})
        found = messages(row.get(key), key, finding)
        answers = [number for number, message in enumerate(found) if message["role"] == "assistant"]
        if not answers:
            raise Wrong(key, "No assistant message, so there is nothing to learn from.")
        last = answers[-1]
        place = f"{key}[{last}]"
        if last == 0:
            raise Wrong(place, "The conversation begins with the answer, so there is nothing to answer.")
        if not found[last]["content"].strip():
            raise Wrong(place, "The last answer is empty, so there is nothing to learn.")
        if last < len(found) - 1:
            finding.warnings.append((f"{key}[{last + 1}]", "What comes after the last answer is not learned."))
        finding.row = {"messages": found}
        return finding

    return read


def _alpaca(row: Row) -> Finding:
    prompt = _text(row.get("instruction"), "instruction", "The instruction is empty.")
    extra = row.get("input")
    if extra is not None and not isinstance(extra, str):
        raise Wrong("input", f"Must be text, and it is {_shown(extra)}.")
    if extra and extra.strip():
        prompt = f"{prompt}\n\n{extra}"
    return Finding(
        {"prompt": prompt, "completion": _text(row.get("output"), "output", "The output is empty, so there is nothing to learn.")}
    )


def _prompt_completion(row: Row) -> Finding:
    finding = Finding({})
    finding.row = _alike(
        {"prompt": _prompt(row.get("prompt"), finding), "completion": _answer(row.get("completion"), "completion", finding)}, ["completion"]
    )
    return finding


def _preference(row: Row) -> Finding:
    finding = Finding({})
    chosen, rejected = _answer(row.get("chosen"), "chosen", finding), _answer(row.get("rejected"), "rejected", finding)
    if isinstance(chosen, list) and isinstance(rejected, list) and chosen[0]["role"] != "assistant" and rejected[0]["role"] != "assistant":
        # The prompt is what both begin with; a column “prompt” only repeats it.
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        if shared == 0:
            raise Wrong("rejected", "chosen and rejected begin with different messages, so they do not answer the same prompt.")
        prompt: str | list[Message] = chosen[:shared]
        if chosen[shared - 1]["role"] == "assistant":
            raise Wrong(
                "rejected", "The messages that chosen and rejected share end with an answer, so there is no prompt to compare them on."
            )
        chosen, rejected = chosen[shared:], rejected[shared:]
    elif row.get("prompt") is None:
        raise Wrong("prompt", "There is no prompt. Give one, or give chosen and rejected as lists of messages that begin alike.")
    else:
        prompt = _prompt(row["prompt"], finding)
    if chosen == rejected:
        finding.warnings.append(("rejected", "chosen and rejected are the same, so this pair teaches nothing."))
    finding.row = _alike({"prompt": prompt, "chosen": chosen, "rejected": rejected}, ["chosen", "rejected"])
    if row.get("margin") not in (None, ""):
        margin = _number(row["margin"])
        if margin is None:
            raise Wrong("margin", "Must be a number that says by how much chosen is better, or be left out.")
        finding.row["margin"] = margin
    return finding


def _truth(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | str):
        return {"1": True, "true": True, "0": False, "false": False}.get(str(value).strip().lower())
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _rated(row: Row) -> Finding:
    finding = _prompt_completion(row)
    score = _number(row.get("score"))
    if score is None:
        raise Wrong("score", "Must be a number, such as a rating from 1 to 5.")
    finding.row["score"] = score
    return finding


def _unpaired(row: Row) -> Finding:
    finding = _prompt_completion(row)
    label = _truth(row.get("label"))
    if label is None:
        raise Wrong("label", "Must be true (a good answer) or false (a bad one).")
    finding.row["label"] = label
    return finding


def _prompts(row: Row) -> Finding:
    finding = Finding({})
    finding.row = {"prompt": _prompt(row.get("prompt"), finding)}
    return finding


def _plain_text(row: Row) -> Finding:
    return Finding({"text": _text(row.get("text"), "text", "The text is empty.")})


def _labelled(row: Row) -> Finding:
    text, label = _text(row.get("text"), "text", "The text is empty."), row.get("label")
    if isinstance(label, bool) or not isinstance(label, str | int) or (isinstance(label, str) and not label.strip()):
        raise Wrong("label", f"Must be the name or number of a class, and it is {_shown(label) if label != '' else 'empty'}.")
    return Finding({"text": text, "label": label})


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(row.get(name) is not None for name in names)


def _answer_with(name: str, known: Callable[[Any], Any]) -> Callable[[Row], bool]:
    return lambda row: _has("prompt", "completion", name)(row) and known(row[name]) is not None


FORMS: dict[str, Form] = {
    form.name: form
    for form in (  # the first one that fits is taken
        Form("chat", "chat", ("messages",), _has("messages"), _chat("messages")),
        Form("sharegpt", "chat", ("conversations",), _has("conversations"), _chat("conversations")),
        Form("preference", "preference", ("prompt", "chosen", "rejected"), _has("chosen", "rejected"), _preference),
        Form("unpaired", "unpaired", ("prompt", "completion", "label"), _answer_with("label", _truth), _unpaired),
        Form("rated", "rated", ("prompt", "completion", "score"), _answer_with("score", _number), _rated),
        Form("prompt_completion", "prompt_completion", ("prompt", "completion"), _has("prompt", "completion"), _prompt_completion),
        Form("alpaca", "prompt_completion", ("instruction", "input", "output"), _has("instruction", "output"), _alpaca),
        Form("labelled", "labelled", ("text", "label"), _has("text", "label"), _labelled),
        Form("prompt", "prompt", ("prompt",), _has("prompt"), _prompts),
        Form("text", "text", ("text",), _has("text"), _plain_text),
    )
}
FIELDS = tuple(dict.fromkeys(name for shape in SHAPES.values() for name in (*shape.fields, *shape.optional)))
"""Canonical fields, of all shapes."""
TARGETS = tuple(dict.fromkeys([*(name for form in FORMS.values() for name in form.fields), *FIELDS]))
"""Fields a column can be mapped to."""


def detect(row: Row) -> str | None:
    """Name of the form a row is written in; None when it fits none."""
    return next((form.name for form in FORMS.values() if form.fits(row)), None)


def mapped(row: Row, mapping: Mapping[str, str] | None) -> Row:
    """The row under the names of its target fields. Columns that are not mapped stay only where the mapped ones alone make no form."""
    if not mapping:
        return row
    named = {target: row[column] for target, column in mapping.items() if column in row}
    if detect(named):
        return named
    used = set(mapping.values())
    return {**{name: value for name, value in row.items() if name not in used}, **named}


def read(row: Row, form: str) -> Finding:
    """A source row of a form in its canonical fields.

    Raises:
        Wrong: the row is of another form, or something in it cannot be used.
    """
    expected = FORMS[form]
    if not expected.fits(row):
        missing = [name for name in expected.fields if row.get(name) is None and name != "input"]
        other = detect(row)
        if missing and other is None:
            raise Wrong(missing[0], f"The field “{missing[0]}” is missing.")
        if other is not None and missing:
            raise Wrong(missing[0], f"This row is of the form {other}, and the others are {form}: the field “{missing[0]}” is missing.")
    return expected.read(row)


def prompt_of(row: Row, shape: str) -> Any:
    """What a row asks, which decides the side of a train/eval split it falls on."""
    if shape == "chat":
        last = max(number for number, message in enumerate(row["messages"]) if message["role"] == "assistant")
        return row["messages"][:last]
    return row["text"] if shape in ("text", "labelled") else row["prompt"]


def mapping_fits(mapping: Mapping[str, str]) -> bool:
    """Whether the targets of a mapping are fields there are."""
    return bool(mapping) and all(target in TARGETS for target in mapping)
