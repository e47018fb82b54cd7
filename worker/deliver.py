"""Send the messages that are due, webhooks and e-mails, and write how it went. Knows nothing of what they tell."""

from __future__ import annotations

import http.client
import logging
import ssl
from concurrent.futures import ThreadPoolExecutor

from app.database import Database
from app.settings import Settings
from app.webhooks import mail, post, service
from app.webhooks.service import Task

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Messages sent side by side, so that one address that does not answer holds up none of the others for long."""


def due(database: Database, settings: Settings) -> int:
    """Send what is due now; how many messages that was."""
    with database.read() as session:
        if not service.waiting(session):
            return 0
    sent = 0
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="post") as pool:
        while tasks := _take(database):
            list(pool.map(lambda task: _try(database, settings, task), tasks))
            sent += len(tasks)
    with database.write() as session:
        service.forget_old(session)
    return sent


def _take(database: Database) -> list[Task]:
    with database.write() as session:
        return [task for _ in range(AT_ONCE) if (task := service.take(session)) is not None]


def _try(database: Database, settings: Settings, task: Task) -> None:
    try:
        answered, error = attempt(settings, task)
    except Exception as fault:  # boundary: one message must never keep the others from being sent
        log.exception("Message %s (%s, try %d) could not be sent.", task.id, task.event, task.attempts)
        answered, error = None, _words(fault)
    if error:
        log.info("Message %s (%s, try %d) was not delivered: %s", task.id, task.event, task.attempts, error)
    with database.write() as session:
        service.settle(session, task, answered=answered, error=error, gone=answered == 410)


def attempt(settings: Settings, task: Task) -> tuple[int | None, str | None]:
    """Send one message once: what was answered, and in words what went wrong, if anything."""
    try:
        if task.email:
            if not settings.smtp_url or not settings.mail_from:
                return None, "This worker has no mail server: LUTHIER_SMTP_URL and LUTHIER_MAIL_FROM are not set for it."
            mail.send(settings, to=task.email, subject=task.subject or "", body=task.body, message_id=task.id)
            return None, None
        if not task.url or not task.secret:
            return None, "The webhook was deleted."
        answer = post.send(settings, url=task.url, secret=task.secret, message_id=task.id, body=task.body)
    except post.Refused as error:
        return None, str(error)
    except post.Invalid as error:
        return None, error.message
    except (OSError, ValueError, http.client.HTTPException) as error:
        return None, _words(error)
    if 200 <= answer.status < 300:
        return answer.status, None
    if 300 <= answer.status < 400:
        return answer.status, f"It answered {answer.status}, a redirect, and those are not followed. Give the address it leads to."
    text = " ".join("".join(character if character.isprintable() else " " for character in answer.text).split())[:200]
    return answer.status, f"It answered {answer.status}{f': {text}' if text else '.'}"


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"Its certificate cannot be trusted: {error.verify_message}."
    if isinstance(error, TimeoutError):
        return "It did not answer in time."
    if isinstance(error, ConnectionRefusedError):
        return "It refuses the connection."
    return f"It could not be sent ({type(error).__name__}: {str(error)[:200]})."
