"""Who asks and what they may: sign-in, roles, scopes, rates, one transaction a request, the audit log of every route. No feature."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.concurrency import run_in_threadpool

from app.accounts import audit, scopes, sessions
from app.accounts import service as accounts
from app.accounts.schemas import Principal
from app.database import Database
from app.errors import Forbidden, TooMany, Unauthorized
from app.security import SAFE_METHODS, Rates
from app.settings import Settings

log = logging.getLogger(__name__)

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

EVERYBODY = frozenset({"admin", "engineer", "viewer", "rater"})
READERS = frozenset({"admin", "engineer", "viewer"})
WRITERS = frozenset({"admin", "engineer"})
ADMINS = frozenset({"admin"})
LOOK_SECONDS = 10.0
"""How often it is seen whether the reader of an open stream may still read it."""
MAX_STREAMS = 100
"""Streams that may be open at once for one session or token."""

_NOT_SIGNED_IN = f"Nobody is signed in here. Sign in with your password, or with a link. {accounts.ANOTHER_LINK}"
_NO_TOKEN = "Send an API token as `Authorization: Bearer lt_…`. `luthier token create --name NAME` prints one."
_BAD_TOKEN = "This API token is unknown, revoked or too old. `luthier token create --name NAME` prints a new one."
_REFUSED = {
    "rater": "A rater may rate and nothing else. Ask an admin for the role viewer or engineer.",
    "viewer": "A viewer may look at everything and change nothing. Ask an admin for the role engineer.",
}
_ONLY_ADMINS = "Only an admin may do this. You act as {role} in this workspace."
_ONLY_STUDIO = "Only an admin of the studio may do this; you are admin of this workspace. Ask one of them."


# --- who asks -------------------------------------------------------------------------------------------------------------


def settings_of(request: Request) -> Settings:
    """The settings the application was made with."""
    return cast(Settings, request.app.state.settings)


def database_of(request: Request) -> Database:
    """The database the application was made with, for a route that makes its own transactions."""
    request.state.own_transactions = True
    return cast(Database, request.app.state.database)


def cookie_name(settings: Settings) -> str:
    """Name of the session cookie; it carries the port, since cookies of one host are shared by its ports."""
    return "__Host-luthier" if uses_https(settings) else f"luthier_{settings.port}"


def uses_https(settings: Settings) -> bool:
    """Whether people reach the studio by https only."""
    return urlsplit(settings.public_url).scheme == "https"


def address_of(request: Request) -> str:
    """The address a request comes from."""
    return request.client.host if request.client else "unknown"


def authenticate(request: Request) -> Principal:
    """Who the request acts as, by its bearer token or else its cookie; asked of the database once a request.

    Raises:
        Unauthorized: neither is there, or it does not work (any more).
    """
    known = getattr(request.state, "principal", None)
    if known is not None:
        return cast(Principal, known)
    header = request.headers.get("authorization")
    with request.app.state.database.read() as session:
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

    def __init__(self, roles: frozenset[str], *, studio: bool = False) -> None:
        self.roles, self.studio = roles, studio

    def admit(self, request: Request) -> Principal:
        """The caller, when its role is among ours.

        Raises:
            Unauthorized: nobody is signed in.
            Forbidden: the role, or the scope of the token, does not allow it.
        """
        who = authenticate(request)
        if who.role not in self.roles:
            only_admins = who.role != "rater" and self.roles == ADMINS
            raise Forbidden(_ONLY_ADMINS.format(role=who.role) if only_admins else _REFUSED.get(who.role, "Your role does not allow this."))
        if self.studio and not who.studio:
            raise Forbidden(_ONLY_STUDIO)
        scopes.refuse(who, request.method, request.url.path)
        return who

    async def __call__(self, request: Request) -> Principal:
        # `GuardedRoute` has admitted the caller already; this only hands the principal over.
        return self.admit(request) if hasattr(request.state, "principal") else await run_in_threadpool(self.admit, request)


Person = Annotated[Principal, Depends(Needs(EVERYBODY))]
"""Whoever is signed in, raters too."""
Reader = Annotated[Principal, Depends(Needs(READERS))]
"""Admin, engineer or viewer."""
Writer = Annotated[Principal, Depends(Needs(WRITERS))]
"""Admin or engineer."""
Admin = Annotated[Principal, Depends(Needs(ADMINS))]
"""Admin of the workspace."""
StudioAdmin = Annotated[Principal, Depends(Needs(ADMINS, studio=True))]
"""Admin of the whole studio."""


def public(endpoint: Endpoint) -> Endpoint:
    """Mark a route that strangers may call. Every other route names `Person`, `Reader`, `Writer`, `Admin` or `StudioAdmin`."""
    endpoint.__public__ = True  # type: ignore[attr-defined]  # a mark on the function itself
    return endpoint


def upload(endpoint: Endpoint) -> Endpoint:
    """Mark a route that takes files: its body may be as large as `max_upload_bytes` says, not only a few megabytes."""
    endpoint.__upload__ = True  # type: ignore[attr-defined]  # a mark on the function itself
    return endpoint


def unrecorded(endpoint: Endpoint) -> Endpoint:
    """Mark a route whose changes are too small and too many for the audit log, such as a keystroke that is kept."""
    endpoint.__unrecorded__ = True  # type: ignore[attr-defined]  # a mark on the function itself
    return endpoint


def needed(dependant: Dependant) -> list[Needs]:
    """The role checks among a route's dependencies, and theirs."""
    own = [dependant.call] if isinstance(dependant.call, Needs) else []
    return own + [need for each in dependant.dependencies for need in needed(each)]


# --- one request = one transaction ----------------------------------------------------------------------------------------


def read_session(request: Request) -> Iterator[Session]:
    """A session for reading; takes no write lock."""
    with request.app.state.database.read() as session:
        request.state.reading = session
        yield session


def write_session(request: Request) -> Iterator[Session]:
    """A session whose work is committed before the answer is sent, or undone when the route raises. What it changed is in the audit log."""
    with request.app.state.database.write() as session:
        session.info["address"] = address_of(request)
        audit.watch(session)
        yield session
        _record_changes(request, session)


ReadSession = Annotated[Session, Depends(read_session, scope="function")]
WriteSession = Annotated[Session, Depends(write_session, scope="function")]


# --- the audit log --------------------------------------------------------------------------------------------------------

_NOUNS = {"models": "checkpoints"}
_VERBS = {"POST": "create", "PUT": "change", "PATCH": "change", "DELETE": "delete"}


def action_of(request: Request) -> tuple[str, str]:
    """What a request does, as noun and verb, and to what: `("runs.cancel", "run_1")`."""
    values = [str(value) for value in request.path_params.values()]
    parts = [unquote(part) for part in request.url.path.split("/") if part]
    if parts[:2] == ["api", "v1"]:
        parts = parts[2:]
    static = [part for part in parts if part not in values and part not in ("settings", "new")]
    noun = _NOUNS.get(static[0], static[0]) if static else "studio"
    verb = static[-1] if len(static) > 1 else _VERBS.get(request.method, "read")
    return f"{noun}.{verb}", "/".join(values)


def _is_recorded(request: Request) -> bool:
    endpoint = request.scope.get("endpoint")
    return request.method not in SAFE_METHODS and not getattr(endpoint, "__unrecorded__", False)


def _record_changes(request: Request, session: Session) -> None:
    """Note what a route did in its transaction, unless it noted it itself, was refused, or changed nothing."""
    info, state = session.info, request.state
    if info.get("audit"):
        state.recorded = True
        return
    who: Principal | None = getattr(state, "principal", None)
    if who is None or not info.get("written") or getattr(state, "refused", False) or not _is_recorded(request):
        return
    action, subject = action_of(request)
    made = info.get("made", {})
    audit.record(session, who, action, subject or made.get(action.split(".")[0], "") or next(iter(made.values()), ""))
    state.recorded = True


def _record_after(request: Request, who: Principal, action: str, subject: str) -> None:
    if hasattr(request.state, "reading"):  # two connections at once for one request would starve the others
        request.state.reading.close()
    with request.app.state.database.write() as session:
        session.info["address"] = address_of(request)
        audit.record(session, who, action, subject)


async def _record_answer(request: Request, response: Response, who: Principal) -> None:
    """Note downloads, and what a route did in transactions of its own."""
    if response.status_code >= 400 or getattr(request.state, "recorded", False):
        return
    action, subject = action_of(request)
    if "attachment" in response.headers.get("content-disposition", ""):
        if not request.scope.get("head"):
            await _in_own_thread(_record_after, request, who, f"{action.split('.')[0]}.download", subject)
    elif getattr(request.state, "own_transactions", False) and not getattr(request.state, "refused", False) and _is_recorded(request):
        await _in_own_thread(_record_after, request, who, action, subject or _made(response))


async def _in_own_thread(function: Callable[..., None], *arguments: Any) -> None:
    """Run beside the pool of threads: a request that still holds a connection must not wait for those that wait for one."""
    await to_thread.run_sync(function, *arguments, limiter=CapacityLimiter(1))


def _made(response: Response) -> str:
    """Id of what a request made, by its answer: the JSON of a call, or where a page sends the browser."""
    where = response.headers.get("location") or response.headers.get("hx-redirect")
    if where:
        return urlsplit(where).path.rpartition("/")[2]
    if isinstance(response, JSONResponse):
        answer = json.loads(bytes(response.body))
        return str(answer.get("id", "")) if isinstance(answer, dict) else ""
    return ""


# --- the route ------------------------------------------------------------------------------------------------------------


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
            who = authenticate(request)
            if request.method not in SAFE_METHODS and request.url.path.startswith(("/api/", "/v1/")):
                cast(Rates, request.app.state.rates).take(who.credential_id)
            if request.url.path.removeprefix("/api/v1") == "/events":
                if request.app.state.streams[who.credential_id] >= MAX_STREAMS:
                    raise TooMany(f"{MAX_STREAMS} streams are open for this session or token already. Close some pages first.")
                if who.stale:  # "afterwards" would be when the page is closed
                    await run_in_threadpool(_touch, request.app.state.database, who)
            response = await handler(request)
            await _record_answer(request, response, who)
            if request.scope.get("head") and isinstance(response, StreamingResponse | FileResponse):  # nothing of it would be sent
                return _without_body(response)
            if isinstance(response, StreamingResponse) and response.media_type == "text/event-stream":
                roles = frozenset.intersection(*(need.roles for need in needs))
                response.body_iterator = _while_admitted(response.body_iterator, request.app.state, who, roles)
            elif who.stale:
                tasks = BackgroundTasks([response.background] if response.background else [])
                tasks.tasks.append(BackgroundTask(_touch, request.app.state.database, who))
                response.background = tasks
            return response

        return guarded


def _without_body(response: Response) -> Response:
    looked = Response(status_code=response.status_code, headers=dict(response.headers))
    del looked.headers["content-length"]
    return looked


def _touch(database: Database, who: Principal) -> None:
    try:
        with database.write() as session:
            accounts.touch(session, who)
    except SQLAlchemyError:
        pass  # the time of last use is not worth failing a request; the next one writes it


def _may_still(database: Database, who: Principal, roles: frozenset[str]) -> bool:
    try:
        with database.read() as session:
            return sessions.still_there(session, who, roles)
    except SQLAlchemyError:
        return True  # the stream has nothing to say while the database is away; the next look decides


async def _while_admitted(parts: Any, state: Any, who: Principal, roles: frozenset[str]) -> AsyncIterator[Any]:
    """A stream that ends soon after its reader's session or token did, or the role was lowered."""
    # Streams opened at once (after a restart) should not all look at once.
    iterator, look = parts.__aiter__(), time.monotonic() + LOOK_SECONDS * random.uniform(0.3, 1.0)
    waiting: asyncio.Task[Any] | None = None
    state.streams[who.credential_id] += 1
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(iterator))
            await asyncio.wait({waiting}, timeout=max(0.0, look - time.monotonic()))
            if time.monotonic() >= look:
                if not await run_in_threadpool(_may_still, state.database, who, roles):
                    return
                look = time.monotonic() + LOOK_SECONDS
            if waiting.done():
                done, waiting = waiting, None
                try:
                    yield done.result()
                except StopAsyncIteration:
                    return
    finally:
        state.streams[who.credential_id] -= 1
        if waiting is not None:
            waiting.add_done_callback(lambda task: task.cancelled() or task.exception())  # seen, so that nobody complains of it
            waiting.cancel()
            await asyncio.wait({waiting})
        if hasattr(iterator, "aclose"):
            await iterator.aclose()
