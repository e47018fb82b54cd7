"""The pages of runs: the live list, a run with its tabs, the jump palette, and the forms that steer runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from fastapi import Form, Query, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.errors import Invalid
from app.metrics import service as metrics
from app.runs import service, tabs, views
from app.runs.schemas import ENDED, STATUSES, RunUpdate
from app.runs.tables import Run
from app.web import Reader, ReadSession, Writer, WriteSession, hx_redirect, is_partial, page, pages_router, see_other, templates

router = pages_router()

PAGE_ROWS = 50
PALETTE_ROWS = 8
PALETTE_PAGES = (
    ("/runs/new", "New run", "plus", "C"),
    ("/runs", "Runs", "activity", "G R"),
    ("/datasets", "Datasets", "database", "G D"),
    ("/models", "Models", "box", "G M"),
    ("/settings", "Settings", "settings", "G S"),
    ("/docs", "REST interface", "book-open", ""),
)
Text = Annotated[str, Query(max_length=200)]


# --- the list -------------------------------------------------------------------------------------------------------------


@router.get("/runs")
def list_runs(
    request: Request,
    who: Reader,
    session: ReadSession,
    q: Text = "",
    status: Text = "",
    method: Text = "",
    tag: Text = "",
    after: Text = "",
) -> HTMLResponse:
    """Runs, newest first; htmx gets the table's body and the counts."""
    q, status = q.strip(), status if status in STATUSES else ""
    asked = {"q": q or None, "method": method or None, "tag": tag or None}
    found = service.list_runs(session, who.workspace_id, limit=PAGE_ROWS + 1, after=after or None, status=status or None, **asked)
    counts = service.counts(session, who.workspace_id, **asked)
    context: dict[str, Any] = {
        "rows": views.rows(session, found[:PAGE_ROWS]),
        "older": found[PAGE_ROWS - 1].id if len(found) > PAGE_ROWS else None,
        "counts": {name: counts[name] for name in STATUSES if counts.get(name)},
        "filters": {"q": q, "status": status, "method": method, "tag": tag},
        "after": after,
    }
    if is_partial(request):
        return page(request, "runs/_results.html", who, **context)
    if not found and not any((q, status, method, tag, after)):
        return page(request, "runs/start.html", who)
    return page(request, "runs/list.html", who, may_write=_may_write(who), **context)


@router.get("/runs/overlay")
def overlay(who: Reader, run: Annotated[list[str], Query(max_length=8)]) -> Response:
    """The page of the first chosen run, with the curves of the others over its own."""
    return see_other(f"/runs/{run[0]}" + (f"?with={','.join(run[1:])}" if run[1:] else ""))


@router.post("/runs/delete")
def delete_chosen(request: Request, who: Writer, session: WriteSession, run: Annotated[list[str], Form()]) -> Response:
    """Delete the chosen runs, all or none."""
    for run_id in run:
        service.delete(session, who.workspace_id, run_id)
    return hx_redirect(request, "/runs")


@router.get("/palette")
def palette(request: Request, who: Reader, session: ReadSession, q: Text = "") -> HTMLResponse:
    """Pages and runs whose name holds what was typed."""
    q = q.strip()
    return page(
        request,
        "runs/_palette.html",
        who,
        q=q,
        pages=[each for each in PALETTE_PAGES if q.lower() in each[1].lower() and (each[0] != "/runs/new" or _may_write(who))],
        runs=service.list_runs(session, who.workspace_id, limit=PALETTE_ROWS, q=q or None),
    )


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
        tabs=tabs.TABS,
        may=views.may(run),
        is_over=run.status in ENDED,
        **context,
    )


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
def edit(
    who: Writer,
    session: WriteSession,
    run_id: str,
    name: Annotated[str, Form(max_length=200)] = "",
    tags: Annotated[str, Form(max_length=1000)] = "",
    notes: Annotated[str, Form(max_length=10_000)] = "",
    version: Annotated[int | None, Form()] = None,
) -> Response:
    """Change name, tags and notes."""
    listed = [tag.strip() for tag in tags.split(",") if tag.strip()]
    if len(listed) > 20:
        raise Invalid("A run has at most 20 tags.", field="tags")
    if not name.strip():
        raise Invalid("Give the run a name with at least one visible character.", field="name")
    service.update(session, who.workspace_id, run_id, RunUpdate(name=name, tags=listed, notes=notes, version=version))
    return see_other(f"/runs/{run_id}")


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
