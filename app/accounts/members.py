"""Workspaces and who belongs to them, with a role each. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.accounts import audit, people
from app.accounts.schemas import Principal
from app.accounts.tables import Member, User, Workspace
from app.errors import Conflict, NotFound

NO_WORKSPACE = "There is no such workspace, or you do not run it."


def list_workspaces(session: Session, user_id: str) -> Sequence[Workspace]:
    """The workspaces a user belongs to."""
    return session.scalars(
        select(Workspace).join(Member, Member.workspace_id == Workspace.id).where(Member.user_id == user_id).order_by(Workspace.id)
    ).all()


def roles_of(session: Session, user_id: str) -> list[tuple[Workspace, str]]:
    """The workspaces a user belongs to, with the role there."""
    query = select(Workspace, Member.role).join(Member, Member.workspace_id == Workspace.id).where(Member.user_id == user_id)
    return [(workspace, role) for workspace, role in session.execute(query.order_by(Workspace.name))]


def managed(session: Session, who: Principal) -> list[tuple[Workspace, int]]:
    """The workspaces the caller runs, with how many belong to each: all of them for an admin of the studio, else the present one."""
    query = select(Workspace, func.count(Member.user_id)).outerjoin(Member, Member.workspace_id == Workspace.id).group_by(Workspace.id)
    if not who.studio:
        query = query.where(Workspace.id == (who.workspace_id if who.role == "admin" else ""))
    return [(workspace, count) for workspace, count in session.execute(query.order_by(Workspace.name))]


def get_managed(session: Session, who: Principal | None, workspace_id: str) -> Workspace:
    """A workspace the caller runs.

    Raises:
        NotFound: there is no such workspace, or the caller does not run it.
    """
    may = who is None or who.studio or (who.role == "admin" and who.workspace_id == workspace_id)
    workspace = session.get(Workspace, workspace_id) if may else None
    if workspace is None:
        raise NotFound(NO_WORKSPACE)
    return workspace


def find_workspace(session: Session, name_or_id: str) -> Workspace:
    """A workspace by id or name.

    Raises:
        NotFound: there is none.
    """
    given = name_or_id.strip()
    found = session.scalars(select(Workspace).where((Workspace.id == given) | (Workspace.name == given))).first()
    if found is None:
        raise NotFound(f"There is no workspace “{given[:100]}”.")
    return found


def create_workspace(session: Session, who: Principal, name: str) -> Workspace:
    """Make a workspace; who makes it belongs to it as admin.

    Raises:
        Invalid: the name cannot be used.
        Conflict: there is one of that name.
    """
    workspace = Workspace(name=_free_name(session, name))
    session.add(workspace)
    session.flush()
    session.add(Member(workspace_id=workspace.id, user_id=who.user_id, role="admin"))
    session.flush()
    session.refresh(workspace)
    audit.record(session, who, "workspaces.create", workspace.name, workspace_id=workspace.id)
    return workspace


def rename_workspace(session: Session, who: Principal, workspace_id: str, name: str) -> Workspace:
    """Give a workspace another name.

    Raises:
        NotFound: the caller does not run it.
        Invalid: the name cannot be used.
        Conflict: there is one of that name.
    """
    workspace = get_managed(session, who, workspace_id)
    before, name = workspace.name, _free_name(session, name, but=workspace_id)
    workspace.name = name
    session.flush()
    audit.record(session, who, "workspaces.rename", name, workspace_id=workspace_id, before=before)
    return workspace


def _free_name(session: Session, name: str, but: str = "") -> str:
    name = people.clean_name(name, "A workspace")
    if session.scalar(select(Workspace.id).where(Workspace.name == name, Workspace.id != but)):
        raise Conflict(f"There is a workspace “{name}” already. Take another name.", field="name", code="taken")
    return name


def list_members(session: Session, workspace_id: str, *, limit: int = 1000, after: str | None = None) -> list[tuple[User, str]]:
    """Who belongs to a workspace, with their roles there, in the order of their ids."""
    query = select(User, Member.role).join(Member, Member.user_id == User.id).where(Member.workspace_id == workspace_id)
    if after is not None:
        query = query.where(User.id > after)
    return [(user, role) for user, role in session.execute(query.order_by(User.id).limit(limit))]


def set_member(session: Session, who: Principal | None, workspace_id: str, user_id: str, role: str) -> tuple[User, str]:
    """Give somebody a role in a workspace. Only an admin of the studio adds people who do not belong to it; others invite them.

    Raises:
        NotFound: the caller does not run the workspace, or there is no such person (in it).
        Invalid: there is no such role.
        Conflict: the person runs the studio, and is admin everywhere.
    """
    workspace = get_managed(session, who, workspace_id)
    people.check_role(role)
    member = session.get(Member, (workspace_id, user_id))
    user = session.get(User, user_id) if member is not None or who is None or who.studio else None
    if user is None:
        raise NotFound("There is no such person in this workspace.")
    if user.role == "admin" and role != "admin":
        raise _runs_the_studio(user)
    before = member.role if member else None
    if member is None:
        session.add(Member(workspace_id=workspace_id, user_id=user_id, role=role))
    else:
        member.role = role
    if role != "admin":
        people.revoke_invites_by(session, user_id, workspace_id=workspace_id)
    session.flush()
    audit.record(session, who, "members.role", user.name, workspace_id=workspace_id, workspace=workspace.name, before=before, after=role)
    return user, role


def remove_member(session: Session, who: Principal, workspace_id: str, user_id: str) -> None:
    """Take somebody out of a workspace; their tokens for it stop.

    Raises:
        NotFound: the caller does not run the workspace, or the person does not belong to it.
        Conflict: it is the person's only workspace, or the person runs the studio and the caller does not.
    """
    workspace = get_managed(session, who, workspace_id)
    member, user = session.get(Member, (workspace_id, user_id)), session.get(User, user_id)
    if member is None or user is None:
        raise NotFound("There is no such person in this workspace.")
    if user.role == "admin" and not who.studio:
        raise _runs_the_studio(user)
    if session.scalar(select(func.count()).select_from(Member).where(Member.user_id == user_id)) == 1:
        raise Conflict(f"“{user.name}” belongs to no other workspace. Add them to another one first, or disable them.")
    session.execute(delete(Member).where(Member.workspace_id == workspace_id, Member.user_id == user_id))
    if user.role != "admin":
        people.revoke_invites_by(session, user_id, workspace_id=workspace_id)
    audit.record(session, who, "members.remove", user.name, workspace_id=workspace_id, workspace=workspace.name)


def _runs_the_studio(user: User) -> Conflict:
    return Conflict(f"“{user.name}” is an admin of the studio, and so of every workspace. Change the role of the person first.")
