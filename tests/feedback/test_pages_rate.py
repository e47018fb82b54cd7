"""The page for rating, as a browser without JavaScript and as its script ask for it: blind, escaped, never counted twice."""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlalchemy import func, select
from starlette.testclient import TestClient

from app.feedback.tables import Event, Rating
from tests.conftest import Stack
from tests.feedback.factories import SOURCES, add_project, pair

PARTIAL = {"HX-Request": "true", "HX-Request-Type": "partial"}


def start(stack: Stack, **fields: object) -> str:
    with stack.database.write() as session:
        return add_project(session, stack.workspace_id, **fields).id  # type: ignore[arg-type]  # as the factory takes them


def slot_of(text: str) -> str:
    found = re.search(r'data-slot="([^"]+)"', text)
    assert found, text[:500]
    return found[1]


def rated(stack: Stack) -> int:
    with stack.database.read() as session:
        return session.scalar(select(func.count()).select_from(Rating)) or 0


def test_no_source_is_in_any_byte_before_the_vote(client: TestClient, stack: Stack) -> None:
    project = start(stack, reveals=True)
    for path in ("", "/next?ahead=1"):
        answer = client.get(f"/rate/{project}{path}")
        assert answer.status_code == 200
        assert not any(source in answer.text for source in SOURCES)
        assert not any(source in str(answer.headers) for source in SOURCES)
    slot = slot_of(client.get(f"/rate/{project}").text)
    voted = client.post(f"/rate/{project}/{slot}", data={"preference": "-2", "key": "k"}, headers=PARTIAL)
    assert all(source in voted.text for source in SOURCES)


def test_text_of_models_is_escaped(client: TestClient, stack: Stack) -> None:
    bad = "<script>alert(1)</script><img src=x onerror=alert(1)> [a](javascript:alert(1))"
    rows = [pair(0, prompt=bad, responses=[{"text": bad + " one", "source": "s"}, {"text": bad + " two", "source": "t"}])]
    text = client.get(f"/rate/{start(stack, items=rows)}").text
    assert "<script>alert" not in text and "<img src=x" not in text and 'href="javascript' not in text


def test_a_vote_by_plain_form_counts_once(client: TestClient, stack: Stack) -> None:
    project = start(stack)
    slot = slot_of(client.get(f"/rate/{project}").text)
    for _ in range(2):
        answer = client.post(f"/rate/{project}/{slot}", data={"preference": "both_bad", "key": "same"}, follow_redirects=False)
        assert answer.status_code == 303
    assert rated(stack) == 1
    assert slot_of(client.get(f"/rate/{project}").text) != slot
    client.post(f"/rate/{project}/undo", data={"key": "u"})
    page = client.get(f"/rate/{project}").text
    assert slot_of(page) == slot and rated(stack) == 0


def test_sides_stay_over_a_reload(client: TestClient, stack: Stack) -> None:
    project = start(stack)
    texts = [re.findall(r"The answer \d+ of (?:one|two)", client.get(f"/rate/{project}").text) for _ in range(2)]
    assert texts[0] == texts[1] and texts[0]


def test_the_vote_answers_with_the_next_item(client: TestClient, stack: Stack) -> None:
    project = start(stack)
    slot = slot_of(client.get(f"/rate/{project}").text)
    answer = client.post(f"/rate/{project}/{slot}", data={"preference": "3"}, headers={**PARTIAL, "Idempotency-Key": "a"})
    assert slot_of(answer.text) != slot and "<html" not in answer.text


def test_skip_flag_renew_and_release(client: TestClient, stack: Stack) -> None:
    project = start(stack)
    for step, reason in (("skip", "cannot_judge"), ("flag", "unsafe")):
        slot = slot_of(client.get(f"/rate/{project}").text)
        assert client.post(f"/rate/{project}/{slot}/renew").status_code == 204
        client.post(f"/rate/{project}/{slot}/{step}", data={"reason": reason, "key": step})
    slot = slot_of(client.get(f"/rate/{project}").text)
    assert client.post(f"/rate/{project}/{slot}/release").status_code == 204
    with stack.database.read() as session:
        assert sorted(session.scalars(select(Event.kind))) == ["flag", "skip"]
    assert client.get(f"/rate/{project}/history").status_code == 200


def test_a_wrong_vote_is_refused_and_nothing_is_kept(client: TestClient, stack: Stack) -> None:
    project = start(stack)
    slot = slot_of(client.get(f"/rate/{project}").text)
    assert client.post(f"/rate/{project}/{slot}", data={"preference": "9", "key": "k"}).status_code == 422
    assert client.post(f"/rate/{project}/{slot}", data={"preference": "1"}).status_code == 400
    assert rated(stack) == 0


def test_single_and_rank(client: TestClient, stack: Stack) -> None:
    rows = [pair(0, responses=[{"text": "good", "source": "s"}])]
    project = start(stack, kind="single", items=rows)
    slot = slot_of(client.get(f"/rate/{project}").text)
    client.post(f"/rate/{project}/{slot}", data={"score": "4", "key": "k"})
    project = start(stack, kind="rank")
    page = client.get(f"/rate/{project}").text
    ids = re.findall(r'name="rank\.([^"]+)"', page)
    client.post(f"/rate/{project}/{slot_of(page)}", data={f"rank.{ids[0]}": "1", f"rank.{ids[1]}": "1", "key": "r"})
    with stack.database.read() as session:
        assert {(each.score, str(each.ranking)) for each in session.scalars(select(Rating))} >= {(4.0, "None")}
        assert [[sorted(ids)]] == [[sorted(tied) for tied in each.ranking] for each in session.scalars(select(Rating)) if each.ranking]


def test_a_closed_project_and_an_empty_one_say_so(client: TestClient, stack: Stack) -> None:
    assert "is paused" in client.get(f"/rate/{start(stack, status='paused')}").text
    assert "Nothing is left" in client.get(f"/rate/{start(stack, items=0)}").text


def test_a_rater_may_and_a_viewer_may_not(as_role: Callable[[str], TestClient], stack: Stack) -> None:
    project = start(stack)
    assert as_role("rater").get("/rate").status_code == as_role("rater").get(f"/rate/{project}").status_code == 200
    assert as_role("viewer").get(f"/rate/{project}").status_code == 403
    assert "rate nothing" in as_role("viewer").get("/rate").text
