"""The owner's pages of feedback, as a browser without JavaScript and as htmx ask for them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from app.accounts.schemas import Principal
from app.accounts.tables import User
from app.database import Database
from app.feedback import service
from app.feedback.schemas import ItemIn, ProjectCreate, ResponseIn, Vote
from app.feedback.tables import Item, Project, Rater
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset

pytestmark = pytest.mark.one_stack

HTMX = {"HX-Request": "true", "HX-Request-Type": "partial"}
PAIRS = [
    {"prompt": f"Question {n}?", "responses": [{"text": f"Answer {n}", "source": "alpha"}, {"text": f"Reply {n}", "source": "beta"}]}
    for n in range(10)
]
LINES = "".join(json.dumps(each) + "\n" for each in PAIRS)


def make(stack: Stack, *, items: int = 4, **asked: Any) -> str:
    """A project with pairs in it."""
    with stack.database.write() as session:
        project = service.create_project(session, stack.workspace_id, ProjectCreate(**{"name": "Which is nicer", **asked}), stack.admin_id)
        rows = [
            ItemIn(
                prompt=f"Question {n}?",
                responses=[ResponseIn(text=f"Answer {n}", source="alpha"), ResponseIn(text=f"Re {n}", source="beta")],
            )
            for n in range(items)
        ]
        service.add_items(session, project, rows)
        return project.id


def rate_as(database: Database, workspace_id: str, user_id: str, project_id: str, times: int, **said: Any) -> str:
    """Have somebody rate so many items; returns the id of the rater."""
    blank: dict[str, Any] = dict.fromkeys(Principal.__dataclass_fields__, "")
    with database.write() as session:
        user = session.get_one(User, user_id)
        known = {"user_id": user.id, "user_name": user.name, "workspace_id": workspace_id, "role": user.role}
        project = service.get_project(session, workspace_id, project_id)
        rater = service.rater_for(session, project, Principal(**{**blank, **known}))
        for _ in range(times):
            task = service.claim(session, project, rater)
            assert task is not None
            service.rate(session, project, rater, task.slot, Vote(**{"preference": -3, **said}), f"key of {task.slot}")
        return rater.id


def rate(stack: Stack, project_id: str, times: int = 1, **said: Any) -> str:
    """Have the admin rate so many items; returns the id of the rater."""
    return rate_as(stack.database, stack.workspace_id, stack.admin_id, project_id, times, **said)


def test_empty_list_explains_the_loop_and_leads_on(client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    page = client.get("/feedback").text
    assert all(f"{n}. {word}" in page for n, word in ((1, "Rate"), (2, "Check"), (3, "Train"))) and 'href="/feedback/new"' in page
    assert 'href="/feedback/new"' not in as_role("viewer").get("/feedback").text


def test_first_the_kind(client: TestClient) -> None:
    page = client.get("/feedback/new?checkpoint=ckp_1").text
    for kind in ("pair", "single", "rank"):
        assert f"/feedback/new?kind={kind}&amp;checkpoint=ckp_1" in page
    assert "Thumbs up or down" in client.get("/feedback/new?kind=single").text
    assert "Thumbs" not in client.get("/feedback/new?kind=pair").text
    shown = {kind: 'name="active_choice"' in client.get(f"/feedback/new?kind={kind}").text for kind in ("pair", "single", "rank")}
    assert shown == {"pair": True, "single": False, "rank": True}


def test_import_makes_items_and_leads_to_the_project(client: TestClient) -> None:
    sent = {"kind": "pair", "name": "Imported", "source": "import", "overlap": "2", "overlap_share": "50"}
    made = client.post("/feedback/new", data={**sent, "text": LINES})
    assert made.status_code == 303, made.text
    page = client.get(made.headers["location"]).text
    assert "Imported" in page and "Items by ratings" in page and "Nobody has rated yet" in page
    listed = client.get("/feedback").text
    assert "Imported" in listed and 'role="progressbar"' in listed
    by_file = client.post("/feedback/new", data={**sent, "name": "A file"}, files={"file": ("x.jsonl", LINES.encode())}, headers=HTMX)
    assert by_file.status_code == 200 and by_file.headers["hx-redirect"].startswith("/feedback/prj_"), by_file.text
    items = client.get(by_file.headers["hx-redirect"] + "/items?q=Question 7").text
    assert "Question 7?" in items and "Question 3?" not in items


@pytest.mark.one_stack
def test_what_is_pasted_is_split_into_lines_as_a_file_is(client: TestClient, stack: Stack) -> None:
    odd = "one\u2028two\u2029three\x85four\x0cfive"
    answers = [{"text": f"{odd} {word}"} for word in ("a", "b")]
    text = "\r\n".join(json.dumps({"prompt": f"{odd} {n}?", "responses": answers}, ensure_ascii=False) for n in range(2))
    assert "2 items" in client.post("/feedback/new/look", data={"head": text}, headers=HTMX).text
    made = client.post("/feedback/new", data={"kind": "pair", "name": "Pasted", "source": "import", "text": text})
    assert made.status_code == 303, made.text
    with stack.database.read() as session:
        assert {item.prompt[0]["content"] for item in session.scalars(select(Item))} == {f"{odd} {n}?" for n in range(2)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": " "}, "Give it a name"),
        ({"overlap": "many"}, "Type a number from 1 to 50."),
        ({"overlap_share": "120"}, "Must be from 0 to 100, and it is 120."),
        ({"text": ""}, "Choose a file, or paste items."),
        ({"text": "no json"}, "text"),
        ({"text": json.dumps({"prompt": "q", "responses": [{"text": "same"}, {"text": "same"}]})}, "the answers are the same"),
        ({"questions.0.title": "Correct?", "questions.0.options": "yes"}, "Give two to seven answers"),
        ({"source": "generate"}, "Choose a dataset whose prompts are answered"),
        ({"source": "generate", "typed": "hi", "limit": "0"}, "Must be from 1 to 100,000"),
        ({"source": "generate", "typed": "hi", "candidates.0.checkpoint": "ckp_gone"}, "There is no checkpoint"),
    ],
)
def test_what_cannot_be_used_comes_back_with_the_form(client: TestClient, stack: Stack, fields: dict[str, str], words: str) -> None:
    sent = {"kind": "pair", "name": "Kept name", "source": "import", "text": LINES, "guidelines": "Be *kind*.", "seed": "7", **fields}
    for headers in ({}, HTMX):
        answer = client.post("/feedback/new", data=sent, headers=headers)
        assert answer.status_code == 422 and words in answer.text, answer.text
        assert "Be *kind*." in answer.text and 'id="problems"' in answer.text and 'value="7"' in answer.text
        assert ("<html" in answer.text) == (headers == {})
    with stack.database.read() as session:
        assert session.scalar(select(Project.id)) is None and session.scalar(select(Item.id)) is None


def test_rows_come_and_go_with_and_without_a_script(client: TestClient) -> None:
    sent = {"kind": "pair", "name": "n", "candidates.0.checkpoint": "", "candidates.0.temperature": "0.3", "typed": "hello"}
    for url, headers in (("/feedback/new", {}), ("/feedback/new/fields", HTMX)):
        more = client.post(url, data={**sent, "act": "add-candidate"}, headers=headers)
        assert more.status_code == 200 and "candidates.1.checkpoint" in more.text and more.text.count('value="0.3"') == 2
        less = client.post(url, data={**sent, "candidates.1.temperature": "0.9", "act": "drop-candidate-0"}, headers=headers).text
        assert 'value="0.9"' in less and 'value="0.3"' not in less and "hello" in less
        asked = client.post(url, data={**sent, "act": "add-question"}, headers=headers).text
        assert "questions.0.title" in asked


def test_generation_is_queued_and_shown_and_stopped(client: TestClient, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.checkpoints import service as checkpoints

    monkeypatch.setattr(checkpoints, "training_paths", lambda session, checkpoint: {"path": "there"})
    with stack.database.write() as session:
        one, two = (add_checkpoint(session, stack.workspace_id, name=name).id for name in ("first model", "second model"))
    form = client.get(f"/feedback/new?kind=pair&checkpoint={one}").text
    assert re.search(rf'value="{one}" selected', form)
    sent = {"kind": "pair", "name": "Made here", "source": "generate", "typed": "Hi\nHo\n\nHi", "candidates.0.checkpoint": one}
    sent |= {"candidates.0.temperature": "0,5", "candidates.1.checkpoint": two, "candidates.1.max_tokens": "64"}
    made = client.post("/feedback/new", data=sent)
    assert made.status_code == 303, made.text
    to = made.headers["location"]
    page = client.get(to).text
    assert "Waiting for a worker" in page and "first model" in page and "second model" in page and "Stop" in page
    assert client.post(f"{to}/generation/cancel").status_code == 303
    assert "Generating was stopped." in client.get(to).text
    again = client.post(f"{to}/generation/go-on")
    assert again.status_code == 303 and "Generating was stopped." not in client.get(to).text
    assert client.post(f"{to}/generation/go-on").status_code == 409


def test_the_plan_says_the_overlap_in_words(client: TestClient, stack: Stack) -> None:
    with stack.database.write() as session:
        data = add_dataset(session, stack.workspace_id, rows=500).id
    sent = {"kind": "pair", "source": "generate", "prompts": data, "limit": "200", "overlap": "3", "overlap_share": "20"}
    plan = client.post("/feedback/new/plan", data=sent, headers=HTMX).text
    assert "20 % of the items (40) are rated by 3 people, the other 160 by one: 280 ratings." in " ".join(plan.split())
    assert "400" in plan, "answers: two of each prompt"
    once = client.post("/feedback/new/plan", data={**sent, "overlap": "1"}, headers=HTMX).text
    assert "Each item is rated once." in once
    assert "Choose prompts" in client.post("/feedback/new/plan", data={"kind": "pair", "overlap": "x"}, headers=HTMX).text


def test_a_look_at_what_is_imported(client: TestClient, stack: Stack) -> None:
    seen = client.post("/feedback/new/look", data={"head": LINES + '{"prompt": "cu', "cut": "1"}, headers=HTMX).text
    assert "10 items" in seen and "Question 0?" in seen and "alpha" in seen and "Question 9?" not in seen
    bad = client.post("/feedback/new/look", data={"head": "neither\nnor"}, headers=HTMX)
    assert bad.status_code == 200 and "alert danger" in bad.text
    evil = json.dumps({"prompt": "<script>alert(1)</script>", "responses": [{"text": "<img src=x>"}, {"text": "b"}]})
    assert "<script>alert" not in client.post("/feedback/new/look", data={"head": evil}, headers=HTMX).text
    guide = client.post("/feedback/new/guidelines", data={"guidelines": "**bold** <script>x</script>"}, headers=HTMX).text
    assert "<strong>bold</strong>" in guide and "<script>x" not in guide


def test_overview_counts_and_shows_who_rated(client: TestClient, stack: Stack) -> None:
    project = make(stack, overlap=2)
    rate(stack, project, 2)
    page = client.get(f"/feedback/{project}").text
    assert re.search(r"2<small>of 8</small>", page) and "not begun" in page and "1 of 2" in page
    assert ">admin</bdi>" in page and f'href="/rate/{project}"' in page
    fragment = client.get(f"/feedback/{project}/depth", headers=HTMX).text
    assert 'id="depth"' in fragment and "<html" not in fragment
    assert "<html" in client.get(f"/feedback/{project}/depth").text


def test_opening_pausing_closing(client: TestClient, stack: Stack) -> None:
    project = make(stack, items=1)
    for step, status in (("pause", "paused"), ("open", "open"), ("close", "closed")):
        assert client.post(f"/feedback/{project}/status/{step}").headers["location"] == f"/feedback/{project}"
        page = client.get(f"/feedback/{project}").text
        assert f">{status}</span>" in page and (f'href="/rate/{project}"' in page) == (status == "open")
    assert client.post(f"/feedback/{project}/status/burn").status_code == 409


def test_items_say_why_they_are_filtered_and_show_sources_and_votes(client: TestClient, stack: Stack) -> None:
    project = make(stack, items=2)
    with stack.database.write() as session:
        found = service.get_project(session, stack.workspace_id, project)
        same = [ResponseIn(text="x", source="alpha"), ResponseIn(text="x", source="beta")]
        service.add_items(session, found, [ItemIn(prompt="Twins?", responses=same)])
        item = session.scalars(select(Item.id).where(Item.project_id == project, Item.status == "open")).first()
    rate(stack, project, 2, comment="I <b>like</b> it")
    listed = client.get(f"/feedback/{project}/items?status=filtered", headers=HTMX).text
    assert "Twins?" in listed and "the answers are the same" in listed and "Question 0?" not in listed
    assert "No item matches" in client.get(f"/feedback/{project}/items?q=nowhere").text
    page = client.get(f"/feedback/{project}/items/{item}").text
    assert "alpha" in page and "beta" in page and "much better" in page and "I &lt;b&gt;like&lt;/b&gt; it" in page
    assert "1 of 1 ratings" in page
    assert client.post(f"/feedback/{project}/items/{item}/reopen", data={"extra": "2"}).status_code == 303
    assert "1 of 3 ratings" in client.get(f"/feedback/{project}/items/{item}").text
    bad = client.post(f"/feedback/{project}/items/{item}/reopen", data={"extra": "lots"})
    assert bad.status_code == 422 and "Ask for 1 to 20 more ratings." in bad.text
    assert client.post(f"/feedback/{project}/items/{item}/remove").status_code == 303
    assert "removed" in client.get(f"/feedback/{project}/items/{item}").text
    assert client.get(f"/feedback/{project}/items/itm_none").status_code == 404


def test_raters_are_paused_resumed_removed_and_their_items_opened_again(client: TestClient, stack: Stack) -> None:
    project = make(stack, items=2)
    rater = rate(stack, project, 2)
    to = f"/feedback/{project}/raters"
    assert "Re-open items" in client.get(to).text
    assert client.post(f"{to}/{rater}/reopen").headers["location"] == to
    assert re.search(r"2<small>of 4</small>", client.get(f"/feedback/{project}").text)
    for verb, status in (("pause", "paused"), ("resume", "active"), ("remove", "removed")):
        assert client.post(f"{to}/{rater}/{verb}").status_code == 303
        with stack.database.read() as session:
            found = session.get(Rater, rater)
            assert found is not None and found.status == status
    assert client.post(f"{to}/rtr_none/pause").status_code == 404


def test_an_invite_is_made_here_and_its_link_shown_once(client: TestClient, stack: Stack, as_role: Callable[[str], TestClient]) -> None:
    project = make(stack, items=1)
    to = f"/feedback/{project}/raters"
    made = client.post(f"{to}/invite", data={"name": "Rita"})
    link = re.search(r'id="made-link">([^<]+)<', made.text)
    assert made.status_code == 200 and link is not None and "data-copy-from" in made.text
    assert "/join?token=" not in client.get(to).text and "Rita" in client.get(to).text
    wrong = client.post(f"{to}/invite", data={"name": ""})
    assert wrong.status_code == 422 and "needs a name" in wrong.text
    engineer = as_role("engineer")
    assert "Only an admin makes invites." in engineer.get(to).text and engineer.post(f"{to}/invite", data={"name": "x"}).status_code == 403


def test_settings_change_and_two_people_lose_nothing(client: TestClient, stack: Stack, as_role: Callable[[str], TestClient]) -> None:
    project = make(stack, items=2, criteria=[{"key": "right", "title": "Is it right?"}])
    to = f"/feedback/{project}/edit"
    page = client.get(to).text
    seen = re.search(r'name="seen" value="(\w+)"', page)
    assert seen is not None and "Is it right?" in page
    sent = {"name": "New name", "question": "Which?", "overlap": "2", "gold_rate": "5", "seen": seen[1]}
    sent |= {"questions.0.title": "Is it right?", "questions.0.options": "yes, no, partly", "questions.0.key": "right"}
    assert client.post(to, data=sent).headers["location"] == f"/feedback/{project}"
    with stack.database.read() as session:
        found = service.get_project(session, stack.workspace_id, project)
        assert (found.name, found.overlap, found.gold_rate, found.slots) == ("New name", 2, 0.05, 4)
        assert found.criteria[0]["key"] == "right" and found.criteria[0]["options"] == ["yes", "no", "partly"]
    late = client.post(to, data={**sent, "name": "My name"}, headers=HTMX)
    assert late.status_code == 409 and "Name is now “New name”" in late.text and 'value="My name"' in late.text
    fresh = re.search(r'name="seen" value="(\w+)"', late.text)
    assert fresh is not None and client.post(to, data={**sent, "name": "My name", "seen": fresh[1]}).status_code == 303
    bad = client.post(to, data={**sent, "overlap": "0", "seen": ""})
    assert bad.status_code == 422 and "Must be from 1 to 50, and it is 0." in bad.text
    viewer = as_role("viewer").get(to).text
    assert "Save" not in viewer and "Ratings per item" in viewer


def test_more_items_and_deleting(client: TestClient, stack: Stack) -> None:
    project = make(stack, items=1)
    to = f"/feedback/{project}"
    assert "Add items" in client.get(f"{to}/add").text
    bad = client.post(f"{to}/add", data={"source": "import", "text": ""})
    assert bad.status_code == 422 and "Choose a file, or paste items." in bad.text
    assert client.post(f"{to}/add", data={"source": "import", "text": LINES}).headers["location"] == to
    assert re.search(r'Items</dt><dd class="num">11', client.get(to).text)
    assert client.post(f"{to}/delete").headers["location"] == "/feedback"
    assert client.get(to).status_code == 404


def test_other_workspaces_and_raters_see_nothing(client: TestClient, stack: Stack, as_role: Callable[[str], TestClient]) -> None:
    project = make(stack, items=1)
    with stack.database.write() as session:
        session.get_one(Project, project).workspace_id = other_workspace(session)
    for path in ("", "/items", "/raters", "/edit", "/add", "/depth"):
        assert client.get(f"/feedback/{project}{path}").status_code == 404
    rater = as_role("rater")
    refused = rater.get("/feedback")
    assert refused.status_code == 403 and 'href="/rate"' in refused.text
    assert 'href="/runs"' not in refused.text and 'id="palette"' not in refused.text and 'href="/datasets"' not in refused.text
    assert rater.get("/").headers["location"] == "/rate" and client.get("/").headers["location"] == "/runs"


def other_workspace(session: Any) -> str:
    """Id of a further workspace."""
    from app.accounts.tables import Workspace

    made = Workspace(name="Elsewhere")
    session.add(made)
    session.flush()
    return made.id
