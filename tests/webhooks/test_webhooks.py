"""Webhooks and e-mails: told with what ended, signed, tried again for a day, sent again by hand; on both stacks."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import select, update
from standardwebhooks import Webhook as Standard
from starlette.testclient import TestClient

from app.accounts import service as accounts
from app.accounts.tables import User
from app.datasets import imports
from app.jobs.tables import Job
from app.runs import progress
from app.runs import service as runs
from app.settings import get_settings
from app.webhooks import service
from app.webhooks.schemas import WebhookCreate
from app.webhooks.tables import Delivery, Webhook
from tests.factories import add_dataset, add_run, claim_run
from tests.servers import free_port
from tests.webhooks.receiver import Receiver
from worker import deliver


@pytest.fixture
def local(stack: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stack, which may send to this machine."""
    for name, value in (("webhook_http", True), ("webhook_networks", "127.0.0.0/8")):
        monkeypatch.setattr(get_settings(), name, value)
    return stack


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


def add(stack: Any, url: str, events: Any = ()) -> tuple[str, str]:
    with stack.database.write() as session:
        webhook = service.create(session, stack.workspace_id, None, WebhookCreate(url=url, events=list(events)))
        return webhook.id, webhook.secret


def end_run(stack: Any, how: str = "succeeded", **fields: Any) -> str:
    with stack.database.write() as session:
        run_id = add_run(session, stack.workspace_id, name="a <b>run</b>", **fields).id
    with stack.database.write() as session:
        if how == "cancelled":
            runs.cancel(session, stack.workspace_id, run_id)
            return run_id
        mine = claim_run(session)
        progress.begin(session, mine, 0)
        progress.record(session, mine, progress.Batch(points=[("loss", 1, 0.5), ("grad_norm", 1, float("nan"))], step=1, total=1))
        if how == "succeeded":
            progress.finish(session, mine)
        else:
            progress.failed(session, mine, "config", "The learning rate is wrong.")
    return run_id


def messages(stack: Any) -> list[Delivery]:
    with stack.database.read() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.id)))


def send(stack: Any) -> int:
    return deliver.due(stack.database, get_settings())


def make_due(stack: Any) -> None:
    with stack.database.write() as session:
        session.execute(update(Delivery).where(Delivery.status == "pending").values(next_at=0.0))


@pytest.mark.parametrize("how", ["succeeded", "failed", "cancelled"])
def test_a_run_that_ends_is_told_signed_and_once(local: Any, receiver: Receiver, how: str) -> None:
    _, secret = add(local, receiver.url)
    run_id = end_run(local, how)
    assert send(local) == 1 and send(local) == 0
    ((path, headers, body),) = receiver.got
    assert path == "/hook"
    told = Standard(secret).verify(body, headers)  # the library of the standard, not our own words
    assert told["type"] == f"run.{how}" and told["timestamp"].endswith("Z")
    data = told["data"]
    assert (data["id"], data["name"], data["status"]) == (run_id, "a <b>run</b>", how)
    assert data["url"].endswith(f"/runs/{run_id}")
    if how != "cancelled":
        assert data["metrics"] == {"loss": 0.5} and data["nonfinite"] == {"grad_norm": "nan"}
    (message,) = messages(local)
    assert (message.id, message.status, message.answered, message.attempts) == (headers["webhook-id"], "delivered", 204, 1)


def test_a_signature_holds_for_its_body_and_time_only(local: Any, receiver: Receiver) -> None:
    _, secret = add(local, receiver.url)
    end_run(local)
    send(local)
    _, headers, body = receiver.got[0]
    for changed, altered in ((body + " ", headers), (body, {**headers, "webhook-id": "msg_2"})):
        with pytest.raises(Exception, match="signature"):
            Standard(secret).verify(changed, altered)
    with pytest.raises(Exception, match="too old"):
        Standard(secret).verify(body, {**headers, "webhook-timestamp": str(int(time.time()) - 3_600)})


def test_datasets_that_were_read_are_told(local: Any, receiver: Receiver) -> None:
    add(local, receiver.url, ["dataset.ready", "dataset.failed"])
    with local.database.write() as session:
        good, bad = add_dataset(session, local.workspace_id, status="importing"), add_dataset(session, local.workspace_id)
        session.add_all(
            jobs := [Job(workspace_id=local.workspace_id, kind="import_dataset", subject_id=each.id, attempt=1) for each in (good, bad)]
        )
        session.flush()
        found = {"columns": [], "shape": "text", "rows": 3, "train_rows": 3, "eval_rows": 0, "left_out": 0, "sha256": "x"}
        imports.import_done(session, jobs[0], {**found, "form": "text", "unit": "line", "errors": 1})
        imports.import_failed(session, jobs[1], "It is not text.", "data")
        good_id, bad_id = good.id, bad.id
    end_run(local)  # not among the chosen events
    assert send(local) == 2
    told = {(each := json.loads(body))["type"]: each["data"] for _, _, body in receiver.got}
    assert told["dataset.ready"]["id"] == good_id and told["dataset.ready"]["problems"] == {"errors": 1, "warnings": 0}
    assert told["dataset.failed"]["id"] == bad_id and told["dataset.failed"]["reason"] == "It is not text."


def test_what_is_undone_is_not_told(local: Any, receiver: Receiver) -> None:
    add(local, receiver.url)
    with local.database.write() as session:
        run_id = add_run(session, local.workspace_id).id
    with pytest.raises(RuntimeError), local.database.write() as session:
        runs.cancel(session, local.workspace_id, run_id)
        raise RuntimeError
    assert messages(local) == [] and send(local) == 0


def test_an_address_that_fails_is_tried_for_a_day_then_no_more(local: Any, receiver: Receiver) -> None:
    add(local, receiver.url)
    receiver.status, receiver.body = 500, b"<b>out of\nservice</b>"
    end_run(local)
    waits = []
    for number in range(len(service.WAITS)):
        assert send(local) == 1 and send(local) == 0, "the next try has to wait"
        (message,) = messages(local)
        assert (message.status, message.attempts) == ("pending", number + 1)
        waits.append(message.next_at - message.tried_at)
        make_due(local)
    assert waits == pytest.approx(service.WAITS, abs=2) and 0.9 < sum(waits) / 86_400 <= 1
    assert send(local) == 1
    (message,) = messages(local)
    assert (message.status, message.next_at, message.answered) == ("failed", None, 500)
    assert "out of service" in (message.error or "")
    assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == 1, "every try bears the same id"


def test_a_message_that_failed_is_sent_again_under_its_id(local: Any, receiver: Receiver, api: TestClient) -> None:
    webhook_id, _ = add(local, receiver.url)
    receiver.status = 410
    end_run(local)
    send(local)
    (message,) = messages(local)
    assert message.status == "failed" and message.answered == 410
    (shown,) = api.get("/api/v1/webhooks").json()["data"]
    assert "gone" in shown["disabled_reason"]
    end_run(local)
    assert len(messages(local)) == 1, "nothing is told to an address that is gone"
    receiver.status = 200
    again = api.post(f"/api/v1/webhooks/{webhook_id}/deliveries/{message.id}/again")
    assert again.status_code == 202 and again.json()["status"] == "pending"
    assert send(local) == 1
    assert [headers["webhook-id"] for _, headers, _ in receiver.got] == [message.id, message.id]
    (found,) = api.get(f"/api/v1/webhooks/{webhook_id}/deliveries").json()["data"]
    assert found["status"] == "delivered" and found["answered"] == 200 and found["error"] is None
    assert api.get("/api/v1/webhooks").json()["data"][0]["disabled_reason"] is None


def test_a_message_whose_worker_died_is_sent_by_another_and_settled_by_it_alone(local: Any, receiver: Receiver) -> None:
    add(local, receiver.url)
    end_run(local)
    with local.database.write() as session:
        dead = service.take(session)
        assert dead is not None and service.take(session) is None
    make_due(local)
    assert send(local) == 1
    with local.database.write() as session:
        service.settle(session, dead, answered=None, error="too late")
    assert messages(local)[0].status == "delivered"


def test_an_address_inside_is_said_in_the_log_of_the_message(stack: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_settings(), "webhook_http", True)
    with stack.database.write() as session:
        session.add(Webhook(workspace_id=stack.workspace_id, url=receiver.url, secret="whsec_AAAA", events=[]))
    end_run(stack)
    send(stack)
    assert receiver.got == [] and "127.0.0.1 is not an address of the public internet" in (messages(stack)[0].error or "")


def test_redirects_are_an_error_in_words(local: Any, receiver: Receiver) -> None:
    add(local, receiver.url)
    receiver.status, receiver.headers = 307, {"Location": "http://127.0.0.1:1/"}
    end_run(local)
    send(local)
    assert "redirect" in (messages(local)[0].error or "") and len(receiver.got) == 1


# --- REST and page --------------------------------------------------------------------------------------------------------


def test_the_secret_is_shown_once(local: Any, api: TestClient) -> None:
    key = {"Idempotency-Key": "k"}
    first = api.post("/api/v1/webhooks", json={"url": "https://example.org/x", "events": ["run.failed"]}, headers=key)
    assert first.status_code == 201 and re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", first.json()["secret"])
    again = api.post("/api/v1/webhooks", json={"url": "https://example.org/x", "events": ["run.failed"]}, headers=key)
    assert again.json() == {**first.json(), "secret": None}
    assert "secret" not in api.get("/api/v1/webhooks").json()["data"][0]
    assert api.post("/api/v1/webhooks", json={"url": "https://example.org/x"}).status_code == 409
    for body, field in (
        ({"url": "ftp://example.org"}, "url"),
        ({"url": "https://127.1/"}, "url"),
        ({"url": "https://x.org", "events": ["a"]}, "events.0"),
    ):
        refused = api.post("/api/v1/webhooks", json=body)
        assert refused.status_code == 422 and refused.json()["error"]["field"] == field
    assert api.delete(f"/api/v1/webhooks/{first.json()['id']}").status_code == 204
    assert api.get("/api/v1/webhooks").json()["data"] == []


def test_webhooks_of_other_workspaces_are_not_there(local: Any, api: TestClient) -> None:
    from app.accounts.tables import Workspace

    with local.database.write() as session:
        other = Workspace(name="other")
        session.add(other)
        session.flush()
        webhook = service.create(session, other.id, None, WebhookCreate(url="https://example.org/x"))
        message = service.send_test(session, other.id, webhook.id)
        webhook_id, message_id = webhook.id, message.id
    for method, path in (
        ("DELETE", f"/{webhook_id}"),
        ("GET", f"/{webhook_id}/deliveries"),
        ("POST", f"/{webhook_id}/test"),
        ("POST", f"/{webhook_id}/deliveries/{message_id}/again"),
    ):
        assert api.request(method, f"/api/v1/webhooks{path}").status_code == 404


def test_the_page_adds_tests_and_deletes(local: Any, client: TestClient, receiver: Receiver) -> None:
    refused = client.post("/settings/webhooks", data={"url": "https://a@b/<script>", "events": ["run.failed"]})
    assert refused.status_code == 422 and "user or a password" in refused.text and "<script>" not in refused.text
    assert client.post("/settings/webhooks", data={"url": receiver.url}).status_code == 422
    made = client.post("/settings/webhooks", data={"url": receiver.url, "events": ["run.failed", "run.succeeded"]})
    assert made.status_code == 200
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", made.text)
    assert secret is not None and secret[0] not in client.get("/settings/webhooks").text
    with local.database.read() as session:
        webhook_id = session.scalars(select(Webhook.id)).one()
    assert client.post(f"/settings/webhooks/{webhook_id}/test").status_code == 303
    send(local)
    assert Standard(secret[0]).verify(receiver.got[0][2], receiver.got[0][1])["type"] == "test"
    page = client.get("/settings/webhooks").text
    assert "delivered" in page and "Send again" in page
    message_id = messages(local)[0].id
    assert client.post(f"/settings/webhooks/{webhook_id}/deliveries/{message_id}/again").status_code == 303
    assert messages(local)[0].status == "pending"
    assert client.post(f"/settings/webhooks/{webhook_id}/delete").status_code == 303
    assert messages(local) == [] and receiver.url not in client.get("/settings/webhooks").text


# --- e-mail ---------------------------------------------------------------------------------------------------------------


class Box:
    """A mail server's handler that keeps what it is given."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.refuse = ""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refuse:
            return self.refuse
        self.kept.append((envelope.mail_from, envelope.rcpt_tos, message_from_bytes(envelope.content, policy=policy.default)))
        return "250 OK"


@pytest.fixture
def mailbox(stack: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    box = Box()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    for name, value in (("smtp_url", f"smtp://127.0.0.1:{controller.port}"), ("mail_from", "Luthier <luthier@example.org>")):
        monkeypatch.setattr(get_settings(), name, value)
    yield box
    controller.stop()


@pytest.fixture
def person(stack: Any) -> Callable[..., str]:
    def _person(email: str | None = "ada@example.org") -> str:
        with stack.database.write() as session:
            return accounts.add_user(session, f"Ada {email}", "engineer", email=email).id

    return _person


def test_a_person_is_told_by_mail_that_a_run_of_theirs_has_ended(stack: Any, mailbox: Box, person: Callable[..., str]) -> None:
    ada = person()
    run_id = end_run(stack, "failed", created_by=ada)
    end_run(stack, "cancelled", created_by=ada)  # they did that themselves
    end_run(stack, "succeeded", created_by=None)
    assert send(stack) == 1
    ((sender, to, mail),) = mailbox.kept
    assert (sender, to) == ("luthier@example.org", ["ada@example.org"])
    assert mail["Subject"] == "Failed: a <b>run</b>" and messages(stack)[0].id in mail["Message-ID"]
    text = mail.get_content()
    assert "The learning rate is wrong." in text and f"/runs/{run_id}" in text and "loss: 0.5" in text


def test_a_mail_server_that_refuses_is_tried_again(stack: Any, mailbox: Box, person: Callable[..., str]) -> None:
    mailbox.refuse = "451 later"
    end_run(stack, "succeeded", created_by=person())
    send(stack)
    (message,) = messages(stack)
    assert message.status == "pending" and "later" in (message.error or "")
    mailbox.refuse = ""
    make_due(stack)
    send(stack)
    assert messages(stack)[0].status == "delivered" and len(mailbox.kept) == 1


def test_a_message_that_cannot_be_written_does_not_keep_the_others_back(stack: Any, mailbox: Box, person: Callable[..., str]) -> None:
    odd, ada = person("odd@example.org"), person()
    with stack.database.write() as session:  # as it could be before addresses were read as a mail reads them
        session.get_one(User, odd).email = "a@["
    end_run(stack, created_by=odd)
    end_run(stack, created_by=ada)
    assert send(stack) == 2
    wrong, right = messages(stack)
    assert right.status == "delivered" and len(mailbox.kept) == 1
    assert wrong.status == "pending" and wrong.attempts == 1 and "could not be sent" in (wrong.error or "")


def test_nobody_without_an_address_or_an_account_is_written_to(stack: Any, mailbox: Box, person: Callable[..., str]) -> None:
    gone = person()
    with stack.database.write() as session:
        session.get_one(User, gone).disabled_at = 1.0
    end_run(stack, created_by=gone)
    end_run(stack, created_by=person(None))
    assert send(stack) == 0 and mailbox.kept == []


def test_a_name_cannot_put_headers_into_a_mail(stack: Any, mailbox: Box, person: Callable[..., str]) -> None:
    ada = person()
    run_id = end_run(stack, created_by=ada)
    with stack.database.write() as session:
        run = runs.get(session, stack.workspace_id, run_id)
        run.name = "x\r\nBcc: everybody@example.org"
        service.run_ended(session, run)
    assert send(stack) == 2
    assert all(to == ["ada@example.org"] and mail["Bcc"] is None for _, to, mail in mailbox.kept)
