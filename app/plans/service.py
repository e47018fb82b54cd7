"""Reckon what a run would do and take, before it is started: weights, steps, tokens, memory, time. Needs no torch and starts no run."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import tuners
from app.checkpoints import service as checkpoints
from app.checkpoints.tables import Checkpoint
from app.datasets import service as datasets
from app.datasets import tokens
from app.datasets.tables import Dataset
from app.errors import Conflict
from app.methods import service as methods
from app.methods.base import Objective
from app.plans.memory import TYPICAL_LENGTH, memory
from app.plans.schemas import Memory, Plan
from app.runs import service as runs
from app.runs.schemas import RunCreate
from app.runs.tables import Run
from app.tuners.base import Tuner, total
from app.workers import service as workers

ROUGH_CPU_FLOPS = 0.15e12
"""Operations a second that a CPU of a few cores is taken to do in training, until a run has been measured."""
ROUGH_GPU_FLOPS = 100e12
OVERHEAD_BYTES = 700 * 1024**2
"""What the training process takes for itself: Python, torch and trl."""
LIKE_RUNS = 20
FEW_ROWS = 50


@dataclass(frozen=True)
class _Lengths:
    """Tokens of the rows a run trains on; None while they are not counted."""

    counting: bool
    mean: float | None = None
    longest: int | None = None
    dropped: int | None = None
    cut: int | None = None
    problem: str | None = None
    rows: int | None = None
    """Rows that are made of them, where texts are split and packed."""


def plan(session: Session, workspace_id: str, request: RunCreate) -> Plan:
    """What a run would do and take.

    Raises:
        Invalid: a setting cannot be used, or dataset and method do not fit; the message names the field.
        NotFound: checkpoint or dataset does not exist.
        Conflict: checkpoint or dataset is not ready.
    """
    checkpoint = checkpoints.get(session, workspace_id, request.checkpoint)
    if checkpoint.status != "ready":
        raise Conflict(f"The checkpoint “{checkpoint.name}” is {checkpoint.status}; a run needs one that is ready.", field="checkpoint")
    dataset = datasets.get(session, workspace_id, request.dataset)
    datasets.usable_for_run(dataset)
    asked = (request.method, request.tuner, request.params, request.tuner_params)
    params, tuner_params = methods.validate(*asked, dataset.shape, has_eval=bool(request.eval_dataset) or dataset.eval_rows > 0)
    if request.eval_dataset:
        other = datasets.get(session, workspace_id, request.eval_dataset)
        datasets.usable_for_run(other)
        methods.validate(*asked, other.shape, field="eval_dataset", has_eval=True)
    objective, tuner = methods.objective(request.method), methods.tuner(request.tuner)
    others = runs.must_suit(session, workspace_id, request, params, tuner_params, checkpoint)
    lengths = _lengths(session, dataset, checkpoint, params, objective)
    rows = lengths.rows or max(0, dataset.train_rows - (lengths.dropped or 0))
    rows_a_step = objective.rows_a_step(params)
    steps = _steps(rows, params, rows_a_step)
    trained_rows = min(steps * rows_a_step, round(rows * params["epochs"])) if params["max_steps"] is None else steps * rows_a_step
    all_tokens = round(trained_rows * objective.tokens_a_row(params, lengths.mean)) if lengths.mean is not None else None

    device = workers.device(session)
    base = checkpoints.base_of(session, checkpoint)
    shapes, config = base.shapes or {}, base.config or {}
    trainable = tuner.trainable(shapes, config, tuner.params.model_validate(tuner_params)) if shapes else None
    if trainable is not None and objective.head:
        trainable += int(config.get("hidden_size") or 0)
    count = total(shapes) if shapes else base.parameters
    beside = _beside(session, others, params)
    needed, checkpointing = _memory(objective, tuner, shapes, config, trainable, params, tuner_params, lengths, device, beside)
    seconds, basis = _seconds(session, workspace_id, request, count, tuner, all_tokens, device)
    found = Plan(
        trainable_parameters=trainable,
        total_parameters=count,
        steps=steps,
        epochs=round(steps * rows_a_step / rows, 3) if rows else None,
        tokens=all_tokens,
        memory=needed,
        seconds=seconds,
        seconds_basis=basis,
        device=device["name"] if device else None,
        rows=dataset.train_rows,
        dropped_rows=lengths.dropped,
        cut_rows=lengths.cut,
        counting=lengths.counting,
        learning_rate=params["learning_rate"],
        gradient_checkpointing=checkpointing,
        suggestions=[],
        notes=[],
    )
    found.notes = _notes(found, lengths, device)
    if "max_completion_length" in params and found.seconds is not None:
        left_out = " Writing them is not in the time, and may take longer than learning." if basis == "rough" else ""
        found.notes.append(f"Answers are reckoned at their full length of {params['max_completion_length']:,} tokens.{left_out}")
    found.suggestions = _suggestions(found, objective, tuner, params, dataset, lengths)
    return found


def shares(session: Session, workspace_id: str, checkpoint_id: str) -> dict[str, str]:
    """For each tuner how many weights of a model it would train, as a number and a share; nothing where the model is not known."""
    found = session.get(Checkpoint, checkpoint_id) if checkpoint_id else None
    if found is None or found.workspace_id != workspace_id:
        return {}
    base = checkpoints.base_of(session, found)
    if not base.shapes:
        return {}
    count, told = total(base.shapes), {}
    for name, tuner in tuners.registry().items():
        with suppress(ValueError):  # it has settings without a default
            trainable = tuner.trainable(base.shapes, base.config or {}, tuner.params())
            if trainable:
                told[name] = f"{short(trainable)} weights, {_share(trainable / count)}"
    return told


def short(count: int) -> str:
    """A count as people say it: 1.2 M."""
    for size, unit in ((10**9, " B"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _share(share: float) -> str:
    """A share with two digits that count: 36 %, 0.42 %."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _lengths(session: Session, dataset: Dataset, checkpoint: Checkpoint, params: dict[str, Any], objective: Objective) -> _Lengths:
    """Token lengths of the training rows; asks for them to be counted where they are not."""
    max_length = params["max_length"]
    told = tokens.summary(session, dataset.id, checkpoint.id, None if objective.splits_long else max_length, "train")
    if told["status"] == "none":
        tokens.request(session, dataset, checkpoint)
        return _Lengths(counting=True)
    if told["status"] != "ready":
        return _Lengths(counting=told["status"] == "counting", problem=told.get("reason"))
    if objective.splits_long:
        pieces = math.ceil(told["tokens"] / max_length)
        rows = max(1, pieces if params.get("packing") else max(pieces, dataset.train_rows))
        return _Lengths(False, told["tokens"] / rows, min(max_length, told["longest"]), 0, 0, rows=rows)
    kept = dataset.train_rows - told["dropped"]
    mean = told["tokens"] / kept if kept else 0.0
    dropped, cut = (told["dropped"] + told["cut"], 0) if objective.drops_long else (told["dropped"], told["cut"])
    return _Lengths(False, mean, min(max_length, told["longest"]), dropped, cut)


def _steps(rows: int, params: dict[str, Any], rows_a_step: float) -> int:
    """Optimiser steps, counted as the trainers do."""
    if params["max_steps"] is not None:
        return int(params["max_steps"])
    an_epoch: int = math.ceil(math.ceil(rows / params["batch_size"]) / params["gradient_accumulation"])
    if rows_a_step != params["batch_size"] * params["gradient_accumulation"]:
        an_epoch = math.ceil(rows / rows_a_step)
    return math.ceil(float(params["epochs"]) * an_epoch)


def _memory(
    objective: Objective,
    tuner: Tuner,
    shapes: dict[str, Any],
    config: dict[str, Any],
    trainable: int | None,
    params: dict[str, Any],
    tuner_params: dict[str, Any],
    lengths: _Lengths,
    device: dict[str, Any] | None,
    beside: int = 0,
) -> tuple[Memory | None, bool | None]:
    """Memory of a step of full batches with what is held `beside` it, and whether it takes gradient checkpointing to fit."""
    if trainable is None:
        return None, None
    added = tuner.added(shapes, config, tuner.params.model_validate(tuner_params))
    longest = lengths.longest or min(params["max_length"], TYPICAL_LENGTH)
    room = device["total"] if device else None

    def _needed(checkpointing: bool) -> dict[str, int]:
        found = memory(
            shapes,
            config,
            trainable=trainable,
            weight_bytes=_weight_bytes(params, tuner_params),
            family=tuner.family,
            tokens=params["batch_size"] * longest * objective.sequences,
            checkpointing=checkpointing,
        )
        if added:  # the model grows: in 32 bits, as all of it
            found["weights"] += added * 4
            found["total"] += added * 4
        if objective.compares and tuner.family == "full" and not params.get("precompute_reference"):
            found["weights"] += total(shapes) * 4  # the model as it was, to compare with
            found["total"] += total(shapes) * 4
        return {**found, "others": beside, "total": found["total"] + beside}

    asked = params["gradient_checkpointing"]
    needed, checkpointing = _needed(asked == "on"), asked == "on"
    if asked == "auto" and room and needed["total"] + OVERHEAD_BYTES > 0.9 * room:
        needed, checkpointing = _needed(True), True
    fits = needed["total"] + OVERHEAD_BYTES <= room if room else None
    return Memory(**needed, device_total=room, fits=fits), checkpointing


def _beside(session: Session, others: list[Checkpoint], params: dict[str, Any]) -> int:
    """Bytes of the weights of other models, each counted once; an adapter is loaded on a base of its own."""
    weights = 0
    for each in {checkpoint.id: checkpoint for checkpoint in others}.values():
        base = checkpoints.base_of(session, each)
        weights += (total(base.shapes) if base.shapes else base.parameters) or 0
    return round(weights * _weight_bytes(params, {}))


def _weight_bytes(params: dict[str, Any], tuner_params: dict[str, Any]) -> float:
    """Bytes of a frozen weight; those of quantised ones include their scales."""
    quantised = {"int8": 1.02, "nf4": 0.53}.get(tuner_params.get("quantization", "none"))
    return quantised or (4 if params["precision"] == "fp32" else 2)


def _seconds(
    session: Session,
    workspace_id: str,
    request: RunCreate,
    count: int | None,
    tuner: Tuner,
    all_tokens: int | None,
    device: dict[str, Any] | None,
) -> tuple[float | None, Any]:
    """Training time and what it is reckoned from: the speed of like runs, or a rule of thumb."""
    if all_tokens is None:
        return None, None
    like = select(Run.latest).where(
        Run.workspace_id == workspace_id,
        Run.method == request.method,
        Run.tuner == request.tuner,
        Run.checkpoint_id == request.checkpoint,
        Run.status.in_(("succeeded", "running", "paused")),
    )
    speeds = []
    for latest in session.scalars(like.order_by(Run.id.desc()).limit(LIKE_RUNS)):
        told, spent = latest.get("tokens"), latest.get("elapsed_seconds")
        if isinstance(told, int | float) and isinstance(spent, int | float) and spent > 1:
            speeds.append(told / spent)
    if speeds:
        return all_tokens / sorted(speeds)[len(speeds) // 2], "measured"
    if not count or device is None:
        return None, None
    rate = ROUGH_CPU_FLOPS if device["kind"] == "cpu" else ROUGH_GPU_FLOPS
    operations = (
        (6 if tuner.family == "full" else 4) * count * all_tokens
    )  # forward and backward; frozen weights have no gradient of their own
    return operations / rate, "rough"


def _notes(found: Plan, lengths: _Lengths, device: dict[str, Any] | None) -> list[str]:
    notes = []
    if lengths.counting:
        notes.append("Counting the tokens of the dataset… Tokens, time and the rows that are too long are told when that is done.")
    elif lengths.problem:
        notes.append(f"The tokens of the dataset could not be counted: {lengths.problem}")
    if device is None:
        notes.append("No worker is there, so nothing is known of its memory and speed. Start one with: luthier worker")
    elif device.get("problem"):
        notes.append(str(device["problem"]))
    if found.total_parameters is None:
        notes.append("The size of this model is not known, so its memory cannot be told.")
    if found.seconds_basis == "rough":
        notes.append("The time is a rule of thumb; after the first run like this one it is measured.")
    return notes


def _suggestions(found: Plan, objective: Objective, tuner: Tuner, params: dict[str, Any], dataset: Dataset, lengths: _Lengths) -> list[str]:
    said = []
    if found.trainable_parameters == 0:
        said.append("No layer of this model has one of these names, so nothing would be trained. Name other layers, or take all-linear.")
    if found.dropped_rows:
        why = "they are longer than" if objective.drops_long else "their prompt alone fills"
        words = f"{found.dropped_rows:,} of {dataset.train_rows:,} rows are left out, because {why} the maximum length."
        said.append(f"{words} Raise the maximum length of {params['max_length']:,} tokens to keep them.")
    if found.cut_rows:
        words = f"{found.cut_rows:,} rows are cut at {params['max_length']:,} tokens and lose the end of their answer."
        said.append(f"{words} Raise the maximum length to keep it.")
    if found.memory and found.memory.fits is False:
        smaller = " or take LoRA, which needs a fraction of it" if tuner.family == "full" else ""
        said.append(f"This needs more memory than the device has. Halve the batch size and double the gradient accumulation{smaller}.")
    suited = objective.rate_with(tuner)
    if params["learning_rate"] > 10 * suited or params["learning_rate"] < suited / 20:
        how = "high" if params["learning_rate"] > suited else "low"
        said.append(
            f"The learning rate of {params['learning_rate']:g} is {how} for {objective.name} with {tuner.name}; {suited:g} suits it."
        )
    if dataset.train_rows < FEW_ROWS:
        said.append(f"{dataset.train_rows} rows are few: the model may learn them by heart. Some hundreds are better.")
    if lengths.longest and params["max_steps"] is not None and found.epochs is not None and found.epochs > 10:
        said.append(f"{found.steps:,} steps are {found.epochs:.0f} passes over the rows; after a few passes a model learns rows by heart.")
    return said
