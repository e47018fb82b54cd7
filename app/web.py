"""What every page and REST route is made of: who asks, one transaction a request, templates, lists, redirects. Holds no feature."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Generic, TypeVar, cast
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.encoders import jsonable_encoder
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.concurrency import run_in_threadpool

from app import __version__, rendering
from app.accounts import service as accounts
from app.accounts.schemas import Principal
from app.database import Database
from app.errors import BadRequest, Forbidden, Unauthorized
from app.settings import Settings, files

T = TypeVar("T")
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

READERS = frozenset({"admin", "engineer", "viewer"})
WRITERS = frozenset({"admin", "engineer"})
ADMINS = frozenset({"admin"})

_NOT_SIGNED_IN = f"Nobody is signed in here. Open the sign-in link that Luthier printed when it started. {accounts.ANOTHER_LINK}"
_NO_TOKEN = "Send an API token as `Authorization: Bearer lt_…`. `luthier token create --name NAME` prints one."
_BAD_TOKEN = "This API token is unknown, revoked or too old. `luthier token create --name NAME` prints a new one."
_REFUSED = {
    "rater": "A rater may rate and nothing else. Ask an admin for the role viewer or engineer.",
    "viewer": "A viewer may look at everything and change nothing. Ask an admin for the role engineer.",
}
_ONLY_ADMINS = "Only an admin may do this."


# --- who asks -------------------------------------------------------------------------------------------------------------


def settings_of(request: Request) -> Settings:
    """The settings the application was made with."""
    return cast(Settings, request.app.state.settings)


def database_of(request: Request) -> Database:
    """The database the application was made with."""
    return cast(Database, request.app.state.database)


def cookie_name(settings: Settings) -> str:
    """Name of the session cookie; it carries the port, since cookies of one host are shared by its ports."""
    return "__Host-luthier" if uses_https(settings) else f"luthier_{settings.port}"


def uses_https(settings: Settings) -> bool:
    """Whether people reach the studio by https only."""
    return urlsplit(settings.public_url).scheme == "https"


def authenticate(request: Request) -> Principal:
    """Who the request acts as, by its bearer token or else its cookie; asked of the database once a request.

    Raises:
        Unauthorized: neither is there, or it does not work (any more).
    """
    known = getattr(request.state, "principal", None)
    if known is not None:
        return cast(Principal, known)
    header = request.headers.get("authorization")
    with database_of(request).read() as session:
        if header is not None:  # one way in at a time: a bad token is never made good by a cookie
            scheme, _, plain = header.partition(" ")
            who = accounts.token_principal(session, plain.strip()) if scheme.lower() == "bearer" else None
            if who is None:
                raise Unauthorized(_BAD_TOKEN if scheme.lower() == "bearer" else _NO_TOKEN)
        else:
            cookie = request.cookies.get(cookie_name(settings_of(request)))
            who = accounts.session_principal(session, cookie) if cookie else None
            if who is None:
                raise Unauthorized(_NO_TOKEN if request.url.path.startswith("/api/") else _NOT_SIGNED_IN)
    request.state.principal = who
    return who


class Needs:
    """A dependency that lets only some roles through and gives the `Principal`."""

    def __init__(self, roles: frozenset[str]) -> None:
        self.roles = roles

    def admit(self, request: Request) -> Principal:
        """The caller, when its role is among ours.

        Raises:
            Unauthorized: nobody is signed in.
            Forbidden: the role does not allow it.
        """
        who = authenticate(request)
        if who.role not in self.roles:
            raise Forbidden(
                _ONLY_ADMINS if who.role != "rater" and self.roles == ADMINS else _REFUSED.get(who.role, "Your role does not allow this.")
            )
        return who

    async def __call__(self, request: Request) -> Principal:
        # `GuardedRoute` has admitted the caller already; this only hands the principal over.
        return self.admit(request) if hasattr(request.state, "principal") else await run_in_threadpool(self.admit, request)


Reader = Annotated[Principal, Depends(Needs(READERS))]
"""Admin, engineer or viewer."""
Writer = Annotated[Principal, Depends(Needs(WRITERS))]
"""Admin or engineer."""
Admin = Annotated[Principal, Depends(Needs(ADMINS))]


def public(endpoint: Endpoint) -> Endpoint:
    """Mark a route that strangers may call. Every other route names `Reader`, `Writer` or `Admin`."""
    endpoint.__public__ = True  # type: ignore[attr-defined]  # a mark on the function itself
    return endpoint


def upload(endpoint: Endpoint) -> Endpoint:
    """Mark a route that takes files: its body may be as large as `max_upload_bytes` says, not only a few megabytes."""
    endpoint.__upload__ = True  # type: ignore[attr-defined]  # a mark on the function itself
    return endpoint


def needed(dependant: Dependant) -> list[Needs]:
    """The role checks among a route's dependencies, and theirs."""
    own = [dependant.call] if isinstance(dependant.call, Needs) else []
    return own + [need for each in dependant.dependencies for need in needed(each)]


class GuardedRoute(APIRoute):
    """A route that admits its caller before it reads the body: a stranger's upload is refused, not stored."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handler = super().get_route_handler()
        needs = needed(self.dependant)

        async def guarded(request: Request) -> Response:
            if not needs:
                return await handler(request)
            for need in needs:
                await run_in_threadpool(need.admit, request)
            response = await handler(request)
            who = authenticate(request)
            if who.stale and response.media_type == "text/event-stream":  # "afterwards" would be when the page is closed
                await run_in_threadpool(_touch, database_of(request), who)
            elif who.stale:
                tasks = BackgroundTasks([response.background] if response.background else [])
                tasks.tasks.append(BackgroundTask(_touch, database_of(request), who))
                response.background = tasks
            return response

        return guarded


def _touch(database: Database, who: Principal) -> None:
    try:
        with database.write() as session:
            accounts.touch(session, who)
    except SQLAlchemyError:
        pass  # the time of last use is not worth failing a request; the next one writes it


# --- one request = one transaction ----------------------------------------------------------------------------------------


def read_session(request: Request) -> Iterator[Session]:
    """A session for reading; takes no write lock."""
    with database_of(request).read() as session:
        yield session


def write_session(request: Request) -> Iterator[Session]:
    """A session whose work is committed before the answer is sent, or undone when the route raises."""
    with database_of(request).write() as session:
        yield session


ReadSession = Annotated[Session, Depends(read_session, scope="function")]
WriteSession = Annotated[Session, Depends(write_session, scope="function")]


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


_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorAnswer, "description": "No token, or one that does not work."},
    403: {"model": ErrorAnswer, "description": "The role does not allow this."},
    404: {"model": ErrorAnswer, "description": "There is no such thing in the workspace."},
    409: {"model": ErrorAnswer, "description": "Its state does not allow this, or somebody changed it meanwhile."},
    422: {"model": ErrorAnswer, "description": "A field cannot be used; `field` names it."},
    503: {"model": ErrorAnswer, "description": "The database does not answer right now; `Retry-After` says when to try again."},
}


def pages_router() -> APIRouter:
    """A router for pages and their fragments."""
    return APIRouter(route_class=GuardedRoute, include_in_schema=False, default_response_class=HTMLResponse)


def api_router(tag: str) -> APIRouter:
    """A router for REST routes below `/api/v1`, grouped under `tag` in the documentation."""
    return APIRouter(prefix="/api/v1", route_class=GuardedRoute, tags=[tag], responses=_REFUSALS)


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
        if fact is not None and self._who is not None:
            try:
                with self._database.read() as session:
                    value = fact(session, self._who.workspace_id)
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
    environment.globals["version"] = __version__
    return environment


def render(request: Request, template: str, who: Principal | None, **context: Any) -> str:
    """A template's text with the context of the frame: `request`, `path`, `who`, `theme`, `nav`."""
    theme = request.cookies.get("theme")
    frame = {
        "request": request,
        "path": request.url.path,
        "who": who,
        "theme": theme if theme in ("light", "dark") else "",
        "nav": Frame(database_of(request), request.app.state.facts, who),
    }
    return templates().get_template(template).render(**frame, **context)


def page(request: Request, template: str, who: Principal | None, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Answer with a template."""
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
