"""Write, read, thin, cut and seal the metrics of runs. Knows nothing of runs but their id."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.metrics.tables import Metric, MetricChunk

CHUNK = 5_000
KEEP_LIVE = 1_000
"""Newest points of a metric that stay rows, so that a reader who was away for a moment can be served from them."""

OUTLINE = 256
"""Points of a chunk that its outline keeps."""
CHOICE = 4
"""Points to choose each point of a chart from, as MinMaxLTTB does."""

Series = tuple[NDArray[np.int64], NDArray[np.float64]]
Point = tuple[str, int, float]


def kind_of(value: float) -> str | None:
    """`nan`, `inf` or `-inf` of a value that is no finite number, else None."""
    if math.isfinite(value):
        return None
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def record(session: Session, run_id: str, *, attempt: int, seq: int, points: Iterable[Point]) -> None:
    """Write points; a step that is already there is replaced, never doubled."""
    rows = {
        (name, step): {
            "run_id": run_id,
            "name": name,
            "step": step,
            "value": value if math.isfinite(value) else None,
            "nonfinite": kind_of(value),
            "attempt": attempt,
            "seq": seq,
        }
        for name, step, value in points
    }
    if not rows:
        return
    is_postgres = session.get_bind().dialect.name == "postgresql"
    insert: Any = postgresql.insert(Metric) if is_postgres else sqlite.insert(Metric)
    changes = {name: insert.excluded[name] for name in ("value", "nonfinite", "attempt", "seq")}
    session.execute(insert.on_conflict_do_update(index_elements=["run_id", "name", "step"], set_=changes), list(rows.values()))


def since(session: Session, run_id: str, seq: int, limit: int = 5_000) -> list[Metric]:
    """Points written after a cursor, in the order they were written."""
    return list(
        session.scalars(select(Metric).where(Metric.run_id == run_id, Metric.seq > seq).order_by(Metric.seq, Metric.step).limit(limit))
    )


def names(session: Session, run_id: str) -> list[str]:
    """Metrics the run has."""
    live = session.scalars(select(Metric.name).where(Metric.run_id == run_id).distinct())
    sealed = session.scalars(select(MetricChunk.name).where(MetricChunk.run_id == run_id).distinct())
    return sorted({*live, *sealed})


def _sealed(session: Session, run_id: str, name: str, after: int, points: int | None) -> list[Series]:
    """The chunks of one metric; only their outlines where these suffice to choose `points` points from."""
    mine = (MetricChunk.run_id == run_id, MetricChunk.name == name, MetricChunk.last_step > after)
    chunks, outlines = session.execute(select(func.count(), func.count(MetricChunk.outline)).where(*mine)).one()
    if points is not None and outlines == chunks and chunks * OUTLINE >= points * CHOICE:
        rows = session.scalars(select(MetricChunk.outline).where(*mine).order_by(MetricChunk.first_step).execution_options(binary=True))
        return [(np.frombuffer(row, "<i8")[: len(row) // 16], np.frombuffer(row, "<f8")[len(row) // 16 :]) for row in rows if row]
    both = select(MetricChunk.steps, MetricChunk.values).where(*mine).order_by(MetricChunk.first_step).execution_options(binary=True)
    return [(np.frombuffer(steps, "<i8"), np.frombuffer(values, "<f8")) for steps, values in session.execute(both)]


def _read(session: Session, run_id: str, name: str, after_step: int | None, points: int | None = None) -> Series:
    """One metric, its chunks and then its live rows: all points, or with `points` at least enough to choose so many from."""
    after = -1 if after_step is None else after_step
    pieces = _sealed(session, run_id, name, after, points)
    live = session.execute(
        select(Metric.step, Metric.value, Metric.nonfinite)
        .where(Metric.run_id == run_id, Metric.name == name, Metric.step > after)
        .order_by(Metric.step)
    ).all()
    values = [float(odd) if odd else value for _, value, odd in live]
    pieces.append((np.array([step for step, _, _ in live], "<i8"), np.array(values, "<f8")))
    all_steps, all_values = (np.concatenate(column) for column in zip(*pieces, strict=True))
    keep = slice(int(np.searchsorted(all_steps, after, side="right")), None)
    return all_steps[keep], all_values[keep]


def outline(steps: NDArray[np.int64], values: NDArray[np.float64]) -> bytes:
    """The lowest and highest point of each stretch of a chunk, its ends, and all that is no number."""
    from tsdownsample import MinMaxDownsampler

    good, odd = np.flatnonzero(np.isfinite(values)), np.flatnonzero(~np.isfinite(values))
    if len(good) > OUTLINE:
        good = good[MinMaxDownsampler().downsample(np.ascontiguousarray(values[good]), n_out=OUTLINE)]
    kept = np.unique(np.concatenate([good, odd, [0, len(steps) - 1]]))
    return bytes(steps[kept].tobytes() + values[kept].tobytes())


def thin(steps: NDArray[np.int64], values: NDArray[np.float64], points: int) -> Series:
    """At most about `points` points that keep the shape (MinMaxLTTB); points that are no number are all kept (up to `points`)."""
    if len(steps) <= points:
        return steps, values
    from tsdownsample import MinMaxLTTBDownsampler

    finite = np.isfinite(values)
    if finite.all():
        kept = MinMaxLTTBDownsampler().downsample(steps, values, n_out=max(3, points))
        return steps[kept], values[kept]
    odd = np.flatnonzero(~finite)[:points]
    good = np.flatnonzero(finite)
    if len(good) > points:
        good = good[MinMaxLTTBDownsampler().downsample(steps[good], values[good], n_out=max(3, points))]
    kept = np.sort(np.concatenate([good, odd]))
    return steps[kept], values[kept]


def chosen(known: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Those of the known names that are wanted: `loss`, `eval_*` for all that begin so, and after a minus what is left out."""

    def among(name: str, forms: list[str]) -> bool:
        return any(name.startswith(form[:-1]) if form.endswith("*") else name == form for form in forms)

    left_out = [form[1:] for form in wanted if form.startswith("-")]
    taken = [form for form in wanted if not form.startswith("-")] or ["*"]
    return [name for name in known if among(name, taken) and not among(name, left_out)]


def series(
    session: Session, run_id: str, wanted: list[str] | None = None, after_step: int | None = None, points: int = 2_000
) -> dict[str, Series]:
    """Steps and values of the metrics of a run, each thinned to about `points`.

    Args:
        wanted: names of metrics, as `chosen` reads them; all of them when None.
        after_step: only later steps.
    """
    found = {}
    for name in chosen(names(session, run_id), wanted or ()):
        steps, values = _read(session, run_id, name, after_step, points)
        if len(steps):
            found[name] = thin(steps, values, points)
    return found


def rounded(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Values with so many significant digits, each the double nearest to its decimal; very small and very large ones stay as they are."""
    sizes = np.abs(values)
    usual = (sizes >= 1e-15) & (sizes < 10.0**digits)
    scale = np.power(10.0, digits - 1 - np.floor(np.log10(sizes, where=usual, out=np.zeros_like(sizes))))
    return np.where(usual, np.round(np.where(usual, values, 0.0) * scale) / scale, values)


def as_json(found: dict[str, Series], digits: int | None = None) -> dict[str, Any]:
    """The REST form: `data` with null for what is no number, and `nonfinite` that names it."""
    data: dict[str, list[list[float | int | None]]] = {}
    odd: dict[str, list[list[int | str]]] = {}
    for name, (steps, values) in found.items():
        listed_steps, listed = steps.tolist(), (rounded(values, digits) if digits else values).tolist()
        if np.isfinite(values).all():
            data[name] = [[step, value] for step, value in zip(listed_steps, listed, strict=True)]
            continue
        data[name] = [[step, value if math.isfinite(value) else None] for step, value in zip(listed_steps, listed, strict=True)]
        odd[name] = [[step, str(kind_of(value))] for step, value in zip(listed_steps, listed, strict=True) if not math.isfinite(value)]
    return {"data": data, "nonfinite": odd}


def last_values(session: Session, run_id: str) -> dict[str, float | str]:
    """Last value of each metric; the name of the kind where it is no number."""
    newest: dict[str, float | str] = {}
    for name in names(session, run_id):
        row = session.execute(
            select(Metric.value, Metric.nonfinite).where(Metric.run_id == run_id, Metric.name == name).order_by(Metric.step.desc()).limit(1)
        ).first()
        if row is not None:
            newest[name] = row.nonfinite or float(row.value)
            continue
        chunk = session.execute(
            select(MetricChunk.values)
            .where(MetricChunk.run_id == run_id, MetricChunk.name == name)
            .order_by(MetricChunk.first_step.desc())
            .limit(1)
        ).first()
        if chunk is not None:
            value = float(np.frombuffer(chunk.values, "<f8")[-1])
            newest[name] = kind_of(value) or value
    return newest


def value_at(session: Session, run_id: str, name: str, step: int) -> float | None:
    """Value of a metric at a step, or at the nearest earlier one."""
    steps, values = _read(session, run_id, name, None)
    index = int(np.searchsorted(steps, step, side="right")) - 1
    return float(values[index]) if index >= 0 else None


def truncate(session: Session, run_id: str, after_step: int) -> None:
    """Remove every point past a step: the attempt that wrote them is void."""
    session.execute(delete(Metric).where(Metric.run_id == run_id, Metric.step > after_step))
    session.execute(delete(MetricChunk).where(MetricChunk.run_id == run_id, MetricChunk.first_step > after_step))
    for chunk in session.scalars(select(MetricChunk).where(MetricChunk.run_id == run_id, MetricChunk.last_step > after_step)):
        steps = np.frombuffer(chunk.steps, "<i8")
        keep = int(np.searchsorted(steps, after_step, side="right"))
        chunk.steps, chunk.values = chunk.steps[: keep * 8], chunk.values[: keep * 8]
        chunk.count, chunk.last_step = keep, int(steps[keep - 1])
        chunk.outline = outline(steps[:keep], np.frombuffer(chunk.values, "<f8"))
    session.flush()


def seal(session: Session, run_id: str, up_to_step: int) -> int:
    """Move old live points (not past `up_to_step`, the last committed checkpoint) into chunks of 5,000.

    Returns:
        The highest sequence number that was sealed; 0 when there was nothing to seal.
    """
    highest = 0
    counts = session.execute(
        select(Metric.name, func.count()).where(Metric.run_id == run_id, Metric.step <= up_to_step).group_by(Metric.name)
    ).all()
    for name, count in counts:
        for _ in range(max(0, (count - KEEP_LIVE) // CHUNK)):
            rows = session.execute(
                select(Metric.step, Metric.value, Metric.nonfinite, Metric.seq)
                .where(Metric.run_id == run_id, Metric.name == name, Metric.step <= up_to_step)
                .order_by(Metric.step)
                .limit(CHUNK)
            ).all()
            steps = np.array([row.step for row in rows], "<i8")
            values = np.array([float(row.nonfinite) if row.nonfinite else row.value for row in rows], "<f8")
            last_seq = max(row.seq for row in rows)
            highest = max(highest, last_seq)
            session.add(
                MetricChunk(
                    run_id=run_id,
                    name=name,
                    first_step=int(steps[0]),
                    last_step=int(steps[-1]),
                    count=len(rows),
                    last_seq=last_seq,
                    steps=steps.tobytes(),
                    values=values.tobytes(),
                    outline=outline(steps, values),
                )
            )
            session.execute(delete(Metric).where(Metric.run_id == run_id, Metric.name == name, Metric.step <= int(steps[-1])))
    session.flush()
    return highest
