"""Rows that could be trained on: collects them, chooses among those of a prompt, splits and orders them. Reads no table."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from hashlib import blake2b
from typing import IO, Any

import orjson

from app import shapes
from app.feedback.orders import held_out, longest_run, mixed, same_neighbours
from app.feedback.rows import Example, Message
from app.feedback.rules import FORMS, Rules

CHARACTERS_A_TOKEN = 4
"""Of usual English text; only for a first estimate."""


def _number(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little")


def folded(prompt: list[Message]) -> bytes:
    """A prompt without what does not matter to a reader, case and how many spaces there are; as an import of a dataset compares them."""
    text = "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    return " ".join(text.casefold().split()).encode("utf-8", errors="surrogatepass")


def opening(prompt: list[Message]) -> list[Message]:
    """How the conversation begins, which all its later prompts share: up to the first message of the user."""
    first = next((message for message in prompt if message["role"] == "user"), None)
    return [first] if first else prompt


class Pool:
    """Rows in the order they come, as numbers in memory and as text in a file (or nowhere, where they are only counted)."""

    def __init__(self, rules: Rules, kind: str, spool: IO[bytes] | None = None) -> None:
        self.rules, self.kind, self._spool = rules, kind, spool
        self._form = FORMS[rules.shape]
        self.dropped: Counter[str] = Counter()
        self._offsets, self._offset = array("Q"), 0
        self.whole, self.prompts = array("Q"), array("Q")
        """Hash of each row, and of its prompt but for case and spaces."""
        self._openings, self._answers = array("Q"), array("Q")
        self.characters, self._longest = array("Q"), array("Q")
        self._strengths, self._ranks = array("d"), array("H")
        self._items: list[str] = []
        self._grades: list[float | bool | None] = []
        self._longer: list[bool | None] = []
        self._sources: list[tuple[tuple[str, str | None], ...]] = []
        self.order: list[int] = []
        """Rows that are kept, in the order they are written."""
        self.is_eval: list[bool] = []
        """For each of these, whether it is for evaluation."""

    def add(self, item_id: str, prompt: list[Message], example: Example) -> None:
        """Take a row, unless the reader of datasets would refuse it."""
        try:
            row = shapes.read(example.row, self._form).row
        except shapes.Wrong:
            self.dropped["unusable"] += 1
            return
        content = orjson.dumps(row)
        self._offsets.append(self._offset)
        if self._spool is not None:
            self._offset += self._spool.write(content + b"\n" + orjson.dumps(example.meta) + b"\n")
        self.whole.append(_number(content))
        self.prompts.append(_number(folded(prompt)))
        self._openings.append(_number(folded(opening(prompt))))
        self._answers.append(_number("\0".join(answer.text for answer in example.answers).encode("utf-8", errors="surrogatepass")))
        asked = sum(len(message["content"]) for message in prompt)
        lengths = [len(answer.text) for answer in example.answers]
        self.characters.append(asked + sum(lengths) + sum(isinstance(value, bool | float) for value in row.values()))
        self._longest.append(asked + max(lengths))
        self._strengths.append(example.strength)
        self._ranks.append(min(example.rank, 65_535))
        self._items.append(item_id)
        self._grades.append(example.grade)
        self._longer.append(example.longer)
        self._sources.append(tuple((answer.source, answer.checkpoint_id) for answer in example.answers))

    # --- choice -----------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Choose among rows of one prompt, split by prompt and conversation, and put in order."""
        kept = list(range(len(self.whole)))
        if self.rules.combine != "every":
            kept = self._without_doubles(kept)
        if self.rules.shape in ("prompt_completion", "chat"):
            kept = self._best(kept)
        elif self.kind == "rank":
            kept = self._capped(kept)
        evaluated = held_out([self._openings[row] for row in kept], self.rules.held_out, self.rules.seed)
        parts = [[row for row, is_eval in zip(kept, evaluated, strict=True) if is_eval is wanted] for wanted in (False, True)]
        if self.rules.shape == "unpaired":
            parts = [self._mixed(part) for part in parts]
        self.order = [row for part in parts for row in part]
        self.is_eval = [is_eval for is_eval, part in zip((False, True), parts, strict=True) for _ in part]

    def _without_doubles(self, kept: list[int]) -> list[int]:
        seen: set[int] = set()
        labels: defaultdict[tuple[int, int], set[bool]] = defaultdict(set)
        if self.rules.shape == "unpaired":
            for row in kept:
                labels[self.prompts[row], self._answers[row]].add(bool(self._grades[row]))
        left = []
        for row in kept:
            if len(labels.get((self.prompts[row], self._answers[row]), ())) > 1:
                self.dropped["contradiction"] += 1
            elif self.whole[row] in seen:
                self.dropped["double"] += 1
            else:
                seen.add(self.whole[row])
                left.append(row)
        return left

    def _best(self, kept: list[int]) -> list[int]:
        best: dict[int, int] = {}
        for row in kept:
            known = best.setdefault(self.prompts[row], row)
            if self._strengths[row] > self._strengths[known]:
                best[self.prompts[row]] = row
        self.dropped["not_best"] += len(kept) - len(best)
        return sorted(best.values())

    def _capped(self, kept: list[int]) -> list[int]:
        taken: Counter[int] = Counter()
        left = []
        for row in sorted(kept, key=lambda row: (self._ranks[row], row)):
            if taken[self.prompts[row]] < self.rules.max_pairs_per_prompt:
                taken[self.prompts[row]] += 1
                left.append(row)
        self.dropped["over_cap"] += len(kept) - len(left)
        return sorted(left)

    def _mixed(self, part: list[int]) -> list[int]:
        order = mixed([self.prompts[row] for row in part], [bool(self._grades[row]) for row in part], self.rules.seed)
        return [part[place] for place in order]

    # --- what is kept -----------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[tuple[bytes, bytes]]:
        """The kept rows in order, as JSON: the row, and what is known about it."""
        if self._spool is None:
            raise ValueError("these rows were only counted")
        for row in self.order:
            self._spool.seek(self._offsets[row])
            yield self._spool.readline()[:-1], self._spool.readline()[:-1]

    def items(self) -> int:
        """Items that gave a row."""
        return len(self.kept_items())

    def per_prompt(self) -> dict[str, int]:
        """Rows of one prompt → how many prompts have so many."""
        counts = Counter(Counter(self.prompts[row] for row in self.order).values())
        return {str(rows): counts[rows] for rows in sorted(counts)}

    def leaks(self) -> int:
        """Rows for evaluation whose prompt is trained on."""
        sides: tuple[set[int], list[int]] = set(), []
        for row, is_eval in zip(self.order, self.is_eval, strict=True):
            if is_eval:
                sides[1].append(self.prompts[row])
            else:
                sides[0].add(self.prompts[row])
        return sum(prompt in sides[0] for prompt in sides[1])

    def grades(self) -> dict[str, int]:
        """Rows of each grade, score or label."""
        counts = Counter(self._grades[row] for row in self.order)
        counts.pop(None, None)
        named = {("true" if grade else "false") if isinstance(grade, bool) else f"{grade:g}": count for grade, count in counts.items()}
        return dict(sorted(named.items()))

    def labels(self) -> tuple[int, int]:
        """Good and bad answers that are trained on."""
        told = [bool(self._grades[row]) for row, is_eval in zip(self.order, self.is_eval, strict=True) if not is_eval]
        return sum(told), len(told) - sum(told)

    def kept_items(self) -> set[str]:
        """Ids of the items that gave a row."""
        return {self._items[row] for row in self.order}

    def longer(self) -> tuple[int, int]:
        """Rows whose chosen answer is the longer one, and rows where one is."""
        known = [self._longer[row] for row in self.order if self._longer[row] is not None]
        return sum(map(bool, known)), len(known)

    def sources(self) -> Counter[tuple[str, str | None]]:
        """Where the answers come from: name and checkpoint."""
        return Counter(source for row in self.order for source in self._sources[row])

    def long_rows(self, tokens: int) -> int:
        """Rows that probably have more tokens than so many."""
        return sum(self._longest[row] > tokens * CHARACTERS_A_TOKEN for row in self.order)

    def tokens(self) -> tuple[int, int]:
        """About how many tokens a row has, prompt and longer answer: on average, and the longest."""
        lengths = [self._longest[row] for row in self.order]
        return (sum(lengths) // len(lengths) // CHARACTERS_A_TOKEN, max(lengths) // CHARACTERS_A_TOKEN) if lengths else (0, 0)

    def runs(self) -> tuple[int, int]:
        """Longest run of one label, and neighbours with the same prompt; of the rows for training and of those for evaluation."""
        longest = same = 0
        for wanted in (False, True):
            part = [row for row, is_eval in zip(self.order, self.is_eval, strict=True) if is_eval is wanted]
            longest = max(longest, longest_run([bool(self._grades[row]) for row in part]))
            same += same_neighbours([self.prompts[row] for row in part])
        return longest, same

    def columns(self) -> list[str]:
        """Columns of the source that is kept beside the rows."""
        row: dict[str, Any] = orjson.loads(next(self.lines())[0])
        return [*row, "meta"]
