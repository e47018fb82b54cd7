"""Webhooks and their messages: made and listed by people, written with what they tell about, taken and settled by workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app.accounts.tables import User
from app.database import now
from app.errors import Conflict, NotFound
from app.settings import Settings, get_settings
from app.webhooks import post, targets
from app.webhooks.schemas import TEST, WebhookCreate, dataset_facts, message, run_facts, run_mail
from app.webhooks.tables import Delivery, Webhook

MAX_WEBHOOKS = 20
MAX_MESSAGE = 200_000
WAITS = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 28_800.0, 28_800.0)
"""Seconds before each further try; with the first one they span a day."""
TAKEN_SECONDS = 90.0
"""A worker that has not settled a message by then is taken for dead; another one tries."""
KEPT_SECONDS = 30 * 86_400.0


# --- what people do -------------------------------------------------------------------------------------------------------


def create(session: Session, workspace_id: str, user_id: str | None, request: WebhookCreate, settings: Settings | None = None) -> Webhook:
    """Add a webhook; its secret is in the row and shown once.

    Raises:
        Invalid: the address cannot be used.
        Conflict: the workspace has too many, or this very address.
    """
    targets.parse(request.url, settings or get_settings())
    found = list_webhooks(session, workspace_id)
    if len(found) >= MAX_WEBHOOKS:
        raise Conflict(f"A workspace has at most {MAX_WEBHOOKS} webhooks. Delete one first.")
    if any(webhook.url == request.url for webhook in found):
        raise Conflict("There is a webhook with this address already.", field="url")
    webhook = Webhook(
        workspace_id=workspace_id, url=request.url, secret=post.new_secret(), events=list(dict.fromkeys(request.events)), created_by=user_id
    )
    session.add(webhook)
    session.flush()
    return webhook


def get(session: Session, workspace_id: str, webhook_id: str) -> Webhook:
    """A webhook of the workspace.

    Raises:
        NotFound: there is none with that id.
    """
    webhook = session.scalars(select(Webhook).where(Webhook.id == webhook_id, Webhook.workspace_id == workspace_id)).first()
    if webhook is None:
        raise NotFound("There is no such webhook.")
    return webhook


def list_webhooks(session: Session, workspace_id: str) -> list[Webhook]:
    """Webhooks of the workspace, newest first."""
    return list(session.scalars(select(Webhook).where(Webhook.workspace_id == workspace_id).order_by(Webhook.id.desc())))


def delete(session: Session, workspace_id: str, webhook_id: str) -> None:
    """Remove a webhook with its messages; what waits is not sent."""
    session.delete(get(session, workspace_id, webhook_id))
    session.flush()


def deliveries(session: Session, workspace_id: str, webhook_id: str, *, limit: int = 50, after: str | None = None) -> list[Delivery]:
    """Messages to a webhook, newest first."""
    get(session, workspace_id, webhook_id)
    query = select(Delivery).where(Delivery.webhook_id == webhook_id)
    if after:
        query = query.where(Delivery.id < after)
    return list(session.scalars(query.order_by(Delivery.id.desc()).limit(limit)))


def send_test(session: Session, workspace_id: str, webhook_id: str) -> Delivery:
    """Queue a message that only says that messages arrive; a webhook that was switched off is on again."""
    webhook = get(session, workspace_id, webhook_id)
    webhook.disabled_reason = None
    body = message(TEST, {"webhook": webhook.id, "text": "Messages of this workspace arrive here."})
    return _queue(session, workspace_id, TEST, body, webhook_id=webhook.id)


def send_again(session: Session, workspace_id: str, webhook_id: str, delivery_id: str) -> Delivery:
    """Queue a message once more, under the same id, so that the receiver can tell.

    Raises:
        NotFound: there is no such message.
    """
    webhook = get(session, workspace_id, webhook_id)
    found = session.scalars(select(Delivery).where(Delivery.id == delivery_id, Delivery.webhook_id == webhook.id).with_for_update()).first()
    if found is None:
        raise NotFound("There is no such message.")
    webhook.disabled_reason = None
    # The count goes on, so that a worker that still tries the old round cannot settle this one.
    found.status, found.next_at, found.error, found.answered = "pending", now(), None, None
    found.attempts = found.attempts if found.attempts == 0 else _round_up(found.attempts)
    session.flush()
    session.refresh(found)
    return found


def _round_up(attempts: int) -> int:
    """The count with which the next round of tries begins."""
    tries = len(WAITS) + 1
    return -(-attempts // tries) * tries


# --- what happens ---------------------------------------------------------------------------------------------------------


def run_ended(session: Session, run: Any) -> None:
    """Queue what is told about a run that ended, in the transaction that ends it."""
    settings = get_settings()
    _emit(session, run.workspace_id, f"run.{run.status}", lambda: run_facts(run, settings.address))
    if settings.smtp_url and settings.mail_from and run.created_by and run.status != "cancelled":  # a person cancels, and knows
        person = session.get(User, run.created_by)
        if person is not None and person.email and person.disabled_at is None:
            subject, text = run_mail(run, settings.address)
            _queue(session, run.workspace_id, f"run.{run.status}", text, email=person.email, subject=subject)


def dataset_ended(session: Session, dataset: Any) -> None:
    """Queue what is told about a dataset that was read, in the transaction that says so."""
    settings = get_settings()
    _emit(session, dataset.workspace_id, f"dataset.{dataset.status}", lambda: dataset_facts(dataset, settings.address))


def _emit(session: Session, workspace_id: str, event: str, facts: Any) -> None:
    wanted = [
        webhook
        for webhook in list_webhooks(session, workspace_id)
        if webhook.disabled_reason is None and (not webhook.events or event in webhook.events)
    ]
    if not wanted:
        return
    body = message(event, facts())
    for webhook in wanted:
        _queue(session, workspace_id, event, body, webhook_id=webhook.id)


def _queue(session: Session, workspace_id: str, event: str, body: str, **fields: Any) -> Delivery:
    delivery = Delivery(workspace_id=workspace_id, event=event, body=body.replace("\x00", "")[:MAX_MESSAGE], **fields)
    session.add(delivery)
    session.flush()
    return delivery


# --- what a worker does ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A message that is ours to send; `attempts` fences what we write about it."""

    id: str
    attempts: int
    body: str
    event: str
    url: str | None
    secret: str | None
    email: str | None
    subject: str | None


def waiting(session: Session) -> bool:
    """Whether a message is due."""
    return session.scalar(select(Delivery.id).where(Delivery.status == "pending", Delivery.next_at <= now()).limit(1)) is not None


def take(session: Session) -> Task | None:
    """Take the message that is due longest; None when none is."""
    first = (
        select(Delivery.id)
        .where(Delivery.status == "pending", Delivery.next_at <= now())
        .order_by(Delivery.next_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = session.execute(
        update(Delivery)
        .where(Delivery.id == first.scalar_subquery(), Delivery.status == "pending")
        .values(attempts=Delivery.attempts + 1, next_at=now() + TAKEN_SECONDS, tried_at=now())
        .returning(Delivery.id)
        .execution_options(synchronize_session=False)
    ).first()
    if row is None:
        return None
    found = session.get_one(Delivery, row.id, populate_existing=True)
    webhook = session.get(Webhook, found.webhook_id) if found.webhook_id else None
    return Task(
        found.id,
        found.attempts,
        found.body,
        found.event,
        webhook.url if webhook else None,
        webhook.secret if webhook else None,
        found.email,
        found.subject,
    )


def settle(session: Session, task: Task, *, answered: int | None, error: str | None, gone: bool = False) -> None:
    """Write how a try went: delivered, or when the next one is, or failed for good. A try that was overtaken writes nothing."""
    found = session.scalars(
        select(Delivery).where(Delivery.id == task.id, Delivery.attempts == task.attempts, Delivery.status == "pending").with_for_update()
    ).first()
    if found is None:
        return
    found.answered, found.error = answered, error[:500] if error else None
    number = (task.attempts - 1) % (len(WAITS) + 1)
    if error is None:
        found.status, found.next_at = "delivered", None
    elif gone or number >= len(WAITS):
        found.status, found.next_at = "failed", None
    else:
        found.next_at = now() + WAITS[number]
    if gone and found.webhook_id:
        webhook = session.get(Webhook, found.webhook_id)
        if webhook is not None:
            webhook.disabled_reason = "The address answered that it is gone (410). Send a test to switch it on again."
    session.flush()


def forget_old(session: Session) -> None:
    """Remove messages that were settled a month ago."""
    session.execute(
        sql_delete(Delivery)
        .where(Delivery.status != "pending", func.coalesce(Delivery.tried_at, Delivery.created_at) < now() - KEPT_SECONDS)
        .execution_options(synchronize_session=False)
    )
    # What waits for a webhook that is switched off waits for nothing.
    off = select(Webhook.id).where(Webhook.disabled_reason.is_not(None))
    session.execute(
        update(Delivery)
        .where(Delivery.status == "pending", Delivery.webhook_id.in_(off), or_(Delivery.next_at.is_(None), Delivery.next_at > now()))
        .values(status="failed", next_at=None, error="The webhook was switched off.")
        .execution_options(synchronize_session=False)
    )
