"""`luthier token` and `luthier user`: who may come in. Works on the database itself, so it needs no running studio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands import output

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

tokens = typer.Typer(help="API tokens: make, list, revoke.", no_args_is_help=True)
users = typer.Typer(help="People: list, add, invite, change, print a sign-in link.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Workspace = Annotated[str | None, typer.Option(help="Workspace, by name or id; the first one, unless given.")]
Person = Annotated[str, typer.Argument(help="Name, e-mail address or id of the person.")]
Email = Annotated[str | None, typer.Option(help="Their e-mail address; they may sign in with it.")]
ROLES_HELP = "admin, engineer, viewer or rater."
SCOPES_HELP = (
    "What it may be used for: read, runs, datasets, checkpoints, chats or admin; several times for several. Everything, unless given."
)


@contextmanager
def _session() -> Iterator[Session]:
    """A session on a database that has this version's tables, committed at the end."""
    from app import migrations
    from app.accounts import service
    from app.database import get_database
    from app.settings import get_settings

    migrations.check(get_settings())
    with get_database().write() as session:
        service.ensure_first(session)
        yield session


def _place(session: Session, workspace: str | None) -> str:
    """Id of a workspace, by name or id; the first one, unless named."""
    from app.accounts import members, people

    return members.find_workspace(session, workspace).id if workspace else people.first_workspace(session).id


def _place_of(session: Session, project_id: str, workspace: str | None) -> str:
    """Id of the workspace of a feedback project, which must be the one that is named, if any."""
    from app.errors import NotFound
    from app.feedback.tables import Project

    project = session.get(Project, project_id)
    if project is None or (workspace and _place(session, workspace) != project.workspace_id):
        words = f" in the workspace “{output.plain(workspace)}”" if workspace else ""
        raise NotFound(f"There is no feedback project {output.plain(project_id)}{words}. Its address in the browser ends with its id.")
    return project.workspace_id


@tokens.command("create")
def create_token(
    name: Annotated[str, typer.Option(help="What it is for, such as `nightly evaluation`.")],
    role: Annotated[str | None, typer.Option(help=f"{ROLES_HELP} engineer, unless given; with --project rater.")] = None,
    project: Annotated[str | None, typer.Option(help="Id of a feedback project: the token rates there, and does nothing else.")] = None,
    user: Annotated[str | None, typer.Option(help="Whom it stands for, by name or id; the first admin, unless given.")] = None,
    days: Annotated[float | None, typer.Option(help="Days it works; without an end, unless given.", min=0.001)] = None,
    scope: Annotated[list[str] | None, typer.Option(help=SCOPES_HELP)] = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Make an API token and print it, this once."""
    import time

    from app.accounts import service

    with _session() as session:
        owner = service.find_user(session, user) if user else service.first_admin(session)
        ends = time.time() + days * 86_400 if days else None
        made, secret = service.create_token(
            session,
            name=name,
            role=role or ("rater" if project else "engineer"),
            user_id=owner.id,
            workspace_id=_place_of(session, project, workspace) if project else _place(session, workspace),
            expires_at=ends,
            scopes=scope or None,
            project_id=project,
        )
        answer = {"id": made.id, "name": made.name, "role": made.role, "scopes": made.scopes, "project": made.project_id, "token": secret}
    if as_json:
        output.as_json(answer)
    else:
        print(secret)
        output.note(f"Keep it now: it is not shown again. `luthier token revoke {answer['id']}` ends it.")


@tokens.command("list")
def list_tokens(workspace: Workspace = None, as_json: AsJson = False) -> None:
    """List the tokens of a workspace that still work."""
    from app.accounts import service
    from app.database import iso

    with _session() as session:
        names = {user.id: user.name for user in service.list_users(session)}
        rows = [
            {
                "id": each.id,
                "name": each.name,
                "role": each.role,
                "scopes": each.scopes,
                "project": each.project_id,
                "user": names.get(each.user_id, each.user_id),
                "created_at": iso(each.created_at),
                "used_at": iso(each.used_at),
                "expires_at": iso(each.expires_at),
            }
            for each in service.list_tokens(session, _place(session, workspace))
        ]
    if as_json:
        output.as_json(rows)
    else:
        output.table(
            ["id", "name", "role", "for", "user", "last used", "ends"],
            [
                [
                    row["id"],
                    row["name"],
                    row["role"],
                    row["project"] or ",".join(row["scopes"] or ["everything"]),
                    row["user"],
                    row["used_at"] or "never",
                    row["expires_at"] or "never",
                ]
                for row in rows
            ],
            "There are no tokens. `luthier token create --name NAME` makes one.",
        )


@tokens.command("revoke")
def revoke_token(token: Annotated[str, typer.Argument(help="Id of the token, or the token itself.")], as_json: AsJson = False) -> None:
    """End a token at once, whatever workspace it is of."""
    from app.accounts import tokens as service

    token_id = token.split("_")[1] if token.startswith("lt_") and token.count("_") == 2 else token
    with _session() as session:
        service.revoke_token(session, None, token_id)
    if as_json:
        output.as_json({"id": token_id, "revoked": True})
    else:
        print(f"Token {token_id} is revoked.")


@users.command("list")
def list_users(as_json: AsJson = False) -> None:
    """List everybody, with their workspaces and whether they may sign in."""
    from app.accounts import members, service
    from app.database import iso

    with _session() as session:
        rows: list[dict[str, Any]] = [
            {
                "id": each.id,
                "name": each.name,
                "email": each.email,
                "role": each.role,
                "workspaces": {workspace.name: role for workspace, role in members.roles_of(session, each.id)},
                "password": each.password_hash is not None,
                "created_at": iso(each.created_at),
                "disabled_at": iso(each.disabled_at),
            }
            for each in service.list_users(session)
        ]
    if as_json:
        output.as_json(rows)
    else:
        output.table(
            ["id", "name", "role", "workspaces", "signs in with", "since"],
            [
                [
                    row["id"],
                    row["name"],
                    row["role"],
                    ", ".join(name if role == row["role"] else f"{name} ({role})" for name, role in row["workspaces"].items()),
                    "nothing: disabled" if row["disabled_at"] else "password or link" if row["password"] else "link",
                    row["created_at"],
                ]
                for row in rows
            ],
            "There is nobody.",
        )


@users.command("add")
def add_user(
    name: Annotated[str, typer.Argument(help="The person's name.")],
    role: Annotated[str, typer.Option(help=ROLES_HELP)] = "engineer",
    email: Email = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Add a person and print their first sign-in link."""
    from app.accounts import service
    from app.settings import get_settings

    with _session() as session:
        place = _place(session, workspace)
        user = service.add_user(session, name, role, workspace_id=place, email=email)
        service.record(session, None, "users.create", user.name, user=user.id, role=role, workspace_id=place)
        link = service.link_for(session, get_settings(), user.id)
        answer = {"id": user.id, "name": user.name, "role": user.role, "link": link}
    if as_json:
        output.as_json(answer)
    else:
        print(link)
        output.note(f"{output.plain(answer['name'])} ({answer['role']}) signs in with this link: once, within 15 minutes.")


@users.command("invite")
def invite(
    name: Annotated[str, typer.Argument(help="Whom it is for; they may choose another name.")],
    role: Annotated[str, typer.Option(help=ROLES_HELP)] = "engineer",
    email: Email = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Print a link that lets a new person in once, within three days."""
    from app.accounts import invites
    from app.database import iso
    from app.settings import get_settings

    with _session() as session:
        place = _place(session, workspace)
        made, link = invites.invite(session, None, get_settings(), name=name, role=role, workspace_id=place, email=email)
        answer = {"id": made.id, "name": made.name, "role": made.role, "expires_at": iso(made.expires_at), "link": link}
    if as_json:
        output.as_json(answer)
    else:
        print(link)
        output.note(f"Pass it on to {output.plain(answer['name'])} ({answer['role']}): it works once, within three days.")


@users.command("role")
def change_role(person: Person, role: Annotated[str, typer.Argument(help=ROLES_HELP)], as_json: AsJson = False) -> None:
    """Give a person another role in the studio and in all their workspaces; their browsers are signed out."""
    from app.accounts import people

    with _session() as session:
        user = people.set_role(session, None, people.find_user(session, person, also_disabled=True).id, role)
        answer = {"id": user.id, "name": user.name, "role": user.role}
    _say(answer, f"{output.plain(answer['name'])} is {answer['role']} now.", as_json)


@users.command("disable")
def disable(person: Person, as_json: AsJson = False) -> None:
    """Shut a person out: browsers are signed out, links and tokens stop. What they made stays."""
    from app.accounts import people

    with _session() as session:
        user = people.disable(session, None, people.find_user(session, person, also_disabled=True).id)
        answer = {"id": user.id, "name": user.name, "disabled": True}
    _say(answer, f"{output.plain(answer['name'])} is shut out. `luthier user enable` lets them in again.", as_json)


@users.command("enable")
def enable(person: Person, as_json: AsJson = False) -> None:
    """Let a person in again."""
    from app.accounts import people

    with _session() as session:
        user = people.enable(session, None, people.find_user(session, person, also_disabled=True).id)
        answer = {"id": user.id, "name": user.name, "disabled": False}
    _say(answer, f"{output.plain(answer['name'])} may sign in again.", as_json)


def _say(answer: Mapping[str, object], words: str, as_json: bool) -> None:
    if as_json:
        output.as_json(answer)
    else:
        print(words)


@users.command("link")
def link(
    name: Annotated[str | None, typer.Argument(help="Name, e-mail address or id of the person; the first admin, unless given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a link that signs a person in once, within 15 minutes."""
    from app.accounts import service
    from app.settings import get_settings

    with _session() as session:
        user = service.find_user(session, name) if name else service.first_admin(session)
        address = service.link_for(session, get_settings(), user.id)
        service.record(session, None, "users.link", user.name, user=user.id)
        answer = {"user": user.name, "link": address}
    if as_json:
        output.as_json(answer)
    else:
        print(address)
