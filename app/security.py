"""Guards around every request, as plain ASGI: host names, body size, forged requests, response headers, faults. Knows no route."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BadRequest, Forbidden, StudioError, TooLarge, TooMany

Refuse = Callable[[Request, StudioError], Response]

SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
BODY_BYTES = 4 * 1024**2
"""Largest body of a route that takes no files."""
MULTIPART_BYTES = 1024**2
"""Room for the form around an uploaded file."""

CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self'",
        "style-src 'self'",
        "style-src-attr 'unsafe-inline'",  # for style="--p:0.4" on bars
        "img-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)


class SecurityHeaders:
    """Puts the protective headers on every answer; what a route set itself stays."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self.app = app
        self.headers = {
            "Content-Security-Policy": CONTENT_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
            "Cache-Control": "no-store",
        }
        if https:
            self.headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers)


class TrustedHosts:
    """Answers only to known host names, so that a foreign name that resolves to this machine reaches nothing (DNS rebinding)."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str], refuse: Refuse) -> None:
        self.app, self.refuse = app, refuse
        self.hosts = [host.lower() for host in hosts]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self.trusts(Headers(scope=scope).get("host", "")):
            return await self.app(scope, receive, send)
        error = BadRequest(
            "This server does not answer to this host name. Add the name to LUTHIER_ALLOWED_HOSTS to have it do so.", code="host"
        )
        await self.refuse(Request(scope), error)(scope, receive, send)

    def trusts(self, header: str) -> bool:
        """Whether a `Host` header names us."""
        match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", header.lower())
        if match is None:
            return False
        name = match[1]
        return any(host in ("*", name) or (host.startswith("*.") and name.endswith(host[1:])) for host in self.hosts)


class BodyLimit:
    """Refuses bodies above a limit, which is higher for routes that take files; the rest of a body is not read."""

    def __init__(self, app: ASGIApp, *, upload_bytes: int, takes_files: Callable[[str, str], bool], refuse: Refuse) -> None:
        self.app, self.refuse, self.takes_files = app, refuse, takes_files
        self.upload_bytes = upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        files = self.takes_files(scope["method"], scope["path"])
        limit = self.upload_bytes + MULTIPART_BYTES if files else BODY_BYTES
        words = f"This is larger than the {_size(self.upload_bytes if files else BODY_BYTES)} that are taken here."
        if files:
            words += " An admin can raise LUTHIER_MAX_UPLOAD_BYTES; a file may also be split into several."
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > limit:
            error = TooLarge(words) if declared.isdecimal() else BadRequest("The header Content-Length is not a number.")
            return await self.refuse(Request(scope), error)(scope, receive, send)
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise HTTPException(413, words)  # FastAPI lets this kind through while it reads a body
            return message

        await self.app(scope, counted, send)


def _size(count: int) -> str:
    for unit, size in (("GB", 1024**3), ("MB", 1024**2), ("kB", 1024)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


class SameOrigin:
    """Refuses what other sites make a browser send: changes (CSRF), signing in as somebody else, and reading by script.

    A bearer token without a cookie is not the browser's doing, so such calls pass from anywhere.
    """

    def __init__(self, app: ASGIApp, *, cookie: str, refuse: Refuse) -> None:
        self.app, self.refuse, self.cookie = app, refuse, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            if self.is_forged(scope["method"], request.headers, has_cookie=self.cookie in request.cookies):
                words = "This came from another site, or from a program that does not say where it comes from. Programs use an API token."
                return await self.refuse(request, Forbidden(words, code="csrf"))(scope, receive, send)
        await self.app(scope, receive, send)

    def is_forged(self, method: str, headers: Headers, *, has_cookie: bool) -> bool:
        """Whether another site may be behind a request."""
        own = self.is_own(headers)
        if method in SAFE_METHODS:  # following a link from elsewhere is fine
            return has_cookie and own is False and headers.get("sec-fetch-mode") != "navigate"
        if has_cookie:
            return own is not True
        return own is False and "authorization" not in headers

    @staticmethod
    def is_own(headers: Headers) -> bool | None:
        """Whether the browser says that one of our own pages (or the user directly) sent the request; None when it says nothing."""
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site in ("same-origin", "none")
        origin = headers.get("origin")
        return None if origin is None else urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""


class Faults:
    """Answers what no route has caught, so that the answer still passes the guards outside of this one."""

    def __init__(self, app: ASGIApp, *, fault: Callable[[Request, Exception], Response]) -> None:
        self.app, self.fault = app, fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:  # boundary: the last one before the server
            if started:
                raise
            answer = await run_in_threadpool(self.fault, Request(scope), error)
            await answer(scope, receive, send)


class Heads:
    """Answers HEAD as it would answer GET, without the body. Routes see it by `head` in their scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET", "head": True}, receive, without_body)


class Attempts:
    """Counts failures of an address, or of an account, in this process; who fails again and again waits longer and longer."""

    REMEMBERED = 3600.0
    LONGEST = 900.0

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._failures: dict[str, deque[float]] = {}
        self._waiting: dict[str, tuple[float, float]] = {}
        """Who -> until when nothing is tried, and how long that was."""

    def check(self, *whom: str) -> None:
        """Let somebody try.

        Raises:
            TooMany: one of the names failed too often a short while ago.
        """
        left = max((self._waiting.get(each, (0.0, 0.0))[0] - time.monotonic() for each in whom), default=0.0)
        if left > 0:
            minutes = max(1, round(left / 60))
            raise TooMany(
                f"Too many failed sign-ins. Wait {'a minute' if minutes == 1 else f'{minutes} minutes'}, then try again.",
                details={"retry_after": int(left) + 1},
            )

    def failed(self, *whom: str) -> None:
        """Count a failure."""
        now = time.monotonic()
        if len(self._failures) > 10_000:  # a flood from many addresses must not fill the memory
            self._failures.clear()
        if len(self._waiting) > 10_000:
            self._waiting = {each: (until, span) for each, (until, span) in self._waiting.items() if until > now}
        for each in whom:
            failures = self._failures.setdefault(each, deque(maxlen=self.per_minute))
            while failures and failures[0] < now - 60:
                failures.popleft()
            failures.append(now)
            if len(failures) >= self.per_minute:
                until, span = self._waiting.get(each, (0.0, 0.0))
                span = min(self.LONGEST, span * 2) if span and now < until + self.REMEMBERED else 60.0
                self._waiting[each] = (now + span, span)
                failures.clear()

    def succeeded(self, *whom: str) -> None:
        """Forget the failures of somebody who got in."""
        for each in whom:
            self._failures.pop(each, None)
            self._waiting.pop(each, None)


class Rates:
    """Lets each session or token make so many changes a minute, in this process; what is not used is saved up for that minute."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._left: dict[str, tuple[float, float]] = {}
        """Credential -> changes left, and when that was reckoned."""

    def take(self, whom: str) -> None:
        """Count a change.

        Raises:
            TooMany: there were too many; the message says how long to wait.
        """
        if not self.per_minute:
            return
        now = time.monotonic()
        left, at = self._left.pop(whom, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - at) * self.per_minute / 60)
        self._left[whom] = (max(0.0, left - 1) if left >= 1 else left, now)
        while len(self._left) > 10_000:
            self._left.pop(next(iter(self._left)))
        if left < 1:
            seconds = int((1 - left) * 60 / self.per_minute) + 1
            raise TooMany(
                f"More than {self.per_minute} changes a minute came from this session or token. Wait {seconds} s, then go on; an admin can "
                "raise LUTHIER_CHANGES_PER_MINUTE.",
                details={"retry_after": seconds},
            )
