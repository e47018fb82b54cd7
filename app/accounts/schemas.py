"""What the accounts API takes and answers, and who a request acts as. Touches no database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, field_validator

Role = Literal["admin", "engineer", "rater", "viewer"]

Moment = Annotated[float, PlainSerializer(lambda at: datetime.fromtimestamp(at, UTC), return_type=datetime)]
"""Seconds since 1970 in the database, ISO 8601 UTC in an answer."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request acts as, in which workspace, and what the role allows."""

    user_id: str
    user_name: str
    workspace_id: str
    role: str
    via: Literal["session", "token"]
    credential_id: str
    """Id of the session or the token."""
    stale: bool = False
    """Whether the time of last use should be written anew."""


class TokenCreate(BaseModel):
    """An API token to be made for the caller."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=100)
    """What it is for, such as `nightly evaluation`."""
    role: Role | None = None
    """What it may do; at most what its owner may. Default: the caller's role."""
    expires_at: datetime | None = None
    """When it stops working; never, when left out."""

    @field_validator("expires_at")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class TokenOut(BaseModel):
    """An API token without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    role: str
    user_id: str
    created_at: Moment
    used_at: Moment | None
    expires_at: Moment | None


class TokenMade(TokenOut):
    """An API token just made: the only answer that holds its secret."""

    token: str


class UserOut(BaseModel):
    """A person."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    email: str | None
    role: str
    created_at: Moment
    disabled_at: Moment | None


class WorkspaceOut(BaseModel):
    """A workspace the caller belongs to."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    created_at: Moment


class SessionOut(BaseModel):
    """A signed-in browser."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    created_at: Moment
    seen_at: Moment
    expires_at: Moment
    address: str | None
    agent: str | None
    current: bool = False
    """Whether it is the browser that asks."""
