"""The pages of models: the list, a checkpoint, and the import form. What they show comes from the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Form, Query, Request, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.checkpoints import confusion, files, lineage, service
from app.checkpoints.schemas import QUESTION_STEP, STEPS, CheckpointCreate, CheckpointEdit
from app.checkpoints.tables import Checkpoint
from app.errors import Forbidden, Invalid, StudioError
from app.jobs import service as jobs
from app.web import Reader, ReadSession, Writer, WriteSession, hx_redirect, page, pages_router

router = pages_router()

PAGE_ROWS = 100
KINDS = {"": "All", "base": "Base models", "tuned": "Tuned", "adapter": "Adapters", "full": "Full fine-tunes"}
_OF_KIND = {"tuned": ["adapter", "full", "reward", "classifier"]}
_Text = Annotated[str, Form(max_length=5000)]
_Notes = Annotated[str, Form(max_length=30_000)]


@dataclass(frozen=True)
class Row:
    """One line of the list: a checkpoint with the names of what it comes from."""

    checkpoint: Checkpoint
    run_name: str | None
    base_name: str | None

    @property
    def about(self) -> str:
        """What the line says below the name."""
        if self.checkpoint.status == "failed":
            reason = self.checkpoint.reason or ""
            return reason if len(reason) <= 100 else f"{reason[:99]}…"
        if self.base_name:
            return f"on {self.base_name}"
        ref = self.checkpoint.ref or ""
        return facts_of(self.checkpoint).architecture or (ref if self.checkpoint.source == "hub" else ref.rpartition("/")[2])


@dataclass(frozen=True)
class Facts:
    """What config.json says of a model, where it does."""

    architecture: str | None
    layers: int | None
    width: int | None
    context: int | None
    vocabulary: int | None
    precision: str | None
    tied: bool


@dataclass(frozen=True)
class Step:
    """One named step of an import and how it stands: done, now or next."""

    name: str
    state: str


def facts_of(checkpoint: Checkpoint) -> Facts:
    """Facts of a checkpoint with a config; config.json comes from others, so nothing about it is taken for granted."""
    config = checkpoint.config or {}
    # Models that read more than text keep the numbers of their language part one level down.
    inner = {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config

    def count(name: str) -> int | None:
        return inner[name] if isinstance(inner.get(name), int) else None

    named = config.get("architectures")
    precision = inner.get("dtype") or inner.get("torch_dtype")
    return Facts(
        architecture=str(named[0]) if isinstance(named, list) and named else None,
        layers=count("num_hidden_layers"),
        width=count("hidden_size"),
        context=count("max_position_embeddings"),
        vocabulary=count("vocab_size"),
        precision=str(precision) if precision else None,
        tied=bool(config.get("tie_word_embeddings")),
    )


def _rows(session: Session, found: list[Checkpoint]) -> list[Row]:
    runs = lineage.run_names(session, [checkpoint.run_id for checkpoint in found if checkpoint.run_id])
    bases = lineage.names(session, [checkpoint.base_id for checkpoint in found if checkpoint.base_id])
    return [Row(checkpoint, runs.get(checkpoint.run_id or ""), bases.get(checkpoint.base_id or "")) for checkpoint in found]


@router.get("/models")
def list_models(
    request: Request,
    who: Reader,
    session: ReadSession,
    kind: Annotated[str, Query(max_length=20)] = "",
    q: Annotated[str, Query(max_length=120)] = "",
    after: Annotated[str | None, Query(max_length=60)] = None,
) -> Response:
    """Base models and what was trained from them, newest first."""
    found = service.list_checkpoints(
        session, who.workspace_id, limit=PAGE_ROWS + 1, after=after, kinds=_OF_KIND.get(kind, [kind]) if kind else None, q=q.strip()
    )
    shown = found[:PAGE_ROWS]
    return page(
        request,
        "checkpoints/list.html",
        who,
        rows=_rows(session, shown),
        older=shown[-1].id if len(found) > PAGE_ROWS else None,
        kinds=KINDS,
        kind=kind,
        q=q,
        after=after,
        may_import=who.role in ("admin", "engineer"),
    )


@router.get("/models/import")
def import_form(request: Request, who: Writer) -> Response:
    """The form that imports a model."""
    return _form(request, who, {"source": "hub", "ref": "", "revision": "", "name": ""}, {})


@router.post("/models/import")
def import_model(
    request: Request, who: Writer, session: WriteSession, source: _Text = "", ref: _Text = "", revision: _Text = "", name: _Text = ""
) -> Response:
    """Queue an import; a field that cannot be used comes back with the form."""
    values = {"source": source, "ref": ref.strip(), "revision": revision.strip(), "name": name.strip()}
    try:
        asked = CheckpointCreate.model_validate({**values, "revision": values["revision"] or None})
        checkpoint = service.create_import(session, who.workspace_id, who.user_id, who.role, asked)
    except ValidationError as error:
        return _form(request, who, values, {str(each["loc"][0]): _plain(each["type"], each["msg"]) for each in error.errors()})
    except (Invalid, Forbidden) as error:
        return _form(request, who, values, {error.field or "ref": error.message})
    return hx_redirect(request, f"/models/{checkpoint.id}")


def _plain(kind: str, message: str) -> str:
    """A sentence for a person in place of pydantic's."""
    if kind == "string_too_short":
        return "Fill this in."
    if kind == "literal_error":
        return "Choose one of the three."
    return "This is too long." if kind == "string_too_long" else message.removeprefix("Value error, ")


def _form(request: Request, who: Any, values: dict[str, str], errors: dict[str, str]) -> Response:
    return page(
        request,
        "checkpoints/import.html",
        who,
        status=422 if errors else 200,
        values=values,
        errors={**dict.fromkeys(values, ""), **errors},
    )


@router.get("/models/{checkpoint_id}")
def show(request: Request, who: Reader, session: ReadSession, checkpoint_id: str) -> Response:
    """One checkpoint: facts, lineage, files, what uses it."""
    checkpoint = service.get(session, who.workspace_id, checkpoint_id)
    return _show(request, who, session, checkpoint, None)


def _base(session: Session, checkpoint: Checkpoint) -> Checkpoint | None:
    """The checkpoint it sits on or began from."""
    return session.get(Checkpoint, checkpoint.base_id) if checkpoint.base_id else None


def _show(request: Request, who: Any, session: Session, checkpoint: Checkpoint, error: StudioError | None) -> Response:
    return page(
        request,
        "checkpoints/detail.html",
        who,
        status=error.status if error else 200,
        checkpoint=checkpoint,
        steps=_steps(session, checkpoint),
        root=lineage.tree(session, checkpoint),
        confusion=confusion.of(checkpoint),
        run=lineage.run_of(session, checkpoint) if checkpoint.run_id else None,
        base=_base(session, checkpoint),
        runs=lineage.runs_from(session, checkpoint),
        built=lineage.built_on(session, checkpoint),
        files=[files.file_out(checkpoint, entry) for entry in files.listed(checkpoint)],
        weights=files.count_weights(checkpoint) if checkpoint.kind == "adapter" and checkpoint.status == "ready" else checkpoint.parameters,
        facts=facts_of(service.base_of(session, checkpoint)),
        train_loss=_loss(checkpoint, "loss"),
        eval_loss=_loss(checkpoint, "eval_loss"),
        may_change=who.role in ("admin", "engineer"),
        error=error,
    )


def _loss(checkpoint: Checkpoint, name: str) -> str | None:
    """A last value of the run at the checkpoint's step, as text: four decimals, or what it is when it is no number."""
    value = (checkpoint.metrics or {}).get(name)
    return None if value is None else f"{value:.4f}" if isinstance(value, int | float) else str(value)


def _steps(session: Session, checkpoint: Checkpoint) -> list[Step]:
    """The named steps of an import that is going on."""
    if checkpoint.status != "importing":
        return []
    job = jobs.active_for(session, "import_checkpoint", checkpoint.id)
    names = [*STEPS[checkpoint.source], *([QUESTION_STEP] if job and job.payload.get("expect") else [])]
    progress = checkpoint.progress or {}
    done = int(progress.get("done") or 0) if progress.get("total") else -1
    return [Step(name, "done" if number < done else "now" if number == done else "next") for number, name in enumerate(names)]


@router.get("/models/{checkpoint_id}/row")
def row(request: Request, who: Reader, session: ReadSession, checkpoint_id: str) -> Response:
    """A line of the list, asked for again while its import goes on."""
    found = service.get(session, who.workspace_id, checkpoint_id)
    return page(request, "checkpoints/_row.html", who, row=_rows(session, [found])[0])


@router.get("/models/{checkpoint_id}/progress")
def progress(request: Request, who: Reader, session: ReadSession, checkpoint_id: str) -> Response:
    """How far an import is; when it has ended, the browser loads the page anew."""
    checkpoint = service.get(session, who.workspace_id, checkpoint_id)
    if checkpoint.status != "importing":
        return hx_redirect(request, f"/models/{checkpoint.id}")
    return page(request, "checkpoints/_progress.html", who, checkpoint=checkpoint, steps=_steps(session, checkpoint))


@router.post("/models/{checkpoint_id}/delete")
def delete(request: Request, who: Writer, session: WriteSession, checkpoint_id: str) -> Response:
    """Delete a checkpoint, or say what needs it."""
    try:
        service.delete(session, who.workspace_id, checkpoint_id)
    except StudioError as error:
        if error.status != 409:
            raise
        return _show(request, who, session, service.get(session, who.workspace_id, checkpoint_id), error)
    return hx_redirect(request, "/models")


@router.post("/models/{checkpoint_id}/edit")
def edit(request: Request, who: Writer, session: WriteSession, checkpoint_id: str, name: _Text = "", notes: _Notes = "") -> Response:
    """Rename a checkpoint and write notes on it."""
    checkpoint = service.get(session, who.workspace_id, checkpoint_id)
    try:
        service.edit(session, who.workspace_id, checkpoint.id, CheckpointEdit(name=name, notes=notes))
    except ValidationError as error:
        first = error.errors()[0]
        place = "name" if first["loc"][0] == "name" else "notes"
        return _show(request, who, session, checkpoint, Invalid(f"The {place}: {_plain(first['type'], first['msg'])}", field=place))
    return hx_redirect(request, f"/models/{checkpoint.id}")
