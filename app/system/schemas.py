"""How the state of the studio is answered over REST. Touches no database."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class DeviceOut(BaseModel):
    """A device of a worker."""

    name: str | None
    kind: str | None
    total_bytes: int | None
    used_bytes: int | None


class WorkerOut(BaseModel):
    """A worker and what it does for the caller's workspace."""

    id: str
    host: str
    status: Literal["idle", "busy", "lost"]
    problem: str | None
    lanes: list[str]
    devices: list[DeviceOut]
    run_id: str | None
    run: str | None
    jobs: list[dict[str, Any]]
    answers: int
    elsewhere: bool
    """Whether it works for another workspace too."""
    loaded: list[str] | int
    """Models kept loaded for chats: their names for an admin, else how many."""
    versions: dict[str, Any]
    started_at: str | None
    heartbeat_at: str | None


class QueueOut(BaseModel):
    """What waits, and jobs that are going on."""

    runs: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    answers: int


class DiskOut(BaseModel):
    """What lies on the disk."""

    scope: Literal["studio", "workspace"]
    home: str | None
    """Null for anybody but an admin; so is `storage`."""
    storage: str | None
    datasets_bytes: int
    checkpoints_bytes: int
    exports_bytes: int
    free_bytes: int
    total_bytes: int


class DatabaseOut(BaseModel):
    """The database."""

    kind: str
    version: str
    size_bytes: int
    revision: str | None
    address: str | None
    """Without its password; null for anybody but an admin."""


class FailureOut(BaseModel):
    """Something that failed lately."""

    kind: str
    name: str
    reason: str
    url: str
    finished_at: str | None


class SystemOut(BaseModel):
    """How the studio is doing."""

    workers: list[WorkerOut]
    queue: QueueOut
    disk: DiskOut
    database: DatabaseOut
    versions: dict[str, str]
    failures: list[FailureOut]
