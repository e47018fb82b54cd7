"""What the accounts API takes and answers, and who a request acts as. Touches no database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, field_validator

Role = Literal["admin", "engineer", "rater", "viewer"]
Scope = Literal["read", "runs", "datasets", "checkpoints", "chats", "feedback", "admin"]

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
    workspace_name: str = ""
    studio: bool = False
    """Whether it may run the studio: people, invites, all workspaces, the whole audit log."""
    scopes: frozenset[str] | None = None
    """What a token may be used for; everything its role may do, when None."""
    credential_name: str = ""
    """What a token is called; empty for a session."""
    project_id: str | None = None
    """The one feedback project that a rater's token is bound to."""


class TokenCreate(BaseModel):
    """An API token to be made for the caller."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=100)
    """What it is for, such as `nightly evaluation`."""
    role: Role | None = None
    """What it may do; at most what its owner may. Default: the caller's role."""
    scopes: list[Scope] | None = Field(None, max_length=20)
    """What it may be used for, such as `["read", "runs"]`; everything its role may do, when left out."""
    expires_at: datetime | None = None
    """When it stops working; never, when left out."""

    @field_validator("expires_at")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class TokenOut(BaseModel):
    """An API token without its secret."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)

    id: str
    name: str
    role: str
    scopes: list[str] | None
    """What it may be used for; everything its role may do, when null."""
    project_id: str | None
    """The one feedback project that a rater's token is bound to."""
    user_id: str
    workspace_id: str
    created_at: Moment
    used_at: Moment | None
    expires_at: Moment | None


class TokenMade(TokenOut):
    """An API token just made: the only answer that holds its secret."""

    token: str


class UserOut(BaseModel):
    """A person."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)

    id: str
    name: str
    email: str | None
    role: str
    """`admin` runs the studio; the others are roles in workspaces, which may differ from one to the next."""
    created_at: Moment
    disabled_at: Moment | None
    password_set_at: Moment | None
    """Since when there is a password; null for somebody who signs in by links."""


class UserCreate(BaseModel):
    """A person to be added."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str = Field(max_length=20_000)
    """What they are called, at most 100 characters; they may sign in with it."""
    role: Role = "engineer"
    """Their role, in the workspace too; `admin` runs the studio."""
    email: str | None = Field(None, max_length=1000)
    """Their e-mail address; they may sign in with it."""
    workspace_id: str | None = None
    """Where they belong to. Default: the caller's workspace."""


class UserMade(UserOut):
    """A person just added, with the link that signs them in once within 15 minutes."""

    link: str | None


class UserChange(BaseModel):
    """What to change about a person; what is left out stays."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    role: Role | None = None
    """Their role in the studio and in every workspace of theirs; their browsers are signed out."""
    disabled: bool | None = None
    """true shuts them out, false lets them in again."""
    name: str | None = Field(None, max_length=20_000)
    """What they are called."""


class LinkOut(BaseModel):
    """An address to open once."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    link: str | None
    """Null when an `Idempotency-Key` is used again: it is shown once."""
    expires_at: Moment


class InviteCreate(BaseModel):
    """An invite to be made."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str = Field(max_length=20_000)
    """Whom it is for, at most 100 characters; they may choose another name."""
    role: Role = "engineer"
    """Their role in the workspace; `admin` runs the studio."""
    email: str | None = Field(None, max_length=1000)
    """Their e-mail address; nothing is sent to it."""
    workspace_id: str | None = None
    """The workspace they are invited to. Default: the caller's."""


class InviteOut(BaseModel):
    """An invite that still works, without its link."""

    id: str
    name: str
    email: str | None
    role: str
    workspace_id: str
    workspace: str
    invited_by: str
    created_at: Moment
    expires_at: Moment


class InviteMade(InviteOut):
    """An invite just made: the only answer that holds its link."""

    link: str


class WorkspaceOut(BaseModel):
    """A workspace the caller belongs to."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    created_at: Moment


class WorkspaceName(BaseModel):
    """A name for a workspace."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str = Field(max_length=20_000)
    """At most 100 characters; no two workspaces have the same."""


class MemberRole(BaseModel):
    """A role in a workspace."""

    model_config = ConfigDict(extra="forbid")

    role: Role


class MemberOut(BaseModel):
    """Somebody who belongs to a workspace."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    user_id: str
    name: str
    role: str
    """The role in this workspace."""
    disabled_at: Moment | None


class MeOut(BaseModel):
    """Who the caller is."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    user_id: str
    name: str
    role: str
    """The role in this workspace, or that of the token."""
    studio: bool
    """Whether the caller may run the studio."""
    workspace_id: str
    workspace: str
    via: str
    """session or token."""
    scopes: list[str] | None
    """What the token may be used for; everything the role may do, when null."""


class AuditOut(BaseModel):
    """An entry of the audit log."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)

    number: int
    at: Moment
    action: str
    """Noun and verb, such as `runs.delete`."""
    subject: str
    details: dict[str, Any]
    actor: str
    actor_id: str | None
    via: str
    """session, token, link, password, invite or command."""
    credential_id: str | None
    workspace_id: str | None
    address: str | None
    hash: str
    """SHA-256 over this entry and the hash of the one before."""


class ChainOut(BaseModel):
    """What a check of the audit log found."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)

    entries: int
    newest: str
    """Hash of the newest entry. Keep it elsewhere: a log that was cut short does not lead to it any more."""
    broken_at: int | None
    """Number of the first entry that was changed or is missing; null when the log is whole."""


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
