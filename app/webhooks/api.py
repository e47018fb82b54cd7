"""REST of webhooks: list, add, delete, and their messages. Reads input, calls the service, answers."""

from __future__ import annotations

from fastapi import Request, Response

from app.web import Admin, After, Limit, Page, ReadSession, WriteSession, api_router, idempotent, paged, settings_of
from app.webhooks import service
from app.webhooks.schemas import DeliveryOut, WebhookCreate, WebhookMade, WebhookOut

router = api_router("webhooks")


@router.get("/webhooks")
def list_webhooks(who: Admin, session: ReadSession) -> Page[WebhookOut]:
    """The webhooks of the workspace, newest first. Secrets are never shown again."""
    found = [WebhookOut.model_validate(webhook) for webhook in service.list_webhooks(session, who.workspace_id)]
    return paged(found, len(found))


@router.post("/webhooks", status_code=201, response_model=WebhookMade)
def create_webhook(request: Request, body: WebhookCreate, who: Admin, session: WriteSession) -> Response:
    """Add a webhook. `secret` is in this answer only: when an `Idempotency-Key` is used again, it is null."""

    def make() -> WebhookMade:
        webhook = service.create(session, who.workspace_id, who.user_id, body, settings_of(request))
        session.refresh(webhook)
        return WebhookMade.model_validate(webhook)

    return idempotent(request, session, who, body, make, once=("secret",))


@router.delete("/webhooks/{webhook_id}", status_code=204)
def delete_webhook(webhook_id: str, who: Admin, session: WriteSession) -> None:
    """Remove a webhook; messages that wait are not sent."""
    service.delete(session, who.workspace_id, webhook_id)


@router.get("/webhooks/{webhook_id}/deliveries")
def list_deliveries(webhook_id: str, who: Admin, session: ReadSession, limit: Limit = 50, after: After = None) -> Page[DeliveryOut]:
    """Messages to a webhook, newest first: what was sent, what was answered, when the next try is."""
    found = service.deliveries(session, who.workspace_id, webhook_id, limit=limit + 1, after=after)
    return paged([DeliveryOut.model_validate(each) for each in found], limit)


@router.post("/webhooks/{webhook_id}/test", status_code=202)
def send_test(webhook_id: str, who: Admin, session: WriteSession) -> DeliveryOut:
    """Queue a test message."""
    delivery = service.send_test(session, who.workspace_id, webhook_id)
    session.refresh(delivery)
    return DeliveryOut.model_validate(delivery)


@router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}/again", status_code=202)
def send_again(webhook_id: str, delivery_id: str, who: Admin, session: WriteSession) -> DeliveryOut:
    """Queue a message once more, under the same id."""
    return DeliveryOut.model_validate(service.send_again(session, who.workspace_id, webhook_id, delivery_id))
