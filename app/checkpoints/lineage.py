"""What came from what: the runs and checkpoints below and above a checkpoint, and what would break without it. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Table, Text, cast, func, or_, select
from sqlalchemy.orm import Session

from app.checkpoints.tables import Checkpoint
from app.database import Base

DEPTH, BREADTH = 3, 8
"""How far below a checkpoint its descendants are drawn, and how many of each kind."""


def runs_from(session: Session, checkpoint: Checkpoint, limit: int = 50) -> list[tuple[str, str, str]]:
    """Runs that start from a checkpoint, newest first: id, name, status."""
    runs = Base.metadata.tables["runs"]
    query = (
        select(runs.c.id, runs.c.name, runs.c.status).where(runs.c.checkpoint_id == checkpoint.id).order_by(runs.c.id.desc()).limit(limit)
    )
    return [(row.id, row.name, row.status) for row in session.execute(query)]


def run_names(session: Session, run_ids: list[str]) -> dict[str, str]:
    """Names of runs by id."""
    runs = Base.metadata.tables["runs"]
    return {row.id: row.name for row in session.execute(select(runs.c.id, runs.c.name).where(runs.c.id.in_(run_ids)))} if run_ids else {}


def names(session: Session, checkpoint_ids: list[str]) -> dict[str, str]:
    """Names of checkpoints by id."""
    query = select(Checkpoint.id, Checkpoint.name).where(Checkpoint.id.in_(checkpoint_ids))
    return {row.id: row.name for row in session.execute(query)} if checkpoint_ids else {}


def run_of(session: Session, checkpoint: Checkpoint) -> tuple[str, str, str] | None:
    """The run that made a checkpoint: id, name, status."""
    runs = Base.metadata.tables["runs"]
    row = session.execute(select(runs.c.id, runs.c.name, runs.c.status).where(runs.c.id == checkpoint.run_id)).first()
    return (row.id, row.name, row.status) if row else None


def built_on(session: Session, checkpoint: Checkpoint, limit: int = 50) -> list[Checkpoint]:
    """Checkpoints that sit on this one or began from it, newest first."""
    return list(session.scalars(select(Checkpoint).where(Checkpoint.base_id == checkpoint.id).order_by(Checkpoint.id.desc()).limit(limit)))


def lineage(session: Session, checkpoint: Checkpoint) -> list[Checkpoint]:
    """The checkpoints it came from, the oldest first, itself last."""
    line = [checkpoint]
    while line[0].base_id:
        line.insert(0, session.get_one(Checkpoint, line[0].base_id))
    return line


def dependents(session: Session, checkpoint: Checkpoint) -> list[str]:
    """In words, what would break without a checkpoint: runs that start from it, checkpoints that sit on it, runs under way whose
    settings name it (as a teacher or a reward)."""
    runs = Base.metadata.tables["runs"]
    used = session.scalar(select(func.count()).select_from(runs).where(runs.c.checkpoint_id == checkpoint.id)) or 0
    based = session.scalar(select(func.count()).select_from(Checkpoint).where(Checkpoint.base_id == checkpoint.id)) or 0
    first_run, first_based = runs_from(session, checkpoint, 1), built_on(session, checkpoint, 1)
    found = []
    if used:
        found.append(f"{used} run{'s' if used > 1 else ''} (such as “{first_run[0][1]}”)")
    if based:
        found.append(f"{based} checkpoint{'s' if based > 1 else ''} (such as “{first_based[0].name}”)")
    named = session.scalars(select(runs.c.name).where(*_names_it(runs, checkpoint)).order_by(runs.c.id.desc()).limit(1)).first()
    if named is not None:
        found.append(f"a run that has not ended (“{named}”), whose settings name it")
    return found


def _names_it(runs: Table, checkpoint: Checkpoint) -> tuple[ColumnElement[bool], ...]:
    """Conditions: runs of its workspace that have not ended, and in whose settings its id stands."""
    quoted = f'%"{checkpoint.id}"%'
    settings = or_(cast(runs.c.params, Text).like(quoted), cast(runs.c.tuner_params, Text).like(quoted))
    return runs.c.workspace_id == checkpoint.workspace_id, runs.c.status.not_in(("succeeded", "failed", "cancelled")), settings


# --- the tree -------------------------------------------------------------------------------------------------------------


@dataclass
class Node:
    """A checkpoint or a run in the tree of what came from what."""

    kind: str
    """base, adapter, full … or run."""
    id: str
    name: str
    status: str
    note: str = ""
    here: bool = False
    below: list[Node] = field(default_factory=list)
    more: int = 0
    """How many more there are below that are not drawn."""

    @property
    def url(self) -> str:
        """Its page."""
        return f"/runs/{self.id}" if self.kind == "run" else f"/models/{self.id}"


def tree(session: Session, checkpoint: Checkpoint) -> Node:
    """The line of checkpoints and runs that leads to a checkpoint, and what was made from it, as one tree."""
    root, node = _line(session, checkpoint)
    node.here = True
    _grow(session, node, DEPTH)
    return root


def tree_of_run(session: Session, start: Checkpoint, run: tuple[str, str, str]) -> Node:
    """The line that leads to a run (id, name, status), which began from `start`, and what was made by it, as one tree."""
    root, node = _line(session, start)
    node.below = [Node("run", *run, here=True)]
    _made(session, node.below[0], DEPTH)
    return root


def _line(session: Session, checkpoint: Checkpoint) -> tuple[Node, Node]:
    """The first checkpoint of the line that leads to one, with all between them, and the last."""
    line = lineage(session, checkpoint)
    root = node = _node(line[0])
    for each in line[1:]:
        run = run_of(session, each) if each.run_id else None
        if run is not None:
            node.below = [Node("run", *run)]
            node = node.below[0]
        node.below = [_node(each)]
        node = node.below[0]
    return root, node


def _node(checkpoint: Checkpoint) -> Node:
    step = f"step {checkpoint.step:,}" if checkpoint.step is not None else ""
    return Node(checkpoint.kind, checkpoint.id, checkpoint.name, checkpoint.status, step)


def _grow(session: Session, node: Node, depth: int) -> None:
    """Add the runs that start from a checkpoint, each with its checkpoints, and so on."""
    runs = Base.metadata.tables["runs"]
    started = select(runs.c.id, runs.c.name, runs.c.status).where(runs.c.checkpoint_id == node.id).order_by(runs.c.id.desc())
    found = session.execute(started.limit(BREADTH)).all()
    node.more = (session.scalar(select(func.count()).select_from(runs).where(runs.c.checkpoint_id == node.id)) or 0) - len(found)
    for run in found:
        node.below.append(Node("run", run.id, run.name, run.status))
        _made(session, node.below[-1], depth)


def _made(session: Session, node: Node, depth: int) -> None:
    """Add the checkpoints of a run, and what was made from them."""
    runs = Base.metadata.tables["runs"]
    made = select(Checkpoint).where(Checkpoint.run_id == node.id)
    checkpoints = list(session.scalars(made.order_by(Checkpoint.step.desc()).limit(BREADTH)))
    node.more = (session.scalar(select(func.count()).select_from(made.subquery())) or 0) - len(checkpoints)
    used = set(session.scalars(select(runs.c.checkpoint_id).where(runs.c.checkpoint_id.in_([each.id for each in checkpoints]))))
    for each in checkpoints:
        node.below.append(_node(each))
        if depth > 1 and each.id in used:
            _grow(session, node.below[-1], depth - 1)
