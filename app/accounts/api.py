"""REST for people, invites, workspaces, sessions, tokens and the audit log. Reads input, calls the service, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response

from app.accounts import audit, invites, members, people, scopes, sessions, tokens
from app.accounts.schemas import (
    AuditOut,
    ChainOut,
    InviteCreate,
    InviteMade,
    InviteOut,
    LinkOut,
    MemberOut,
    MemberRole,
    MeOut,
    SessionOut,
    TokenCreate,
    TokenMade,
    TokenOut,
    UserChange,
    UserCreate,
    UserMade,
    UserOut,
    WorkspaceName,
    WorkspaceOut,
)
from app.web import (
    Admin,
    After,
    Limit,
    Page,
    Person,
    Reader,
    ReadSession,
    StudioAdmin,
    WriteSession,
    api_router,
    idempotent,
    paged,
    settings_of,
)

router = api_router("accounts")


@router.get("/me")
def me(who: Person) -> MeOut:
    """Who you are, and where."""
    return MeOut(
        user_id=who.user_id,
        name=who.user_name,
        role=who.role,
        studio=who.studio,
        workspace_id=who.workspace_id,
        workspace=who.workspace_name,
        via=who.via,
        scopes=None if who.scopes is None else scopes.in_order(who.scopes),
    )


# --- tokens ---------------------------------------------------------------------------------------------------------------


@router.get("/tokens")
def list_tokens(who: Reader, session: ReadSession, limit: Limit = 50, after: After = None) -> Page[TokenOut]:
    """Your API tokens, newest first; an admin sees everybody's. Secrets are never shown again."""
    found = tokens.list_tokens(
        session, who.workspace_id, user_id=None if who.role == "admin" else who.user_id, limit=limit + 1, after=after
    )
    return paged([TokenOut.model_validate(token) for token in found], limit)


@router.post("/tokens", status_code=201, response_model=TokenMade)
def create_token(request: Request, body: TokenCreate, who: Reader, session: WriteSession) -> Response:
    """Make an API token for yourself. `token` is in this answer only: when an `Idempotency-Key` is used again, it is null."""

    def make() -> TokenMade:
        role = body.role or who.role
        tokens.refuse_beyond(who, role)
        token, plain = tokens.create_token(
            session,
            name=body.name,
            role=role,
            user_id=who.user_id,
            workspace_id=who.workspace_id,
            expires_at=body.expires_at.timestamp() if body.expires_at else None,
            scopes=body.scopes,
            by=who,
        )
        return TokenMade(**TokenOut.model_validate(token).__dict__, token=plain)

    return idempotent(request, session, who, body, make, once=("token",))


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(token_id: str, who: Reader, session: WriteSession) -> None:
    """Revoke one of your API tokens; an admin may revoke any of the workspace."""
    tokens.revoke_token(session, who.workspace_id, token_id, user_id=None if who.role == "admin" else who.user_id, by=who)


# --- people ---------------------------------------------------------------------------------------------------------------


@router.get("/users")
def list_users(
    who: Admin,
    session: ReadSession,
    limit: Limit = 50,
    after: After = None,
    everywhere: Annotated[bool, Query(description="Everybody in the studio; for an admin of the studio.")] = False,
) -> Page[UserOut]:
    """Everybody who may sign in to the workspace, oldest first."""
    workspace_id = None if everywhere and who.studio else who.workspace_id
    found = people.list_users(session, workspace_id=workspace_id, limit=limit + 1, after=after)
    return paged([UserOut.model_validate(user) for user in found], limit)


@router.post("/users", status_code=201, response_model=UserMade)
def add_user(request: Request, body: UserCreate, who: StudioAdmin, session: WriteSession) -> Response:
    """Add a person. `link` signs them in once, and is in this answer only: when an `Idempotency-Key` is used again, it is null."""

    def add() -> UserMade:
        place = members.get_managed(session, who, body.workspace_id or who.workspace_id)
        user = people.add_user(session, body.name, body.role, workspace_id=place.id, email=body.email)
        session.refresh(user)
        audit.record(session, who, "users.create", user.name, user=user.id, role=user.role, workspace_id=place.id)
        link = sessions.link_for(session, settings_of(request), user.id)
        return UserMade(**UserOut.model_validate(user).__dict__, link=link)

    return idempotent(request, session, who, body, add, once=("link",))


@router.patch("/users/{user_id}")
def change_user(user_id: str, body: UserChange, who: StudioAdmin, session: WriteSession) -> UserOut:
    """Change a person's role or name, shut them out or let them in again. The last admin stays one."""
    user = people.get_user(session, user_id)
    if body.name is not None:
        people.rename(session, who, user_id, body.name, user.email)
    if body.role is not None and body.role != user.role:
        people.set_role(session, who, user_id, body.role)
    if body.disabled is not None:
        (people.disable if body.disabled else people.enable)(session, who, user_id)
    session.refresh(user)
    return UserOut.model_validate(user)


@router.delete("/users/{user_id}", status_code=204)
def remove_user(user_id: str, who: StudioAdmin, session: WriteSession) -> None:
    """Shut a person out: browsers are signed out, links and tokens stop. What they made, and their name in the audit log, stay."""
    people.disable(session, who, user_id)


@router.post("/users/{user_id}/link", status_code=201)
def make_link(request: Request, user_id: str, who: StudioAdmin, session: WriteSession) -> LinkOut:
    """A link that signs a person in once, within 15 minutes. It is in this answer only."""
    user = people.get_user(session, user_id)
    link = sessions.link_for(session, settings_of(request), user.id)
    audit.record(session, who, "users.link", user.name, user=user_id)
    return LinkOut(link=link, expires_at=sessions.clock(session) + sessions.LINK_SECONDS)


# --- invites --------------------------------------------------------------------------------------------------------------


def _invite_out(opened: invites.Opened) -> InviteOut:
    made = opened.invite
    return InviteOut(
        id=made.id,
        name=made.name,
        email=made.email,
        role=made.role,
        workspace_id=made.workspace_id,
        workspace=opened.workspace,
        invited_by=opened.by,
        created_at=made.created_at,
        expires_at=made.expires_at,
    )


@router.get("/invites")
def list_invites(who: Admin, session: ReadSession, limit: Limit = 50, after: After = None) -> Page[InviteOut]:
    """Invites that still work, newest first: all of them for an admin of the studio, else those to your workspace."""
    found = invites.list_invites(session, workspace_id=None if who.studio else who.workspace_id, limit=limit + 1, after=after)
    return paged([_invite_out(each) for each in found], limit)


@router.post("/invites", status_code=201, response_model=InviteMade)
def create_invite(request: Request, body: InviteCreate, who: Admin, session: WriteSession) -> Response:
    """Invite somebody: a link for one person, good for three days. `link` is in this answer only; nothing is mailed."""

    def make() -> InviteMade:
        place = members.get_managed(session, who, body.workspace_id or who.workspace_id)
        made, link = invites.invite(
            session, who, settings_of(request), name=body.name, role=body.role, workspace_id=place.id, email=body.email
        )
        return InviteMade(**_invite_out(invites.Opened(made, place.name, who.user_name)).__dict__, link=link)

    return idempotent(request, session, who, body, make, once=("link",))


@router.delete("/invites/{invite_id}", status_code=204)
def revoke_invite(invite_id: str, who: Admin, session: WriteSession) -> None:
    """Take an invite back."""
    invites.revoke(session, who, invite_id)


# --- workspaces -----------------------------------------------------------------------------------------------------------


@router.get("/workspaces")
def list_workspaces(
    who: Reader,
    session: ReadSession,
    everywhere: Annotated[bool, Query(description="All there are; for an admin of the studio.")] = False,
) -> Page[WorkspaceOut]:
    """The workspaces you belong to; a token sees its own."""
    if everywhere and who.studio:
        found = [workspace for workspace, _ in members.managed(session, who)]
    else:
        found = [each for each in members.list_workspaces(session, who.user_id) if who.via == "session" or each.id == who.workspace_id]
    return paged([WorkspaceOut.model_validate(workspace) for workspace in found], len(found))


@router.post("/workspaces", status_code=201, response_model=WorkspaceOut)
def create_workspace(request: Request, body: WorkspaceName, who: StudioAdmin, session: WriteSession) -> Response:
    """Make a workspace; you belong to it as admin."""
    return idempotent(request, session, who, body, lambda: WorkspaceOut.model_validate(members.create_workspace(session, who, body.name)))


@router.patch("/workspaces/{workspace_id}")
def rename_workspace(workspace_id: str, body: WorkspaceName, who: Admin, session: WriteSession) -> WorkspaceOut:
    """Give a workspace another name."""
    return WorkspaceOut.model_validate(members.rename_workspace(session, who, workspace_id, body.name))


@router.get("/workspaces/{workspace_id}/members")
def list_members(workspace_id: str, who: Admin, session: ReadSession, limit: Limit = 50, after: After = None) -> Page[MemberOut]:
    """Who belongs to a workspace, with their roles there."""
    members.get_managed(session, who, workspace_id)
    found = [
        MemberOut(user_id=user.id, name=user.name, role=role, disabled_at=user.disabled_at)
        for user, role in members.list_members(session, workspace_id, limit=limit + 1, after=after)
    ]
    return paged(found, limit, cursor=lambda each: each.user_id)


@router.put("/workspaces/{workspace_id}/members/{user_id}")
def set_member(workspace_id: str, user_id: str, body: MemberRole, who: Admin, session: WriteSession) -> MemberOut:
    """Give somebody a role in a workspace. An admin of the studio may add people this way; others invite them."""
    user, role = members.set_member(session, who, workspace_id, user_id, body.role)
    return MemberOut(user_id=user.id, name=user.name, role=role, disabled_at=user.disabled_at)


@router.delete("/workspaces/{workspace_id}/members/{user_id}", status_code=204)
def remove_member(workspace_id: str, user_id: str, who: Admin, session: WriteSession) -> None:
    """Take somebody out of a workspace; their tokens for it stop."""
    members.remove_member(session, who, workspace_id, user_id)


# --- sessions -------------------------------------------------------------------------------------------------------------


@router.get("/sessions")
def list_sessions(who: Person, session: ReadSession) -> Page[SessionOut]:
    """The browsers that are signed in as you, the one used last first."""
    found = [
        SessionOut.model_validate(browser).model_copy(update={"current": browser.id == who.credential_id})
        for browser in sessions.list_sessions(session, who.user_id)
    ]
    return paged(found, len(found))


@router.delete("/sessions/{session_id}", status_code=204)
def end_session(session_id: str, who: Person, session: WriteSession) -> None:
    """Sign one of your browsers out."""
    sessions.end_session(session, who.user_id, session_id)


# --- the audit log --------------------------------------------------------------------------------------------------------


@router.get("/audit")
def list_entries(
    who: Admin,
    session: ReadSession,
    limit: Limit = 50,
    after: Annotated[int | None, Query(ge=0, lt=2**62, description="Where the previous piece ended: its `next`.")] = None,
    actor: Annotated[str, Query(max_length=200, description="Part of the name, or the id, of who did it.")] = "",
    action: Annotated[str, Query(max_length=200, description="A kind, such as `runs`, or one action, such as `runs.delete`.")] = "",
    subject: Annotated[str, Query(max_length=200, description="Part of what it was done to.")] = "",
) -> Page[AuditOut]:
    """Who did what, newest first: everything for an admin of the studio, else what concerns your workspace."""
    found = audit.entries(
        session,
        workspace_id=None if who.studio else who.workspace_id,
        actor=actor,
        action=action,
        subject=subject,
        limit=limit + 1,
        after=after,
    )
    return paged([AuditOut.model_validate(entry) for entry in found], limit, cursor=lambda each: str(each.number))


@router.get("/audit/check")
def check_log(who: StudioAdmin, session: ReadSession) -> ChainOut:
    """Reckon the chain of the whole audit log anew, and say where it breaks."""
    return ChainOut.model_validate(audit.check(session))
