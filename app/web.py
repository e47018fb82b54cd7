"""What every page and REST route is made of: routers, lists, keys, templates, redirects (who asks: `app.admission`). Holds no feature."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Generic, TypeVar, cast
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import __version__, rendering
from app.accounts import service as accounts
from app.accounts.schemas import Principal
from app.admission import (
    ADMINS,
    Admin,
    GuardedRoute,
    Needs,
    Person,
    Reader,
    ReadSession,
    StudioAdmin,
    Writer,
    WriteSession,
    address_of,
    authenticate,
    cookie_name,
    database_of,
    needed,
    public,
    read_session,
    settings_of,
    unrecorded,
    upload,
    uses_https,
    write_session,
)
from app.assets import asset
from app.database import Database
from app.errors import BadRequest
from app.settings import files

T = TypeVar("T")

__all__ = [
    "ADMINS",
    "REFUSALS",
    "Admin",
    "After",
    "ErrorAnswer",
    "GuardedRoute",
    "Limit",
    "Needs",
    "Page",
    "Person",
    "ReadSession",
    "Reader",
    "StudioAdmin",
    "WriteSession",
    "Writer",
    "address_of",
    "api_router",
    "authenticate",
    "cookie_name",
    "database_of",
    "download",
    "hx_redirect",
    "idempotent",
    "is_partial",
    "needed",
    "page",
    "paged",
    "pages_router",
    "public",
    "read_session",
    "render",
    "see_other",
    "settings_of",
    "templates",
    "unrecorded",
    "upload",
    "uses_https",
    "write_session",
]


# --- routers --------------------------------------------------------------------------------------------------------------


class ErrorBody(BaseModel):
    """Why a request was refused."""

    code: str
    message: str
    field: str | None = None
    details: Any = None


class ErrorAnswer(BaseModel):
    """The answer to every request that is refused; `message` says what to do."""

    error: ErrorBody


REFUSALS = {
    401: "No token, or one that does not work.",
    403: "The role, or the scope of the token, does not allow this.",
    404: "There is no such thing in the workspace.",
    409: "Its state does not allow this, or somebody changed it meanwhile.",
    422: "A field cannot be used; `field` names it.",
    429: "Too often; `Retry-After` says in how many seconds to go on.",
    503: "The database does not answer right now; `Retry-After` says when to try again.",
}
"""Status -> why any REST call may be refused. `app.accounts.documents` writes them down: each route doing so would take longer."""


def pages_router() -> APIRouter:
    """A router for pages and their fragments."""
    return APIRouter(route_class=GuardedRoute, include_in_schema=False, default_response_class=HTMLResponse)


def api_router(tag: str) -> APIRouter:
    """A router for REST routes below `/api/v1`, grouped under `tag` in the documentation."""
    return APIRouter(prefix="/api/v1", route_class=GuardedRoute, tags=[tag])


class Page(BaseModel, Generic[T]):
    """One piece of a list; `next` is the `after` of the following one."""

    data: list[T]
    has_more: bool
    next: str | None


Limit = Annotated[int, Query(ge=1, le=500, description="How many at most.")]
After = Annotated[str | None, Query(description="Where the previous piece ended: its `next`.")]


def paged(items: Sequence[T], limit: int, cursor: Callable[[T], str] = lambda item: str(cast(Any, item).id)) -> Page[T]:
    """Cut a list that was asked for with `limit + 1` entries down to `limit`, and say whether there is more."""
    data = list(items[:limit])
    has_more = len(items) > limit
    return Page[Any](data=data, has_more=has_more, next=cursor(data[-1]) if has_more else None)


def idempotent(
    request: Request,
    session: Session,
    who: Principal,
    body: BaseModel | dict[str, Any] | str,
    do: Callable[[], BaseModel | dict[str, Any]],
    *,
    status: int = 201,
    once: Sequence[str] = (),
) -> JSONResponse:
    """Answer a POST, and once only when it carries an `Idempotency-Key`: the key lives and dies with the request's transaction.

    Args:
        session: the request's `WriteSession`.
        body: what was asked for, or a hash of it.
        do: does the work in `session` and returns the answer.
        once: fields of the answer (secrets) that are not kept and are null when the key is used again.

    Raises:
        BadRequest: the key is empty or too long.
        Invalid: the key was used with another body.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return JSONResponse(jsonable_encoder(do()), status)
    if not 1 <= len(key) <= 255:
        raise BadRequest("An Idempotency-Key has 1 to 255 characters; a random UUID is a good one.")
    plain = body if isinstance(body, str) else json.dumps(jsonable_encoder(body), sort_keys=True)
    route = f"{request.method} {request.url.path}"
    kept, fresh = accounts.reserve_key(
        session, user_id=who.user_id, route=route, key=key, request_hash=hashlib.sha256(f"{who.workspace_id}\n{plain}".encode()).hexdigest()
    )
    if not fresh:
        request.state.refused = True  # nothing was done, so there is nothing for the audit log
        return JSONResponse(kept.answer, kept.status, headers={"Idempotency-Replayed": "true"})
    answer = jsonable_encoder(do())
    kept.status, kept.answer = status, {**answer, **{name: None for name in once}}
    session.flush()
    return JSONResponse(answer, status)


# --- pages ----------------------------------------------------------------------------------------------------------------


class Frame:
    """Facts the frame of every page shows (`nav.active_runs` …), looked up only when the template asks for them."""

    def __init__(self, database: Database, facts: dict[str, Callable[[Session, str], Any]], who: Principal | None) -> None:
        self._database, self._facts, self._who = database, facts, who

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        fact, value = self._facts.get(name), None
        if (fact is not None or name == "workspaces") and self._who is not None:
            try:
                with self._database.read() as session:
                    if fact is not None:
                        value = fact(session, self._who.workspace_id)
                    else:  # those the caller may switch to
                        value = [(each.id, each.name) for each in accounts.list_workspaces(session, self._who.user_id)]
            except SQLAlchemyError:
                value = None  # the frame is also around the page that says the database is away
        self.__dict__[name] = value
        return value


@lru_cache
def templates() -> Environment:
    """The template environment of this process: everything is escaped, an unknown name is an error."""
    environment = Environment(
        loader=FileSystemLoader(files("templates")), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(rendering.GLOBALS)
    environment.globals.update(version=__version__, asset=asset)
    return environment


def render(request: Request, template: str, who: Principal | None, **context: Any) -> str:
    """A template's text with the context of the frame: `request`, `path`, `who`, `theme`, `nav`."""
    theme = request.cookies.get("theme")
    frame = {
        "request": request,
        "path": request.url.path,
        "who": who,
        "theme": theme if theme in ("light", "dark") else "",
        "nav": Frame(request.app.state.database, request.app.state.facts, who),
    }
    return templates().get_template(template).render(**frame, **context)


def page(request: Request, template: str, who: Principal | None, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Answer with a template."""
    if status >= 400:
        request.state.refused = True
    return HTMLResponse(render(request, template, who, **context), status)


def is_partial(request: Request) -> bool:
    """Whether htmx asks for a fragment rather than a page."""
    return request.headers.get("hx-request-type") == "partial"


def download(pieces: Iterator[Any], name: str, kind: str) -> StreamingResponse:
    """Answer with a file that a browser saves instead of showing it."""
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}", "Content-Security-Policy": "sandbox"}
    return StreamingResponse(pieces, media_type=kind, headers=headers)


def see_other(url: str) -> RedirectResponse:
    """Send the browser on after a form was taken (303)."""
    return RedirectResponse(url, 303)


def hx_redirect(request: Request, url: str) -> Response:
    """Send the browser on to another page, whether htmx or a plain form asks."""
    return Response(headers={"HX-Redirect": url}) if request.headers.get("hx-request") else see_other(url)
