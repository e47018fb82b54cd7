"""`luthier token` and `luthier user`: who may come in. Works on the database itself, so it needs no running studio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands import output

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

tokens = typer.Typer(help="API tokens: make, list, revoke.", no_args_is_help=True)
users = typer.Typer(help="People: list, add, print a sign-in link.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ROLES_HELP = "admin, engineer, viewer or rater."


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


@tokens.command("create")
def create_token(
    name: Annotated[str, typer.Option(help="What it is for, such as `nightly evaluation`.")],
    role: Annotated[str, typer.Option(help=ROLES_HELP)] = "engineer",
    user: Annotated[str | None, typer.Option(help="Whom it stands for, by name or id; the first admin, unless given.")] = None,
    days: Annotated[float | None, typer.Option(help="Days it works; without an end, unless given.", min=0.001)] = None,
    as_json: AsJson = False,
) -> None:
    """Make an API token and print it, this once."""
    import time

    from app.accounts import service

    with _session() as session:
        owner = service.find_user(session, user) if user else service.first_admin(session)
        ends = time.time() + days * 86_400 if days else None
        made, secret = service.create_token(
            session, name=name, role=role, user_id=owner.id, workspace_id=service.first_workspace(session).id, expires_at=ends
        )
        answer = {"id": made.id, "name": made.name, "role": made.role, "token": secret}
    if as_json:
        output.as_json(answer)
    else:
        print(secret)
        output.note(f"Keep it now: it is not shown again. `luthier token revoke {answer['id']}` ends it.")


@tokens.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """List the tokens that still work."""
    from app.accounts import service
    from app.database import iso

    with _session() as session:
        names = {user.id: user.name for user in service.list_users(session)}
        rows = [
            {
                "id": each.id,
                "name": each.name,
                "role": each.role,
                "user": names.get(each.user_id, each.user_id),
                "created_at": iso(each.created_at),
                "used_at": iso(each.used_at),
                "expires_at": iso(each.expires_at),
            }
            for each in service.list_tokens(session, service.first_workspace(session).id)
        ]
    if as_json:
        output.as_json(rows)
    else:
        output.table(
            ["id", "name", "role", "user", "last used", "ends"],
            [[row["id"], row["name"], row["role"], row["user"], row["used_at"] or "never", row["expires_at"] or "never"] for row in rows],
            "There are no tokens. `luthier token create --name NAME` makes one.",
        )


@tokens.command("revoke")
def revoke_token(token: Annotated[str, typer.Argument(help="Id of the token, or the token itself.")], as_json: AsJson = False) -> None:
    """End a token at once."""
    from app.accounts import service

    token_id = token.split("_")[1] if token.startswith("lt_") and token.count("_") == 2 else token
    with _session() as session:
        service.revoke_token(session, service.first_workspace(session).id, token_id)
    if as_json:
        output.as_json({"id": token_id, "revoked": True})
    else:
        print(f"Token {token_id} is revoked.")


@users.command("list")
def list_users(as_json: AsJson = False) -> None:
    """List everybody who may sign in."""
    from app.accounts import service
    from app.database import iso

    with _session() as session:
        rows = [
            {"id": each.id, "name": each.name, "role": each.role, "created_at": iso(each.created_at), "disabled_at": iso(each.disabled_at)}
            for each in service.list_users(session)
        ]
    if as_json:
        output.as_json(rows)
    else:
        output.table(
            ["id", "name", "role", "since"], [[row["id"], row["name"], row["role"], row["created_at"]] for row in rows], "There is nobody."
        )


@users.command("add")
def add_user(
    name: Annotated[str, typer.Argument(help="The person's name.")],
    role: Annotated[str, typer.Option(help=ROLES_HELP)] = "engineer",
    as_json: AsJson = False,
) -> None:
    """Add a person and print their first sign-in link."""
    from app.accounts import service
    from app.settings import get_settings

    with _session() as session:
        user = service.add_user(session, name, role)
        link = service.link_for(session, get_settings(), user.id)
        answer = {"id": user.id, "name": user.name, "role": user.role, "link": link}
    if as_json:
        output.as_json(answer)
    else:
        print(link)
        output.note(f"{output.plain(answer['name'])} ({answer['role']}) signs in with this link: once, within 15 minutes.")


@users.command("link")
def link(
    name: Annotated[str | None, typer.Argument(help="Name or id of the person; the first admin, unless given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a link that signs a person in once, within 15 minutes."""
    from app.accounts import service
    from app.settings import get_settings

    with _session() as session:
        user = service.find_user(session, name) if name else service.first_admin(session)
        address = service.link_for(session, get_settings(), user.id)
        answer = {"user": user.name, "link": address}
    if as_json:
        output.as_json(answer)
    else:
        print(address)
