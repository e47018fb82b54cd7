"""Child that lets candidates answer prompts for people to rate: one model after the other, chunk by chunk, each kept whole or not at all.

A chunk is a fixed set of prompts. What a candidate says to it goes into one file, written beside and renamed, so that a file that is there
is complete; a child that is killed leaves the chunks it had finished, and the next one does the others. Chunks are the same each time, and
each answer is drawn with random numbers of its own, so what is done a second time comes out the same. Writes no rows.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from app import shapes
from app.storage import keep_lines as _keep
from app.storage import lines as _lines
from worker import feedback_answer, rows
from worker.reporting import Failed, Report

BATCH = {"cpu": 16, "cuda": 64}
"""Answers given at once."""

Message = dict[str, str]
Unit = tuple[int, int]
"""Candidate and sample: one answer to a prompt."""


# --- what is asked of whom ------------------------------------------------------------------------------------------------


def chosen(prompts: Iterable[list[Message]], limit: int, seed: int) -> list[tuple[str, list[Message]]]:
    """At most `limit` different prompts with their keys, drawn with a seed whatever their order; the shortest first.

    Those with the smallest keys are taken, and a key is a hash of seed and prompt: one pass, and never more than `limit` in memory.
    """
    heap: list[tuple[int, str, list[Message]]] = []
    taken: set[str] = set()
    for prompt in prompts:
        key = hashlib.sha256(orjson.dumps([seed, [[each["role"], each["content"]] for each in prompt]])).hexdigest()
        if key in taken:
            continue
        entry = (-int(key, 16), key, prompt)
        if len(heap) < limit:
            heapq.heappush(heap, entry)
        elif entry[0] > heap[0][0]:
            taken.discard(heapq.heapreplace(heap, entry)[1])
        else:
            continue
        taken.add(key)
    # Prompts of like length share a batch, so that little is reckoned on padding.
    return [(key, prompt) for _, key, prompt in sorted(heap, key=lambda each: (sum(len(m["content"]) for m in each[2]), each[1]))]


def items_of(kind: str, candidates: int, pairs: str, seed: int, number: int) -> list[tuple[Unit, ...]]:
    """The items that the prompt with a number makes: for each, whose answers it shows."""
    if kind == "single":
        return [((candidate, 0),) for candidate in range(candidates)]
    if kind == "rank":
        return [tuple((candidate, 0) for candidate in range(candidates))]
    if candidates == 1:
        return [((0, 0), (0, 1))]
    every = [pair for pair in itertools.combinations(range(candidates), 2) if pairs != "first" or not pair[0]]
    if pairs == "all":
        return [((a, 0), (b, 0)) for a, b in every]
    # A shuffled round of all pairs, then the next: no pair comes more than once oftener than another.
    block, place = divmod(number, len(every))
    random.Random(f"{seed}:{block}").shuffle(every)
    a, b = every[place]
    return [((a, 0), (b, 0))]


def seed_of(seed: int, key: str, unit: Unit) -> int:
    """The seed of one answer."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}:{unit[0]}:{unit[1]}".encode()).digest()[:4]) >> 1


def _messages(prompt: Any) -> list[Message]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": str(each["role"]), "content": str(each["content"])} for each in prompt]


# --- the job --------------------------------------------------------------------------------------------------------------


def main(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Generate.

    Args:
        spec: folder (where answers are kept), texts, or rows (a file) and shape, limit, seed, project_kind, pairs, chunk (prompts),
            candidates (`{name, checkpoint_id, sampling, model}`), device (cpu or cuda:0), threads.

    Returns:
        prompts, answers and chunks, as counts.

    Raises:
        Failed: a model cannot be loaded or does not fit, or there is no prompt.
    """
    folder = Path(spec["folder"])
    if not (folder / "prompts.jsonl").is_file():
        (folder / "answers").mkdir(parents=True, exist_ok=True)
        (folder / "items").mkdir(exist_ok=True)
        report.phase("Reading the prompts")
        _keep(folder / "prompts.jsonl", chosen(_read(spec), spec["limit"], spec["seed"]))
    work = Work(spec, folder, _lines(folder / "prompts.jsonl"))
    if not work.prompts:
        raise Failed("The dataset holds no prompt, so there is nothing to answer. Take another.", "data")
    try:
        for candidate in range(len(spec["candidates"])):
            _ask(work, candidate, report)
        for chunk in range(work.chunks):
            work.assemble(chunk)
    except (FileNotFoundError, Failed) as error:
        _say_why(error, spec, folder)
        raise
    return {"prompts": len(work.prompts), "answers": work.total, "chunks": work.chunks}


def _read(spec: dict[str, Any]) -> Iterator[list[Message]]:
    if spec["texts"] is not None:
        yield from map(_messages, spec["texts"])
        return
    try:
        for record in rows.read(spec["rows"]):
            prompt = _messages(shapes.prompt_of(record["row"], spec["shape"]))
            if prompt and prompt[-1]["role"] != "assistant" and prompt[-1]["content"].strip():  # others ask nothing
                yield prompt
    except FileNotFoundError as error:
        raise Failed("The dataset with the prompts was deleted before they were read. Start again with another one.", "deleted") from error


def _say_why(error: Exception, spec: dict[str, Any], folder: Path) -> None:
    """Say that something was deleted, where that is what the error comes from.

    Raises:
        Failed: it was.
    """
    if not folder.is_dir():
        raise Failed("The project was deleted, so nothing is generated for it any more.", "deleted") from error
    for candidate in spec["candidates"]:
        model = candidate["model"]
        lost = not Path(model["path"], "config.json").is_file()
        if lost or (model["adapter"] and not Path(model["adapter"], "adapter_config.json").is_file()):
            raise Failed(f"The checkpoint “{candidate['name']}” was deleted before it had answered every prompt.", "deleted") from error


@dataclass(frozen=True)
class Work:
    """What there is to do, in chunks, and what of it is done."""

    spec: dict[str, Any]
    folder: Path
    prompts: list[Any]
    """Key and messages of each."""

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-len(self.prompts) // int(self.spec["chunk"]))

    @cached_property
    def total(self) -> int:
        """How many answers are wanted, of all candidates together."""
        return sum(len(self._units(number)) for number in range(len(self.prompts)))

    def _numbers(self, chunk: int) -> range:
        size = int(self.spec["chunk"])
        return range(chunk * size, min(len(self.prompts), (chunk + 1) * size))

    def _items(self, number: int) -> list[tuple[Unit, ...]]:
        spec = self.spec
        return items_of(spec["project_kind"], len(spec["candidates"]), spec["pairs"], spec["seed"], number)

    def _units(self, number: int) -> list[Unit]:
        return sorted({unit for item in self._items(number) for unit in item})

    def asked(self, candidate: int, chunk: int) -> list[tuple[int, Unit]]:
        """What a candidate answers in a chunk: numbers of prompts, and which answer it is."""
        return [(number, unit) for number in self._numbers(chunk) for unit in self._units(number) if unit[0] == candidate]

    def answers(self, candidate: int, chunk: int) -> Path:
        """The file of a candidate's answers to a chunk; there once all of them are."""
        return self.folder / "answers" / f"{candidate}-{chunk:06}.jsonl"

    def assemble(self, chunk: int) -> None:
        """Put the answers of all candidates to a chunk together into items."""
        file = self.folder / "items" / f"{chunk:06}.jsonl"
        if file.is_file():
            return
        found: dict[tuple[int, int, int], dict[str, Any]] = {}
        for candidate in range(len(self.spec["candidates"])):
            for number, sample, answer in _lines(self.answers(candidate, chunk)) if self.asked(candidate, chunk) else []:
                found[number, candidate, sample] = answer
        _keep(
            file,
            (
                {"prompt": self.prompts[number][1], "responses": [found[number, unit[0], unit[1]] for unit in item]}
                for number in self._numbers(chunk)
                for item in self._items(number)
            ),
        )


def _ask(work: Work, candidate: int, report: Report) -> None:
    """Have one candidate answer all chunks it has not answered yet."""
    spec, asked = work.spec, work.spec["candidates"][candidate]
    is_last = candidate == len(spec["candidates"]) - 1
    done = sum(len(work.asked(each, chunk)) for each in range(candidate) for chunk in range(work.chunks))
    missing = []
    for chunk in range(work.chunks):
        units = work.asked(candidate, chunk)
        if work.answers(candidate, chunk).is_file():
            done += len(units)
        elif units:
            missing.append((chunk, units))
    if not missing:
        return
    label = asked["name"] if len(spec["candidates"]) == 1 else f"{asked['name']} ({candidate + 1} of {len(spec['candidates'])})"
    report.progress(done, work.total, f"Loading {label}")
    speaker = feedback_answer.load(asked["name"], asked["model"], spec["device"], spec["threads"])
    for chunk, units in missing:
        questions = [_question(work, asked, number, unit) for number, unit in units]
        said: list[list[Any]] = []
        for answer in feedback_answer.answers(speaker, questions, asked["sampling"], BATCH[spec["device"].partition(":")[0]]):
            number, (_, sample) = units[len(said)]
            sampling = {**asked["sampling"], "seed": questions[len(said)].seed}
            told = {"text": answer.text, "finish": answer.finish, "tokens": answer.tokens, "sampling": sampling}
            said.append([number, sample, {**told, "source": asked["name"], "checkpoint": asked["checkpoint_id"]}])
            report.progress(done + len(said), work.total, f"{label} answers")
        _keep(work.answers(candidate, chunk), said)
        done += len(said)
        if is_last:
            work.assemble(chunk)
            report.progress(done, work.total, f"{label} answers")
    del speaker
    feedback_answer.free()


def _question(work: Work, asked: dict[str, Any], number: int, unit: Unit) -> feedback_answer.Question:
    key, messages = work.prompts[number]
    return feedback_answer.Question(messages, seed_of(asked["sampling"].get("seed", work.spec["seed"]), key, unit))
