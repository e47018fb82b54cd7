"""What rows of other tools say: for each format, whether a row is of it, and the item it makes. Reads no file."""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.feedback.schemas import ItemIn, ResponseIn
from app.shapes import Finding, Wrong, messages

Row = dict[str, Any]
CLEARLY = 2
"""The grade of a vote that only says which answer is better."""
_PROMPTS = ("prompt", "context", "instruction", "question", "input", "query", "conversation")
_PAIRS = (
    ("response_a", "response_b"),
    ("response1", "response2"),
    ("response_1", "response_2"),
    ("answer1", "answer2"),
    ("answer_a", "answer_b"),
    ("text1", "text2"),
    ("left", "right"),
)
_VOTES = ("preference", "overall_preference", "preference_strength", "winner", "label", "pairwise", "choice")
_FIRST = {"a", "1", "left", "first", "model_a", "response_a", "response1", "response_1", "chosen_a", "a>b"}
_SECOND = {"b", "2", "right", "second", "model_b", "response_b", "response2", "response_2", "chosen_b", "b>a"}
_NEITHER = {"tie", "tie (bothbad)", "both_bad", "bothbad", "both_good", "both", "none", "neither", "equal", "same", "a=b", "0"}
_TURN = re.compile(r"\n\n(Human|Assistant):[ \t]?")
_MARKED = re.compile(r"\n?<extra_id_\d>(User|Assistant|System)\n")
_NUMBERED = re.compile(r"^(response|completion|answer|generation|output|text)[-_ ]?([0-9a-i])$", re.IGNORECASE)


@dataclass(frozen=True)
class Format:
    """One way rows with answers to compare are written."""

    name: str
    title: str
    example: str
    """What a row looks like, in short."""
    fits: Callable[[Row], bool]
    read: Callable[[Row, int], ItemIn]
    """The item of a row; the number is a seed. Raises `Wrong`."""


# --- pieces ---------------------------------------------------------------------------------------------------------------


def _from_json(value: Any, place: str) -> Any:
    """A cell of CSV that holds a list, as a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise Wrong(place, "Looks like a list, and is not valid JSON.") from None
    return value


def _prompt_of(value: Any, place: str) -> str | list[dict[str, Any]]:
    if isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith('[{"')):
        found = messages(value, place, Finding({}))
        if found[-1]["role"] == "assistant":
            raise Wrong(place, "The prompt ends with an answer of the assistant; it must end with what is to be answered.")
        return [dict(each) for each in found]
    if not isinstance(value, str):
        raise Wrong(place, "There is no prompt." if value is None else "The prompt must be text or a list of messages.")
    if not value.strip():
        raise Wrong(place, "The prompt is empty.")
    return value


def _prompt(row: Mapping[str, Any], place: str = "") -> str | list[dict[str, Any]]:
    name = next((name for name in _PROMPTS if row.get(name) is not None), None)
    if name is None:
        raise Wrong(f"{place}prompt", "There is no prompt.")
    return _prompt_of(row[name], place + name)


def _answer(value: Any, place: str) -> str:
    """An answer as text, or as messages whose last one it is."""
    value = _from_json(value, place) if isinstance(value, str) and value.lstrip().startswith('[{"') else value
    if isinstance(value, list):
        found = messages(value, place, Finding({}))
        if found[-1]["role"] != "assistant":
            raise Wrong(place, f"Must end with a message of the assistant, and it ends with one of “{found[-1]['role']}”.")
        return found[-1]["content"]
    if not isinstance(value, str):
        raise Wrong(place, "The answer is missing." if value is None else "The answer must be text.")
    return value


def _response(value: Any, place: str, source: Any = None) -> ResponseIn:
    return ResponseIn(text=_answer(value, place), source=source.strip()[:300] if isinstance(source, str) else "")


def _vote(value: Any, place: str) -> int | None:
    """A preference: −3 to 3, or words; None where there is none."""
    if isinstance(value, dict):  # Label Studio's `{"selected": "left"}`
        value = value.get("selected") or value.get("value")
    if isinstance(value, str):
        word = value.strip().lower()
        if not word:
            return None
        for words, grade in ((_FIRST, -CLEARLY), (_SECOND, CLEARLY), (_NEITHER, 0)):
            if word in words and not (word in ("1", "2") and place != "winner"):
                return grade
        try:
            value = float(word)
        except ValueError:
            raise Wrong(place, f"“{value[:40]}” is no preference. Write a number from -3 (first) to 3 (second), or a, b, tie.") from None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -3 <= value <= 3 or value != int(value):
        raise Wrong(place, "A preference is a whole number from -3 (the first is much better) to 3 (the second is).")
    return int(value)


def _any_vote(row: Mapping[str, Any], place: str = "") -> int | None:
    return next((_vote(row[name], place + name) for name in _VOTES if row.get(name) not in (None, "")), None)


def _coin(seed: int, *texts: str) -> bool:
    """A coin that falls the same way for the same texts."""
    return bool(hashlib.sha256("\0".join((str(seed), *texts)).encode("utf-8", "surrogatepass")).digest()[0] & 1)


def _better(prompt: Any, chosen: ResponseIn, rejected: ResponseIn, grade: int, seed: int) -> ItemIn:
    """An item of a better and a worse answer; a coin decides which is first, so that the place tells nothing."""
    turned = _coin(seed, chosen.text, rejected.text)
    return ItemIn(prompt=prompt, responses=[rejected, chosen] if turned else [chosen, rejected], preference=grade if turned else -grade)


# --- formats --------------------------------------------------------------------------------------------------------------


def _pairs(row: Row, seed: int) -> ItemIn:
    chosen = _response(row.get("chosen"), "chosen", row.get("chosen_model"))
    rejected = _response(row.get("rejected"), "rejected", row.get("rejected_model"))
    said = [_from_json(row[name], name) for name in ("chosen", "rejected")]
    prompt: Any = None
    if all(isinstance(each, list) and len(each) > 1 for each in said):  # the whole conversation twice
        before = [messages(each, name, Finding({}))[:-1] for each, name in zip(said, ("chosen", "rejected"), strict=True)]
        if before[0] != before[1]:
            raise Wrong("rejected", "The conversations differ before their last answers, so these do not answer the same prompt.")
        prompt = _prompt_of(before[0], "chosen")
    margin = row.get("margin")
    grade = CLEARLY
    if margin not in (None, ""):
        try:
            grade = max(1, min(3, round(3 * float(margin))))
        except (TypeError, ValueError, OverflowError):
            raise Wrong("margin", "The margin must be a number from 0 to 1.") from None
    return _better(prompt or _prompt(row), chosen, rejected, grade, seed)


def _responses(row: Row, _: int) -> ItemIn:
    value = _from_json(row.get("responses"), "responses")
    if not isinstance(value, list) or not 1 <= len(value) <= 9:
        raise Wrong("responses", "Must be a list of one to nine answers.")
    found = []
    for number, each in enumerate(value):
        place = f"responses[{number}]"
        if isinstance(each, dict):
            text = next((each[name] for name in ("text", "content", "response", "answer") if each.get(name) is not None), None)
            found.append(_response(text, f"{place}.text", each.get("source") or each.get("model")))
        else:
            found.append(_response(each, place))
    return ItemIn(prompt=_prompt(row), responses=found, preference=_any_vote(row) if len(found) == 2 else None)


def _two(row: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if row.get(pair[0]) is not None and row.get(pair[1]) is not None), None)


def _side_by_side(row: Row, _: int) -> ItemIn:
    pair = _two(row)
    if pair is None:
        one = next((each for each in _PAIRS if row.get(each[0]) is not None or row.get(each[1]) is not None), _PAIRS[0])
        raise Wrong(one[1] if row.get(one[0]) is not None else one[0], "The answer is missing.")
    answers = [_response(row[pair[0]], pair[0], row.get("model_a")), _response(row[pair[1]], pair[1], row.get("model_b"))]
    return ItemIn(prompt=_prompt(row), responses=answers, preference=_any_vote(row))


def _helpsteer(row: Row, seed: int) -> ItemIn:
    value = row.get("context") if row.get("context") is not None else row.get("prompt")
    if isinstance(value, str) and _MARKED.search(value):
        parts = _MARKED.split(value)
        turns = [{"role": "user", "content": parts[0]}] if parts[0].strip() else []
        turns += [{"role": role.lower(), "content": text} for role, text in zip(parts[1::2], parts[2::2], strict=True)]
        if turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
            turns.pop()  # where the answers go on
        value = turns
    return _side_by_side({**row, "prompt": value}, seed)


def _transcript(value: Any, place: str) -> list[dict[str, str]]:
    if not isinstance(value, str):
        raise Wrong(place, "Must be a transcript: text with “Human:” and “Assistant:”.")
    parts = _TURN.split("\n\n" + value.lstrip())
    turns = [
        {"role": "user" if who == "Human" else "assistant", "content": text.strip()}
        for who, text in zip(parts[1::2], parts[2::2], strict=True)
    ]
    if parts[0].strip() or len(turns) < 2 or turns[0]["role"] != "user" or turns[-1]["role"] != "assistant":
        raise Wrong(place, "A transcript begins with “Human:” and ends with an answer of “Assistant:”.")
    return turns


def _hh(row: Row, seed: int) -> ItemIn:
    chosen, rejected = _transcript(row.get("chosen"), "chosen"), _transcript(row.get("rejected"), "rejected")
    if chosen[:-1] != rejected[:-1]:
        raise Wrong("rejected", "The transcripts differ before their last answers, so these do not answer the same prompt.")
    answers = [ResponseIn(text=each[-1]["content"], source=name) for each, name in ((chosen, ""), (rejected, ""))]
    return _better(chosen[:-1], answers[0], answers[1], CLEARLY, seed)


def _argilla(row: Row, _: int) -> ItemIn:
    fields = row["fields"]
    names = sorted(name for name in fields if _NUMBERED.match(name) and fields[name] is not None)
    if len(names) < 2 and fields.get("chosen") is not None and fields.get("rejected") is not None:
        names = ["chosen", "rejected"]
    names = names or [name for name in ("response", "completion", "answer", "output") if fields.get(name) is not None]
    if not names or len(names) > 9:
        raise Wrong("fields", "No answers are there. Their fields are named response-1, response-2 and so on.")
    metadata = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
    found = [_response(fields[name], f"fields.{name}", (metadata or {}).get(f"{name}-model")) for name in names]
    votes = [vote for value in _argilla_values(row) if len(names) == 2 and (vote := _of_argilla(value, names)) is not None]
    middle = statistics.median_low(votes) if votes else None
    return ItemIn(prompt=_prompt(fields, "fields."), responses=found, preference=middle)


def _argilla_values(row: Row) -> list[Any]:
    """What people submitted, in the writing of Argilla 1 (a list of people) and 2 (a list a question)."""
    given, found = row.get("responses"), []
    if isinstance(given, dict):
        for each in (each for answers in given.values() if isinstance(answers, list) for each in answers):
            if not isinstance(each, dict) or each.get("status", "submitted") == "submitted":
                found.append(each.get("value") if isinstance(each, dict) else each)
    for person in given if isinstance(given, list) else []:
        values = person.get("values") if isinstance(person, dict) and person.get("status", "submitted") == "submitted" else None
        found += [each.get("value") for each in (values or {}).values() if isinstance(each, dict)]
    return found


def _of_argilla(value: Any, names: Sequence[str]) -> int | None:
    """A preference out of an answer to a label, rating or ranking question; None for answers to other questions."""
    if isinstance(value, list):
        if all(isinstance(each, dict) and "rank" in each for each in value):
            ranks = {str(each.get("value")): each["rank"] for each in value}
        else:
            ranks = {str(each): place for place, each in enumerate(value)}
        if not all(name in ranks and isinstance(ranks[name], int) for name in names):
            return None
        first, second = (ranks[name] for name in names)
        return 0 if first == second else -CLEARLY if first < second else CLEARLY
    if isinstance(value, str) and value in names:
        return -CLEARLY if value == names[0] else CLEARLY
    try:
        return _vote(value, "responses")
    except Wrong:
        return None


def _label_studio(row: Row, _: int) -> ItemIn:
    data = row["data"]
    pair = _two(data) or next(
        ((a, b) for a in data if a.endswith("1") and (b := f"{a[:-1]}2") in data and a.removesuffix("1") not in _PROMPTS), None
    )
    if pair is None:
        raise Wrong("data", "No two answers are there. They are named answer1 and answer2, or response_a and response_b.")
    votes = []
    for number, annotation in enumerate(row.get("annotations") or row.get("completions") or []):
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            continue
        for each in annotation.get("result") or []:
            value = each.get("value") if isinstance(each, dict) else None
            if isinstance(value, dict) and each.get("type") in ("pairwise", "choices"):
                choice = value.get("selected") or next(iter(value.get("choices") or []), None)
                vote = _vote(choice, f"annotations[{number}]") if each["type"] == "pairwise" else _of_argilla(choice, pair)
                votes += [] if vote is None else [vote]
    answers = [_response(data[name], f"data.{name}") for name in pair]
    return ItemIn(prompt=_prompt(data, "data."), responses=answers, preference=statistics.median_low(votes) if votes else None)


def _arena(row: Row, _: int) -> ItemIn:
    if "conversation_a" not in row:
        return _arena_table(row)
    said = []
    for side in ("conversation_a", "conversation_b"):
        found = messages(row.get(side), side, Finding({}))
        if found[-1]["role"] != "assistant" or len(found) < 2:
            raise Wrong(side, "The conversation does not end with an answer.")
        said.append(found)
    if said[0][:-1] != said[1][:-1]:
        raise Wrong("conversation_b", "The battle has several turns that were answered differently, so it compares no two single answers.")
    answers = [ResponseIn(text=said[n][-1]["content"], source=str(row.get(f"model_{side}") or "")[:300]) for n, side in enumerate("ab")]
    prompt: list[dict[str, Any]] = [dict(each) for each in said[0][:-1]]
    return ItemIn(prompt=prompt, responses=answers, preference=_vote(row.get("winner"), "winner"))


def _arena_table(row: Row) -> ItemIn:
    """Battles as a table: lists of turns, and a column for each outcome."""
    turns = [_from_json(row.get(name), name) for name in ("prompt", "response_a", "response_b")]
    for name, value in zip(("prompt", "response_a", "response_b"), turns, strict=True):
        if isinstance(value, list) and len(value) != 1:
            raise Wrong(name, "The battle has several turns that were answered differently, so it compares no two single answers.")
    prompt, *texts = (value[0] if isinstance(value, list) else value for value in turns)
    won = [str(row.get(f"winner_{who}") or "0").strip().lower() in ("1", "true", "1.0") for who in ("model_a", "model_b", "tie")]
    if sum(won) > 1:
        raise Wrong("winner_model_a", "More than one of the outcomes is marked.")
    answers = [_response(text or "", f"response_{side}", row.get(f"model_{side}")) for text, side in zip(texts, "ab", strict=True)]
    vote = (-CLEARLY, CLEARLY, 0)[won.index(True)] if any(won) else None
    return ItemIn(prompt=_prompt_of(prompt, "prompt"), responses=answers, preference=vote)


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and "Human:" in value[:200] and "Assistant:" in value


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (  # the first one that fits is taken
        Format(
            "arena",
            "Arena battles",
            "{model_a, model_b, winner, conversation_a, conversation_b}",
            lambda row: ("conversation_a" in row and "conversation_b" in row) or ("winner_model_a" in row and "response_a" in row),
            _arena,
        ),
        Format(
            "label_studio",
            "Label Studio, pairwise",
            "{data: {prompt, answer1, answer2}, annotations}",
            lambda row: isinstance(row.get("data"), dict) and ("annotations" in row or "completions" in row or "id" in row),
            _label_studio,
        ),
        Format("argilla", "Argilla records", "{fields: {prompt, response-1, response-2}, responses}", lambda r: _is(r, "fields"), _argilla),
        Format(
            "helpsteer",
            "HelpSteer",
            "{context, response1, response2, overall_preference}",
            lambda row: _two(row) in _PAIRS[1:3] and any(name in row for name in ("overall_preference", "preference_strength", "context")),
            _helpsteer,
        ),
        Format(
            "hh",
            "Transcripts of Human and Assistant",
            "{chosen, rejected}, each “Human: … Assistant: …”",
            lambda row: _is_transcript(row.get("chosen")) and _is_transcript(row.get("rejected")) and not row.get("prompt"),
            _hh,
        ),
        Format("pairs", "Better and worse answers", "{prompt, chosen, rejected}", lambda r: "chosen" in r and "rejected" in r, _pairs),
        Format(
            "ab", "Two answers side by side", "{prompt, response_a, response_b, preference}", lambda r: _two(r) is not None, _side_by_side
        ),
        Format("responses", "Answers to compare", "{prompt, responses: […]}", lambda row: "responses" in row, _responses),
    )
}


def _is(row: Row, name: str) -> bool:
    return isinstance(row.get(name), dict)
