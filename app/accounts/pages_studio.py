"""Settings for admins: people and invites, workspaces and their members, limits."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse

from app.accounts import audit, invites, members, people, sessions
from app.accounts.pages_own import Text, section
from app.accounts.schemas import Principal
from app.commands import configuration
from app.errors import NotFound, StudioError
from app.web import Admin, ReadSession, StudioAdmin, WriteSession, pages_router, see_other, settings_of

router = pages_router()

INVITED = ("engineer", "viewer", "rater", "admin")


# --- people and invites ---------------------------------------------------------------------------------------------------


@router.get("/settings/people")
def list_people(request: Request, who: StudioAdmin, session: ReadSession) -> HTMLResponse:
    """Everybody who may sign in, and the invites that are open."""
    return _people(request, who, session)


def _people(request: Request, who: Principal, session: ReadSession, **more: Any) -> HTMLResponse:
    context: dict[str, Any] = {"made": None, "given": {}} | more
    users = [(user, members.roles_of(session, user.id)) for user in people.list_users(session, limit=500)]
    return section(
        request,
        "people",
        who,
        users=users,
        invites=invites.list_invites(session),
        workspaces=[workspace for workspace, _ in members.managed(session, who)],
        roles=INVITED,
        **context,
    )


@router.post("/settings/people/{user_id}/role")
def change_role(request: Request, user_id: str, who: StudioAdmin, session: WriteSession, role: Text = "") -> Response:
    """Give a person another role in the studio and in all their workspaces."""
    try:
        people.set_role(session, who, user_id, role)
    except StudioError as error:
        return _people(request, who, session, error=error)
    return see_other("/settings/people?done=role")


@router.post("/settings/people/{user_id}/disable")
def disable(request: Request, user_id: str, who: StudioAdmin, session: WriteSession) -> Response:
    """Shut a person out."""
    try:
        people.disable(session, who, user_id)
    except StudioError as error:
        return _people(request, who, session, error=error)
    return see_other("/settings/people?done=disabled")


@router.post("/settings/people/{user_id}/enable")
def enable(request: Request, user_id: str, who: StudioAdmin, session: WriteSession) -> Response:
    """Let a person in again."""
    try:
        people.enable(session, who, user_id)
    except StudioError as error:
        return _people(request, who, session, error=error)
    return see_other("/settings/people?done=enabled")


@router.post("/settings/people/{user_id}/link")
def make_link(request: Request, user_id: str, who: StudioAdmin, session: WriteSession) -> Response:
    """A link that signs a person in once; it is on the answered page and nowhere else."""
    try:
        user = people.get_user(session, user_id)
        if user.disabled_at is not None:
            raise NotFound(f"“{user.name}” is disabled. Enable them first.")
        link = sessions.link_for(session, settings_of(request), user_id)
        audit.record(session, who, "users.link", user.name, user=user_id)
    except StudioError as error:
        return _people(request, who, session, error=error)
    words = f"Sign-in link for “{user.name}”. Copy it now: it is shown this once, and works once, within 15 minutes."
    return _people(request, who, session, made={"words": words, "link": link})


@router.post("/settings/invites")
def make_invite(
    request: Request,
    who: Admin,
    session: WriteSession,
    name: Text = "",
    email: Text = "",
    role: Text = "engineer",
    workspace: Text = "",
    back: Text = "",
) -> Response:
    """Invite somebody; the link is on the answered page and nowhere else."""
    shown = _members if back == "workspace" else _people_of
    place = workspace or who.workspace_id
    try:
        invite, link = invites.invite(session, who, settings_of(request), name=name, role=role, workspace_id=place, email=email)
    except StudioError as error:
        given = {"name": name[:200], "email": email[:300], "role": role, "workspace": place}
        return shown(request, who, session, place, error=error, given=given)
    words = f"Invite for “{invite.name}”. Copy the link now: it is shown this once, and works once, within three days."
    return shown(request, who, session, place, made={"words": words, "link": link})


def _people_of(request: Request, who: Principal, session: ReadSession, place: str, **more: Any) -> HTMLResponse:
    return _people(request, who, session, **more) if who.studio else _members(request, who, session, who.workspace_id, **more)


@router.post("/settings/invites/{invite_id}/revoke")
def revoke_invite(invite_id: str, who: Admin, session: WriteSession, back: Text = "") -> Response:
    """Take an invite back."""
    invites.revoke(session, who, invite_id)
    known = who.studio and any(each.id == back for each, _ in members.managed(session, who))
    if who.studio and not known:
        return see_other("/settings/people?done=invite")
    return see_other(f"/settings/workspaces/{back if known else who.workspace_id}?done=invite")


# --- workspaces and members -----------------------------------------------------------------------------------------------


@router.get("/settings/workspaces")
def list_workspaces(request: Request, who: Admin, session: ReadSession) -> HTMLResponse:
    """The workspaces the admin runs."""
    return _workspaces(request, who, session)


def _workspaces(request: Request, who: Principal, session: ReadSession, **more: Any) -> HTMLResponse:
    context: dict[str, Any] = {"given": ""} | more
    return section(request, "workspaces", who, workspaces=members.managed(session, who), **context)


@router.post("/settings/workspaces")
def make_workspace(request: Request, who: StudioAdmin, session: WriteSession, name: Text = "") -> Response:
    """Make a workspace."""
    try:
        workspace = members.create_workspace(session, who, name)
    except StudioError as error:
        return _workspaces(request, who, session, error=error, given=name[:200])
    return see_other(f"/settings/workspaces/{workspace.id}?done=workspace")


@router.get("/settings/workspaces/{workspace_id}")
def show_workspace(request: Request, workspace_id: str, who: Admin, session: ReadSession) -> HTMLResponse:
    """A workspace: its name, who belongs to it with what role, and who is invited."""
    return _members(request, who, session, workspace_id)


def _members(request: Request, who: Principal, session: ReadSession, workspace_id: str, **more: Any) -> HTMLResponse:
    context: dict[str, Any] = {"made": None, "given": {}} | more
    workspace = members.get_managed(session, who, workspace_id)
    found = members.list_members(session, workspace_id)
    inside = {user.id for user, _ in found}
    others = [user for user in people.list_users(session) if user.id not in inside and user.disabled_at is None] if who.studio else []
    return section(
        request,
        "workspace",
        who,
        workspace=workspace,
        members=found,
        others=others,
        invites=invites.list_invites(session, workspace_id=workspace_id),
        roles=people.ROLES,
        invited=INVITED if who.studio else INVITED[:3],
        **context,
    )


@router.post("/settings/workspaces/{workspace_id}/name")
def rename_workspace(request: Request, workspace_id: str, who: Admin, session: WriteSession, name: Text = "") -> Response:
    """Give a workspace another name."""
    try:
        members.rename_workspace(session, who, workspace_id, name)
    except StudioError as error:
        return _members(request, who, session, workspace_id, error=error)
    return see_other(f"/settings/workspaces/{workspace_id}?done=saved")


@router.post("/settings/workspaces/{workspace_id}/members")
def add_member(
    request: Request, workspace_id: str, who: StudioAdmin, session: WriteSession, user: Text = "", role: Text = "engineer"
) -> Response:
    """Add somebody who is here already to a workspace."""
    return _change(request, who, session, workspace_id, user, role, "added")


@router.post("/settings/workspaces/{workspace_id}/members/{user_id}/role")
def change_member(request: Request, workspace_id: str, user_id: str, who: Admin, session: WriteSession, role: Text = "") -> Response:
    """Give a member another role in a workspace."""
    return _change(request, who, session, workspace_id, user_id, role, "member")


def _change(request: Request, who: Principal, session: WriteSession, workspace_id: str, user_id: str, role: str, done: str) -> Response:
    try:
        members.set_member(session, who, workspace_id, user_id, role)
    except StudioError as error:
        return _members(request, who, session, workspace_id, error=error)
    return see_other(f"/settings/workspaces/{workspace_id}?done={done}")


@router.post("/settings/workspaces/{workspace_id}/members/{user_id}/remove")
def remove_member(request: Request, workspace_id: str, user_id: str, who: Admin, session: WriteSession) -> Response:
    """Take somebody out of a workspace."""
    try:
        members.remove_member(session, who, workspace_id, user_id)
    except StudioError as error:
        return _members(request, who, session, workspace_id, error=error)
    own = user_id == who.user_id and not who.studio
    return see_other("/settings" if own else f"/settings/workspaces/{workspace_id}?done=removed")


# --- limits ---------------------------------------------------------------------------------------------------------------


@router.get("/settings/limits")
def limits(request: Request, who: StudioAdmin) -> HTMLResponse:
    """Every setting with its value and where that comes from; they are changed in the environment."""
    return section(request, "limits", who, entries=configuration.entries(settings_of(request)))
