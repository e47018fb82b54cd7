"""Every setting of the studio, read from the environment (`LUTHIER_…`). Reads nothing else and starts nothing."""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import platformdirs
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None
TRACKERS = ("wandb", "mlflow", "trackio")


def files(name: str) -> Path:
    """Folder of `templates`, `static` or `migrations`: the checkout's own, or the copy inside an installed wheel."""
    return CHECKOUT / name if CHECKOUT else PACKAGE / "_files" / name


def default_home() -> Path:
    """`./.luthier` in a checkout, else the per-user data folder of the platform."""
    return CHECKOUT / ".luthier" if CHECKOUT else Path(platformdirs.user_data_dir("luthier"))


class Settings(BaseSettings):
    """Settings of one studio. The docstring under each field is its documentation."""

    model_config = SettingsConfigDict(env_prefix="LUTHIER_", use_attribute_docstrings=True, extra="ignore", env_ignore_empty=True)

    home: Path = Field(default_factory=default_home)
    """Folder of all the studio keeps: database, queue, datasets, checkpoints. `./.luthier` in a checkout, else the per-user data folder."""
    database_url: str = ""
    """Where the rows live, such as `postgresql://user:password@host/name`. Empty: SQLite in HOME."""
    broker_url: str = ""
    """Queue that carries wake-ups to workers, such as `redis://host:6379/0`. Empty: a folder in HOME."""
    storage_url: str = ""
    """Folder of datasets and checkpoints, as a path or a `file://` URL; web and workers must see the same one. Empty: `storage` in HOME."""
    url: str = ""
    """Studio that the commands `run`, `dataset` and `checkpoint` speak to. Empty: the one of `luthier login`, else this machine, at HOST
    and PORT."""
    token: str = ""
    """API token that these commands send. Empty: the one of `luthier login`, or for this machine the one that `luthier up` left in HOME."""
    studio: str = ""
    """Name of the studio these commands speak to, as given to `luthier login`; `local` is this machine. The option `--studio` wins."""
    host: str = "127.0.0.1"
    """Address the web server listens on. The default is this machine alone."""
    port: int = Field(8000, ge=1, le=65535)
    """TCP port of the web server."""
    secret_key_file: str = ""
    """File with the key that signs links; it is made with mode 0600 when missing. Empty: `secret.key` in HOME."""
    allowed_hosts: str = ""
    """Host names the web server answers to, separated by commas. Empty: localhost, 127.0.0.1, [::1], HOST and the host of PUBLIC_URL."""
    public_url: str = ""
    """Address people open, such as `https://luthier.example.org`; used in links. Empty: `http://HOST:PORT`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where training runs: `auto` takes the GPUs a worker sees and the CPU otherwise."""
    threads: int = Field(0, ge=0)
    """CPU threads of a training process. 0: as many as the machine has cores."""
    allow_http: bool = False
    """Let people sign in over plain HTTP from other machines (HOST not loopback and PUBLIC_URL not https)."""
    max_upload_bytes: int = Field(10 * 1024**3, ge=1)
    """Largest file that may be uploaded, in bytes."""
    max_line_bytes: int = Field(16 * 1024**2, ge=1024)
    """Longest line (one row) of an uploaded file, in bytes."""
    max_rows: int = Field(5_000_000, ge=1)
    """Most rows a dataset may hold."""
    parse_memory_bytes: int = Field(1024**3, ge=256 * 1024**2)
    """Memory that the process parsing an upload may take, in bytes."""
    max_queued_runs: int = Field(1000, ge=1)
    """Most runs that may wait in the queue of one workspace."""
    login_attempts_per_minute: int = Field(10, ge=1)
    """Failed sign-ins from one address, or to one account, in a minute before it has to wait; each further time the wait is doubled."""
    changes_per_minute: int = Field(1200, ge=0)
    """Changes that one session or token may make over REST in a minute. 0: any number."""
    trusted_proxies: str = "127.0.0.1,::1"
    """Addresses and networks of proxies in front of the web server, separated by commas, such as `10.2.0.5`: what they say of a client's
    address and scheme is believed. `*`: whoever connects, for when nothing but the proxy can reach the port."""
    sample_prompts: int = Field(3, ge=0, le=16)
    """How many fixed prompts a run answers at its evaluation steps."""
    lease_seconds: float = Field(30.0, gt=0)
    """A worker that has not renewed its lease for this long has lost the run."""
    heartbeat_seconds: float = Field(10.0, gt=0)
    """How often a worker renews its lease."""
    sweep_seconds: float = Field(5.0, gt=0)
    """How often lost leases and forgotten queue entries are looked for."""
    stall_seconds: float = Field(1800.0, gt=0)
    """A trainer that makes no step for this long is killed and started again from its last checkpoint."""
    chat_idle_seconds: float = Field(300.0, gt=0)
    """A model loaded for the playground is unloaded when nobody has asked it anything for this long."""
    max_chat_answers: int = Field(4, ge=1)
    """Answers one person may wait for at once in the playground and over REST."""
    max_queued_answers: int = Field(100, ge=1)
    """Most questions that may wait for a worker, of everybody together."""
    hub_url: str = "https://huggingface.co"
    """Model hub that checkpoints are imported from."""
    writer_url: str = ""
    """OpenAI-compatible API that recipes may ask for answers, such as `https://api.example.org/v1`; web and workers need it. What recipes
    send goes to this address alone. Everyone who may make datasets can use it. Empty: only checkpoints write."""
    writer_key: str = ""
    """Key of that API, sent as a bearer token; only workers need it. It is never shown, and kept neither in datasets nor in logs."""
    writer_model: str = ""
    """Model that is asked for there; needed with WRITER_URL."""
    python_rewards: bool = False
    """Let runs take rewards written in Python; set it on web server and workers. Whoever may start a run can then run code on a worker."""
    model_folders: str = ""
    """Folders an engineer may import checkpoints from, separated by `:`. Empty: only an admin may name a folder."""
    trackers: str = ""
    """Experiment trackers beside TensorBoard that runs are sent to, separated by commas: `wandb`, `mlflow`, `trackio`; each reads its own
    variables in the worker's environment."""
    webhook_http: bool = False
    """Let webhooks go to `http://` addresses too; anybody on the way can read and change what they carry."""
    webhook_networks: str = ""
    """Networks webhooks may reach although they are not the public internet, separated by commas, such as `10.2.0.0/16`."""
    smtp_url: str = ""
    """Mail server, such as `smtp://user:password@mail.example.org:587` (with STARTTLS) or `smtps://…:465`. Empty: no e-mail is sent."""
    mail_from: str = ""
    """Sender of e-mails, such as `Luthier <luthier@example.org>`; needed with SMTP_URL."""

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("trackers", mode="after")
    @classmethod
    def _known_trackers(cls, value: str) -> str:
        named = [name.strip().lower() for name in value.split(",") if name.strip()]
        unknown = next((name for name in named if name not in TRACKERS), None)
        if unknown is not None:
            raise ValueError(f"there is no tracker “{unknown}”; there are {', '.join(TRACKERS)}, and TensorBoard is always on")
        return ",".join(dict.fromkeys(named))

    @field_validator("webhook_networks", "trusted_proxies", mode="after")
    @classmethod
    def _networks(cls, value: str, info: ValidationInfo) -> str:
        for name in value.split(","):
            if name.strip() and (info.field_name, value.strip()) != ("trusted_proxies", "*"):
                ipaddress.ip_network(name.strip())  # its ValueError says what is wrong
        return value.strip()

    @field_validator("smtp_url", mode="after")
    @classmethod
    def _mail_server(cls, value: str) -> str:
        if value and (urlsplit(value).scheme not in ("smtp", "smtps") or not urlsplit(value).hostname):
            raise ValueError("it has the form smtp://user:password@host:587 or smtps://host:465")
        return value

    @field_validator("writer_url", mode="after")
    @classmethod
    def _api(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment):
            raise ValueError("it has the form https://host/v1, without user, password, ? and #")
        return value

    @property
    def webhook_allowed(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """Networks of `webhook_networks`."""
        return [ipaddress.ip_network(name.strip()) for name in self.webhook_networks.split(",") if name.strip()]

    @property
    def tracker_names(self) -> list[str]:
        """Trackers beside TensorBoard."""
        return [name for name in self.trackers.split(",") if name]

    @property
    def database(self) -> str:
        """Database URL with its default filled in."""
        return self.database_url or f"sqlite:///{self.home / 'luthier.db'}"

    @property
    def broker(self) -> str:
        """Broker URL with its default filled in."""
        return self.broker_url or "filesystem://localhost"

    @property
    def storage(self) -> Path:
        """Folder of datasets and checkpoints."""
        value = self.storage_url
        if not value:
            return self.home / "storage"
        parts = urlsplit(value)
        if parts.scheme == "file":
            return Path(unquote(parts.path))
        if parts.scheme and len(parts.scheme) > 1:
            raise ConfigError(
                f"LUTHIER_STORAGE_URL has the scheme “{parts.scheme}”, which this version cannot use. Give a folder or a file:// URL.",
                field="storage_url",
            )
        return Path(value).expanduser().absolute()

    @property
    def secret_key_path(self) -> Path:
        """File of the signing key."""
        return Path(self.secret_key_file) if self.secret_key_file else self.home / "secret.key"

    @property
    def address(self) -> str:
        """Address people open, without a slash at its end."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host) or (f"[{self.host}]" if ":" in self.host else self.host)
        return (self.public_url or f"http://{host}:{self.port}").rstrip("/")

    @property
    def hosts(self) -> list[str]:
        """Host names that are answered."""
        named = [name.strip() for name in self.allowed_hosts.split(",") if name.strip()]
        if named:
            return named
        public = urlsplit(self.public_url).hostname
        any_address = self.host in ("0.0.0.0", "::")
        own = [socket.gethostname()] if any_address else [self.host]
        return list(dict.fromkeys(["localhost", "127.0.0.1", "[::1]", *own, *([public] if public else [])]))

    @property
    def loopback_only(self) -> bool:
        """Whether only this machine can reach the web server."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def switched_off(kind: type[BaseModel]) -> str | None:
    """The setting that a kind of entry names as `setting` in its schema, where that is off; None where it may be used."""
    extra = kind.model_config.get("json_schema_extra")
    needed = extra.get("setting") if isinstance(extra, dict) else None
    return str(needed) if needed is not None and not getattr(get_settings(), str(needed)) else None


@lru_cache
def get_settings() -> Settings:
    """The settings of this process.

    Raises:
        ConfigError: a variable holds a value that cannot be used; the message names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "LUTHIER_" + str(first["loc"][0]).upper()
        raise ConfigError(f"{name} cannot be used: {first['msg']} (it is “{first['input']}”).", field=str(first["loc"][0])) from None
