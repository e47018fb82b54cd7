"""Who writes for a recipe: checkpoints loaded here, each once, or the admin's endpoint. What was answered before is not asked again."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.recipes.base import JOURNAL, Answer, Choice, Messages, Row, counted
from app.recipes.texts import seed_of
from worker import feedback_answer, rows
from worker.feedback_generate import BATCH
from worker.reporting import Failed, Report
from worker.writing_endpoint import AT_ONCE, Endpoint
from worker.writing_journal import Journal, key_of

SAID_SECONDS = 0.25
"""How often progress is told."""
NO_ENDPOINT = "No endpoint is set. Name a checkpoint as the writer, or ask an admin to set LUTHIER_WRITER_URL and LUTHIER_WRITER_MODEL."


class Writing:
    """Answers a recipe's questions (`app.recipes.base.Maker`).

    Args:
        spec: `checkpoints` (id -> path, adapter, name), `datasets` (id -> file, shape, name), `endpoint` (url, key and model) or None.
        device: cpu or cuda:0.
    """

    def __init__(self, spec: dict[str, Any], journal: Journal, report: Report, *, device: str = "cpu", threads: int = 0) -> None:
        self._spec, self._journal, self._report = spec, journal, report
        self._device, self._threads = device, threads
        self._loaded: dict[tuple[str, str], Any] = {}
        self._endpoint: Endpoint | None = None
        self._done, self._total, self._unit, self._answers, self._said = 0, 0, "answers", 0, 0.0
        self._counting = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.figures: dict[str, float | str] = {}
        self._sentences: list[str] = []
        self._by: dict[str, None] = {}
        self.together = BATCH[device.partition(":")[0]] if spec["checkpoints"] else 4 * AT_ONCE

    # --- what it reads and tells ------------------------------------------------------------------------------------------

    def rows(self, dataset: str) -> Iterator[tuple[Row, str]]:
        """Rows of a dataset, each with its shape.

        Raises:
            Failed: it was deleted.
        """
        named = self._spec["datasets"][dataset]
        try:
            for record in rows.read(named["file"]):
                yield record["row"], named["shape"]
        except FileNotFoundError:
            raise Failed(
                f"The dataset “{named['name']}” was deleted before its prompts were read. Start again with another.", "deleted"
            ) from None

    def begin(self, total: int, unit: str) -> None:
        """Say how much there is to do."""
        self._done, self._total, self._unit = 0, total, unit
        self._tell(now=True)

    def step(self, count: int = 1) -> None:
        """Say that so much more is done."""
        self._done += count
        self._tell()

    def count(self, what: str, times: int = 1) -> None:
        """Count something for the report."""
        with self._counting:  # requests are repeated in several threads
            self.counts[what] += times

    def note(self, name: str, value: float | str, words: str) -> None:
        """Add a figure to the report."""
        self.figures[name] = value
        self._sentences.append(words)

    def report(self) -> dict[str, Any]:
        """What came of it: counts, figures, who was asked, and all of it in words."""
        words = [f"Asked: {', '.join(self._by)}."] if self._by else []
        words += [f"{counted(what, times)}." for what, times in self.counts.items() if times]
        return {"counts": dict(self.counts), "figures": self.figures, "asked": list(self._by), "words": [*words, *self._sentences]}

    def _tell(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self._said > SAID_SECONDS:
            self._said = time.monotonic()
            self._report.progress(self._done, self._total, f"{self._done:,} of {self._total:,} {self._unit}, {self._answers:,} answers")

    # --- what it asks -----------------------------------------------------------------------------------------------------

    def write(
        self, asked: Sequence[Messages], *, by: str | None, temperature: float, max_tokens: int, seed: int, n: int = 1
    ) -> list[list[Answer]]:
        """`n` answers to each conversation.

        Raises:
            Failed: the writer cannot be loaded or reached, or does not accept the key.
        """
        whose, sampling = self._whose(by), {"temperature": temperature, "max_tokens": max_tokens}
        units = [(messages, seed_of(seed, key_of(messages), sample)) for messages in asked for sample in range(n)]
        keys = [key_of("write", whose, sampling, *unit) for unit in units]

        def ask(missing: list[int]) -> Iterator[tuple[int, Any]]:
            questions = [units[number] for number in missing]
            if by is None:
                found = self._admins().write(questions, temperature=temperature, max_tokens=max_tokens)
            else:
                found = self._locally(by, questions, sampling)
            yield from ((number, asdict(answer)) for number, answer in found)

        answers = [Answer(**each) for each in self._answered(keys, ask)]
        return [answers[start : start + n] for start in range(0, len(answers), n)]

    def score(self, conversations: Sequence[Messages], *, by: str) -> list[float | None]:
        """The number that a reward or score checkpoint gives each conversation; None for one it cannot read.

        Raises:
            Failed: the checkpoint cannot be loaded, or gives no numbers.
        """
        keys = [key_of("score", self._whose(by), messages) for messages in conversations]
        return self._answered(keys, lambda missing: self._scores(by, [conversations[number] for number in missing]))

    def choose(self, asked: Sequence[Messages], letters: Sequence[str], *, by: str | None) -> list[Choice]:
        """Which of some letters is answered, with their probabilities where they are told.

        Raises:
            Failed: as for `write`, or the checkpoint has no token for a letter.
        """
        keys = [key_of("choose", self._whose(by), letters, messages) for messages in asked]

        def ask(missing: list[int]) -> Iterator[tuple[int, Any]]:
            questions = [asked[number] for number in missing]
            found = self._admins().choose(questions, letters) if by is None else self._chosen(by, questions, letters)
            yield from ((number, asdict(choice)) for number, choice in found)

        return [Choice(**each) for each in self._answered(keys, ask)]

    def _answered(self, keys: Sequence[str], ask: Callable[[list[int]], Iterator[tuple[int, Any]]]) -> list[Any]:
        """What the journal holds for each key; what it lacks is asked, and kept as it comes."""
        first = {key: number for number, key in reversed(list(enumerate(keys))) if key not in self._journal}
        missing = sorted(first.values())
        self._answers += len(keys) - len(missing)
        if missing:
            for number, value in ask(missing):
                self._journal.add(keys[missing[number]], value)
                self._answers += 1
                self._tell()
            self._journal.sync()
        return [self._journal[key] for key in keys]

    def _whose(self, by: str | None) -> str:
        name = f"“{self._spec['checkpoints'][by]['name']}”" if by else f"“{self._admins().model}” at the studio’s endpoint"
        self._by.setdefault(name)
        return by or f"endpoint {self._admins().model}"

    # --- the endpoint -----------------------------------------------------------------------------------------------------

    def _admins(self) -> Endpoint:
        if self._endpoint is None:
            told = self._spec.get("endpoint")
            if told is None:
                raise Failed(NO_ENDPOINT, "endpoint")
            self._endpoint = Endpoint(**told, retried=lambda: self.count("retries"))
        return self._endpoint

    # --- checkpoints ------------------------------------------------------------------------------------------------------

    def _model(self, id: str, *, scores: bool = False) -> Any:
        kind = "score" if scores else "speak"
        if (id, kind) not in self._loaded:
            named = self._spec["checkpoints"][id]
            self._report.progress(self._done, self._total or None, f"Loading {named['name']}")
            self._loaded[id, kind] = feedback_answer.load(named["name"], named, self._device, self._threads, scores=scores)
        return self._loaded[id, kind]

    def _locally(self, by: str, asked: Sequence[tuple[Messages, int]], sampling: dict[str, Any]) -> Iterator[tuple[int, Answer]]:
        questions = [feedback_answer.Question(messages, seed) for messages, seed in asked]
        whole = {**sampling, "top_p": 1.0, "top_k": 0}
        found = feedback_answer.answers(self._model(by), questions, whole, BATCH[self._device.partition(":")[0]])
        yield from ((number, Answer(each.text, each.finish)) for number, each in enumerate(found))

    def _scores(self, by: str, conversations: Sequence[Messages]) -> Iterator[tuple[int, float | None]]:
        from worker import rewards
        from worker.chat_stream import context_of
        from worker.feedback_judge import in_batches

        scorer = self._model(by, scores=True)
        limit = context_of(scorer.model)
        lengths = [len(rewards.tokens_of(scorer, messages, number)) for number, messages in enumerate(conversations)]
        fits = [number for number, length in enumerate(lengths) if limit is None or length <= limit]
        found: dict[int, float] = dict(
            zip(
                fits,
                in_batches(
                    [lengths[number] for number in fits],
                    self._device,
                    lambda part: rewards.score(scorer, [conversations[fits[one]] for one in part], batch_size=len(part)),
                ),
                strict=True,
            )
        )
        for number in range(len(conversations)):
            value = found.get(number)
            yield number, value if value is not None and math.isfinite(value) else None

    def _chosen(self, by: str, asked: Sequence[Messages], letters: Sequence[str]) -> Iterator[tuple[int, Choice]]:
        from worker import feedback_judge
        from worker.chat_stream import context_of, prompt

        speaker = self._model(by)
        # The judge of ratings reads the same probabilities; it is given the letters of this question.
        judge = feedback_judge._Letters(speaker, "pair", [], self._device, feedback_judge.tokens_for(speaker.tokenizer, letters))
        texts = []
        for messages in asked:
            read, special = prompt(speaker.tokenizer, messages)
            texts.append(list(speaker.tokenizer(read, add_special_tokens=special)["input_ids"]))
        limit = context_of(speaker.model)
        fits = [number for number, text in enumerate(texts) if limit is None or len(text) < limit]
        lengths = [len(texts[number]) for number in fits]
        found = feedback_judge.in_batches(lengths, self._device, lambda part: judge._shares([texts[fits[one]] for one in part]))
        logs = dict(zip(fits, found, strict=True))
        for number in range(len(asked)):
            shares = logs.get(number)
            if shares is None or not all(map(math.isfinite, shares)):
                yield number, Choice(None, None)
            else:
                yield number, Choice(shares, max(range(len(letters)), key=shares.__getitem__))


def journal_in(folder: Path) -> Journal:
    """The journal of a dataset that is being made."""
    return Journal(folder / JOURNAL)
