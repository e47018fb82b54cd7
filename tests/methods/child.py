"""Runs the training child inside a test: a spec with little in it, and a report that keeps what it is sent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app import tuners
from tests.models import _once, tiny_llama, tiny_llama_folder
from worker import train
from worker.reporting import Report

SHAPES = {
    "sft": "prompt_completion",
    "dpo": "preference",
    "kto": "unpaired",
    "reward": "preference",
    "score": "rated",
    "pretrain": "text",
    "orpo": "preference",
    "simpo": "preference",
    "classify": "labelled",
    "features": "labelled",
}
TEACHER = "cp_teacher"
REWARDED = ("grpo", "rloo", "ppo", "online_dpo")
"""Methods that learn from rewards; the tiny model earns something by the length of its answers."""


def tiny_teacher_folder() -> Path:
    """Another tiny Llama with the same vocabulary, to learn from. Treat it as read-only."""
    return _once("tiny-teacher", lambda folder: tiny_llama(folder, seed=1) and None)


def tiny_lora_folder(seed: int) -> Path:
    """A LoRA on the tiny Llama that changes what it writes, to be mixed. Treat it as read-only."""

    def make(folder: Path) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        from worker.loading import load_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
            get_peft_model(load_model(str(tiny_llama_folder()), None, "float32"), config).save_pretrained(str(folder))

    return _once(f"tiny-lora-{seed}", make)


class Kept(Report):
    """Keeps the messages; `on` is called with each."""

    def __init__(self, on: Callable[[dict[str, Any]], None] | None = None) -> None:
        super().__init__()
        self.messages: list[dict[str, Any]] = []
        self.on = on

    def send(self, kind: str, **fields: Any) -> None:
        """Keep a message, as it looks after the pipe."""
        message = json.loads(json.dumps({"kind": kind, **fields}))
        self.messages.append(message)
        if self.on:
            self.on(message)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Messages of a kind."""
        return [message for message in self.messages if message["kind"] == kind]

    def curve(self, name: str) -> dict[int, float]:
        """Points of a metric."""
        return {message["step"]: message["values"][name] for message in self.of("metrics") if name in message["values"]}


def write_rows(file: Path, shape: str, count: int = 24, held_out: int = 0) -> Path:
    """Sums of unlike length; the last `held_out` rows are for evaluation."""
    with file.open("w", encoding="utf-8") as stream:
        for number in range(count + held_out):
            prompt = f"{number} + {number + 1} =" + " please" * (number * 7 % 5)
            right, wrong = str(2 * number + 1), str(2 * number + 2)
            row = {
                "prompt_completion": {"prompt": prompt, "completion": right},
                "preference": {"prompt": prompt, "chosen": right, "rejected": wrong},
                "unpaired": {"prompt": prompt, "completion": right if number % 2 else wrong, "label": bool(number % 2)},
                "rated": {"prompt": prompt, "completion": right if number % 2 else wrong, "score": 4.0 if number % 2 else 2.0},
                "text": {"text": f"{prompt} {right}."},
                "prompt": {"prompt": prompt},
                "labelled": {"text": prompt, "label": ("none", "odd", "threefold")[number % 3]},
                "chat": {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": right}]},
            }[shape]
            line = {"line": number + 1, "split": "train" if number < count else "eval", "row": row, "source": row}
            stream.write(json.dumps(line) + "\n")
    return file


def spec(folder: Path, method: str, tuner: str, *, held_out: int = 0, count: int = 24, **changes: Any) -> dict[str, Any]:
    """What a worker would tell the child; `params` and `tuner_params` are merged in, everything else replaced."""
    shape = SHAPES.get(method, "prompt_completion")
    folder.mkdir(parents=True, exist_ok=True)
    rows = write_rows(folder / "rows.jsonl", shape, count, held_out)
    part = {"path": str(rows), "shape": shape, "sha256": "of the rows"}
    work = folder / "work"
    work.mkdir(exist_ok=True)
    params = {
        "batch_size": 4,
        "precision": "fp32",
        "max_steps": 6,
        "save_steps": 100,
        "eval_steps": 100,
        "sample_tokens": 4,
        "learning_rate": 1e-3,
    }
    if method in REWARDED:
        params |= {"rewards": [{"kind": "length", "unit": "characters", "target": 6}], "max_completion_length": 8, "learning_rate": 5e-3}
    if method == "distill":
        params["teacher"] = TEACHER
        changes.setdefault("others", {TEACHER: {"path": str(tiny_teacher_folder()), "adapter": None, "name": "teacher"}})
    if tuner == "xlora":
        loras = {f"ckpt_{seed}": tiny_lora_folder(seed) for seed in (1, 2)}
        changes.setdefault("tuner_params", {"adapters": list(loras)})
        others = {name: {"path": str(tiny_llama_folder()), "adapter": str(folder), "name": name} for name, folder in loras.items()}
        changes.setdefault("others", others)
    if method == "pretrain" and tuners.registry()[tuner].traits & {"soft", "prefix"}:
        params["packing"] = False  # virtual tokens stand before each row
    return {
        "run_id": "run_1",
        "attempt": 1,
        "work": str(work),
        "method": method,
        "tuner": tuner,
        "params": {**params, **changes.pop("params", {})},
        "tuner_params": changes.pop("tuner_params", {}),
        "seed": 7,
        "model": {"path": str(tiny_llama_folder()), "adapter": None, "name": "tiny"},
        "train": {**part, "split": "train"},
        "eval": {**part, "split": "eval"} if held_out else None,
        "resume": None,
        "resume_step": 0,
        "offsets": {},
        "adjustments": {},
        "device": "cpu",
        "threads": 1,
        "sample_prompts": 0,
        **changes,
    }


def run(job: dict[str, Any], on: Callable[[dict[str, Any]], None] | None = None) -> tuple[dict[str, Any], Kept]:
    """Train; returns the result and what was reported."""
    report = Kept(on)
    return train.main(json.loads(json.dumps(job)), report), report


def resumed(job: dict[str, Any], step: int, folder: Path) -> dict[str, Any]:
    """The spec of the next attempt, going on from the checkpoint at a step."""
    kept = folder / f"kept-{step}"
    shutil.copytree(Path(job["work"]) / f"checkpoint-{step}", kept)
    work = folder / f"resumed-{step}"
    work.mkdir(parents=True)
    return {**job, "attempt": 2, "work": str(work), "resume": str(kept), "resume_step": step}
