"""What recipes do with texts: draw prompts, tell refusals and likeness, put a system message in front. Asks no model."""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from app import shapes
from app.recipes.base import Answer, Maker, Messages, PromptsParams, Row, WrittenParams

T = TypeVar("T")

_CANNOT = (
    r"\b(?:i|we)(?: am|['’]m| are|['’]re)?(?: really| just)? (?:can ?not|can['’]t|won['’]t|will not|(?:not able|unable) to"
    r"|(?:must|have to) decline|(?:do not|don['’]t) feel comfortable)\b"
    r"(?! (?:believe|wait|imagine|stop|remember|emphasi[sz]e|stress|overstate|thank))"
)
_REFUSES = re.compile(
    rf"\W*(?:{_CANNOT}|(?:(?:i['’]?m|i am) (?:\w+ )?sorry|sorry|unfortunately|(?:my )?apologies|i apologi[sz]e)\b[^.!?\n]{{0,60}}?{_CANNOT}"
    r"|(?:as|being) an? (?:ai|artificial intelligence|(?:large )?language model)\b[^.!?\n]{0,40}?\bi (?:can|am not|do not|don['’]t|must))",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")
LONGEST_COMPARED = 400
"""Words of a text that are compared: the time grows with the product of two lengths."""


def is_refusal(text: str) -> bool:
    """Whether an answer begins like a refusal in English."""
    return _REFUSES.match(text) is not None


def plain(text: str) -> str:
    """A text with small letters and single blanks."""
    return " ".join(text.split()).casefold()


def words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return _WORD.findall(text.casefold())[:LONGEST_COMPARED]


def likeness(left: Sequence[str], right: Sequence[str]) -> float:
    """ROUGE-L F1 of two lists of words: twice their longest common subsequence over both lengths, 0 to 1 (Lin 2004)."""
    if not left or not right:
        return float(left == right)
    before = [0] * (len(right) + 1)
    for one in left:
        now = [0]
        for place, other in enumerate(right):
            now.append(before[place] + 1 if one == other else max(before[place + 1], now[place]))
        before = now
    return 2 * before[-1] / (len(left) + len(right))


def alike(text: Sequence[str], others: Iterable[Sequence[str]], most: float) -> bool:
    """Whether words are at least `most` like any of others; lengths and shared words tell most apart without comparing in order."""
    mine = set(text)
    for other in others:
        both = len(text) + len(other)
        if both == 0 or 2 * min(len(text), len(other)) / both < most:
            continue
        shared = sum(word in mine for word in other)  # no common subsequence is longer
        if 2 * shared / both >= most and likeness(text, other) >= most:
            return True
    return False


def messages_of(prompt: str | Messages) -> Messages:
    """A prompt as messages."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": str(each["role"]), "content": str(each["content"])} for each in prompt]


def prompt_of(messages: Messages) -> str | Messages:
    """A prompt as rows hold it: text where it is a single message of the user."""
    return messages[0]["content"] if len(messages) == 1 and messages[0]["role"] == "user" else messages


def with_system(messages: Messages, system: str) -> Messages:
    """A conversation with a system message in front; one that has its own gets it before that."""
    if not system.strip():
        return messages
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{system}\n\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "system", "content": system}, *messages]


def transcript(messages: Messages) -> str:
    """A conversation as text, as it is put into a question about it."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{each['role'].capitalize()}: {each['content']}" for each in messages)


def seed_of(seed: int, *parts: object) -> int:
    """A seed of its own for everything that is told apart by `parts`."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, *map(str, parts)]).encode()).digest()[:4]) >> 1


def drawn_rows(maker: Maker, dataset: str, limit: int, seed: int) -> list[tuple[Messages, Row, str]]:
    """At most `limit` prompts of a dataset with their rows and shape: drawn by a seed whatever their order, the shortest first.

    Prompts that repeat an earlier one but for case and spaces are left out and counted.
    """
    heap: list[tuple[int, Messages, Row, str]] = []
    seen: set[bytes] = set()
    for row, shape in maker.rows(dataset):
        asked = messages_of(shapes.prompt_of(row, shape))
        if not asked or asked[-1]["role"] == "assistant" or not asked[-1]["content"].strip():
            continue
        key = hashlib.sha256(json.dumps([seed, [[each["role"], plain(each["content"])] for each in asked]]).encode()).digest()
        if key in seen:
            maker.count("duplicate prompts")
            continue
        seen.add(key)
        entry = (-int.from_bytes(key), asked, row, shape)
        if len(heap) < limit:
            heapq.heappush(heap, entry)
        elif entry[0] > heap[0][0]:
            heapq.heapreplace(heap, entry)
    heap.sort(key=lambda each: (sum(len(message["content"]) for message in each[1]), -each[0]))
    return [(asked, row, shape) for _, asked, row, shape in heap]


def drawn(maker: Maker, params: PromptsParams) -> list[Messages]:
    """The prompts that a recipe with prompts asks, in their order."""
    found = [asked for asked, _, _ in drawn_rows(maker, params.prompts, params.limit, params.seed)]
    maker.count("prompts", len(found))
    return found


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Items in groups, in order."""
    for start in range(0, len(items), max(1, size)):
        yield items[start : start + max(1, size)]


def usable(answer: Answer, params: WrittenParams, maker: Maker) -> bool:
    """Whether an answer is kept; what is left out, and why, is counted."""
    if answer.finish == "error":
        maker.count("errors")
        return False
    refuses = answer.finish == "refused" or is_refusal(answer.text)
    if refuses and "refusals" in params.leave_out:
        maker.count("refusals")
        return False
    if not answer.text.strip():
        maker.count("empty")
        return False
    if answer.finish == "length" and "cut" in params.leave_out:
        maker.count("cut")
        return False
    if refuses:
        maker.count("refusals kept")
    if answer.finish == "length":
        maker.count("cut kept")
    return True
