"""Snapshots: look at what the ratings come to, freeze them into a dataset that never changes, send them out. Trains nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.database import iso
from app.datasets.tables import Dataset
from app.errors import Conflict, Invalid
from app.feedback import costs, frozen, gather, projects, rows, sheets, trained
from app.feedback.pool import Pool
from app.feedback.rules import SHAPES, Rules, Sheet
from app.feedback.tables import Project, Rater, Snapshot
from app.words import plain_words

FITTING: dict[str, tuple[str, ...]] = {
    "pair": ("preference", "margin", "unpaired", "prompt_completion", "chat"),
    "rank": ("preference", "margin", "prompt_completion", "chat"),
    "thumbs": ("unpaired", "prompt_completion", "chat"),
    "five": ("rated", "unpaired", "prompt_completion", "chat"),
}
"""Shapes that each kind of question can give, the usual one first."""


@dataclass
class Prepared:
    """All that is needed to freeze, read and written before anything of the database is changed."""

    rules: Rules
    pool: Pool
    sheet: Sheet
    up_to: str
    written: frozen.Written
    direction: str

    def discard(self) -> None:
        """Remove what was not frozen."""
        self.written.received.clean_up()


def shapes_of(project: Project) -> dict[str, str]:
    """Shapes a project can give, with their titles; the usual one first."""
    return {name: SHAPES[name] for name in FITTING[project.scale if project.kind == "single" else project.kind]}


def read_rules(project: Project, shape: str | None, values: Mapping[str, Any]) -> Rules:
    """Rules as they were asked for; without a shape the usual one of the project.

    Raises:
        Invalid: a rule there is not, or one out of its range; `details` lists all findings.
    """
    given = {"shape": shape or next(iter(shapes_of(project))), **values}
    if shape and given["shape"] != shape:
        raise Invalid("The shape beside the rules and the one in them differ. Give one.", field="shape")
    try:
        return Rules.model_validate(given)
    except ValidationError as error:
        found = [{"field": ".".join(map(str, each["loc"])), "message": plain_words(each)} for each in error.errors()]
        raise Invalid(f"{found[0]['field']}: {found[0]['message']}", field=found[0]["field"], details=found) from error


def check(session: Session, project: Project, rules: Rules) -> None:
    """Refuse rules that do not fit a project.

    Raises:
        Invalid: a shape its question cannot give, limits the wrong way round, or a rater it does not have.
    """
    fitting = shapes_of(project)
    if rules.shape not in fitting:
        raise Invalid(f"“{project.name}” cannot give rows of the shape {rules.shape}. It can give {', '.join(fitting)}.", field="shape")
    if rules.bad_to >= rules.good_from:
        raise Invalid("An answer cannot be good and bad: the limit of bad ones must lie below that of good ones.", field="bad_to")
    if rules.without:
        known = set(session.scalars(select(Rater.id).where(Rater.project_id == project.id)))
        unknown = next((each for each in rules.without if each not in known), None)
        if unknown is not None:
            raise Invalid(f"“{unknown[:60]}” is no rater of this project.", field="without")


def _collect(session: Session, project: Project, rules: Rules, spool: IO[bytes] | None) -> tuple[Pool, gather.Tally, str]:
    check(session, project, rules)
    up_to = gather.last_event(session, project)
    tally, pool = gather.Tally(), Pool(rules, project.kind, spool)
    for item in gather.judged(session, project, rules, up_to, tally):
        made = rows.make(item, rules, project.kind, project.scale, project.direction)
        pool.dropped.update(made.dropped)
        for example in made.examples:
            pool.add(item.item_id, item.prompt, example)
    pool.settle()
    return pool, tally, up_to


def preflight(session: Session, project: Project, rules: Rules, checkpoint_id: str | None = None) -> Sheet:
    """What a snapshot under the rules would hold; `checkpoint_id` names the model to be trained.

    Raises:
        Invalid: the rules do not fit the project.
    """
    pool, tally, _ = _collect(session, project, rules, None)
    sheet = sheets.sheet(pool, tally, checkpoint_id)
    if checkpoint_id:
        sheet.cost = costs.cost(session, project.workspace_id, sheet, checkpoint_id)
    return sheet


def _spool() -> IO[bytes]:
    storage.root().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=storage.root())


def prepare(session: Session, project: Project, rules: Rules) -> Prepared:
    """Read the votes and write the files of the dataset, in a folder that is not seen yet.

    A session for reading is enough, so that nobody waits for a large project to be written. Freeze or discard what is returned.

    Raises:
        Invalid: the rules do not fit the project.
        Conflict: no vote gives a row.
    """
    with _spool() as spool:
        with storage.disk_errors("the rows"):
            pool, tally, up_to = _collect(session, project, rules, spool)
        if not pool.order:
            raise Conflict("No vote gives a row under these rules. Loosen them, or rate more items.")
        return Prepared(rules, pool, sheets.sheet(pool, tally, None), up_to, frozen.write(pool), project.direction)


def freeze(session: Session, project: Project, rules: Rules, created_by: str | None, prepared: Prepared | None = None) -> Snapshot:
    """Freeze the votes into a dataset called `<project>-<shape>`, in its next version; the same rows give the same snapshot again.

    Args:
        prepared: what `prepare` made of the same project and rules; else it is made here.

    Raises:
        Invalid: the rules do not fit the project.
        Conflict: no vote gives a row.
    """
    prepared = prepared or prepare(session, project, rules)
    try:
        projects.lock(session, project)  # of two who freeze at once, the second finds what the first made
        known = _same(session, project, rules, prepared.written.sha256)
        if known is not None:
            prepared.discard()
            return known
        snapshot = Snapshot(
            project_id=project.id,
            shape=rules.shape,
            rules={**rules.model_dump(mode="json"), "direction": prepared.direction},
            counts=prepared.sheet.model_dump(mode="json"),
            sha256=prepared.written.sha256,
            up_to=prepared.up_to,
            created_by=created_by,
        )
        session.add(snapshot)
        session.flush()
        dataset = frozen.add(
            session,
            project.workspace_id,
            created_by,
            prepared.written,
            prepared.pool,
            name=f"{project.name[: 200 - 1 - len(rules.shape)]}-{rules.shape}",
            file=f"{project.name}-{rules.shape}.jsonl",
            lineage={
                "kind": "feedback",
                "project": project.id,
                "project_name": project.name,
                "snapshot": snapshot.id,
                "people": {grade: share.model_dump() for grade, share in prepared.sheet.people.items()},
            },
        )
        snapshot.dataset_id = dataset.id
        session.flush()
    except BaseException:
        prepared.discard()
        raise
    prepared.written.received.keep()
    return snapshot


def _same(session: Session, project: Project, rules: Rules, sha256: str) -> Snapshot | None:
    query = select(Snapshot).where(
        Snapshot.project_id == project.id, Snapshot.shape == rules.shape, Snapshot.sha256 == sha256, Snapshot.dataset_id.is_not(None)
    )
    return session.scalars(query.order_by(Snapshot.id.desc()).limit(1)).first()


def listed(session: Session, project: Project, limit: int = 50, after: str | None = None) -> list[tuple[Snapshot, Dataset | None]]:
    """Snapshots of a project, newest first, each with its dataset unless that was deleted."""
    query = select(Snapshot, Dataset).outerjoin(Dataset, Dataset.id == Snapshot.dataset_id).where(Snapshot.project_id == project.id)
    if after:
        query = query.where(Snapshot.id < after)
    return [(snapshot, dataset) for snapshot, dataset in session.execute(query.order_by(Snapshot.id.desc()).limit(limit))]


def export(session: Session, project: Project, rules: Rules, *, with_meta: bool = False) -> Iterator[bytes]:
    """The rows a snapshot would hold, as JSONL: read at once, sent piece by piece.

    Args:
        with_meta: adds what is known of each row (votes, agreement, models) as `meta`, which trl must not be given.

    Raises:
        Invalid: the rules do not fit the project.
    """
    spool = _spool()
    try:
        with storage.disk_errors("the rows"):
            pool, _, _ = _collect(session, project, rules, spool)
    except BaseException:
        spool.close()
        raise
    return _sent(pool, spool, with_meta)


def _sent(pool: Pool, spool: IO[bytes], with_meta: bool) -> Iterator[bytes]:
    with spool:
        for content, meta in pool.lines():
            yield content[:-1] + b',"meta":' + meta + b"}\n" if with_meta else content + b"\n"


def detail(session: Session, snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot with its dataset, as REST shows it."""
    session.refresh(snapshot)  # the database's clock said when it was made
    dataset = session.get(Dataset, snapshot.dataset_id) if snapshot.dataset_id else None
    [found] = details(session, session.get_one(Project, snapshot.project_id), [(snapshot, dataset)])
    return found


def details(session: Session, project: Project, found: Sequence[tuple[Snapshot, Dataset | None]]) -> list[dict[str, Any]]:
    """Snapshots of a project with their datasets and the runs on them, as REST shows them."""
    runs = trained.runs_of(session, project, [dataset.id for _, dataset in found if dataset is not None])
    return [
        {**snapshot_out(snapshot, dataset), "runs": [trained.run_out(each) for each in runs.get(dataset.id if dataset else "", [])]}
        for snapshot, dataset in found
    ]


def snapshot_out(snapshot: Snapshot, dataset: Dataset | None) -> dict[str, Any]:
    """A snapshot as REST shows it."""
    return {
        "id": snapshot.id,
        "project": snapshot.project_id,
        "dataset": snapshot.dataset_id,
        "dataset_name": dataset.name if dataset else None,
        "dataset_version": dataset.version if dataset else None,
        "shape": snapshot.shape,
        "method": snapshot.counts.get("method", ""),
        "rules": snapshot.rules,
        "counts": snapshot.counts,
        "sha256": snapshot.sha256,
        "up_to": snapshot.up_to,
        "created_at": iso(snapshot.created_at),
    }
