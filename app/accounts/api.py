"""REST for tokens, users, workspaces and sessions. Reads input, calls the service, answers."""

from __future__ import annotations

from fastapi import Request, Response

from app.accounts import service
from app.accounts.schemas import SessionOut, TokenCreate, TokenMade, TokenOut, UserOut, WorkspaceOut
from app.web import Admin, After, Limit, Page, Reader, ReadSession, WriteSession, api_router, idempotent, paged

router = api_router("accounts")


@router.get("/tokens")
def list_tokens(who: Reader, session: ReadSession, limit: Limit = 50, after: After = None) -> Page[TokenOut]:
    """Your API tokens, newest first; an admin sees everybody's. Secrets are never shown again."""
    found = service.list_tokens(
        session, who.workspace_id, user_id=None if who.role == "admin" else who.user_id, limit=limit + 1, after=after
    )
    return paged([TokenOut.model_validate(token) for token in found], limit)


@router.post("/tokens", status_code=201, response_model=TokenMade)
def create_token(request: Request, body: TokenCreate, who: Reader, session: WriteSession) -> Response:
    """Make an API token for yourself. `token` is in this answer only: when an `Idempotency-Key` is used again, it is null."""

    def make() -> TokenMade:
        role = body.role or who.role
        service.refuse_beyond(who, role)
        token, plain = service.create_token(
            session,
            name=body.name,
            role=role,
            user_id=who.user_id,
            workspace_id=who.workspace_id,
            expires_at=body.expires_at.timestamp() if body.expires_at else None,
        )
        return TokenMade(**TokenOut.model_validate(token).__dict__, token=plain)

    return idempotent(request, session, who, body, make, once=("token",))


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(token_id: str, who: Reader, session: WriteSession) -> None:
    """Revoke one of your API tokens; an admin may revoke any of the workspace."""
    service.revoke_token(session, who.workspace_id, token_id, user_id=None if who.role == "admin" else who.user_id)


@router.get("/users")
def list_users(who: Admin, session: ReadSession, limit: Limit = 50, after: After = None) -> Page[UserOut]:
    """Everybody who may sign in to the workspace, oldest first."""
    found = service.list_users(session, workspace_id=who.workspace_id, limit=limit + 1, after=after)
    return paged([UserOut.model_validate(user) for user in found], limit)


@router.get("/workspaces")
def list_workspaces(who: Reader, session: ReadSession) -> Page[WorkspaceOut]:
    """The workspaces you belong to."""
    found = [WorkspaceOut.model_validate(workspace) for workspace in service.list_workspaces(session, who.user_id)]
    return paged(found, len(found))


@router.get("/sessions")
def list_sessions(who: Reader, session: ReadSession) -> Page[SessionOut]:
    """The browsers that are signed in as you, the one used last first."""
    found = [
        SessionOut.model_validate(browser).model_copy(update={"current": browser.id == who.credential_id})
        for browser in service.list_sessions(session, who.user_id)
    ]
    return paged(found, len(found))


@router.delete("/sessions/{session_id}", status_code=204)
def end_session(session_id: str, who: Reader, session: WriteSession) -> None:
    """Sign one of your browsers out."""
    service.end_session(session, who.user_id, session_id)
