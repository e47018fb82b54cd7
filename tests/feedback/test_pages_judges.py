"""The page of judges and their REST: adding one, what it shows while it works and after, stopping, deleting; nothing of it for raters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from app.checkpoints import service as checkpoints
from app.feedback import judges
from app.feedback.tables import Item, Project
from app.feedback.tables_judges import Judge, Judgement
from app.jobs.tables import Job
from tests.conftest import Stack
from tests.factories import add_checkpoint
from tests.feedback import rated

pytestmark = pytest.mark.one_stack

NASTY = "<script>alert(1)</script>"


@pytest.fixture
def project(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> str:
    """A project of rated pairs, beside two checkpoints whose files are taken to be there."""
    monkeypatch.setattr(checkpoints, "training_paths", lambda session, checkpoint: {"path": "there", "adapter": None})
    with stack.database.write() as session:
        add_checkpoint(session, stack.workspace_id, id="ckpt_tiny", name="tiny")
        add_checkpoint(session, stack.workspace_id, id="ckpt_marks", name="marks", config={"task": "reward"})
        return rated.rated_pairs(session, stack.workspace_id, 4).id


def test_from_an_empty_page_to_a_verdict(client: TestClient, as_role: Callable[[str], TestClient], stack: Stack, project: str) -> None:
    url = f"/feedback/{project}/judges"
    page = client.get(url).text
    assert "No judge yet" in page and "marks · gives numbers" in page and "[Answer B]" in page and f'href="{url}"' in page
    viewer, rater = as_role("viewer"), as_role("rater")
    assert "Add a judge" not in viewer.get(url).text and rater.get(url).status_code == 403
    sent = {"checkpoint": "ckpt_tiny", "principles": f"Be kind.\r\n\r\n{NASTY}", "limit": "3", "side": "75 %", "name": "Solomon"}
    for wrong, words in (
        ({"checkpoint": ""}, "Choose the checkpoint that judges."),
        ({"limit": "0"}, "Must be from 1 to 20,000"),
        ({"limit": "2.5"}, "Type a whole number."),
        ({"side": "40"}, "Must be from 50 to 90"),
        ({"checkpoint": "ckpt_gone"}, "There is no checkpoint “ckpt_gone”"),
        ({"checkpoint": "ckpt_marks"}, "reads no principles"),
        ({"principles": "\n".join(f"Be {n}." for n in range(11))}, "10"),
        ({"principles": "Be kind.\nBe kind."}, "Principle 2 is there twice."),
    ):
        answer = client.post(url, data={**sent, **wrong})
        assert answer.status_code in (404, 422) and words in answer.text and 'id="problems"' in answer.text, (wrong, answer.text)
        assert 'value="Solomon"' in answer.text and NASTY not in answer.text
    assert client.post(url, data=sent).headers["location"] == url
    page = client.get(url).text
    assert "Solomon" in page and "waiting" in page and "every 2s" in page and NASTY not in page and "2 principles" in page
    with stack.database.write() as session:
        judge = session.scalars(select(Judge)).one()
        assert (judge.most, judge.tie, judge.principles) == (3, 0.25, ["Be kind.", NASTY])
        card = f"{url}/{judge.id}"
        for item in session.scalars(select(Item).limit(3)):
            session.add(Judgement(judge_id=judge.id, item_id=item.id, preference=1, questions=2, flips=2, firsts=2, mass=0.2))
        judge.done = 3
    shown = client.get(f"{card}/card").text
    assert "<html" not in shown and "3 items judged" in shown and "every 2s" in shown
    assert client.post(f"{card}/stop").status_code == 303
    page = client.get(url).text
    for words in ("stopped", "Too few items to say: it judged 3 items", "Flips with the order", "would rather say something else", "Go on"):
        assert words in page
    assert "every 2s" not in page and "Delete the judge “Solomon”" in page
    assert "/stop" not in viewer.get(url).text and viewer.post(f"{card}/delete").status_code == 403
    assert client.post(f"{card}/sing").status_code == 409
    assert client.post(f"{card}/go-on").status_code == 303 and client.post(f"{card}/go-on").status_code == 409
    with stack.database.write() as session:
        session.scalars(select(Job)).one().status = "succeeded"
    assert "Judge more items" in client.get(url).text and client.post(f"{card}/go-on", data={"more": "1"}).status_code == 303
    with stack.database.read() as session:
        assert session.scalars(select(Judge)).one().most == 1003
    assert client.post(f"{card}/delete").status_code == 303 and "No judge yet" in client.get(url).text


def test_rest(api: TestClient, as_role: Callable[[str], TestClient], stack: Stack, project: str) -> None:
    url = f"/api/v1/feedback/projects/{project}/judges"
    made = api.post(url, json={"checkpoint": "marks"}, headers={"Idempotency-Key": "one"})
    assert made.status_code == 201 and made.json() == api.post(url, json={"checkpoint": "marks"}, headers={"Idempotency-Key": "one"}).json()
    judge = made.json()
    assert judge["kind"] == "reward" and judge["progress"]["status"] == "queued" and judge["created_at"].endswith("Z")
    wrong = api.post(url, json={"checkpoint": "marks", "principles": ["x"]})
    assert wrong.status_code == 422 and wrong.json()["error"]["field"] == "principles"
    assert api.post(url, json={"checkpoint": "marks", "tie": 0.6}).status_code == 422
    assert [each["id"] for each in api.get(url).json()["data"]] == [judge["id"]]
    one = f"{url}/{judge['id']}"
    with stack.database.write() as session:
        items = sorted(session.scalars(select(Item.id)))
        session.add_all(Judgement(judge_id=judge["id"], item_id=each, preference=2, detail={"rewards": [0, 1]}) for each in items)
        session.get_one(Judge, judge["id"]).done = 4
    found = api.get(one).json()
    assert found["report"]["rated"] == 4 and found["report"]["figures"][0]["key"] == "most" and found["report"]["problems"] == []
    piece = api.get(f"{one}/judgements?limit=3").json()
    assert [each["item"] for each in piece["data"]] == items[:3] and piece["data"][0]["detail"] == {"rewards": [0, 1]}
    rest = api.get(f"{one}/judgements?after={piece['next']}").json()
    assert [each["item"] for each in rest["data"]] == items[3:] and not rest["has_more"]
    assert len(api.get(f"{one}/judgements?item={items[1]}").json()["data"]) == 1
    assert api.post(f"{one}/cancel").json()["progress"]["status"] == "cancelled" and api.post(f"{one}/resume").status_code == 409
    with stack.database.write() as session:
        rated.add_item(session, session.get_one(Project, project), "One more", ["a", "b"])
    assert api.post(f"{one}/resume", json={"limit": 2000}).json()["limit"] == 2000
    rater = as_role("rater")
    assert {rater.get(each).status_code for each in (url, one, f"{one}/judgements")} == {403} and rater.delete(one).status_code == 403
    assert api.delete(one).status_code == 204 and api.get(one).status_code == 404
    api.post(url, json={"checkpoint": "tiny", "principles": ["Be kind."]})
    assert api.delete(f"/api/v1/feedback/projects/{project}").status_code == 204
    with stack.database.read() as session:
        assert judges.KIND in {job.kind for job in session.scalars(select(Job)) if job.status == "cancelled"}
        assert session.scalar(select(Judge.id)) is None and session.scalar(select(Judgement.item_id)) is None
