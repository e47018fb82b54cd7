"""The errors a user can meet. Each message says what is wrong and what to do; no stack trace reaches a user."""

from __future__ import annotations

from typing import Any


class StudioError(Exception):
    """A refusal with its HTTP status, a stable code for programs and a sentence for people."""

    status = 500
    code = "error"

    def __init__(self, message: str, *, field: str | None = None, details: Any = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.details = details
        if code is not None:
            self.code = code

    def as_json(self) -> dict[str, Any]:
        """The body of the REST answer: `{"error": {code, message, field?, details?}}`."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.field is not None:
            error["field"] = self.field
        if self.details is not None:
            error["details"] = self.details
        return {"error": error}


class BadRequest(StudioError):
    """The request itself cannot be read."""

    status, code = 400, "bad_request"


class Unauthorized(StudioError):
    """Nobody is signed in."""

    status, code = 401, "unauthorized"


class Forbidden(StudioError):
    """Signed in, but the role does not allow it."""

    status, code = 403, "forbidden"


class NotFound(StudioError):
    """No such thing, or it belongs to another workspace."""

    status, code = 404, "not_found"


class Conflict(StudioError):
    """The thing is in a state that does not allow this, or somebody changed it meanwhile."""

    status, code = 409, "conflict"


class TooLarge(StudioError):
    """More bytes than the limit allows."""

    status, code = 413, "too_large"


class Invalid(StudioError):
    """A field holds a value that cannot be used."""

    status, code = 422, "invalid"


class TooMany(StudioError):
    """Asked too often."""

    status, code = 429, "too_many_requests"


class Unavailable(StudioError):
    """The database or the disk cannot serve this now; trying again later may."""

    status, code = 503, "unavailable"


class DiskFull(StudioError):
    """No room left on the disk; nothing was kept of what was being written."""

    status, code = 507, "disk_full"


class ConfigError(StudioError):
    """A setting is wrong; the message names it."""

    code = "config"
