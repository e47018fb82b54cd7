"""The page for rating, as a browser without JavaScript and as its script ask for it: blind, escaped, never counted twice."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from app.feedback.tables import Event, Rating, Slot
from tests.conftest import Stack
from tests.feedback.factories import SOURCES, add_project, pair

pytestmark = pytest.mark.one_stack

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
        assert client.post(f"/rate/{project}/{slot}/renew").json() == {"lost": []}
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


def test_undo_shows_what_was_said_and_the_history_says_it_in_words(client: TestClient, stack: Stack) -> None:
    asked = [{"key": "right", "title": "Right?"}, {"key": "style", "title": "Style", "options": ["good", "bad"], "each": True}]
    answers = [{"text": f"text {place}", "source": "s"} for place in range(3)]
    project = start(stack, kind="rank", criteria=asked, items=[pair(0, responses=answers)])
    page = client.get(f"/rate/{project}").text
    a, b, c = re.findall(r'name="rank\.([^"]+)"', page)
    said = {
        f"rank.{a}": "2",
        f"rank.{b}": "1",
        f"rank.{c}": "2",
        f"label.not-acceptable.{c}": "yes",
        f"label.style.{b}": "bad",
        "label.right": "no",
    }
    client.post(f"/rate/{project}/{slot_of(page)}", data={**said, "comment": "so <b>so</b>", "key": "k"}, follow_redirects=False)
    history = client.get(f"/rate/{project}/history").text
    assert "B, then A = C" in history and "Not acceptable: C" in history and "Style: B bad" in history and "so &lt;b&gt;so" in history
    again = client.post(f"/rate/{project}/undo", data={"key": "u"}, headers=PARTIAL).text
    assert re.findall(r'name="rank\.[^"]+" type="number" min="1" max="3" value="(.)"', again) == ["2", "1", "2"]
    assert len(re.findall(r" checked", again)) == 3 and "so &lt;b&gt;so" in again
    assert "undone" in client.get(f"/rate/{project}/history").text


def test_renewing_tells_which_items_others_have(client: TestClient, stack: Stack) -> None:
    project = start(stack)
    here, ahead = (slot_of(client.get(f"/rate/{project}{path}").text) for path in ("", "/next?ahead=1"))
    with stack.database.write() as session:
        session.execute(update(Slot).where(Slot.item_id == ahead.partition(".")[0]).values(rater_id=None, lease_until=None))
    assert client.post(f"/rate/{project}/{here}/renew", data={"also": [ahead]}).json() == {"lost": [ahead]}


def test_a_vote_from_another_page_is_taken_and_no_item_is_kept_for_it(client: TestClient, stack: Stack) -> None:
    project = start(stack)
    slot = slot_of(client.get(f"/rate/{project}").text)
    answer = client.post(f"/rate/{project}/{slot}?only=1", data={"preference": "3"}, headers={**PARTIAL, "Idempotency-Key": "a"})
    assert "data-saved" in answer.text and "data-slot" not in answer.text and rated(stack) == 1
    with stack.database.read() as session:
        assert not session.scalar(select(func.count()).select_from(Slot).where(Slot.rater_id.is_not(None), Slot.done_at.is_(None)))


def test_a_project_that_asks_for_the_worse_answer_says_so_on_its_buttons(client: TestClient, stack: Stack) -> None:
    text = client.get(f"/rate/{start(stack, direction='worse')}").text
    assert "A much worse" in text and "B worse" in text and "much better" not in text


def test_a_megabyte_is_shown_as_it_is(client: TestClient, stack: Stack) -> None:
    long = "| a | b |\n" * 105_000
    rows = [pair(0, prompt="<b>" + long, responses=[{"text": f"<i>{long}{end}", "source": "s"} for end in "12"])]
    text = client.get(f"/rate/{start(stack, items=rows)}").text
    assert text.count("&lt;i&gt;| a") == 2 and "<td>" not in text and "&lt;b&gt;| a" in text
