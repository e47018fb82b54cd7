"""Style sheets, scripts and fonts of the studio's pages, at addresses that carry the version of all of them, so that browsers keep them."""

from __future__ import annotations

import re
import time
from hashlib import blake2b
from pathlib import Path
from threading import Lock

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.settings import files

LOOK_SECONDS = 0.5
_VERSIONED = re.compile(r"v-[0-9a-f]{12}")


class Version:
    """A hash of what is in a folder; read anew only when a file's size or time has changed, so that an edit shows at the next page."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: object = None
        self._version = ""
        self._looked = -LOOK_SECONDS
        self._lock = Lock()

    def __str__(self) -> str:
        with self._lock:
            if time.monotonic() - self._looked < LOOK_SECONDS:
                return self._version
            self._looked = time.monotonic()
            paths = sorted(path for path in self._folder.rglob("*") if path.is_file())
            seen = [(path, stat.st_size, stat.st_mtime_ns) for path in paths for stat in (path.stat(),)]
            if seen != self._seen:
                content = blake2b(digest_size=6)
                for path in paths:
                    content.update(path.relative_to(self._folder).as_posix().encode() + b"\0" + path.read_bytes())
                self._seen, self._version = seen, f"v-{content.hexdigest()}"
            return self._version


version = Version(files("static"))


def asset(path: str) -> str:
    """Address of a file in `static/`; what it imports by relative addresses has the same version."""
    return f"/static/{version}/{path}"


class Assets(StaticFiles):
    """The files, with or without a version in the address. Only the present version may be kept; all else is checked for changes."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer with a file, and say how long it may be used."""
        head, *rest = Path(path).parts or ("",)
        versioned = _VERSIONED.fullmatch(head) is not None
        response = await super().get_response(str(Path(*rest)) if versioned else path, scope)
        kept = versioned and response.status_code == 200 and head == str(version)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if kept else "no-cache"
        return response
