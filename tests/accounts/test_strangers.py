"""What lies in other workspaces is not there: 1,000 ids of nobody, and real ones of somebody else, at every address that takes one."""

from __future__ import annotations

import random
import re
from itertools import cycle

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.testclient import TestClient

from app.accounts import service
from app.accounts.tables import Workspace
from app.database import new_id
from tests.accounts.matrix import ROUTES
from tests.conftest import Stack, signed_in
from tests.factories import add_checkpoint, add_dataset, add_run

PREFIXES = ["run", "ds", "ckpt", "job", "user", "inv", "ws", "ses", "chat", "exp", "hook"]
HOSTILE = ["null", "undefined", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "' OR 1=1 --", "🧪", "x" * 3000, "@3", "run_1@2"]
WITH_IDS = sorted(route for route in ROUTES if route.startswith("GET ") and re.search(r"\{\w+_id\}", route))


def made_up(chance: random.Random) -> str:
    """An id that nobody has: well made, nearly so, or hostile."""
    kinds = [
        lambda: new_id(chance.choice(PREFIXES)),
        lambda: f"{chance.choice(PREFIXES)}_{chance.getrandbits(90):018x}",
        lambda: str(chance.randrange(-5, 10**12)),
        lambda: chance.choice(
            ["null", "undefined", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "' OR 1=1 --", "🧪", "x" * 3000, "@3", "run_1@2"]
        ),
    ]
    return str(chance.choice(kinds)())


def needed_queries(app: FastAPI) -> dict[str, dict[str, str]]:
    """For each GET route, something for the query parameters it cannot do without."""
    return {
        str(context.path): {each.alias: "1" for each in context.original_route.dependant.query_params if each.field_info.is_required()}
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, APIRoute) and "GET" in (context.methods or ())
    }


@pytest.mark.one_stack
def test_a_thousand_ids_of_nobody_find_nothing(app: FastAPI, client: TestClient) -> None:
    chance, queries = random.Random(7), needed_queries(app)
    wrong = []
    for _, route in zip(range(1000), cycle(WITH_IDS), strict=False):
        path = re.sub(r"\{\w+_id\}", lambda _: made_up(chance), route.removeprefix("GET "))
        path = re.sub(r"\{\w+\}", "1", path)
        answer = client.get(path, params=queries[route.removeprefix("GET ")])
        if answer.status_code != 404 and not (answer.status_code == 422 and "%00" in path):  # Postgres keeps no NUL
            wrong.append(f"{answer.status_code} {route} {path[:120]}")
    assert wrong == []


def test_real_ids_of_another_workspace_find_nothing(stack: Stack, app: FastAPI, client: TestClient) -> None:
    with stack.database.write() as session:
        other = Workspace(name="Other")
        session.add(other)
        session.flush()
        stranger = service.add_user(session, "stranger", "admin", workspace_id=other.id).id
        checkpoint, dataset = add_checkpoint(session, other.id), add_dataset(session, other.id)
        run = add_run(session, other.id, checkpoint_id=checkpoint.id, dataset_id=dataset.id)
        ids = {"checkpoint_id": checkpoint.id, "dataset_id": dataset.id, "run_id": run.id}
    theirs, queries = signed_in(app, stack, stranger), needed_queries(app)
    wrong = []
    for route, needs in sorted(ROUTES.items()):
        method, path = route.split(" ")
        names = re.findall(r"\{(\w+_id)\}", path)
        if needs == "public" or not names or not set(names) <= ids.keys():
            continue
        filled = re.sub(r"\{(\w+_id)\}", lambda match: ids[match[1]], path)
        filled = re.sub(r"\{\w+\}", "1", filled)
        answer = client.request(method, filled, params=queries.get(path, {}) if method == "GET" else None)
        if answer.status_code == 404 or (answer.status_code == 422 and method != "GET"):
            continue
        wrong.append(f"{answer.status_code} {route}")
    assert wrong == []
    assert theirs.get(f"/runs/{ids['run_id']}").status_code == 200
    assert theirs.get(f"/api/v1/datasets/{ids['dataset_id']}").status_code == 200
    assert theirs.get(f"/api/v1/checkpoints/{ids['checkpoint_id']}").status_code == 200
