"""The playground's pages and REST: what is shown, what is refused, what an answer can be kept as. A row stands in for the worker."""

from __future__ import annotations

import json
import threading
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from app.accounts import service as accounts
from app.chats import progress, service
from app.chats.tables import Answer, Chat
from app.datasets.tables import Dataset
from tests.chats.talk import able_worker, answers, ask
from tests.factories import add_checkpoint, add_dataset
from tests.xss import PAYLOADS

pytestmark = pytest.mark.one_stack

FORM = {"system": "", "temperature": "0.7", "top_p": "0.95", "max_new_tokens": "64", "seed": ""}


def checkpoint(stack: Any, name: str = "tiny", **fields: Any) -> str:
    with stack.database.write() as session:
        return add_checkpoint(session, stack.workspace_id, name=name, **fields).id


def say(stack: Any, *texts: str, finish: str = "stop") -> None:
    """Answer the questions that wait, in order, as a worker would."""
    for text in texts:
        with stack.database.write() as session:
            mine = progress.claim(session, "w", 60)
            assert mine is not None
            progress.loading(session, mine, {"done": 1, "total": 3, "text": "Reading the weights"})
            progress.add(session, mine, text[: len(text) // 2], 2)
            progress.add(session, mine, text[len(text) // 2 :], 4)
            said = {"text": text, "tokens": 4, "prompt_tokens": 9, "seconds": 0.5, "finish": finish}
            progress.finish(session, mine, said)


def begin(client: TestClient, checkpoint_id: str, text: str, **more: str) -> str:
    answer = client.post("/playground", data={**FORM, "checkpoint": checkpoint_id, "text": text, **more})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"].rpartition("/")[2]


def test_empty_states_lead_on(client: TestClient, stack: Any) -> None:
    assert "No model to talk to yet" in client.get("/playground").text
    first = checkpoint(stack)
    shown = client.get("/playground").text
    assert "Nobody can answer now" in shown and "luthier worker" in shown
    refused = client.post("/playground", data={**FORM, "checkpoint": first, "text": "Hi"})
    assert refused.status_code == 503 and "No worker that can answer" in refused.text
    able_worker(stack)
    shown = client.get(f"/playground?checkpoint={first}").text
    assert "Nobody can answer" not in shown and f'value="{first}" selected' in shown
    gone = client.get("/playground?checkpoint=ckpt_gone").text
    assert "A checkpoint that was chosen is gone" in gone


def test_a_conversation_goes_on_is_edited_and_deleted(client: TestClient, stack: Any) -> None:
    able_worker(stack)
    first, second = checkpoint(stack, "one"), checkpoint(stack, "two")
    chat_id = begin(client, first, "How are you?", **{"with": second, "system": "Be kind."})
    say(stack, "**Fine**, thanks.", "So so.")
    shown = client.get(f"/playground/{chat_id}").text
    assert (
        "<strong>Fine</strong>" in shown and "So so." in shown and "8.0 tok/s" in shown and "0.5s" in shown and "Which is better?" in shown
    )
    form = {**FORM, "checkpoint": first, "with": second}
    assert client.post(f"/playground/{chat_id}/messages", data={**form, "text": "And now?"}).status_code == 303
    busy = client.post(f"/playground/{chat_id}/messages", data={**form, "text": "Hello?"})
    assert busy.status_code == 409 and "still answering" in busy.text
    say(stack, "Better.", "Worse.")
    with stack.database.read() as session:
        read = session.query(Answer).filter_by(turn=2, place=1).one().messages
    assert [message["content"] for message in read] == ["How are you?", "So so.", "And now?"], "a column reads its own answers"
    edited = client.post(f"/playground/{chat_id}/edit", data={**FORM, "checkpoint": first, "said": "And today?"})
    assert edited.status_code == 303
    say(stack, "Good.")
    found = answers(stack, chat_id)
    assert [(each.turn, each.text) for each in found] == [(1, "**Fine**, thanks."), (1, "So so."), (2, "Good.")]
    assert client.post(f"/playground/{chat_id}/delete").headers["location"] == "/playground"
    assert client.get(f"/playground/{chat_id}").status_code == 404


def test_three_answer_side_by_side(client: TestClient, stack: Any) -> None:
    """Such as a model before a fine-tune, after it, and with the fine-tune undone."""
    able_worker(stack)
    before, tuned, undone = (checkpoint(stack, name) for name in ("before", "tuned", "undone"))
    link = f"/playground?checkpoint={before}&with={tuned}&also={undone}"
    assert all(f'value="{each}" selected' in client.get(link).text for each in (before, tuned, undone))
    chat_id = begin(client, before, "How are you?", **{"with": tuned, "also": undone})
    say(stack, "Fine.", "ARR!", "Fine again.")
    shown = client.get(f"/playground/{chat_id}").text
    assert 'class="replies two three"' in shown and shown.index(">before<") < shown.index(">ARR!<".strip("<>")) < shown.index("Fine again.")
    assert f'value="{undone}" selected' in shown and "Which is better?" not in shown


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("temperature", "3", "Temperature: Must be at most 2"),
        ("top_p", "0", "Top p: Must be more than 0"),
        ("max_new_tokens", "many", "Max new tokens: Must be a whole number"),
        ("seed", "-1", "Seed: Must be at least 0"),
        ("text", "  ", "Write a message first"),
        ("checkpoint", "", "Choose a model"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(client: TestClient, stack: Any, field: str, value: str, words: str) -> None:
    able_worker(stack)
    form = {**FORM, "checkpoint": checkpoint(stack), "text": "Hi", field: value}
    refused = client.post("/playground", data=form)
    assert refused.status_code == 422 and words in refused.text
    with stack.database.read() as session:
        assert session.query(Chat).count() == 0


def test_nothing_a_model_or_a_person_says_is_markup(client: TestClient, stack: Any) -> None:
    able_worker(stack)
    payload = "\n\n".join(PAYLOADS)
    chat_id = begin(client, checkpoint(stack, PAYLOADS[0]), payload[:90_000])
    say(stack, payload)
    found = Markup()
    found.feed(client.get(f"/playground/{chat_id}").text)
    assert found.harm == []


class Markup(HTMLParser):
    """Finds what could run or call out on a page of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.harm: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = dict(attributes)
        if tag in ("img", "iframe", "object", "embed", "base", "style", "math") or (
            tag == "script" and not str(names.get("src")).startswith("/static/")
        ):
            self.harm.append(f"<{tag}>")
        for name, value in attributes:
            if name.startswith("on") or (
                name in ("href", "src", "action", "formaction") and str(value).strip().lower().startswith(("javascript", "data"))
            ):
                self.harm.append(f"{tag} {name}={value}")
            if name in ("hx-get", "hx-post", "hx-delete") and not str(value).startswith(("/playground", "/palette", "/runs")):
                self.harm.append(f"{tag} {name}={value}")


def test_an_answer_becomes_an_example_and_a_pair(client: TestClient, stack: Any, work: Any) -> None:
    able_worker(stack)
    first, second = checkpoint(stack, "one"), checkpoint(stack, "two")
    chat_id = begin(client, first, "2 + 2?", **{"with": second})
    say(stack, "4", "5")
    better, worse = answers(stack, chat_id)
    nameless = client.post(f"/playground/{chat_id}/keep", data={"better": better.id})
    assert nameless.status_code == 422 and "give a new one a name" in nameless.text
    made = client.post(f"/playground/{chat_id}/keep", data={"better": better.id, "name": "good answers"})
    pair = client.post(f"/playground/{chat_id}/keep", data={"better": better.id, "worse": worse.id, "name": "pairs"})
    assert made.status_code == pair.status_code == 303
    work(runs=False)
    with stack.database.read() as session:
        examples, pairs = (session.query(Dataset).filter_by(name=name).one() for name in ("good answers", "pairs"))
        assert (examples.status, examples.shape, examples.rows, pairs.shape) == ("ready", "chat", 1, "preference")
    again = client.post(f"/playground/{chat_id}/keep", data={"better": worse.id, "dataset": examples.id})
    assert again.status_code == 303
    work(runs=False)
    with stack.database.read() as session:
        newest = session.query(Dataset).filter_by(name="good answers", version=2).one()
        assert newest.rows == 2 and newest.status == "ready"
    refused = client.post(f"/playground/{chat_id}/keep", data={"better": better.id, "dataset": pairs.id})
    assert refused.status_code == 409 and "does not take this" in refused.text


def test_a_checkpoint_deleted_while_somebody_chats_with_it(client: TestClient, stack: Any) -> None:
    able_worker(stack)
    first = checkpoint(stack, "doomed")
    chat_id = begin(client, first, "Hi")
    say(stack, "Hello.")
    assert client.post(f"/models/{first}/delete").status_code in (200, 303)
    shown = client.get(f"/playground/{chat_id}").text
    assert "Hello." in shown and "deleted since" in shown
    for path, form in (("messages", {"text": "And?"}), ("retry", {})):
        refused = client.post(f"/playground/{chat_id}/{path}", data={**FORM, "checkpoint": first, **form})
        assert refused.status_code == 404 and "it may have been deleted" in refused.text
    other = checkpoint(stack, "another")
    assert client.post(f"/playground/{chat_id}/messages", data={**FORM, "checkpoint": other, "text": "And?"}).status_code == 303


# --- REST -----------------------------------------------------------------------------------------------------------------


def stream_events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_a_program_streams_tokens_and_reads_the_whole(server: Any, stack: Any) -> None:
    able_worker(stack)
    asked = {"checkpoints": [checkpoint(stack)], "messages": [{"role": "user", "content": "Hi"}], "sampling": {"temperature": 0}}
    with stack.database.write() as session:
        _, token = accounts.create_token(session, name="t", role="admin", user_id=stack.admin_id, workspace_id=stack.workspace_id)
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:

        def speak() -> None:
            for _ in range(600):
                with stack.database.read() as session:
                    if progress.waiting(session):
                        break
                threading.Event().wait(0.02)
            say(stack, "Hello there.")

        worker = threading.Thread(target=speak)
        worker.start()
        with client.stream("POST", "/api/v1/chats", json=asked) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            events = stream_events("".join(answer.iter_text()))
        worker.join()
        kinds = [kind for kind, _ in events]
        assert kinds[-1] == "done" and "answer" in kinds
        last = [data["answer"] for kind, data in events if kind == "answer"][-1]
        assert last["status"] == "done" and last["text"] == "Hello there." and last["tokens"] == 4
        worker = threading.Thread(target=speak)
        worker.start()
        whole = client.post("/api/v1/chats", json={**asked, "stream": False}, headers={"Idempotency-Key": "k"}).json()
        worker.join()
        assert whole["turns"][0]["answers"][0]["text"] == "Hello there." and whole["status"] == "idle"
        again = client.post("/api/v1/chats", json={**asked, "stream": False}, headers={"Idempotency-Key": "k"}).json()
        assert again["id"] == whole["id"]
        listed = client.get("/api/v1/chats?limit=1").json()
        assert listed["has_more"] and listed["data"][0]["id"] == whole["id"]
        assert client.delete(f"/api/v1/chats/{whole['id']}").status_code == 204
        assert client.get(f"/api/v1/chats/{whole['id']}").status_code == 404


def test_rest_refuses_in_words(api: TestClient, stack: Any) -> None:
    able_worker(stack)
    base = checkpoint(stack)
    user = {"role": "user", "content": "Hi"}

    def refused(status: int, **body: Any) -> str:
        answer = api.post("/api/v1/chats", json={"checkpoints": [base], "messages": [user], **body})
        assert answer.status_code == status, answer.text
        return str(answer.json()["error"]["message"])

    assert "last message must be of the user" in refused(422, messages=[{"role": "assistant", "content": "x"}])
    assert "may only be the first" in refused(422, messages=[user, {"role": "system", "content": "x"}, user])
    assert "at most 3" in refused(422, checkpoints=[base] * 4)
    assert "at most 100000" in refused(422, messages=[{"role": "user", "content": "x" * 100_001}])
    assert "more than 200,000" in refused(422, messages=[{"role": "user", "content": "x" * 90_000}] * 3)
    assert "no such checkpoint" in refused(404, checkpoints=["ckpt_x"])
    assert "at most 2" in refused(422, sampling={"temperature": 9})


def test_stopping_before_a_worker_took_it(api: TestClient, stack: Any) -> None:
    able_worker(stack)
    chat_id = ask(stack, checkpoint(stack))
    stopped = api.post(f"/api/v1/chats/{chat_id}/stop").json()
    assert stopped["turns"][0]["answers"][0]["status"] == "stopped" and stopped["status"] == "idle"
    assert api.post(f"/api/v1/chats/{chat_id}/stop").status_code == 200


def test_another_workspace_sees_nothing(api: TestClient, client: TestClient, stack: Any) -> None:
    from app.accounts.tables import Workspace

    able_worker(stack)
    with stack.database.write() as session:
        other = Workspace(name="other")
        session.add(other)
        session.flush()
        base = add_checkpoint(session, other.id)
        request = service.ChatCreate(checkpoints=[base.id], messages=[{"role": "user", "content": "secret"}])
        chat_id = service.create(session, other.id, None, request).id
        dataset = add_dataset(session, other.id, shape="chat")
        dataset_id = dataset.id
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/stop")):
        assert api.request(method, f"/api/v1/chats/{chat_id}{path}").status_code == 404
    for path in ("", "/stop", "/delete", "/retry"):
        form = {**FORM, "checkpoint": base.id} if path else None
        answer = client.request("POST" if path else "GET", f"/playground/{chat_id}{path}", data=form)
        assert answer.status_code == 404 and "secret" not in answer.text
    mine = ask(stack, checkpoint(stack))
    say(stack, "x", "y")
    answer = client.post(f"/playground/{mine}/keep", data={"better": answers(stack, mine)[0].id, "dataset": dataset_id})
    assert answer.status_code == 404
    assert chat_id not in client.get("/playground").text
