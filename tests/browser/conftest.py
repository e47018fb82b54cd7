"""A real browser on a real web server with some days of made-up work; a page that logs an error or leaves this machine fails its test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Page, Response, Route, expect

from app.accounts import service as accounts
from app.database import Database
from app.migrations import upgrade
from app.settings import Settings, files
from tests.browser.seed import fill_workspace
from tests.servers import free_port, missing

ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
)
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser")
"""Debian's Chromium, in the order it is looked for: the shell has no windows to draw and needs less than half the processor time."""
ROOT = Path(__file__).parents[2]
expect.set_options(timeout=20_000)  # the machine may be busy with another test


@dataclass
class Studio:
    """A running web server, its database, and the ids of the seeded runs by a short name."""

    url: str
    database: Database
    settings: Settings
    workspace_id: str
    admin_id: str
    ids: dict[str, str]
    process: subprocess.Popen[bytes]

    def restart(self) -> None:
        """Kill the web server at once and start it anew."""
        self.process.kill()
        self.process.wait(10)
        self.process = start_web(self.settings)

    def link(self, user_id: str | None = None) -> str:
        """A fresh sign-in link."""
        with self.database.write() as session:
            return accounts.link_for(session, self.settings, user_id or self.admin_id)

    def cookies(self, user_id: str | None = None) -> list[dict[str, Any]]:
        """Cookies of a browser that has just signed in, as playwright takes them."""
        answer = httpx.get(self.link(user_id), headers={"Sec-Fetch-Site": "none"})
        assert answer.status_code == 303, answer.text
        host = urlsplit(self.url).hostname
        return [{"name": name, "value": value, "domain": host, "path": "/"} for name, value in answer.cookies.items()]


def chromium() -> str | None:
    """Path of the browser to drive, if one is installed."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def start_web(settings: Settings) -> subprocess.Popen[bytes]:
    """A web server that answers already."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LUTHIER_")}
    environment |= {"LUTHIER_HOME": str(settings.home), "LUTHIER_PORT": str(settings.port)}
    with open(settings.home / "web.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from app.cli import main; main()", "web"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    for _ in range(200):
        try:
            httpx.get(f"http://127.0.0.1:{settings.port}/healthz", timeout=1)
            return process
        except httpx.TransportError:
            assert process.poll() is None, (settings.home / "web.log").read_text()
            time.sleep(0.1)
    process.kill()
    raise AssertionError("The web server did not start.")


def serve(home: Path, *, seeded: bool) -> Iterator[Studio]:
    """A web server on a HOME of its own, as long as the generator lives."""
    settings = Settings(home=home, port=free_port())
    database = Database(settings.database)
    upgrade(settings)
    with database.write() as session:
        admin, workspace = accounts.ensure_first(session), accounts.first_workspace(session)
        ids = fill_workspace(session, workspace.id) if seeded else {}
    made = Studio(f"http://127.0.0.1:{settings.port}", database, settings, workspace.id, admin.id, ids, start_web(settings))
    try:
        yield made
    finally:
        made.process.terminate()
        made.process.wait(10)
        database.dispose()


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """The studio most tests look at."""
    if not (files("static") / "vendor" / "htmx.js").is_file():
        missing("browser", "the browser assets are not there; run `make setup`.")
    yield from serve(tmp_path_factory.mktemp("studio"), seeded=True)


@pytest.fixture
def empty_studio(tmp_path: Path) -> Iterator[Studio]:
    """A studio in which nothing has happened yet."""
    yield from serve(tmp_path, seeded=False)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """Debian's Chromium, which never calls home."""
    found = chromium()
    if found is None:
        missing("browser", "Chromium is not installed.")
    return {**browser_type_launch_args, "executable_path": found, "args": ARGUMENTS.split()}


@pytest.fixture(scope="session")
def base_url(studio: Studio) -> str:
    """Address that relative ones belong to."""
    return studio.url


@pytest.fixture
def browser_context_args(browser_context_args: dict[str, Any], studio: Studio) -> dict[str, Any]:
    """Signed in as the admin, on a screen of common size."""
    return {
        **browser_context_args,
        "viewport": {"width": 1440, "height": 900},
        "reduced_motion": "reduce",
        "storage_state": {"cookies": studio.cookies(), "origins": []},
    }


def watch(page: Page, url: str) -> list[str]:
    """Collect what must not happen on a page: errors in its console, requests that fail or leave this machine."""
    found: list[str] = []

    def answered(response: Response) -> None:
        if response.status >= 500:
            found.append(f"{response.status} {response.url}")

    def asked(route: Route) -> None:
        if not route.request.url.startswith((url, "data:", "blob:")):
            found.append(f"left this machine: {route.request.url}")
        route.continue_()

    refused = ("422", "409", "404", "403")  # the browser logs these itself; tests ask for them on purpose
    page.on(
        "console",
        lambda said: found.append(said.text) if said.type == "error" and not any(f"status of {c}" in said.text for c in refused) else None,
    )
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("response", answered)
    page.route("**/*", asked)
    return found


@pytest.fixture
def page(page: Page, studio: Studio) -> Iterator[Page]:
    """A page that fails its test on any error in the console (a breach of the content policy is one)."""
    found = watch(page, studio.url)
    page.set_default_timeout(30_000)
    yield page
    page.unroute_all(behavior="ignoreErrors")
    assert not found, found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have tests with a browser come last: from the first one on, playwright keeps an event loop running in this thread, in which others
    could not start one of their own."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)
