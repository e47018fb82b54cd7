"""A throw-away studio for benchmarks: own home, own database, a web server of its own. Measures nothing itself."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path

from sqlalchemy import create_engine, text

from app.accounts import service as accounts
from app.checkpoints.tables import Checkpoint
from app.database import Database
from app.datasets.tables import Dataset
from app.migrations import upgrade
from app.runs.tables import Run
from app.settings import Settings

POSTGRES = os.environ.get("LUTHIER_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")


@dataclass
class Studio:
    """Where the throw-away studio is, and the key to it."""

    home: Path
    database: Database
    url: str
    token: str
    workspace_id: str
    user_id: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None


@contextmanager
def studio(stack: str, *, web: bool = True) -> Iterator[Studio]:
    """A studio on `sqlite` or `postgres`, removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="luthier-bench-"))
    name = f"luthier_bench_{secrets.token_hex(4)}"
    url = f"sqlite:///{home / 'luthier.db'}"
    admin = None
    if stack == "postgres":
        admin = create_engine(POSTGRES.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        url = POSTGRES.rsplit("/", 1)[0] + "/" + name
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "LUTHIER_HOME": str(home), "LUTHIER_DATABASE_URL": url, "LUTHIER_PORT": str(port)}
    database = Database(url)
    process = None
    try:
        upgrade(Settings(home=home, database_url=url))
        with database.write() as session:
            user, workspace = accounts.ensure_first(session), accounts.first_workspace(session)
            _, token = accounts.create_token(session, name="bench", role="admin", user_id=user.id, workspace_id=workspace.id)
        if web:
            process = subprocess.Popen(
                [sys.executable, "-c", "from app.cli import main; main()", "web"], env=environment, stdout=subprocess.DEVNULL
            )
            wait_ready(f"http://127.0.0.1:{port}")
        yield Studio(home, database, f"http://127.0.0.1:{port}", token, workspace.id, user.id, environment, process)
    finally:
        if process:
            process.terminate()
            process.wait(timeout=20)
        database.dispose()
        if admin is not None:
            with admin.connect() as connection:
                connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            admin.dispose()
        shutil.rmtree(home, ignore_errors=True)


def wait_ready(url: str, seconds: float = 120.0) -> float:
    """Seconds until the web server answers."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=2).close()
            return time.monotonic() - began
        except OSError:
            time.sleep(0.02)
    raise SystemExit("The web server did not answer.")


def add_run(database: Database, workspace_id: str, **fields: object) -> str:
    """A run with the rows it needs; returns its id."""
    with database.write() as session:
        checkpoint = Checkpoint(
            workspace_id=workspace_id, name="bench", kind="base", status="ready", source="folder", parameters=1, shapes={}, config={}
        )
        dataset = Dataset(
            workspace_id=workspace_id,
            name=f"bench-{secrets.token_hex(3)}",
            version=1,
            status="ready",
            shape="chat",
            rows=1,
            source_name="x",
            path="x",
        )
        session.add_all([checkpoint, dataset])
        session.flush()
        values = {"status": "running", "attempt": 1, "total_steps": 1000, **fields}
        run = Run(
            workspace_id=workspace_id,
            name="bench",
            method="sft",
            tuner="lora",
            checkpoint_id=checkpoint.id,
            dataset_id=dataset.id,
            **values,
        )
        session.add(run)
        session.flush()
        return run.id


def header(title: str) -> None:
    """What the figures below it were measured with."""
    versions = " ".join(f"{name} {metadata.version(name)}" for name in ("fastapi", "sqlalchemy", "uvicorn"))
    print(f"# {title} · {date.today()} · {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
