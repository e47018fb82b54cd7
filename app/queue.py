"""The doorbell: tells workers to look at the table. A lost message loses nothing, a doubled one changes nothing."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from app.database import after_commit
from app.settings import Settings, get_settings

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger(__name__)

TICK = "luthier.tick"
LANES = ("device", "cpu", "chat")


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's configuration for either broker; makes the folders of the embedded one."""
    config: dict[str, Any] = {
        "broker_url": settings.broker,
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_ignore_result": True,
        "task_publish_retry": False,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "worker_hijack_root_logger": False,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "accept_content": ["json"],
        "task_default_queue": "luthier",
        "task_default_delivery_mode": "transient",
    }
    if settings.broker.startswith("filesystem"):
        base = settings.home / "queue"
        folders = {name: base / name for name in ("waiting", "processed", "control")}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        config["broker_transport_options"] = {
            "data_folder_in": str(folders["waiting"]),
            "data_folder_out": str(folders["waiting"]),
            "processed_folder": str(folders["processed"]),
            "control_folder": str(folders["control"]),
            "store_processed": True,  # moves within one file system; through the temporary folder it would be a copy
            "polling_interval": 0.1,
        }
    else:
        config["broker_transport_options"] = {"socket_timeout": 5, "socket_connect_timeout": 5, "global_keyprefix": "luthier:"}
    return config


@lru_cache
def get_celery() -> Celery:
    """The Celery application of this process; imported late, since it is slow to import."""
    from celery import Celery
    from kombu.transport import TRANSPORT_ALIASES

    TRANSPORT_ALIASES["filesystem"] = "app.doorbell:Transport"
    celery = Celery("luthier")
    celery.conf.update(celery_settings(get_settings()))
    return celery


def tick(lane: str) -> None:
    """Ring once for a lane. A broker that is away is only logged: the sweep rings again."""
    try:
        get_celery().send_task(TICK, kwargs={"lane": lane}, expires=60, ignore_result=True)
    except Exception as error:  # boundary: whatever the broker's client raises, the row is already safe
        log.warning("The queue could not be reached (%s); the sweep will ring again.", error)


def ring(session: Session, lane: str) -> None:
    """Ring for a lane once the session's work is committed."""
    after_commit(session, lambda: tick(lane))
