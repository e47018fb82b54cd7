"""What a trainer does around its steps: report them, answer prompts, save, pause, stop when the loss is lost. Computes no loss."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from worker import sampling
from worker.reporting import Report
from worker.sampling import Question
from worker.usage import Usage

log = logging.getLogger(__name__)

DIVERGED_STEPS = 3
"""Steps in a row without a finite loss and gradient after which a run has diverged."""
_NOT_SHOWN = ("num_tokens", "eval_num_tokens", "total_flos", "train_loss")
_TIMES = ("_runtime", "_per_second", "_preparation_time")


@dataclass
class Clock:
    """Counts the seconds spent in optimiser steps; evaluating, answering and saving do not count."""

    elapsed: float
    _since: float | None = None

    def start(self) -> None:
        self._since = time.monotonic()

    def stop(self) -> None:
        if self._since is not None:
            self.elapsed += time.monotonic() - self._since
            self._since = None


@dataclass
class Checks:
    """What is asked of the model while it is trained."""

    tokenizer: Any
    samples: Sequence[Question]
    checked: Sequence[Question]
    """Questions of the answer check; empty when it is off."""
    every: int
    max_new_tokens: int


@dataclass
class Progress:
    """Where the run stands, and how it ended."""

    tokens: float
    clock: Clock
    diverged: bool = False
    paused: bool = False
    _last: tuple[float, float] = field(default=(0.0, 0.0))

    def speed(self, tokens: float) -> float | None:
        """Tokens a second since the last call."""
        before_tokens, before = self._last
        self._last = (tokens, self.clock.elapsed)
        seconds = self.clock.elapsed - before
        return (tokens - before_tokens) / seconds if seconds > 0 else None

    def begin(self) -> None:
        self._last = (self.tokens, self.clock.elapsed)


class Reporter(TrainerCallback):
    """Sends what happens to the supervisor, and obeys it. Runs after the callbacks of the library, so that it has the last word on each
    step."""

    def __init__(
        self, report: Report, progress: Progress, checks: Checks, finish: Callable[[Path, int], dict[str, Any]], task: str = "policy"
    ) -> None:
        self.report, self.progress, self.checks, self.finish, self.task = report, progress, checks, finish, task
        self.trainer: Any = None
        self.nonfinite = 0
        self.offset = progress.tokens
        self.usage = Usage()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.report.send("total", steps=state.max_steps)
        if state.global_step == 0:
            self._ask(0)
            self._check(0, "before")
        self.report.phase("Training")
        self.progress.begin()
        self.usage.start(Path(args.output_dir))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.step_loss = None
        self.progress.clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, last = state.global_step, state.global_step >= state.max_steps
        finite = self._is_finite()  # waits for the device, so that the clock stops when the step is really over
        self.progress.clock.stop()
        self.report.send("step", step=step)
        used = self.usage.take(last=last)
        if used:
            self.report.send("metrics", step=step, values=used)
        control.should_save = control.should_save or last
        if self.report.pause_asked.is_set() and not last:
            self.progress.paused = True
            control.should_save, control.should_evaluate, control.should_training_stop = True, False, True
        self.nonfinite = 0 if finite else self.nonfinite + 1
        if not finite:
            # The point is shown, the weights are not kept: the last finite checkpoint is the one to go on from.
            control.should_log, control.should_save, control.should_evaluate = True, False, False
            if self.nonfinite >= DIVERGED_STEPS or last or self.progress.paused:
                self.progress.diverged, control.should_training_stop = True, True
            return
        if not self.progress.paused and (last or step % self.checks.every == 0):
            control.should_evaluate = self.trainer.eval_dataset is not None
            self._ask(step)
            if last:
                self._check(step, "after")
            self.report.phase("Training")
        control.should_log = control.should_log or control.should_save

    def _is_finite(self) -> bool:
        norm = self.trainer.last_grad_norm
        values = [self.trainer.step_loss, norm]
        return all(math.isfinite(float(value)) for value in values if value is not None)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        values = {name: float(value) for name, value in (logs or {}).items() if _is_shown(name, value)}
        if "loss" in values:
            self.progress.tokens = self.offset + self.trainer.tokens_seen
            values["tokens"] = self.progress.tokens
            values["elapsed_seconds"] = self.progress.clock.elapsed
            values["memory_bytes"] = float(_memory())
            speed = self.progress.speed(self.progress.tokens)
            if speed is not None:
                values["tokens_per_second"] = speed
        if values and "train_runtime" not in (logs or {}):
            self.report.send("metrics", step=state.global_step, values=values)
            told = ", ".join(
                f"{name} {values[name]:.4g}"
                for name in ("loss", "eval_loss", "grad_norm", "learning_rate", "tokens_per_second")
                if name in values
            )
            log.info("Step %d of %d: %s", state.global_step, state.max_steps, told)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        facts = self.finish(folder, state.global_step)
        self.report.send("checkpoint", step=state.global_step, folder=str(folder), task=self.task, **facts)

    def _ask(self, step: int) -> None:
        if not self.checks.samples:
            return
        self.report.phase("Answering the sample prompts")
        answers = sampling.ask(self.trainer.model, self.checks.tokenizer, self.checks.samples, self.checks.max_new_tokens)
        for number, (question, text) in enumerate(zip(self.checks.samples, answers, strict=True)):
            self.report.send("sample", step=step, number=number, prompt=question.shown, text=text, expected=question.expected)

    def _check(self, step: int, when: str) -> None:
        checked = self.checks.checked
        if not checked:
            return
        phase = f"Checking {len(checked)} answers {when} training"
        self.report.phase(phase)
        share = sampling.exact_match(
            self.trainer.model,
            self.checks.tokenizer,
            checked,
            self.checks.max_new_tokens,
            lambda done: self.report.phase(f"{phase}: {done} done"),
        )
        self.report.send("metrics", step=step, values={"exact_match": share})


def _is_shown(name: str, value: Any) -> bool:
    return isinstance(value, int | float) and name not in _NOT_SHOWN and not name.endswith(_TIMES)


def _memory() -> int:
    """Most memory the training has held on the GPU, or what the process holds on a CPU; in bytes."""
    if torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)
