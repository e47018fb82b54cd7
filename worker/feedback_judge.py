"""Child that lets a model judge items: chunk by chunk, each kept whole or not at all. A reward model scores answers; any other is asked.

What is asked is answered with one letter (or number), and nothing is sampled: the verdict is read off the probabilities of the tokens
that stand for the letters. Every two answers are asked about in both orders. A child that is killed leaves the chunks it had finished,
and the next one does the others. Writes no rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from app import storage
from app.feedback import judge_words
from app.feedback.judge_verdicts import sigmoid
from worker import feedback_answer, rewards
from worker.reporting import Failed, Report

T = TypeVar("T")
BATCH = {"cpu": (16, 8_192), "cuda": (64, 65_536)}
"""Texts, and tokens with their padding, that go through the model at once."""

LEAST_LOG = -1000.0
"""Stands for the logarithm of no probability at all."""
NO_NUMBER = "The model gave no number (NaN): it may be damaged."

Item = dict[str, Any]
Tokens = list[int]


def main(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Judge.

    Args:
        spec: folder (with items.jsonl), judge (reward or model), name, model (path and adapter), project_kind, questions, chunk
            (items), device (cpu or cuda:0), threads.

    Returns:
        items and chunks, as counts.

    Raises:
        Failed: the model cannot be loaded, does not fit, or cannot judge.
    """
    folder, size = Path(spec["folder"]), int(spec["chunk"])
    try:
        items = storage.lines(folder / "items.jsonl")
        (folder / "verdicts").mkdir(exist_ok=True)
        chunks = {folder / "verdicts" / f"{n:06}.jsonl": items[n * size : (n + 1) * size] for n in range(-(-len(items) // size))}
        missing = [file for file in chunks if not file.is_file()]
        done = sum(len(chunks[file]) for file in chunks if file not in missing)
        if missing:
            report.progress(done, len(items), f"Loading {spec['name']}")
            judge = (_Scores if spec["judge"] == "reward" else _Letters).load(spec)
            for file in missing:
                said = judge(chunks[file])
                storage.keep_lines(file, (_told(item, one) for item, one in zip(chunks[file], said, strict=True)))
                done += len(said)
                report.progress(done, len(items), f"{spec['name']} judges")
    except (FileNotFoundError, Failed) as error:
        _say_why(error, spec, folder)
        raise
    return {"items": len(items), "chunks": len(chunks)}


def _told(item: Item, said: dict[str, Any]) -> dict[str, Any]:
    return {
        "item": item["item"],
        "answers": [each["id"] for each in item["answers"]],
        "own": [each["own"] for each in item["answers"]],
        "said": said,
    }


def _say_why(error: Exception, spec: dict[str, Any], folder: Path) -> None:
    """Say that something was deleted, where that is what the error comes from.

    Raises:
        Failed: it was.
    """
    if not folder.is_dir():
        raise Failed("The judge was deleted, so it judges nothing any more.", "deleted") from error
    path, adapter = spec["model"]["path"], spec["model"]["adapter"]
    if not Path(path, "config.json").is_file() or (adapter and not Path(adapter, "adapter_config.json").is_file()):
        raise Failed(f"The checkpoint of the judge “{spec['name']}” was deleted. Its verdicts stay.", "deleted") from error


def _too_few(item: Item, kind: str) -> str | None:
    return "It has too few answers." if len(item["answers"]) < (1 if kind == "single" else 2) else None


def _too_long(count: int, limit: int | None) -> str | None:
    return f"It has {count:,} tokens, and the model reads at most {limit:,}." if limit is not None and count > limit else None


# --- in batches -----------------------------------------------------------------------------------------------------------


def batches(lengths: Sequence[int], rows: int, tokens: int) -> Iterator[list[int]]:
    """Numbers of texts that go through a model together: those of like length, at most so many, and so many tokens with their padding."""
    part: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda each: lengths[each]):
        if part and (len(part) == rows or (len(part) + 1) * lengths[number] > tokens):
            yield part
            part = []
        part.append(number)
    if part:
        yield part


def in_batches(lengths: Sequence[int], device: str, reckon: Callable[[list[int]], Sequence[T]]) -> list[T]:
    """What `reckon` gives for each text, in their order; where memory does not suffice for a batch, half of it at a time.

    Raises:
        Failed: not even one text fits into memory.
    """
    from worker.libraries import out_of_memory

    found: dict[int, T] = {}
    waiting = list(batches(lengths, *BATCH[device.partition(":")[0]]))[::-1]
    while waiting:
        part = waiting.pop()
        try:
            found.update(zip(part, reckon(part), strict=True))
        except Exception as error:
            if not out_of_memory(error):
                raise
            if len(part) == 1:
                raise Failed("An item did not fit into the memory of the device. Take a smaller model.", "oom") from error
            feedback_answer.free()
            waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
    return [found[number] for number in range(len(lengths))]


# --- a model that gives numbers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scores:
    """Judges by the rewards of answers."""

    scorer: rewards.Scorer
    kind: str
    device: str

    @staticmethod
    def load(spec: dict[str, Any]) -> _Scores:
        scorer = feedback_answer.load(spec["name"], spec["model"], spec["device"], spec["threads"], scores=True)
        return _Scores(scorer, spec["project_kind"], spec["device"])

    def __call__(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        from worker.chat_stream import context_of

        limit = context_of(self.scorer.model)
        problems: list[str | None] = [_too_few(item, self.kind) for item in items]
        wanted: list[tuple[int, dict[str, Any], int]] = []
        for number, item in enumerate(items):
            for answer in item["answers"]:
                read = {"prompt": item["prompt"], "completion": [{"role": "assistant", "content": answer["text"]}]}
                try:
                    count = len(rewards.tokens_of(self.scorer, read))
                except Exception as error:  # boundary: templates of models raise what they like
                    problems[number] = f"The model's chat template refuses it: {_first_line(error)}"
                    break
                problems[number] = problems[number] or _too_long(count, limit)
                wanted.append((number, read, count))
        wanted = [one for one in wanted if problems[one[0]] is None]
        found = in_batches(
            [count for _, _, count in wanted],
            self.device,
            lambda part: rewards.score(self.scorer, [wanted[one][1] for one in part], batch_size=len(part)),
        )
        numbers: list[list[float]] = [[] for _ in items]
        for (number, _, _), value in zip(wanted, found, strict=True):
            numbers[number].append(value)
            if not math.isfinite(value):
                problems[number] = NO_NUMBER
        return [{"problem": problem} if problem else {"rewards": values} for problem, values in zip(problems, numbers, strict=True)]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --- a model that is asked ------------------------------------------------------------------------------------------------


def tokens_for(tokenizer: Any, choices: Sequence[str]) -> list[Tokens]:
    """For each choice the tokens that are it and nothing else, with a blank before it or without.

    Raises:
        Failed: the tokenizer has no token of its own for each.
    """
    vocabulary = tokenizer.get_vocab()
    found = []
    for choice in choices:
        ways = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (choice, f" {choice}")]
        ids = {way[0] for way in ways if len(way) == 1} | {vocabulary.get(choice)}
        found.append(sorted(token for token in ids if token not in (None, tokenizer.unk_token_id)))
    if not all(found) or len({token for ids in found for token in ids}) < sum(map(len, found)):
        raise Failed(f"This model has no token of its own for each of {', '.join(choices)}, so it cannot be asked. Take another.", "model")
    return found


@dataclass(frozen=True)
class _Ask:
    """One text a model is to go on with by a letter."""

    item: int
    principle: int
    first: int
    second: int
    swapped: bool
    ids: Tokens


@dataclass(frozen=True)
class _Letters:
    """Judges by what it would answer."""

    speaker: Any
    kind: str
    questions: list[str]
    device: str
    tokens: list[Tokens]

    @staticmethod
    def load(spec: dict[str, Any]) -> _Letters:
        speaker = feedback_answer.load(spec["name"], spec["model"], spec["device"], spec["threads"])
        tokens = tokens_for(speaker.tokenizer, judge_words.choices(spec["project_kind"]))
        return _Letters(speaker, spec["project_kind"], spec["questions"], spec["device"], tokens)

    def __call__(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        from worker.chat_stream import context_of

        limit = context_of(self.speaker.model)
        problems: list[str | None] = [_too_few(item, self.kind) for item in items]
        asks: list[_Ask] = []
        for number, item in enumerate(items):
            if problems[number] is None:
                try:
                    own = list(self._asks(number, item))
                except Failed as failure:
                    problems[number] = failure.reason
                    continue
                problems[number] = _too_long(1 + max(len(ask.ids) for ask in own), limit)
                asks += own if problems[number] is None else []
        found = in_batches([len(ask.ids) for ask in asks], self.device, lambda part: self._shares([asks[one].ids for one in part]))
        said: list[list[tuple[_Ask, list[float]]]] = [[] for _ in items]
        for ask, logs in zip(asks, found, strict=True):
            said[ask.item].append((ask, logs))
            if not all(map(math.isfinite, logs)):
                problems[ask.item] = NO_NUMBER
        put = _numbers if self.kind == "single" else _both_orders
        return [{"problem": problem} if problem else put(heap) for problem, heap in zip(problems, said, strict=True)]

    def _asks(self, number: int, item: Item) -> Iterator[_Ask]:
        texts = [str(each["text"]) for each in item["answers"]]
        pairs = (
            [(0, 0, False)]
            if self.kind == "single"
            else [(*two, way) for two in combinations(range(len(texts)), 2) for way in (False, True)]
        )
        for principle, question in enumerate(self.questions):
            for first, second, swapped in pairs:
                a, b = (second, first) if swapped else (first, second)
                yield _Ask(
                    number,
                    principle,
                    first,
                    second,
                    swapped,
                    self._ids(judge_words.asked(self.kind, question, item["prompt"], texts[a], texts[b])),
                )

    def _ids(self, text: str) -> Tokens:
        from worker.chat_stream import prompt

        tokenizer = self.speaker.tokenizer
        whole = text if tokenizer.chat_template else text + judge_words.PLAIN_END
        read, special = prompt(tokenizer, [{"role": "user", "content": whole}])
        return list(tokenizer(read, add_special_tokens=special)["input_ids"])

    def _shares(self, texts: Sequence[Tokens]) -> list[list[float]]:
        """Logarithm of the probability of each choice as the next token of each text."""
        import torch

        from worker.generate import _whole_rows

        model, pad = self.speaker.model, self.speaker.tokenizer.pad_token_id
        width = max(map(len, texts))
        # Padding goes to the left; `generate` minds the positions, whatever the architecture.
        ids = torch.tensor([[pad] * (width - len(text)) + text for text in texts], device=model.device)
        mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts], device=model.device)
        with _whole_rows(model), torch.no_grad():
            logits = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=1,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=pad,
            ).logits[0]
        logs = torch.log_softmax(logits.double(), dim=-1)
        shares = torch.stack([logs[:, choice].logsumexp(dim=-1) for choice in self.tokens], dim=-1)
        found: list[list[float]] = shares.clamp(min=LEAST_LOG).tolist()
        return found


def _both_orders(heap: Sequence[tuple[_Ask, list[float]]]) -> dict[str, Any]:
    """Of every two answers and each principle, the probability that the second is picked, as it stands second (p) and first (q)."""
    asked: dict[tuple[int, int, int], dict[str, Any]] = {}
    for ask, (a, b) in heap:
        key = (ask.principle, ask.first, ask.second)
        one = asked.setdefault(key, {"principle": ask.principle, "first": ask.first, "second": ask.second, "p": 0.0, "q": 0.0, "mass": 0.0})
        one["q" if ask.swapped else "p"] = sigmoid(a - b if ask.swapped else b - a)
        one["mass"] += (math.exp(a) + math.exp(b)) / 2
    return {"asked": list(asked.values())}


def _numbers(heap: Sequence[tuple[_Ask, list[float]]]) -> dict[str, Any]:
    """For each principle the number to be expected."""
    found = []
    for ask, logs in heap:
        shares = [math.exp(log - max(logs)) for log in logs]
        value = sum(number * share for number, share in enumerate(shares, 1)) / sum(shares)
        found.append({"principle": ask.principle, "value": value, "mass": sum(math.exp(log) for log in logs)})
    return {"numbers": found}
