"""Settings everybody has: their account, signed-in browsers and API tokens. Those of the studio are in `pages_studio`."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import Form, Request, Response
from fastapi.responses import HTMLResponse

from app.accounts import audit, members, passwords, people, scopes, sessions, tokens
from app.accounts.schemas import Principal
from app.errors import Forbidden, Invalid, StudioError
from app.security import Attempts
from app.settings import Settings
from app.web import (
    Person,
    Reader,
    ReadSession,
    WriteSession,
    address_of,
    cookie_name,
    page,
    pages_router,
    see_other,
    settings_of,
    uses_https,
)

router = pages_router()

Text = Annotated[str, Form(max_length=20_000)]
Several = Annotated[list[str] | None, Form(max_length=20)]

DONE = {
    "saved": "Saved.",
    "password": "The password is set. Your other browsers were signed out.",
    "session": "That browser is signed out.",
    "others": "All your other browsers are signed out.",
    "token": "The token is revoked; it stopped working at once.",
    "invite": "The invite is taken back; its link does not work any more.",
    "role": "The role is changed. The person was signed out and signs in again with it.",
    "disabled": "The person is disabled: signed out everywhere, and their tokens stopped.",
    "enabled": "The person may sign in again.",
    "workspace": "The workspace is made. Add people to it below.",
    "member": "The role in this workspace is changed, and holds at once.",
    "added": "The person belongs to this workspace now.",
    "removed": "The person does not belong to this workspace any more; their tokens for it stopped.",
}
"""What a page says after something was done, by the word in its address: no address can make it say anything else."""

LIFETIMES = {"30": "30 days", "90": "90 days", "365": "1 year", "": "no end"}


def section(request: Request, template: str, who: Principal, *, error: StudioError | None = None, **context: Any) -> HTMLResponse:
    """A page of the settings, with what was done before it or why it was not done."""
    done = DONE.get(request.query_params.get("done", ""))
    status = error.status if error else 200
    return page(request, f"accounts/{template}.html", who, status=status, error=error, done=done, **context)


def set_cookie(response: Response, settings: Settings, cookie: str) -> None:
    """Put a session's secret into the browser."""
    response.set_cookie(
        cookie_name(settings),
        cookie,
        max_age=sessions.SESSION_SECONDS,
        path="/",
        secure=uses_https(settings),
        httponly=True,
        samesite="lax",
    )


# --- account --------------------------------------------------------------------------------------------------------------


@router.get("/settings")
def account(request: Request, who: Person, session: ReadSession) -> HTMLResponse:
    """Name, password and theme of the one who is signed in."""
    return _account(request, who, session)


def _account(request: Request, who: Principal, session: ReadSession, **more: Any) -> HTMLResponse:
    user = people.get_user(session, who.user_id)
    context: dict[str, Any] = {"given": {"name": user.name, "email": user.email or ""}} | more
    places = members.roles_of(session, who.user_id)
    fresh = sessions.is_fresh(session, who.credential_id)
    return section(request, "account", who, user=user, places=places, ask_current=bool(user.password_hash) and not fresh, **context)


@router.post("/settings/name")
def rename(request: Request, who: Person, session: WriteSession, name: Text = "", email: Text = "") -> Response:
    """Change one's name and e-mail address."""
    try:
        people.rename(session, who, who.user_id, name, email)
    except StudioError as error:
        return _account(request, who, session, error=error, given={"name": name[:200], "email": email[:300]})
    return see_other("/settings?done=saved")


@router.post("/settings/password")
def set_password(
    request: Request, who: Person, session: WriteSession, current: Text = "", password: Text = "", again: Text = ""
) -> Response:
    """Set or change one's password: this browser gets a new session, and all others are signed out."""
    try:
        if who.via != "session":
            raise Forbidden("A password is set in the browser, not with a token.")
        if password != again:
            raise Invalid("The two passwords are not the same. Type both anew.", field="again")
        passwords.check_new(password, name=who.user_name)
        with request.app.state.database.read() as reading:
            user = people.get_user(reading, who.user_id)
            needs_current = bool(user.password_hash) and not sessions.is_fresh(reading, who.credential_id)
        if needs_current:
            _check_current(request, who, user.password_hash, current)
        kept = passwords.hashed(password, name=who.user_name)
    except StudioError as error:
        return _account(request, who, session, error=error)
    passwords.set_hash(session, who.user_id, kept)
    cookie = sessions.turn_over(session, who)
    audit.record(session, who, "users.password", who.user_name)
    response = see_other("/settings?done=password")
    set_cookie(response, settings_of(request), cookie)
    return response


def _check_current(request: Request, who: Principal, kept: str | None, current: str) -> None:
    attempts: Attempts = request.app.state.attempts
    names = (address_of(request), f"password of {who.user_id}")
    attempts.check(*names)
    if not passwords.verified(kept, current)[0]:
        attempts.failed(*names)
        raise Invalid("This is not your password so far. Forgotten? Sign in with a link, and you may set one without it.", field="current")


@router.post("/settings/theme")
def set_theme(who: Person, theme: Text = "") -> Response:
    """Light, dark, or as the system has it; kept in this browser."""
    response = see_other("/settings?done=saved")
    if theme in ("light", "dark"):
        response.set_cookie("theme", theme, max_age=365 * 24 * 3600, path="/", samesite="lax")
    else:
        response.delete_cookie("theme", path="/", samesite="lax")
    return response


# --- sessions -------------------------------------------------------------------------------------------------------------


@router.get("/settings/sessions")
def list_sessions(request: Request, who: Person, session: ReadSession) -> HTMLResponse:
    """Browsers that are signed in as the user."""
    found = [(each, browser_name(each.agent)) for each in sessions.list_sessions(session, who.user_id)]
    return section(request, "sessions", who, sessions=found)


def browser_name(agent: str | None) -> str:
    """A browser and its system in a few words, as far as its `User-Agent` tells."""
    known = (("Edg", "Edge"), ("Firefox", "Firefox"), ("Chrom", "Chrome"), ("Safari", "Safari"))
    systems = (("Android", "Android"), ("iPhone", "iPhone"), ("Mac OS", "macOS"), ("Windows", "Windows"), ("Linux", "Linux"))
    name = next((name for mark, name in known if mark in (agent or "")), "A program" if agent else "Unknown")
    return name + next((f" on {system}" for mark, system in systems if mark in (agent or "")), "")


@router.post("/settings/sessions/{session_id}/end")
def end_session(session_id: str, who: Person, session: WriteSession) -> Response:
    """Sign one of the user's browsers out."""
    sessions.end_session(session, who.user_id, session_id)
    return see_other("/settings/sessions?done=session")


@router.post("/settings/sessions/end-others")
def end_other_sessions(who: Person, session: WriteSession) -> Response:
    """Sign all of the user's browsers out but this one."""
    sessions.end_other_sessions(session, who.user_id, but=who.credential_id)
    return see_other("/settings/sessions?done=others")


# --- tokens ---------------------------------------------------------------------------------------------------------------


@router.get("/settings/tokens")
def list_tokens(request: Request, who: Reader, session: ReadSession) -> HTMLResponse:
    """The user's own API tokens in this workspace; an admin sees everybody's."""
    return _tokens(request, who, session)


def _tokens(request: Request, who: Principal, session: ReadSession, **more: Any) -> HTMLResponse:
    context: dict[str, Any] = {"made": None, "given": {"name": "", "role": who.role, "scopes": [], "days": "90"}} | more
    everybodys = who.role == "admin"
    found = tokens.list_tokens(session, who.workspace_id, user_id=None if everybodys else who.user_id, limit=500)
    names = {user.id: user.name for user, _ in members.list_members(session, who.workspace_id)} if everybodys else {}
    return section(
        request,
        "tokens",
        who,
        tokens=found,
        names=names,
        roles=[role for role in people.MAY_GIVE[who.role] if role != "rater"],
        scopes=scopes.SCOPES,
        lifetimes=LIFETIMES,
        **context,
    )


@router.post("/settings/tokens")
def make_token(
    request: Request,
    who: Reader,
    session: WriteSession,
    name: Text = "",
    role: Text = "",
    scope: Several = None,
    days: Text = "",
) -> Response:
    """Make an API token; its secret is on the answered page and nowhere else."""
    try:
        if days and days not in LIFETIMES:
            raise Invalid("Choose how long the token works from the list.", field="days")
        tokens.refuse_beyond(who, role)
        token, plain = tokens.create_token(
            session,
            name=name,
            role=role or who.role,
            user_id=who.user_id,
            workspace_id=who.workspace_id,
            scopes=scope or None,
            expires_at=time.time() + int(days) * 86_400 if days else None,
            by=who,
        )
    except StudioError as error:
        given = {"name": name[:200], "role": role, "scopes": scope or [], "days": days}
        return _tokens(request, who, session, error=error, given=given)
    return _tokens(request, who, session, made={"name": token.name, "plain": plain})


@router.post("/settings/tokens/{token_id}/revoke")
def revoke_token(token_id: str, who: Reader, session: WriteSession) -> Response:
    """End one of the user's tokens; an admin may end any of the workspace."""
    tokens.revoke_token(session, who.workspace_id, token_id, user_id=None if who.role == "admin" else who.user_id, by=who)
    return see_other("/settings/tokens?done=token")
