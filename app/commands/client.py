"""Speaks REST to a studio for the commands: finds its address and token, turns refusals into sentences. Prints nothing."""

from __future__ import annotations

import ipaddress
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from app.commands import studios
from app.errors import ConfigError, NotFound, StudioError, Unavailable
from app.settings import Settings, get_settings

TOKEN_FILE = "token"
TIMEOUT = httpx.Timeout(60.0, connect=5.0)
IDS = {"runs": "run_", "datasets": "ds_", "checkpoints": "ckpt_", "chains": "chain_"}
ID_LENGTH = 18
STREAM_TIMEOUT = httpx.Timeout(40.0, connect=5.0)  # the server pings every 15 s


class Refused(StudioError):
    """The studio said no; the message is its own."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message, code=code)
        self.status = status


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    kind: str
    data: dict[str, Any]


def local_address(settings: Settings) -> str:
    """Address of the web server on this machine, whatever PUBLIC_URL says."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def local_headers(settings: Settings) -> dict[str, str]:
    """A `Host` that the web server of these settings answers to."""
    host = urlsplit(local_address(settings)).hostname or "127.0.0.1"
    if not settings.allowed_hosts or "*" in settings.hosts or host in settings.hosts:
        return {}
    return {"Host": settings.hosts[0].replace("*", "localhost", 1)}


def answers(settings: Settings) -> bool:
    """Whether the web server of this machine can serve requests."""
    try:
        with httpx.Client(trust_env=False, timeout=5.0) as client:
            return client.get(f"{local_address(settings)}/readyz", headers=local_headers(settings)).status_code == 200
    except httpx.HTTPError:
        return False


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Studio:
    """A studio that is spoken to over REST: the one named by the settings, else that of the last login, else this machine's."""

    def __init__(self, settings: Settings | None = None, known: studios.Known | None = None) -> None:
        settings = settings or get_settings()
        if known is None:
            known = studios.of_address(settings.url) if settings.url else studios.chosen(settings.studio)
        else:
            settings = settings.model_copy(update={"url": "", "token": ""})
        self.address = (settings.url or (known.url if known else local_address(settings))).rstrip("/")
        if urlsplit(self.address).scheme not in ("http", "https"):
            raise ConfigError(f"LUTHIER_URL is “{settings.url}”, and it starts with neither http:// nor https://.", field="url")
        headers = {} if settings.url or known else local_headers(settings)
        headers["Authorization"] = f"Bearer {self._token(settings, known)}"
        # A proxy of the environment has nothing to do with a studio on this machine.
        self._http = httpx.Client(base_url=self.address, headers=headers, timeout=TIMEOUT, trust_env=not is_loopback(self.address))

    def _token(self, settings: Settings, known: studios.Known | None) -> str:
        if settings.token:
            return settings.token.strip()
        if known is not None:
            return known.token
        if not is_loopback(self.address) and settings.url:
            # The token in HOME is for this machine's studio and is sent nowhere else.
            raise ConfigError(
                f"Set LUTHIER_TOKEN to an API token of {self.address}, or sign in with `luthier login {self.address}`.", field="token"
            )
        try:
            return (settings.home / TOKEN_FILE).read_text().strip()
        except OSError:
            raise ConfigError(
                f"There is no API token: LUTHIER_TOKEN is not set, and no {settings.home / TOKEN_FILE} is there. `luthier up` leaves one; "
                "`luthier login URL` signs in to a studio elsewhere.",
                field="token",
            ) from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON at a path below `/api/v1`."""
        return self._call("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        """Send a POST, once: it carries an `Idempotency-Key` and is sent again when the connection breaks."""
        if body is not None:
            more["json"] = body
        return self._call("POST", path, headers={"Idempotency-Key": str(uuid.uuid4())}, **more)

    def patch(self, path: str, body: Any) -> Any:
        """Send a PATCH."""
        return self._call("PATCH", path, json=body)

    def delete(self, path: str) -> None:
        """Send a DELETE."""
        self._call("DELETE", path)

    @contextmanager
    def download(self, path: str, first: int = 0, **query: Any) -> Iterator[httpx.Response]:
        """A file below `/api/v1`, from a byte on; whether the studio minds that is in the answer's status (206).

        Raises:
            Refused: the studio does not give it.
            Unavailable: the studio does not answer.
        """
        headers = {"Range": f"bytes={first}-"} if first else {}
        headers["Accept-Encoding"] = "identity"
        try:
            with self._http.stream("GET", f"/api/v1{path}", params=query, headers=headers) as answer:
                if not answer.is_success:
                    answer.read()
                    self._read(answer)
                yield answer
        except httpx.TransportError as error:
            raise self._away(error) from None

    def _call(self, method: str, path: str, *, tries: int = 3, **more: Any) -> Any:
        for attempt in range(1, tries + 1):
            try:
                answer = self._http.request(method, f"/api/v1{path}", **more)
                break
            except httpx.TransportError as error:
                # A file that is being uploaded has been read to an unknown point.
                if attempt == tries or isinstance(error, httpx.ConnectError) or "files" in more:
                    raise self._away(error) from None
                time.sleep(0.5 * attempt)
        return self._read(answer)

    def _away(self, error: httpx.TransportError) -> Unavailable:
        why = "takes too long to answer" if isinstance(error, httpx.TimeoutException) else "does not answer"
        words = "Start one with `luthier up`, or sign in to another with `luthier login URL`."
        return Unavailable(f"The studio at {self.address} {why}. {words}")

    def _read(self, answer: httpx.Response) -> Any:
        if answer.is_success:
            return answer.json() if answer.content else None
        try:
            error = answer.json()["error"]
            message, code = str(error["message"]), str(error.get("code", "error"))
            for each in (error.get("details") or []) if isinstance(error.get("details"), list) else []:
                if isinstance(each, dict) and each.get("message") and str(each["message"]) not in message:
                    message += f"\n{each.get('field', '')}: {each['message']}"
        except (ValueError, KeyError, TypeError):
            message, code = (
                f"The studio at {self.address} answered with status {answer.status_code} and no reason. Is it a Luthier?",
                "error",
            )
        raise Refused(message, answer.status_code, code)

    def all(self, path: str, *, limit: int | None = None, **query: Any) -> Iterator[dict[str, Any]]:
        """Everything in a list, piece by piece; at most `limit` entries."""
        after, seen = None, 0
        while True:
            piece = self.get(path, limit=min(200, limit - seen) if limit else 200, after=after, **query)
            for each in piece["data"]:
                yield each
                seen += 1
            if not piece.get("has_more") or (limit is not None and seen >= limit):
                return
            after = piece["next"]

    def find(self, kind: str, wanted: str) -> dict[str, Any]:
        """A run, chain, checkpoint or dataset (`kind` is the plural in its path) by id, by name, or by the beginning of its id.

        Of several versions of a dataset that bear a name the newest is meant; `name@3` names one.

        Raises:
            NotFound: there is none.
            Refused: several are meant.
        """
        beginning = IDS[kind]
        if wanted.startswith(beginning):
            try:
                return dict(self.get(f"/{kind}/{quote(wanted, safe='@')}"))
            except Refused as error:
                if error.status != 404:
                    raise
        found = self._named(kind, wanted)
        if not found and wanted.startswith(beginning) and len(wanted) >= len(beginning) + 3:
            # Lists go from the newest id downwards, so those with this beginning come first after the highest one it could have.
            after = wanted.ljust(len(beginning) + ID_LENGTH, "z")
            piece = self.get(f"/{kind}", limit=3, after=after)["data"]
            found = [each for each in piece if each["id"].startswith(wanted)]
        word = kind.removesuffix("s")
        if not found:
            raise NotFound(f"There is no {word} “{wanted}”. `luthier {word} list` shows what there is.")
        if len(found) > 1:
            ids = ", ".join(each["id"] for each in found[:5])
            raise Refused(f"“{wanted}” could be several {kind}; give the id: {ids}{' …' if len(found) > 5 else ''}.", 409, "conflict")
        return found[0]

    def _named(self, kind: str, wanted: str) -> list[dict[str, Any]]:
        name, at, version = wanted.rpartition("@") if kind == "datasets" else ("", "", "")
        name, version = (name, version) if at and version.isdigit() else (wanted, "")
        found = [
            each for each in self.all(f"/{kind}", q=name) if each["name"] == name and (not version or each.get("version") == int(version))
        ]
        if kind == "datasets":
            return sorted(found, key=lambda each: -int(each["version"]))[:1]
        if kind == "checkpoints" and len(found) > 1:
            usable = [each for each in found if each["status"] == "ready"]
            return usable or found[:1]
        return found

    def events(self, topic: str, cursor: int) -> Iterator[Event]:
        """Live events of a topic from a cursor on, until the connection ends.

        Raises:
            Refused: the studio does not give them.
            httpx.TransportError: the connection broke.
        """
        headers = {"Accept": "text/event-stream", "Last-Event-ID": f"{topic}={cursor}"}
        with self._http.stream("GET", "/api/v1/events", params={"topics": topic}, headers=headers, timeout=STREAM_TIMEOUT) as answer:
            if not answer.is_success:
                answer.read()
                self._read(answer)
            yield from parse_events(answer.iter_lines())


def parse_events(lines: Iterator[str]) -> Iterator[Event]:
    """The named events in the lines of an event stream; fragments of pages (unnamed ones) are left out."""
    kind = ""
    data: list[str] = []
    for line in lines:
        if not line:
            if kind and data:
                yield Event(kind, json.loads("\n".join(data)))
            kind, data = "", []
        elif line.startswith("event:"):
            kind = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
