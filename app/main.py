"""The web application: puts the nouns' routes, the guards and the live hub together. Holds no feature of its own."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute, Mount

from app import __version__, answers
from app.accounts import service as accounts
from app.assets import Assets
from app.chats import live as chat_live
from app.chats import pages as chat_pages
from app.database import Database, get_database
from app.errors import ConfigError
from app.events import Hub, Source
from app.feedback import live as feedback_live
from app.feedback import pages as feedback_pages
from app.feedback.upkeep import Upkeep
from app.runs import live
from app.runs import pages as run_pages
from app.runs import service as runs
from app.security import Attempts, BodyLimit, Faults, Heads, Rates, SameOrigin, SecurityHeaders, TrustedHosts
from app.settings import Settings, files, get_settings
from app.web import cookie_name, needed, uses_https
from app.workers import service as workers

log = logging.getLogger(__name__)

NOUNS = (
    "accounts",
    "datasets",
    "checkpoints",
    "chains",
    "exports",
    "feedback",
    "plans",
    "chats",
    "system",
    "runs",
    "metrics",
    "workers",
    "methods",
    "jobs",
    "webhooks",
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application for some settings (those of this process, unless given).

    Raises:
        RuntimeError: a route says neither who may call it nor that it is public.
    """
    own = settings is None or settings is get_settings()
    settings = settings or get_settings()
    app = FastAPI(
        title="Luthier",
        version=__version__,
        summary="Self-hosted fine-tuning studio.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        middleware=_guards(settings, takes_files=lambda method, path: any(m == method and p.fullmatch(path) for m, p in app.state.uploads)),
    )
    app.state.settings = settings
    app.state.database = get_database() if own else Database(settings.database)
    app.state.attempts = Attempts(settings.login_attempts_per_minute)
    app.state.rates = Rates(settings.changes_per_minute)
    app.state.streams = Counter()
    app.state.facts = _frame_facts()
    answers.install(app)
    app.mount("/static", Assets(directory=files("static"), check_dir=False), name="static")
    for noun in NOUNS:
        for part in ("pages", "api"):
            if find_spec(f"app.{noun}.{part}"):
                # The routers carry their prefix and settings, so their routes are taken as they are; including them would build each anew.
                app.router.routes.extend(import_module(f"app.{noun}.{part}").router.routes)
    app.state.uploads = _check_routes(app.routes)
    return app


def _guards(settings: Settings, takes_files: Callable[[str, str], bool]) -> list[Middleware]:
    refuse = answers.refuse
    return [
        Middleware(SecurityHeaders, https=uses_https(settings)),
        Middleware(Faults, fault=answers.fault),
        Middleware(TrustedHosts, hosts=settings.hosts, refuse=refuse),
        Middleware(BodyLimit, upload_bytes=settings.max_upload_bytes, takes_files=takes_files, refuse=refuse),
        Middleware(SameOrigin, cookie=cookie_name(settings), refuse=refuse),
        Middleware(Heads),
        Middleware(GZipMiddleware, minimum_size=1024, compresslevel=5),
    ]


def _frame_facts() -> dict[str, Callable[[Session, str], Any]]:
    """What the frame of every page shows of a workspace, by name; each is asked only when a template uses it."""
    return {"active_runs": _active_runs, "device": lambda session, workspace_id: workers.device(session)}


def _active_runs(session: Session, workspace_id: str) -> int:
    return runs.count_active(session, workspace_id)


def _check_routes(routes: Sequence[BaseRoute]) -> list[tuple[str, re.Pattern[str]]]:
    """Deny by default: every route names who may call it. Returns method and pattern of those that take files."""
    uploads = []
    for context in iter_route_contexts(routes):
        route = context.original_route
        if isinstance(route, Mount):
            continue
        if not isinstance(route, APIRoute):
            raise RuntimeError(f"The route {context.path} was not made by app.web's routers, so nothing says who may call it.")
        if not needed(route.dependant) and not getattr(route.endpoint, "__public__", False):
            raise RuntimeError(f"The route {context.path} names neither Reader, Writer nor Admin, and is not marked @public.")
        if getattr(route.endpoint, "__upload__", False):
            uploads += [(method, re.compile(context.path_regex.pattern)) for method in context.methods or ()]
    return uploads


def check_assets() -> None:
    """See that the browser assets were installed.

    Raises:
        ConfigError: they are missing.
    """
    if not (files("static") / "vendor" / "htmx.js").is_file():
        raise ConfigError("The browser assets are missing (static/vendor). Run `make setup`, or `pip install -e .`, to fetch them.")


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    check_assets()
    try:
        with app.state.database.write() as session:
            accounts.ensure_first(session)
    except SQLAlchemyError as error:
        # Not fatal: the database may come later, and /readyz says that it is away.
        log.warning("The database is not ready: %s", answers.as_studio_error(error) or error)
    hub = app.state.hub = Hub(app.state.database, _live_topics())
    hub.start()
    upkeep = Upkeep(app.state.database)
    upkeep.start()
    try:
        yield
    finally:
        upkeep.stop()
        hub.stop()


def _live_topics() -> dict[str, Source]:
    """Kinds of topics a page may follow, with what renders their fragments."""
    return {
        "run": live.RunTopic(run_pages.live_fragment),
        "queue": live.QueueTopic(run_pages.row_fragment),
        "chat": chat_live.ChatTopic(chat_pages.live_fragment),
        "feedback": feedback_live.FeedbackTopic(feedback_pages.live_fragment),
    }
