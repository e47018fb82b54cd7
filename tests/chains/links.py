"""What tests of chains are made with: a model, data, steps, and a worker that is played. Tests nothing itself."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.chains import service
from app.chains.schemas import ChainCreate
from app.chains.tables import Chain
from app.checkpoints import service as checkpoints
from app.methods import service as methods
from app.runs import progress
from app.runs.progress import Batch
from app.runs.schemas import RunCreate
from app.runs.tables import Run
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset, claim_run


def start(stack: Stack) -> dict[str, str]:
    """A model and three datasets, by a short name."""
    with stack.database.write() as session:
        return {
            "model": add_checkpoint(session, stack.workspace_id).id,
            "answers": add_dataset(session, stack.workspace_id, name="answers").id,
            "pairs": add_dataset(session, stack.workspace_id, name="pairs", shape="preference").id,
            "prompts": add_dataset(session, stack.workspace_id, name="prompts", shape="prompt").id,
        }


def steps(ids: dict[str, str], **last: Any) -> list[dict[str, Any]]:
    """SFT, a reward model on it, and learning from that; `last` changes the third."""
    return [
        {"method": "sft", "checkpoint": ids["model"], "dataset": ids["answers"]},
        {"method": "reward", "checkpoint": "$1", "dataset": ids["pairs"]},
        {
            "method": "rloo",
            "checkpoint": "$1",
            "dataset": ids["prompts"],
            "params": {"rewards": [{"kind": "model", "checkpoint": "$2"}]},
            **last,
        },
    ]


def add(session: Session, stack: Stack, asked: list[dict[str, Any]], name: str | None = "RLHF") -> str:
    """Start a chain; its id."""
    wanted = ChainCreate(name=name, steps=[RunCreate.model_validate(each) for each in asked])
    return service.create(session, stack.workspace_id, stack.admin_id, wanted).id


def made(stack: Stack) -> tuple[str, dict[str, str]]:
    """A chain of three steps, with what it was made from."""
    ids = start(stack)
    with stack.database.write() as session:
        return add(session, stack, steps(ids)), ids


def finish(session: Session, *, steps_done: int = 5) -> Run:
    """Claim the next run, commit a checkpoint and end it, as a worker does."""
    mine = claim_run(session)
    run = progress.begin(session, mine, 0)
    progress.record(session, mine, Batch(points=[("loss", steps_done, 0.5)], step=steps_done, total=steps_done))
    left = checkpoints.commit_run_checkpoint(
        session,
        workspace_id=run.workspace_id,
        run_id=run.id,
        name=f"{run.name} · step {steps_done}",
        step=steps_done,
        attempt=mine.attempt,
        kind="adapter",
        base_id=run.checkpoint_id,
        path=f"runs/{run.id}/checkpoints/step-{steps_done}-attempt-1",
        manifest={"files": {}},
        metrics={},
        created_by=None,
        task=methods.objective(run.method).produces,
        peft_type="LORA",
    )
    progress.committed(session, run, left)
    progress.finish(session, mine)
    return run


def fail(session: Session, reason: str = "The loss was no number.") -> Run:
    """Claim the next run and end it badly, for good."""
    mine = claim_run(session)
    run = progress.begin(session, mine, 0)
    progress.failed(session, mine, "diverged", reason)
    return run


def now_is(stack: Stack, chain_id: str) -> dict[str, Any]:
    """A chain as REST shows it."""
    with stack.database.read() as session:
        return service.told(session, [session.get_one(Chain, chain_id)])[0]


def statuses(stack: Stack, chain_id: str) -> list[str]:
    """Those of its steps."""
    return [each["status"] for each in now_is(stack, chain_id)["steps"]]


def run_of(stack: Stack, chain_id: str, number: int) -> Run:
    """The run of a step."""
    with stack.database.read() as session:
        return session.get_one(Run, now_is(stack, chain_id)["steps"][number - 1]["run"])


def all_runs(stack: Stack) -> list[Run]:
    """Every run there is, the oldest first."""
    with stack.database.read() as session:
        return list(session.scalars(select(Run).order_by(Run.id)))
