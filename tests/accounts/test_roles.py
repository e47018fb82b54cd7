"""Every route against every identity, as the table in `matrix.py` says: closed unless opened."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy import update
from starlette.routing import Mount
from starlette.testclient import TestClient

from app.accounts.tables import Member
from app.web import api_router, write_session
from tests.accounts.matrix import ROUTES, SECRETS, STREAMS
from tests.conftest import Stack

MAY = {
    "public": {"anonymous", "rater", "viewer", "engineer", "workspace admin", "admin"},
    "person": {"rater", "viewer", "engineer", "workspace admin", "admin"},
    "reader": {"viewer", "engineer", "workspace admin", "admin"},
    "writer": {"engineer", "workspace admin", "admin"},
    "admin": {"workspace admin", "admin"},
    "studio": {"admin"},
}


def routes(app: FastAPI) -> set[str]:
    return {
        f"{method} {context.path}"
        for context in iter_route_contexts(app.routes)
        if not isinstance(context.original_route, Mount)
        for method in context.methods or ()
    }


def test_the_table_names_every_route(app: FastAPI) -> None:
    assert routes(app) - ROUTES.keys() == set(), "add these routes to tests/accounts/matrix.py, with who may call them"
    assert ROUTES.keys() - routes(app) == set(), "these routes are gone; take them out of tests/accounts/matrix.py"


@pytest.mark.one_stack
@pytest.mark.parametrize("identity", ["anonymous", "rater", "viewer", "engineer", "workspace admin", "admin"])
def test_every_route_lets_in_whom_the_table_says(
    stack: Stack, anonymous: TestClient, as_role: Callable[[str], TestClient], app: FastAPI, identity: str
) -> None:
    client = anonymous if identity == "anonymous" else as_role(identity.replace("workspace admin", "engineer"))
    if identity == "workspace admin":
        with stack.database.write() as session:
            session.execute(update(Member).where(Member.role == "engineer").values(role="admin"))
    wrong = []
    for route in sorted(routes(app) & ROUTES.keys()):
        allowed = identity in MAY[ROUTES[route]]
        if allowed and (route in STREAMS | SECRETS or route == "POST /logout"):
            continue
        method, path = route.split(" ")
        answer = client.request(method, re.sub(r"\{[^}]+\}", "nothing", path))
        refused = {"anonymous": 401}.get(identity, 403)
        if (allowed and answer.status_code in (401, 403, 500)) or (not allowed and answer.status_code != refused):
            wrong.append(f"{route} answers {answer.status_code} to {identity}")
        if not allowed:
            assert "luthier" in answer.text or "role" in answer.text or "admin" in answer.text, f"{route} refuses without words"
    assert wrong == []


LENDING = {"/rate/{project_id}", "/rate/{project_id}/next", "/rate/{project_id}/history"}
"""Who looks at an item is lent it, and who comes to rate is a rater from then on; looking twice changes nothing more."""


def test_reading_routes_do_not_write(app: FastAPI) -> None:
    writing = []
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if (
            isinstance(route, APIRoute)
            and "GET" in route.methods
            and any(each.call is write_session for each in route.dependant.dependencies)
        ):
            writing.append(context.path)
    assert set(writing) == LENDING


def test_a_route_that_says_nothing_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from app import main
    from app.accounts import api

    router = api_router("test")
    router.add_api_route("/open-by-mistake", lambda: {}, methods=["GET"])
    monkeypatch.setattr(api, "router", router)
    with pytest.raises(RuntimeError, match="/api/v1/open-by-mistake names neither Reader, Writer nor Admin"):
        main.create_app()
