"""The settings page of webhooks: add and delete them, look at their messages, send one again."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Form, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import ValidationError

from app.accounts.schemas import Principal
from app.errors import Invalid, StudioError
from app.web import Admin, ReadSession, WriteSession, page, pages_router, see_other, settings_of
from app.webhooks import service
from app.webhooks.schemas import EVENTS, WebhookCreate

router = pages_router()

SHOWN = 20
"""Messages of each webhook on the page; REST gives all."""


@router.get("/settings/webhooks")
def webhooks_page(request: Request, who: Admin, session: ReadSession) -> HTMLResponse:
    """The workspace's webhooks and their last messages."""
    return _page(request, who, session)


def _page(request: Request, who: Principal, session: ReadSession, **more: Any) -> HTMLResponse:
    context: dict[str, Any] = {"made": None, "error": None, "url": "", "chosen": list(EVENTS)} | more
    webhooks = service.list_webhooks(session, who.workspace_id)
    return page(
        request,
        "webhooks/list.html",
        who,
        status=context["error"].status if context["error"] else 200,
        webhooks=[(webhook, service.deliveries(session, who.workspace_id, webhook.id, limit=SHOWN)) for webhook in webhooks],
        events=EVENTS,
        mail=bool(settings_of(request).smtp_url and settings_of(request).mail_from),
        **context,
    )


@router.post("/settings/webhooks")
def add_webhook(
    request: Request,
    who: Admin,
    session: WriteSession,
    url: Annotated[str, Form(max_length=2_000)] = "",
    events: Annotated[list[str] | None, Form(max_length=20)] = None,
) -> Response:
    """Add a webhook; its secret is on the answered page and nowhere else."""
    chosen = events or []
    try:
        if not chosen:
            raise Invalid("Choose at least one event.", field="events")
        try:
            wanted = WebhookCreate.model_validate({"url": url, "events": [] if set(chosen) >= set(EVENTS) else chosen})
        except ValidationError:
            raise Invalid(f"There are the events {', '.join(EVENTS)}.", field="events") from None
        webhook = service.create(session, who.workspace_id, who.user_id, wanted, settings_of(request))
    except StudioError as error:
        return _page(request, who, session, error=error, url=url, chosen=chosen)
    session.refresh(webhook)
    return _page(request, who, session, made=webhook)


@router.post("/settings/webhooks/{webhook_id}/delete")
def delete_webhook(webhook_id: str, who: Admin, session: WriteSession) -> Response:
    """Remove a webhook; messages that wait are not sent."""
    service.delete(session, who.workspace_id, webhook_id)
    return see_other("/settings/webhooks")


@router.post("/settings/webhooks/{webhook_id}/test")
def send_test(webhook_id: str, who: Admin, session: WriteSession) -> Response:
    """Queue a test message."""
    service.send_test(session, who.workspace_id, webhook_id)
    return see_other(f"/settings/webhooks#{webhook_id}")


@router.post("/settings/webhooks/{webhook_id}/deliveries/{delivery_id}/again")
def send_again(webhook_id: str, delivery_id: str, who: Admin, session: WriteSession) -> Response:
    """Queue a message once more, under the same id."""
    service.send_again(session, who.workspace_id, webhook_id, delivery_id)
    return see_other(f"/settings/webhooks#{webhook_id}")
