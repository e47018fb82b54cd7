"""The pages of runs: a run with its tabs, and the forms that steer runs; the list and comparisons are beside this."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from sqlalchemy.orm import Session

from app import trackers
from app.accounts.schemas import Principal
from app.errors import Conflict, Invalid
from app.forms import posted_form
from app.metrics import service as metrics
from app.runs import graded, pages_compare, pages_list, service, tabs, views
from app.runs.schemas import ENDED, RunUpdate
from app.runs.tables import Run
from app.web import Reader, ReadSession, Writer, WriteSession, download, hx_redirect, is_partial, page, pages_router, see_other, templates

router = pages_router()
for _part in (pages_list, pages_compare):  # before the pages of one run, whose address would take theirs for an id
    router.routes.extend(_part.router.routes)

MOST_TYPED = 100_000
Posted = Annotated[dict[str, str], Depends(posted_form)]
Text = Annotated[str, Query(max_length=200)]


# --- one run --------------------------------------------------------------------------------------------------------------


@router.get("/runs/{run_id}")
def show_run(request: Request, who: Reader, session: ReadSession, run_id: str, tab: Text = "charts") -> HTMLResponse:
    """A run; htmx gets the body of one tab."""
    run = service.get(session, who.workspace_id, run_id)
    tab = tab if tab in tabs.TABS else "charts"
    context = {"run": run, "tab": tab, "may_write": _may_write(who), **tabs.context(session, run, tab, dict(request.query_params))}
    if is_partial(request):
        return page(request, f"runs/_{tab}.html", who, **context)
    return page(
        request,
        "runs/detail.html",
        who,
        row=views.rows(session, [run])[0],
        live=views.live(session, run),
        chain=views.chain_of(session, run),
        tabs=tabs.TABS,
        may=views.may(run),
        is_over=run.status in ENDED,
        **context,
    )


@router.get("/runs/{run_id}/tensorboard.zip")
def tensorboard_zip(who: Reader, session: ReadSession, run_id: str) -> StreamingResponse:
    """The TensorBoard files of a run as an archive."""
    run = service.get(session, who.workspace_id, run_id)
    return download(trackers.zipped(run.id), f"{run.id}-tensorboard.zip", "application/zip")


@router.get("/runs/{run_id}/metrics.csv")
def metrics_csv(who: Reader, session: ReadSession, run_id: str, name: Text = "") -> StreamingResponse:
    """Every point of a run's metrics (or of one) as CSV; what is no number is named."""
    run = service.get(session, who.workspace_id, run_id)
    found = metrics.series(session, run.id, [name] if name else None, points=10**9)

    def lines() -> Iterator[str]:
        buffer = io.StringIO()
        out = csv.writer(buffer)
        out.writerow(("metric", "step", "value"))
        for metric, (steps, values) in found.items():
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                out.writerow((metric, step, metrics.kind_of(value) or repr(value)))
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()

    return StreamingResponse(lines(), media_type="text/csv", headers={"Content-Disposition": f'attachment; filename="{run.id}.csv"'})


@router.get("/runs/{run_id}/held-out.csv")
def held_out_csv(who: Reader, session: ReadSession, run_id: str) -> StreamingResponse:
    """Accuracy on held-out pairs by grade and step as CSV."""
    run = service.get(session, who.workspace_id, run_id)
    return download(graded.as_csv(graded.of_run(session, run)), f"{run.id}-held-out.csv", "text/csv")


@router.get("/runs/{run_id}/logs.txt")
def logs_text(who: Reader, session: ReadSession, run_id: str) -> Response:
    """The whole log as text."""
    lines = service.logs(session, who.workspace_id, run_id, limit=1_000_000)
    text = "".join(f"{line.at:.3f} {line.level.upper():7} {line.text}\n" for line in lines)
    return Response(text, media_type="text/plain; charset=utf-8", headers={"Content-Disposition": f'attachment; filename="{run_id}.log"'})


# --- forms ----------------------------------------------------------------------------------------------------------------


def _steer(request: Request, who: Principal, session: Session, run_id: str, change: Callable[[Session, str, str], Run]) -> Response:
    run = change(session, who.workspace_id, run_id)
    session.flush()
    return HTMLResponse(live_fragment(session, run.id)) if is_partial(request) else see_other(f"/runs/{run.id}")


@router.post("/runs/{run_id}/pause")
def pause(request: Request, who: Writer, session: WriteSession, run_id: str) -> Response:
    """Ask the run to write a checkpoint and let go of its device."""
    return _steer(request, who, session, run_id, service.pause)


@router.post("/runs/{run_id}/resume")
def resume(request: Request, who: Writer, session: WriteSession, run_id: str) -> Response:
    """Queue the run again, to go on from its last checkpoint."""
    return _steer(request, who, session, run_id, service.resume)


@router.post("/runs/{run_id}/cancel")
def cancel(request: Request, who: Writer, session: WriteSession, run_id: str) -> Response:
    """Stop the run for good."""
    return _steer(request, who, session, run_id, service.cancel)


@router.post("/runs/{run_id}/delete")
def delete(request: Request, who: Writer, session: WriteSession, run_id: str) -> Response:
    """Delete the run with everything it left behind."""
    service.delete(session, who.workspace_id, run_id)
    return hx_redirect(request, "/runs")


@router.post("/runs/{run_id}/edit")
def edit(request: Request, who: Writer, session: WriteSession, run_id: str, posted: Posted) -> Response:
    """Change name, tags and notes; what the form leaves out stays. After a conflict both versions are shown, and nothing is lost."""
    run = service.get(session, who.workspace_id, run_id)
    typed: dict[str, str] = {name: posted[name][:MOST_TYPED] for name in ("name", "tags", "notes") if name in posted}
    tab = posted.get("tab", "")
    version = int(posted["version"]) if posted.get("version", "").isdecimal() and len(posted["version"]) < 10 else None
    try:
        service.update(session, who.workspace_id, run_id, _edits(typed, version))
    except (Conflict, Invalid) as error:
        template = "runs/_edit_form.html" if "notes" in typed else "runs/_rename.html"
        context = {"run": run, "typed": typed, "error": error, "tab": tab, "may_write": True}
        if is_partial(request):
            return page(request, template, who, status=error.status, **context)
        return page(request, "runs/edit.html", who, status=error.status, **{**context, "typed": {**_as_typed(run), **typed}})
    return hx_redirect(request, f"/runs/{run_id}" + (f"?tab={tab}" if tab in tabs.TABS and tab != "charts" else ""))


def _as_typed(run: Run) -> dict[str, str]:
    return {"name": run.name, "tags": ", ".join(run.tags), "notes": run.notes}


def _edits(typed: dict[str, str], version: int | None) -> RunUpdate:
    """The change that a form asks for.

    Raises:
        Invalid: a field cannot be used; the message says why.
    """
    listed = [tag.strip() for tag in typed["tags"].split(",") if tag.strip()] if "tags" in typed else None
    if listed is not None and len(listed) > 20:
        raise Invalid(f"A run has at most 20 tags; these are {len(listed)}.", field="tags")
    name, notes = typed.get("name"), typed.get("notes")
    if name is not None and not name.strip():
        raise Invalid("Give the run a name with at least one visible character.", field="name")
    if name is not None and len(name) > 200:
        raise Invalid(f"A name has at most 200 characters; this one has {len(name):,}.", field="name")
    if notes is not None and len(notes) > 10_000:
        raise Invalid(f"Notes have at most 10,000 characters; these have {len(notes):,}.", field="notes")
    return RunUpdate(name=name, tags=listed, notes=notes, version=version)


def _may_write(who: Principal) -> bool:
    return who.role in ("admin", "engineer")


# --- fragments of the live streams ----------------------------------------------------------------------------------------


def live_fragment(session: Session, run_id: str) -> str:
    """The live block of a run, its actions and the counts of its tabs, for whoever watches it."""
    run = session.get(Run, run_id)
    if run is None:
        return ""
    return templates().get_template("runs/_live_partials.html").render(live=views.live(session, run), run=run, may=views.may(run))


def row_fragment(session: Session, workspace_id: str, runs: list[Run]) -> str:
    """The lines of runs that moved, for whoever watches the list."""
    return templates().get_template("runs/_row_partials.html").render(rows=views.rows(session, runs))
