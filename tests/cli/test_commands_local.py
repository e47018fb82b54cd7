"""Commands that need no running studio: help, settings, doctor, migrate, users, tokens."""

from __future__ import annotations

import json
import re
import resource
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.commands import configuration, output, runs, serve
from app.commands.checks import file_system_of
from app.errors import Invalid
from app.settings import Settings
from tests.cli.studio import environment, luthier
from tests.servers import free_port, missing, postgres_database

COMMANDS = (
    "login",
    "logout",
    "studios",
    "chat",
    "completion",
    "up",
    "demo",
    "web",
    "worker",
    "migrate",
    "run",
    "dataset",
    "checkpoint",
    "token",
    "user",
    "settings",
    "doctor",
)


@pytest.fixture(params=["sqlite", "postgres"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose database has been migrated."""
    if request.param == "sqlite":
        made = environment(tmp_path / "home")
        assert luthier("migrate", env=made).returncode == 0
        yield made
        return
    try:
        with postgres_database() as url:
            made = environment(tmp_path / "home", DATABASE_URL=url)
            assert luthier("migrate", env=made).returncode == 0
            yield made
    except LookupError as error:
        missing("server", f"{error}.")


def test_help_is_quick_and_names_every_command(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = luthier("--help", env=environment(tmp_path))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\S", done.stdout, re.M), f"{command} is missing"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_help_loads_nothing_heavy() -> None:
    heavy = ("sqlalchemy", "fastapi", "httpx", "pydantic", "celery", "torch", "rich")
    code = f"import sys, app.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_settings_say_where_they_come_from_and_mask_secrets(tmp_path: Path) -> None:
    env = environment(tmp_path, DATABASE_URL="postgresql://me:geheim@db/x?password=geheim", TOKEN="lt_abc_geheim", PORT="8123", DEVICE="")
    done = luthier("settings", "--json", env=env)
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert set(found) == {f"LUTHIER_{name.upper()}" for name in Settings.model_fields}
    assert found["LUTHIER_PORT"]["value"] == 8123 and found["LUTHIER_PORT"]["source"] == "environment"
    assert found["LUTHIER_DEVICE"]["source"] == "default"
    assert found["LUTHIER_TOKEN"]["value"] == "lt_abc_***"
    assert found["LUTHIER_BROKER_URL"]["value"].startswith("filesystem://")
    assert all(each["help"] for each in found.values())
    assert "geheim" not in done.stdout + luthier("settings", env=env).stdout


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("postgresql://me@host/x", "postgresql://me@host/x"),
        ("postgresql://me:a%40b@host/x", "postgresql://me:***@host/x"),
        ("/plain/path", "/plain/path"),
        ("", ""),
    ],
)
def test_passwords_are_hidden(url: str, shown: str) -> None:
    assert configuration.without_password(url) == shown


def test_a_wrong_setting_is_one_sentence(tmp_path: Path) -> None:
    for name, value in {"PORT": "eighty", "DEVICE": "tpu", "STORAGE_URL": "s3://bucket"}.items():
        done = luthier("settings", env=environment(tmp_path, **{name: value}))
        assert done.returncode == 2 and f"LUTHIER_{name}" in done.stderr and len(done.stderr.splitlines()) == 1


def test_migrate_goes_up_down_and_checks(env: dict[str, str]) -> None:
    assert luthier("migrate", "--check", env=env).returncode == 0
    down = luthier("migrate", "--down", "base", env=env)
    assert down.returncode == 0, down.stderr
    check = luthier("migrate", "--check", env=env)
    assert check.returncode == 1 and "luthier migrate" in check.stderr
    assert luthier("migrate", env=env).returncode == 0
    assert luthier("migrate", "--check", env=env).returncode == 0
    strange = luthier("migrate", "--down", "nowhere", env=env)
    assert strange.returncode == 2 and len(strange.stderr.splitlines()) == 1


@pytest.mark.one_stack
def test_tokens_are_made_listed_and_revoked(env: dict[str, str]) -> None:
    made = json.loads(luthier("token", "create", "--name", "nightly", "--role", "viewer", "--json", env=env).stdout)
    assert made["token"].startswith(f"lt_{made['id']}_")
    listed = luthier("token", "list", env=env).stdout
    assert made["id"] in listed and "nightly" in listed and made["token"] not in listed
    assert luthier("token", "revoke", made["id"], env=env).returncode == 0
    again = luthier("token", "revoke", made["id"], env=env)
    assert again.returncode == 4 and "no such token" in again.stderr
    assert json.loads(luthier("token", "list", "--json", env=env).stdout) == []
    wrong = luthier("token", "create", "--name", "x", "--role", "king", env=env)
    assert wrong.returncode == 2 and "no role" in wrong.stderr


@pytest.mark.one_stack
def test_users_are_added_and_get_links(env: dict[str, str]) -> None:
    added = json.loads(luthier("user", "add", "Ada", "--role", "engineer", "--json", env=env).stdout)
    assert "/login?token=" in added["link"]
    names = {each["name"]: each["role"] for each in json.loads(luthier("user", "list", "--json", env=env).stdout)}
    assert names == {"admin": "admin", "Ada": "engineer"}
    assert luthier("user", "link", "Ada", env=env).stdout.startswith("http://127.0.0.1:8000/login?token=")
    nobody = luthier("user", "link", "Nobody", env=env)
    assert nobody.returncode == 4 and "no user" in nobody.stderr


def test_commands_on_an_empty_database_say_what_to_run(tmp_path: Path) -> None:
    done = luthier("user", "list", env=environment(tmp_path / "home"))
    assert done.returncode == 2 and "luthier migrate" in done.stderr and len(done.stderr.splitlines()) == 1


def doctor(env: dict[str, str]) -> tuple[int, dict[str, dict[str, str]]]:
    done = luthier("doctor", "--json", env=env)
    return done.returncode, {each["check"]: each for each in json.loads(done.stdout)}


def test_doctor_is_content_with_this_machine_and_makes_nothing(tmp_path: Path) -> None:
    code, found = doctor(environment(tmp_path / "home", PORT=str(free_port())))
    assert code == 0, found
    assert {"python", "database", "queue", "storage", "port", "assets", "training", "device", "allocator", "demo model"} <= set(found)
    assert not (tmp_path / "home").exists()
    text = luthier("doctor", env=environment(tmp_path / "home", PORT=str(free_port()))).stdout
    assert "Luthier can run here." in text


def test_doctor_says_what_to_mend(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, found = doctor(
            environment(
                tmp_path / "home",
                PORT=str(other.getsockname()[1]),
                DATABASE_URL="postgresql://me:geheim@127.0.0.1:1/x",
                BROKER_URL="redis://:geheim@127.0.0.1:1/0",
                PROT="1",
            )
        )
    assert code == 1
    for check in ("database", "queue", "port"):
        assert found[check]["status"] == "fail" and found[check]["message"]
    assert found["settings"]["status"] == "warn" and "LUTHIER_PORT" in found["settings"]["do"]
    assert "geheim" not in json.dumps(found)


def test_doctor_finds_secrets_that_others_can_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text("lt_a_b")
    (home / "token").chmod(stat.S_IRUSR | stat.S_IROTH)
    _, found = doctor(environment(home, PORT=str(free_port())))
    assert found["home"]["status"] == "warn" and "chmod 600" in found["home"]["do"]


def test_the_file_system_is_known(tmp_path: Path) -> None:
    assert not file_system_of(tmp_path).startswith("nfs")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-2", -2),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("last_integer", "last_integer"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_values_are_read_as_people_mean_them(text: str, value: object) -> None:
    found = runs.value_of(text)
    assert found == value and type(found) is type(value)


def test_a_run_file_is_yaml_with_numbers_as_people_write_them(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("method: sft\nparams:\n  learning_rate: 1e-3\n  max_steps: 3\nname: 1e-3x\n")
    assert runs.read_file(file) == {"method": "sft", "params": {"learning_rate": 0.001, "max_steps": 3}, "name": "1e-3x"}
    for content, words in (("a: [", "not valid YAML"), ("- a", "names and values")):
        file.write_text(content)
        with pytest.raises(Invalid, match=words):
            runs.read_file(file)
    with pytest.raises(Invalid, match="cannot be read"):
        runs.read_file(tmp_path / "absent.yaml")


def test_control_characters_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["name"], [["\x1b]0;owned\x07 \x9b31m"]], "none")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", capsys.readouterr().out)


def test_children_find_this_code_from_any_folder() -> None:
    assert "-P" in serve.web_command() and "-P" in serve.worker_command()
    assert "PYTHONPATH" in serve.child_environment()
