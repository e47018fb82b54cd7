"""The studios this person is signed in to from the command line: addresses and tokens in one private file. Speaks to none of them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.errors import ConfigError, NotFound

HERE = "local"
"""Names the studio of this machine, which needs no login."""


@dataclass(frozen=True)
class Known:
    """One studio somebody signed in to."""

    name: str
    url: str
    token: str


def path() -> Path:
    """The file, in the per-user configuration folder of the platform."""
    import platformdirs

    return Path(platformdirs.user_config_dir("luthier")) / "studios.json"


def read() -> tuple[list[Known], str]:
    """All studios, and the name of the one that is meant when none is named.

    Raises:
        ConfigError: the file cannot be read.
    """
    file = path()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return [Known(**each) for each in content["studios"]], str(content.get("default") or "")
    except FileNotFoundError:
        return [], ""
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{file} cannot be read. Remove it and sign in again with `luthier login URL`.") from None


def write(studios: list[Known], default: str) -> None:
    """Keep studios in a file that only its owner can read."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump({"default": default, "studios": [asdict(each) for each in studios]}, stream, indent=2)
    temporary.replace(file)


def keep(studio: Known) -> None:
    """Add or replace a studio; it is the one meant from now on."""
    others = [each for each in read()[0] if each.name != studio.name]
    write([*others, studio], studio.name)


def forget(name: str) -> Known:
    """Remove a studio.

    Raises:
        NotFound: there is none of that name.
    """
    studios, default = read()
    found = next((each for each in studios if each.name == (name or default)), None)
    if found is None:
        raise NotFound(f"There is no login for “{name}”. {_listed(studios)}" if name else "There is no login to remove.")
    left = [each for each in studios if each is not found]
    write(left, default if default != found.name else (left[-1].name if left else ""))
    return found


def chosen(name: str) -> Known | None:
    """The studio of a name, or the default one; None when this machine's own is meant.

    Raises:
        ConfigError: there is none of that name.
    """
    if name == HERE:
        return None
    studios, default = read()
    found = next((each for each in studios if each.name == (name or default)), None)
    if found is None and name:
        raise ConfigError(f"There is no login for the studio “{name}”. {_listed(studios)}", field="studio")
    return found


def of_address(url: str) -> Known | None:
    """The studio with an address."""
    return next((each for each in read()[0] if each.url.rstrip("/") == url.rstrip("/")), None)


def name_for(url: str) -> str:
    """A name for a studio, from its address."""
    return (urlsplit(url).hostname or "studio").lower()


def _listed(studios: list[Known]) -> str:
    known = ", ".join(each.name for each in studios)
    return f"There are {known}, and {HERE}." if known else "`luthier login URL` makes one."
