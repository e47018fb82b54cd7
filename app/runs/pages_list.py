"""The page of all runs: filters and order in the address, columns in a cookie, and what is done to several runs at once."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

from fastapi import Form, Query, Request, Response
from fastapi.responses import HTMLResponse

from app.runs import bulk, listing, service, views
from app.runs.schemas import STATUSES
from app.web import Reader, ReadSession, Writer, WriteSession, is_partial, page, pages_router, see_other

router = pages_router()

PAGE_ROWS = (50, 100, 200)
COLUMNS = {
    "method": "Method",
    "tuner": "Tuner",
    "model": "Base model",
    "progress": "Progress",
    "loss": "Train loss",
    "eval": "Eval loss",
    "speed": "Tokens/s",
    "rate": "Learning rate",
    "time": "Time",
    "started": "Started",
}
SHOWN = ("method", "model", "progress", "loss", "eval", "time", "started")
"""Columns that are shown until somebody chooses others."""
COOKIE = "run_columns"
YEAR = 365 * 24 * 3600
FALLING_FIRST = ("time", "started")
Text = Annotated[str, Query(max_length=200)]


class Address:
    """Addresses of the list: with what is asked for now, and some of it changed."""

    def __init__(self, asked: dict[str, str]) -> None:
        self.asked = asked

    def __call__(self, **changes: str | None) -> str:
        wanted = {name: value for name, value in {**self.asked, **changes}.items() if value}
        return "/runs" + (f"?{urlencode(wanted)}" if wanted else "")

    def sorted(self, name: str) -> str:
        """The order of a column; the other way round when it is that already."""
        now = self.asked.get("sort", "")
        if now.removeprefix("-") == name:
            return self(sort=name if now.startswith("-") else f"-{name}")
        return self(sort=f"-{name}" if name in FALLING_FIRST else name)


@router.get("/runs")
def list_runs(
    request: Request,
    who: Reader,
    session: ReadSession,
    q: Text = "",
    status: Text = "",
    method: Text = "",
    tuner: Text = "",
    model: Text = "",
    dataset: Text = "",
    tag: Text = "",
    sort: Text = "",
    after: Annotated[str, Query(max_length=400)] = "",
    rows: Text = "",
) -> HTMLResponse:
    """Runs, active ones first and then the newest, or in the order of a column; htmx gets the table's body and what stands above it."""
    filters = {"q": q.strip(), "method": method, "tuner": tuner, "model": model, "dataset": dataset, "tag": tag}
    status = status if status in STATUSES else ""
    sort = sort if sort.removeprefix("-") in listing.SORTS else ""
    limit = int(rows) if rows in map(str, PAGE_ROWS) else PAGE_ROWS[0]
    found = listing.sorted_runs(session, who.workspace_id, sort=sort, after=after or None, limit=limit, status=status or None, **filters)
    counts = listing.counts(session, who.workspace_id, **filters)
    may_write = who.role in ("admin", "engineer")
    link = Address({**filters, "status": status, "sort": sort, "rows": rows if limit != PAGE_ROWS[0] else ""})
    context: dict[str, Any] = {
        "rows": views.rows(session, found.runs),
        "older": found.older,
        "counts": {name: counts[name] for name in STATUSES if counts.get(name)},
        "filters": {**filters, "status": status},
        "chips": {name: listing.named(session, who.workspace_id, name, filters[name]) for name in listing.FILTERS if filters[name]},
        "sort": sort,
        "link": link,
        "after": after,
        "columns": COLUMNS,
        "shown": _columns(request),
        "may_write": may_write,
    }
    if is_partial(request):
        answer = page(request, "runs/_results.html", who, **context)
        answer.headers["HX-Replace-Url"] = link(after=after)
        return answer
    if not found.runs and not any((*filters.values(), status, after)):
        return page(request, "runs/start.html", who)
    return page(request, "runs/list.html", who, offered=listing.offered(session, who.workspace_id), **context)


def _columns(request: Request) -> list[str]:
    kept = request.cookies.get(COOKIE)
    return list(SHOWN) if kept is None else [name for name in COLUMNS if name in kept.split(".")]


@router.post("/runs/columns")
def choose_columns(request: Request, who: Reader, column: Annotated[list[str] | None, Form()] = None, back: str = "") -> Response:
    """Keep in a cookie which columns the list shows; the page does so itself where scripts run."""
    answer = see_other(_back(back))
    shown = ".".join(name for name in COLUMNS if name in (column or []))
    answer.set_cookie(COOKIE, shown, max_age=YEAR, samesite="lax", secure=request.url.scheme == "https")
    return answer


# --- several runs at once -------------------------------------------------------------------------------------------------

Chosen = Annotated[list[str], Form()]
Back = Annotated[str, Form(max_length=2000)]


def _back(address: str) -> str:
    query = urlsplit(address).query
    return f"/runs?{query}" if query else "/runs"


def _done(request: Request, said: str, back: str) -> Response:
    if not is_partial(request):
        return see_other(_back(back))
    return Response(headers={"HX-Trigger": json.dumps({"toast": {"value": said}, "runs-changed": {}})}, media_type="text/html")


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


@router.post("/runs/tag")
def tag_chosen(
    request: Request,
    who: Writer,
    session: WriteSession,
    run: Chosen,
    tag: Annotated[str, Form(max_length=1000)] = "",
    act: Annotated[str, Form(max_length=20)] = "add",
    back: Back = "",
) -> Response:
    """Add tags to the chosen runs, or take them away, all or none."""
    remove = act == "remove"
    count = bulk.tag(session, who.workspace_id, run, tag, remove=remove)
    named = ", ".join(service.clean_tags(tag.split(",")))
    return _done(request, f"{'Took' if remove else 'Put'} “{named}” {'off' if remove else 'on'} {_runs(count)}.", back)


@router.post("/runs/cancel")
def cancel_chosen(request: Request, who: Writer, session: WriteSession, run: Chosen, back: Back = "") -> Response:
    """Stop the chosen runs for good; those that have ended already are passed over."""
    return _done(request, f"Stopping {_runs(bulk.cancel(session, who.workspace_id, run))}.", back)


@router.post("/runs/delete")
def delete_chosen(request: Request, who: Writer, session: WriteSession, run: Chosen, back: Back = "") -> Response:
    """Delete the chosen runs, all or none."""
    return _done(request, f"Deleted {_runs(bulk.delete(session, who.workspace_id, run))}.", back)
