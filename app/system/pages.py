"""The page that shows how the studio is doing, and the jump palette of every page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import HTMLResponse

from app.checkpoints import service as checkpoints
from app.datasets import service as datasets
from app.runs import service as runs
from app.system import service
from app.web import Reader, ReadSession, Writer, WriteSession, hx_redirect, is_partial, page, pages_router, settings_of

router = pages_router()

FOUND, RECENT = 8, 5


@dataclass(frozen=True)
class Entry:
    """One line of the palette: a place to go to, or something to do."""

    text: str
    picture: str
    url: str = ""
    keys: str = ""
    note: str = ""
    writers: bool = False
    """Whether only those who may change things see it."""
    do: str = ""
    """theme, keys or logout: done on the spot."""


ACTIONS = (
    Entry("New run", "plus", "/runs/new", "C", writers=True),
    Entry("New chain", "workflow", "/chains/new", writers=True),
    Entry("Add data", "upload", "/datasets/new", writers=True),
    Entry("New rating project", "thumbs-up", "/feedback/new", writers=True),
    Entry("Rate", "thumbs-up", "/rate", writers=True),
    Entry("Import a model", "download", "/models/import", writers=True),
    Entry("New conversation", "message-square-plus", "/playground", writers=True),
    Entry("Switch between light and dark", "sun-moon", do="theme"),
    Entry("Keyboard shortcuts", "keyboard", keys="?", do="keys"),
    Entry("Sign out", "log-out", do="logout"),
)
PAGES = (
    Entry("Runs", "activity", "/runs", "G R"),
    Entry("Chains", "workflow", "/chains"),
    Entry("Datasets", "database", "/datasets", "G D"),
    Entry("Ratings", "thumbs-up", "/feedback", "G T"),
    Entry("Models", "box", "/models", "G M"),
    Entry("Playground", "message-square", "/playground", "G P"),
    Entry("Exports", "package", "/exports"),
    Entry("System", "cpu", "/system", "G S"),
    Entry("Settings", "settings", "/settings", "G ,"),
    Entry("REST interface", "book-open", "/docs"),
)


@router.get("/system")
def show_system(request: Request, who: Reader, session: ReadSession) -> HTMLResponse:
    """Workers, queue, disk, database, versions and what failed lately; htmx gets the body anew every few seconds."""
    template = "system/_body.html" if is_partial(request) else "system/system.html"
    return page(request, template, who, system=service.overview(session, who, settings_of(request)))


@router.post("/system/jobs/{job_id}/cancel")
def cancel_job(request: Request, who: Writer, session: WriteSession, job_id: str) -> Response:
    """Stop a job for good."""
    service.cancel_job(session, who.workspace_id, job_id)
    return hx_redirect(request, "/system")


@router.get("/palette")
def palette(request: Request, who: Reader, session: ReadSession, q: Annotated[str, Query(max_length=200)] = "") -> HTMLResponse:
    """Actions, pages, and the runs, datasets and checkpoints whose name holds what was typed."""
    q = q.strip()
    words = q.lower().split()
    may_write = who.role in ("admin", "engineer")

    def fitting(entries: tuple[Entry, ...]) -> list[Entry]:
        return [each for each in entries if all(word in each.text.lower() for word in words) and (may_write or not each.writers)]

    groups: list[tuple[str, list[Entry]]] = [("Actions", fitting(ACTIONS)), ("Pages", fitting(PAGES))]
    asked: dict[str, Any] = {"q": q or None, "limit": FOUND if q else RECENT}
    listed = runs.list_runs(session, who.workspace_id, **asked)
    groups.append(("Runs", [Entry(run.name, "chart-line", f"/runs/{run.id}", note=run.status) for run in listed]))
    if q:
        data = datasets.list_datasets(session, who.workspace_id, latest=True, **asked)
        groups.append(("Datasets", [Entry(each.name, "database", f"/datasets/{each.id}", note=f"version {each.version}") for each in data]))
        models = checkpoints.list_checkpoints(session, who.workspace_id, **asked)
        groups.append(("Models", [Entry(each.name, "box", f"/models/{each.id}", note=each.kind) for each in models]))
    return page(request, "system/_palette.html", who, q=q, groups=[group for group in groups if group[1]])
