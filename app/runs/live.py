"""The live topics of runs: what happened to one run (`run:ID`), and which runs of a workspace moved (`queue:WORKSPACE`)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.events import Frame
from app.metrics import service as metrics
from app.runs import progress, service
from app.runs.schemas import event_out, log_out, run_out, sample_out
from app.runs.tables import Run, RunLog, RunSample

MAX_POINTS = 20_000
MAX_LINES = 2_000
MOST_RUNS = 500
MARGIN_SECONDS = 2.0
"""A transaction becomes visible a little after the moment it carries; so much is read again, and runs already shown are left out."""


class RunTopic:
    """Frames of one run, in the order of its transactions."""

    def __init__(self, render: Callable[[Session, str], str] | None = None) -> None:
        self._render = render

    def now(self, session: Session, key: str) -> int:
        """The run's newest sequence number."""
        return int(session.scalar(select(Run.seq).where(Run.id == key)) or 0)

    def changed(self, session: Session, cursors: dict[str, int]) -> list[str]:
        """Runs with transactions past their cursor."""
        rows = session.execute(select(Run.id, Run.seq).where(Run.id.in_(list(cursors))))
        return [row.id for row in rows if row.seq > cursors[row.id]]

    def frames(self, session: Session, key: str, after: int) -> tuple[list[Frame], int]:
        """Events, points, samples and log lines after a sequence number, then the run as it is now."""
        run = session.get(Run, key)
        if run is None:
            return [], after
        topic = f"run:{key}"
        if after > run.seq:  # the cursor of another life of this database
            after = 0
        parts: list[tuple[int, str, dict[str, Any]]] = []
        points = metrics.since(session, key, after, MAX_POINTS + 1)
        if after < run.sealed_seq or len(points) > MAX_POINTS:
            parts.append((run.seq, "reload", {"topic": topic}))
            points = []
        by_seq: dict[int, list[list[Any]]] = {}
        for point in points:
            by_seq.setdefault(point.seq, []).append(
                [point.name, point.step, point.value] if point.nonfinite is None else [point.name, point.step, None, point.nonfinite]
            )
        for event in progress.history(session, key, after):
            if "truncate" in event.data:
                parts.append((event.seq, "truncate", {"topic": topic, "after_step": event.data["truncate"]}))
            kind = "checkpoint" if event.kind == "checkpoint" else "event"
            parts.append((event.seq, kind, {"topic": topic, **event_out(event)}))
        parts += [(seq, "metrics", {"topic": topic, "total_steps": run.total_steps, "points": listed}) for seq, listed in by_seq.items()]
        for sample in session.scalars(
            select(RunSample).where(RunSample.run_id == key, RunSample.seq > after).order_by(RunSample.seq, RunSample.number)
        ):
            parts.append((sample.seq, "sample", {"topic": topic, **sample_out(sample)}))
        lines: dict[int, list[dict[str, Any]]] = {}
        newest = (
            select(RunLog)
            .where(RunLog.run_id == key, RunLog.seq > after)
            .order_by(RunLog.seq.desc(), RunLog.number.desc())
            .limit(MAX_LINES)
        )
        for line in reversed(session.scalars(newest).all()):
            lines.setdefault(line.seq, []).append(log_out(line))
        parts += [(seq, "log", {"topic": topic, "lines": listed}) for seq, listed in lines.items()]
        parts.append((run.seq, "status", {"topic": topic, "run": run_out(run, service.queue_place(session, run))}))
        parts = [
            part for part in parts if part[0] <= run.seq
        ]  # Postgres may show later transactions to later queries: those come next time
        # Only the last frame of a transaction moves the cursor. It is the one with the points: a cut before it repeats what may be repeated
        # (a status, a log line that carries its own cursor), a cut behind it repeats nothing.
        order = {"truncate": 0, "status": 2, "metrics": 3}
        parts.sort(key=lambda part: (part[0], order.get(part[1], 1)))
        frames = []
        whole = after
        for (seq, kind, data), following in zip(parts, [*parts[1:], None], strict=True):
            if following is None or following[0] != seq:
                whole = seq
            frames.append(Frame.of(whole, kind, data))
        return frames, run.seq

    def fragment(self, session: Session, key: str, after: int | None = None) -> str:
        """HTML of the run's live block."""
        return self._render(session, key) if self._render else ""


class QueueTopic:
    """Which runs of a workspace moved. The cursor is a moment in milliseconds; a frame says what is true now, so repeats are harmless."""

    fragment_seconds = 0.2
    """A row is rendered once per movement either way; shown sooner, many rows come in small portions."""

    def __init__(self, render: Callable[[Session, str, list[Run]], str] | None = None) -> None:
        self._render = render
        self._shown: dict[str, dict[str, int]] = {}
        self._moved: dict[str, set[str]] = {}
        self._fresh: dict[str, tuple[int, int, set[str]]] = {}
        """Thread, cursor and what moved, as the tailer saw it last: it has handed on all that was before."""

    def now(self, session: Session, key: str) -> int:
        """The newest change of the workspace."""
        newest = session.scalar(select(Run.updated_at).where(Run.workspace_id == key).order_by(Run.updated_at.desc()).limit(1))
        return int((newest or 0) * 1000)

    def _since(self, session: Session, key: str, after: int) -> list[Run]:
        query = select(Run).where(Run.workspace_id == key, Run.updated_at > after / 1000 - MARGIN_SECONDS)
        return list(session.scalars(query.order_by(Run.updated_at).limit(MOST_RUNS)))

    def changed(self, session: Session, cursors: dict[str, int]) -> list[str]:
        """Workspaces with runs that moved since they were last shown."""
        found = []
        for key, cursor in cursors.items():
            query = select(Run.id, Run.seq).where(Run.workspace_id == key, Run.updated_at > cursor / 1000 - MARGIN_SECONDS)
            recent = {run_id: seq for run_id, seq in session.execute(query.order_by(Run.updated_at).limit(MOST_RUNS))}
            shown = self._shown.get(key, {})
            moved = {run_id for run_id, seq in recent.items() if shown.get(run_id) != seq}
            self._shown[key] = recent
            if moved:
                self._fresh[key] = (threading.get_ident(), cursor, moved)
                self._moved.setdefault(key, set()).update(moved)
                found.append(key)
        return found

    def frames(self, session: Session, key: str, after: int) -> tuple[list[Frame], int]:
        """The runs that moved, as they are now."""
        thread, cursor, moved = self._fresh.get(key, (-1, -1, set()))
        if (thread, cursor) == (threading.get_ident(), after):
            runs = list(session.scalars(select(Run).where(Run.id.in_(moved)).order_by(Run.updated_at)))
        else:
            runs = self._since(session, key, after)
        if not runs:
            return [], after
        cursor = max(after + 1, int(runs[-1].updated_at * 1000))
        places = service.queue_places(session) if any(run.status == "queued" for run in runs) else {}
        return [Frame.of(cursor, "status", {"topic": "queue", "run": run_out(run, places.get(run.id))}) for run in runs], cursor

    def fragment(self, session: Session, key: str, after: int | None = None) -> str:
        """HTML of the rows that moved: since they were last shown to everybody, or since a cursor."""
        if not self._render:
            return ""
        if after is not None:
            return self._render(session, key, self._since(session, key, after))
        moved = self._moved.pop(key, set())
        return self._render(session, key, list(session.scalars(select(Run).where(Run.id.in_(moved)).order_by(Run.id)))) if moved else ""
