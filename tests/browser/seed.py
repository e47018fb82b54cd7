"""Rows for pages: runs in every state with curves, samples, logs and checkpoints, and a trainer that only writes numbers."""

from __future__ import annotations

import math
import random
import threading
import time
from typing import Any

from sqlalchemy.orm import Session

from app import leases
from app.checkpoints.tables import Checkpoint
from app.database import Database
from app.leases import Claim
from app.metrics import service as metrics
from app.runs import progress, service
from app.runs.tables import Run, RunEvent, RunLog, RunSample
from app.workers.tables import Worker
from tests.factories import add_checkpoint, add_dataset, add_run

GB = 1024**3
SPEED = 1550.0
CONFIG = {"hidden_size": 2560, "num_hidden_layers": 36, "vocab_size": 151936, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
SHAPES = {f"model.layers.{layer}.self_attn.q_proj.weight": [2560, 2560] for layer in range(36)} | {
    "model.embed_tokens.weight": [151936, 2560],
    "model.norm.weight": [2560],
}
PARAMS = {
    "max_steps": None,
    "epochs": 3.0,
    "batch_size": 16,
    "learning_rate": 2e-4,
    "scheduler": "cosine",
    "warmup": 0.05,
    "eval_steps": 50,
    "logging_steps": 1,
    "save_steps": 200,
    "answer_check": "none",
    "answer_check_rows": 200,
}
ANSWERS = [
    ("What is 47 + 38?", "47 + 38 = 85", "The sum of 47 and 38 is **75**.", "85"),
    ("What is 91 - 27?", "91 - 27 = 64", "To subtract 27 from 91, first take away 20, which gives 71.", "64"),
    ("What is 63 + 59?", "63 + 59 = 122", "63 + 59 = 112", "122"),
]


def losses(step: int, total: int, rng: random.Random, floor: float = 0.62) -> dict[str, float]:
    """What a trainer would report at a step."""
    share = step / total
    values = {
        "loss": max(0.05, floor + 2.4 * math.exp(-5.5 * share) + rng.gauss(0, 0.045) + 0.05 * math.sin(step / 37)),
        "learning_rate": 2e-4 * min(1.0, share / 0.05) * 0.5 * (1 + math.cos(math.pi * share)),
        "grad_norm": abs(0.6 + 1.8 * math.exp(-9 * share) + rng.gauss(0, 0.12)) + (2.5 if rng.random() < 0.004 else 0),
        "tokens_per_second": SPEED * (1 + rng.gauss(0, 0.02)),
        "tokens": step * 8192.0,
        "elapsed_seconds": step * 0.92,
        "epoch": 3 * share,
    }
    if step % 25 == 0:
        values["eval_loss"] = floor + 0.08 + 2.3 * math.exp(-5 * share) + rng.gauss(0, 0.012)
    if step % 50 == 0 or step == 1:
        values["memory_bytes"] = 61 * GB + rng.gauss(0, 0.4) * GB
    return values


def fill(session: Session, run: Run, steps: int, total: int, seed: int, every: int = 1) -> None:
    """Give a run the curve of `steps` steps, with a point at each or only at every so manieth."""
    rng = random.Random(seed)
    points = [(name, step, value) for step in range(every, steps + 1, every) for name, value in losses(step, total, rng).items()]
    run.seq += 1
    for start in range(0, len(points), 2000):
        metrics.record(session, run.id, attempt=1, seq=run.seq, points=points[start : start + 2000])
    run.step, run.total_steps = steps, total
    run.latest = dict(metrics.last_values(session, run.id))
    losses_of = [[step, value] for name, step, value in points if name == "loss"]
    run.spark = losses_of[:: max(1, len(losses_of) // 60)]


def add_checkpoints(session: Session, run: Run, steps: list[int]) -> None:
    """Committed checkpoints of a run (their files are not there)."""
    for step in steps:
        session.add(
            Checkpoint(
                workspace_id=run.workspace_id,
                name=f"{run.name} step {step}",
                kind="adapter",
                status="ready",
                source="run",
                run_id=run.id,
                base_id=run.checkpoint_id,
                step=step,
                path=f"runs/{run.id}/checkpoints/step-{step}",
                size_bytes=18_500_000,
                sha256=f"{step:064x}",
                metrics={"loss": 0.9 - step / 4000, "eval_loss": 0.95 - step / 5000},
            )
        )
    run.committed_step = max(steps)


def add_worker(session: Session) -> None:
    """A worker with one large device that gave a sign of life now and will not be missed for a day."""
    worker = Worker(
        id="worker-seed",
        host="gpu-box",
        process="1:0",
        lanes=["device", "cpu"],
        devices=[{"name": "NVIDIA H200", "kind": "cuda", "memory_bytes": 139 * GB, "bf16": True}],
        memory={"total": 128 * GB, "used": 31 * GB},
        versions={},
    )
    session.add(worker)
    session.flush()
    worker.heartbeat_at = time.time() + 86400
    session.flush()


def add_words(session: Session, run: Run) -> None:
    """Samples at three steps, log lines of every level, a history."""
    for step in (0, 400, 1400):
        for number, (prompt, good, poor, expected) in enumerate(ANSWERS):
            text = poor if step == 0 else good
            session.add(RunSample(run_id=run.id, step=step, number=number, prompt=prompt, text=text, expected=expected, seq=1))
    lines = [
        ("info", "Loading the model in bf16 on cuda:0"),
        ("debug", "allocator: jemalloc"),
        ("info", "4,212 rows, 61 of them longer than 1,024 tokens"),
        ("warning", "The tokenizer has no padding token; its end token is used instead."),
        *(("info", f"step {step}: loss {3 - step / 800:.4f}") for step in range(10, 600, 10)),
        ("error", "Gradient norm 4.12 is far above its mean of 0.71."),
    ]
    for number, (level, text) in enumerate(lines):
        session.add(RunLog(run_id=run.id, seq=1, number=number, at=time.time() - 900 + number, attempt=1, level=level, text=text))
    happened = [("created", "Queued."), ("started", "A worker took the run."), ("checkpoint", "Checkpoint at step 200 committed.")]
    for number, (kind, message) in enumerate(happened):
        session.add(RunEvent(run_id=run.id, seq=1, number=number, attempt=1, kind=kind, message=message, data={}))


def fill_workspace(session: Session, workspace_id: str, every: int = 1) -> dict[str, str]:
    """Runs, models and datasets as after some days of work; returns the ids of runs by a short name.

    Args:
        every: steps between the points of curves.
    """
    add_worker(session)
    now = time.time()

    def model(name: str) -> str:
        return add_checkpoint(
            session, workspace_id, name=name, parameters=4_022_468_096, shapes=SHAPES, config=CONFIG, size_bytes=8 * GB
        ).id

    def data(name: str, **fields: Any) -> str:
        return add_dataset(session, workspace_id, name=name, **{"rows": 4212, "train_rows": 4001, "eval_rows": 211, **fields}).id

    qwen, gemma, llama, smol = (model(name) for name in ("Qwen3-4B", "gemma-3-1b-it", "Llama-3.2-3B", "SmolLM3-3B"))
    tickets = data("support-tickets", shape="chat", version=3)
    prefs, router = data("support-prefs", shape="preference"), data("intent-router")
    tools, sums = data("tool-calls-v2", shape="chat"), data("arithmetic", rows=200, train_rows=200, eval_rows=0)
    data("has-errors", errors=3)
    tuner = {"r": 32, "alpha": 64, "dropout": 0.05}
    ids: dict[str, str] = {}

    def run(short: str, name: str, seed: int, steps: int, total: int, age: float, **fields: Any) -> Run:
        made = add_run(
            session,
            workspace_id,
            name=name,
            **{"checkpoint_id": qwen, "dataset_id": tickets, "params": dict(PARAMS), "tuner_params": tuner, "attempt": 1, **fields},
        )
        if steps:
            fill(session, made, steps, total, seed, every)
        made.created_at, made.updated_at = now - age - 40, now - age
        if steps:
            made.started_at = now - age
            made.finished_at = now - age + steps * 0.92 if fields.get("status") in ("succeeded", "failed", "cancelled") else None
        ids[short] = made.id
        return made

    run("r64", "qwen3-4b-support-sft-r64", 8, 2400, 2400, 352_000, status="succeeded", tags=["lora-r64"])
    run("stopped", "qwen3-0.6b-dpo-probe", 7, 412, 1000, 260_000, status="cancelled", method="dpo", dataset_id=prefs)
    run("tools", "smollm3-3b-tools", 6, 1600, 1600, 180_000, status="succeeded", checkpoint_id=smol, dataset_id=tools)
    run("lr1e4", "qwen3-4b-support-sft-lr1e4", 5, 2400, 2400, 91_000, status="succeeded", tags=["lora-r16"])
    failed = run(
        "failed",
        "llama3.2-3b-json",
        4,
        388,
        1200,
        22_000,
        status="failed",
        checkpoint_id=llama,
        dataset_id=router,
        reason_code="oom",
        reason=(
            "The GPU ran out of memory at step 388: 2.31 GB more were needed. Lower the batch size to 8, or turn on gradient checkpointing."
        ),
    )
    add_checkpoints(session, failed, [200, 350])
    outcome = run("outcome", "gemma3-1b-router", 3, 900, 900, 9_200, status="succeeded", checkpoint_id=gemma, tags=["full"], tuner="full")
    outcome.tuner_params, outcome.dataset_id, outcome.eval_dataset_id = {}, router, sums
    metrics.record(
        session, outcome.id, attempt=1, seq=1, points=[("exact_match", 0, 0.015), ("exact_match", 450, 0.41), ("exact_match", 900, 0.72)]
    )
    odd = [("loss", 610, math.nan), ("loss", 611, math.inf)]
    metrics.record(session, outcome.id, attempt=1, seq=1, points=odd)
    outcome.latest = dict(metrics.last_values(session, outcome.id))
    add_checkpoints(session, outcome, [300, 600, 900])
    live = run("live", "qwen3-4b-support-sft", 1, 1460, 2400, 1_350, status="running", tags=["lora-r32"])
    live.resolved = {"device": "cuda:0", "dtype": "bf16", "versions": {"torch": "2.13.0", "trl": "1.16.0"}, "seed": 42}
    add_checkpoints(session, live, [200, 400, 600, 800, 1000, 1200, 1400])
    add_words(session, live)
    run("queued", "qwen3-4b-support-dpo", 2, 0, 0, 300, status="queued", method="dpo", dataset_id=prefs)
    run("fresh", "qwen3-4b-support-sft-warm", 9, 0, 0, 20, status="preparing", phase="Loading the model")
    session.flush()
    return ids


class Trainer:
    """Moves a running run on, as a worker's batches do."""

    def __init__(self, database: Database, run_id: str, seconds: float = 0.25) -> None:
        self.database, self.run_id, self.seconds = database, run_id, seconds
        self.rng = random.Random(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        with database.write() as session:
            run = session.get(Run, run_id)
            assert run is not None
            run.lease_owner, run.lease_until = "worker-seed/seed", time.time() + 86400
            self.claim = Claim(run_id, run.attempt, "worker-seed/seed")

    def __enter__(self) -> Trainer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def step(self, count: int = 2) -> None:
        """Write the next points."""
        with self.database.write() as session:
            run: Run = leases.hold(session, Run, self.claim)
            total = run.total_steps or 1
            steps = range(run.step + 1, min(total, run.step + count) + 1)
            points = [(name, step, value) for step in steps for name, value in losses(step, total, self.rng).items()]
            if points:
                progress.record(
                    session, self.claim, progress.Batch(points=points, step=steps[-1], logs=[(time.time(), "info", f"step {steps[-1]}")])
                )

    def _work(self) -> None:
        while not self._stop.wait(self.seconds):
            self.step()


def finish(session: Session, run_id: str) -> None:
    """End a run well."""
    run = session.get(Run, run_id)
    assert run is not None
    service.set_status(session, run, "succeeded")
