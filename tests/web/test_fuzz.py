"""Whatever is sent to the REST interface in the way its document describes, the server does not fail: 2,000 made-up requests."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from starlette.testclient import TestClient

from tests.conftest import Stack

CASES = 1_000
SKIP = {"/api/v1/events"}  # an open stream has no end to wait for; tests/runs/test_live.py looks at it


@pytest.mark.slow
def test_no_request_makes_the_server_fail(stack: Stack, api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    found: list[Any] = list(schema.get_all_operations())
    operations = [each.ok() for each in found if each.ok().path not in SKIP]
    share = CASES // len(operations) + 1
    seen: Counter[int] = Counter()
    failed: list[str] = []
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _ask(api, operation, mode, share // 2 + 1, seen, failed)
    assert not failed, f"{len(failed)} of {seen.total()} requests: " + "\n".join(failed[:5])
    assert seen.total() >= CASES and len(seen) >= 4, seen


def _ask(api: TestClient, operation: Any, mode: GenerationMode, count: int, seen: Counter[int], failed: list[str]) -> None:
    """Send made-up requests to one operation; those that make the server fail are noted as commands that do it again."""

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def _one(case: Any) -> None:
        asked = requests.Request(**{**case.as_transport_kwargs(base_url="http://127.0.0.1:8000"), "cookies": {}}).prepare()
        headers = {name: str(value) for name, value in asked.headers.items() if name.lower() not in ("authorization", "cookie")}
        body: Any = asked.body
        answer = api.request(str(asked.method), str(asked.url), headers=headers, content=body)
        seen[answer.status_code] += 1
        if answer.status_code >= 500:
            failed.append(f"{answer.status_code} {case.as_curl_command()} {answer.text[:300]}")

    with suppress(Unsatisfiable):  # an operation without parameters cannot be asked wrongly
        _one()
