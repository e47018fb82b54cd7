"""`luthier user` and `luthier token`: people and tokens from the machine where the studio runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app import migrations
from app.accounts import audit, members, service
from app.accounts.schemas import Principal
from app.cli import app as commands
from app.database import get_database
from app.errors import StudioError
from app.feedback.tables import Project
from app.settings import Settings, get_settings

Run = Callable[..., Any]


@pytest.fixture
def luthier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command on a fresh studio; with `--json`, its answer."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"LUTHIER_{name.upper()}", raising=False)
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    get_settings.cache_clear()
    get_database.cache_clear()
    migrations.upgrade(get_settings())

    def run(*words: str) -> Any:
        done = CliRunner().invoke(commands, list(words))
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return json.loads(done.stdout) if "--json" in words else done.stdout

    yield run
    get_database().dispose()
    get_settings.cache_clear()
    get_database.cache_clear()


def test_somebody_is_invited_from_the_command_line(luthier: Run) -> None:
    made = luthier("user", "invite", "Grace", "--role", "viewer", "--email", "grace@example.org", "--json")
    assert "/join?token=" in made["link"] and made["role"] == "viewer"
    with pytest.raises(StudioError, match="called “admin” here already"):
        luthier("user", "invite", "admin")


def test_a_person_is_added_lowered_shut_out_and_let_in_again(luthier: Run) -> None:
    luthier("user", "add", "Ada", "--email", "ada@example.org")
    assert luthier("user", "role", "ada@example.org", "viewer", "--json")["role"] == "viewer"
    assert luthier("user", "disable", "Ada", "--json")["disabled"] is True
    with pytest.raises(StudioError, match="no user “Ada”"):
        luthier("user", "link", "Ada")
    assert luthier("user", "list", "--json")[1]["disabled_at"] is not None
    assert "nothing: disabled" in luthier("user", "list")
    luthier("user", "enable", "Ada")
    assert luthier("user", "link", "Ada").startswith("http")
    with pytest.raises(StudioError, match="last admin"):
        luthier("user", "role", "admin", "viewer")
    with pytest.raises(StudioError, match="last admin"):
        luthier("user", "disable", "admin")


def test_tokens_get_scopes_an_end_and_a_workspace(luthier: Run) -> None:
    with get_database().write() as session:
        luthier_admin = luthier_principal(session)
        members.create_workspace(session, luthier_admin, "Lab")
    made = luthier("token", "create", "--name", "x", "--scope", "runs", "--scope", "read", "--days", "30", "--workspace", "Lab", "--json")
    assert made["scopes"] == ["read", "runs"]
    assert luthier("token", "list", "--json") == []
    listed = luthier("token", "list", "--workspace", "Lab", "--json")
    assert listed[0]["id"] == made["id"] and listed[0]["expires_at"]
    assert "read,runs" in luthier("token", "list", "--workspace", "Lab")
    assert luthier("token", "revoke", made["token"], "--json")["revoked"] is True
    with pytest.raises(StudioError, match="no scope “all”"):
        luthier("token", "create", "--name", "x", "--scope", "all")
    with pytest.raises(StudioError, match="no workspace “Nowhere”"):
        luthier("token", "create", "--name", "x", "--workspace", "Nowhere")


def luthier_principal(session: Any) -> Principal:
    from app.accounts import people

    admin = people.ensure_first(session)
    place = people.first_workspace(session).id
    return Principal(admin.id, admin.name, place, "admin", "session", "none", studio=True)


def test_what_commands_do_is_in_the_audit_log_and_doctor_looks_at_it(luthier: Run) -> None:
    luthier("user", "add", "Ada")
    luthier("token", "create", "--name", "x")
    with get_database().read() as session:
        noted = [(each.action, each.actor, each.via) for each in audit.entries(session)]
    assert noted == [("tokens.create", "command line", "command"), ("users.create", "command line", "command")]
    from app.commands import checks

    assert checks.audit_log(get_settings()).status == "ok"
    with get_database().write() as session:
        connection = session.connection()
        connection.exec_driver_sql("DROP TRIGGER audit_no_update")
        connection.exec_driver_sql("UPDATE audit SET actor = 'nobody' WHERE number = 1")
    found = checks.audit_log(get_settings())
    assert found.status == "fail" and "entry 1" in found.message


def test_a_token_for_one_project_is_a_raters(luthier: Run) -> None:
    luthier("user", "list")
    with get_database().write() as session:
        place = members.find_workspace(session, "Default").id
        project = Project(workspace_id=place, name="taste", kind="pair")
        session.add(project)
        session.flush()
        project_id = project.id
    made = luthier("token", "create", "--name", "labeller", "--project", project_id, "--json")
    assert (made["role"], made["project"]) == ("rater", project_id)
    with get_database().read() as session:
        who = service.token_principal(session, made["token"])
        assert who is not None and (who.role, who.project_id, who.credential_name) == ("rater", project_id, "labeller")
    assert project_id in luthier("token", "list") and luthier("token", "create", "--name", "n", "--json")["role"] == "engineer"
    for words, match in ((("prj_none",), "no feedback project prj_none"), ((project_id, "--role", "admin"), "is a rater's")):
        with pytest.raises(StudioError, match=match):
            luthier("token", "create", "--name", "n", "--project", *words)
