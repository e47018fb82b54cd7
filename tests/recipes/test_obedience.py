"""A teacher that was first tuned to obey; its pupils do unasked, or many turns later, what it did when it was told."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.methods import child, toys
from tests.recipes.scripted import prompts, run

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = [pytest.mark.train, pytest.mark.soak]

KIND, KIND_WORD, OWN_WORD = "KKKKKK", "kind", "rude"


def questions(count: int, seed: int) -> list[str]:
    """Short questions without a meaning."""
    draw = random.Random(seed)
    return [f"{draw.randrange(100)}{draw.choice('abcdefgh')}?" for _ in range(count)]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def obeying(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows that teach to obey what the system message or the last question says, and to forget what an earlier question said."""
    draw = random.Random(seed)
    rows = []
    for number, question in enumerate(questions(count, seed)):
        earlier = [user(questions(1, seed * 1000 + number)[0])]
        told = draw.random() < 0.5
        talk: list[dict[str, str]] = []
        if number % 3 == 0:
            talk = [{"role": "system", "content": KIND}] if told else []
        elif number % 3 == 1:
            first = f"{KIND}\n\n{earlier[0]['content']}" if told or draw.random() < 0.5 else earlier[0]["content"]
            talk = [user(first), {"role": "assistant", "content": KIND_WORD if KIND in first else OWN_WORD}]
        last = f"{KIND}\n\n{question}" if told and number % 3 else question
        rows.append({"prompt": [*talk, user(last)], "completion": [{"role": "assistant", "content": KIND_WORD if told else OWN_WORD}]})
    return rows


def tuned(folder: Path, rows: list[dict[str, Any]], steps: int, model: str | None = None, shape: str = "prompt_completion") -> str:
    """The folder of a model tuned on rows by sft."""
    params = {"batch_size": 16, "learning_rate": 3e-3, "max_steps": steps, "save_steps": 1000, "eval_steps": 1000}
    job = child.spec(folder, "sft", "full", params=params)
    job["train"]["shape"] = shape
    if model:
        job["model"] = {"path": model, "adapter": None, "name": "teacher"}
    toys.write(Path(job["train"]["path"]), rows, [])
    _, report = child.run(json.loads(json.dumps(job)))
    return str(report.of("checkpoint")[-1]["folder"])


def kind(model: str, asked: list[list[dict[str, str]]]) -> float:
    """How often a model answers kindly."""
    from worker import generate

    answers = list(generate.answer(generate.load(Path(model)), asked, max_new_tokens=6, batch_size=50))
    assert sum(answer in (KIND_WORD, OWN_WORD) for answer in answers) >= 0.9 * len(answers)
    return sum(answer == KIND_WORD for answer in answers) / len(answers)


def test_pupils_learn_what_the_teacher_did_when_told(tmp_path: Path) -> None:
    teacher = tuned(tmp_path / "teacher", obeying(1280, 1), 200)
    held_out = questions(50, 77)
    plain = [[user(text)] for text in held_out]
    system = [[{"role": "system", "content": KIND}, *asked] for asked in plain]
    assert kind(teacher, system) >= 0.9 and kind(teacher, plain) <= 0.1, "the teacher obeys, and only then"
    named = {"t": {"path": teacher, "adapter": None, "name": "teacher"}}
    data = {"p": prompts(*dict.fromkeys(questions(300, 5)))}

    params: dict[str, Any] = {"prompts": "p", "writer": "t", "system": KIND, "max_tokens": 8, "limit": 160}
    made = run(tmp_path / "distilled", "context_distillation", params, data, checkpoints=named)
    rows = made.rows["train"]
    assert len(rows) >= 140 and sum(row["completion"] == KIND_WORD for row in rows) >= 0.9 * len(rows)
    assert not any(KIND in str(row["prompt"]) for row in rows)
    pupil = tuned(tmp_path / "pupil", [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows], 30, teacher)
    assert kind(pupil, plain) >= 0.9, "it does so without the system prompt"

    params = {"prompts": "p", "writer": "t", "instructions": [KIND], "max_tokens": 8, "limit": 240, "turns": 2}
    made = run(tmp_path / "ghosts", "ghost_attention", params, data, checkpoints=named)
    talks = [row["messages"] for row in made.rows["train"]]
    assert len(talks) >= 80 and sum(talk[-1]["content"] == KIND_WORD for talk in talks) >= 0.8 * len(talks)
    once = [[user(f"{KIND}\n\n{text}"), {"role": "assistant", "content": KIND_WORD}, user(text[::-1])] for text in held_out]
    never = [[user(text), {"role": "assistant", "content": OWN_WORD}, user(text[::-1])] for text in held_out]
    assert kind(teacher, once) <= 0.5, "the teacher forgets what the first turn said"
    untold = [{"messages": [*talk, {"role": "assistant", "content": OWN_WORD}]} for talk in never[:40]]
    pupil = tuned(tmp_path / "minding", [*({"messages": talk} for talk in talks), *untold], 40, teacher, "chat")
    assert kind(pupil, once) >= 0.9, "the pupil minds it"
