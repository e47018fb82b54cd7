"""Turns errors into answers: JSON for programs, a page or a fragment for people. Never shows a stack trace."""

from __future__ import annotations

import errno
import logging
import secrets
from contextlib import suppress

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.accounts.schemas import Principal
from app.database import as_unavailable
from app.errors import BadRequest, Conflict, DiskFull, Invalid, NotFound, StudioError, TooLarge, Unauthorized, Unavailable
from app.web import authenticate, is_partial, page
from app.words import plain_words

log = logging.getLogger(__name__)

_FOR_PROGRAMS = ("/api/", "/v1/", "/events", "/healthz", "/readyz", "/openapi.json")
_NOT_MIGRATED = "The database has no tables yet, or old ones. Run `luthier migrate`, then try again."


def refuse(request: Request, error: StudioError) -> Response:
    """The answer to a request that cannot be served."""
    headers = _headers(error)
    if request.url.path.startswith(_FOR_PROGRAMS):
        return JSONResponse(error.as_json(), error.status, headers=headers)
    try:
        response = _shown(request, error)
    except Exception:  # boundary: a broken template must not hide what went wrong first
        log.exception("The page for an error could not be made")
        response = PlainTextResponse(error.message, error.status)
    response.headers.update(headers)
    return response


def _shown(request: Request, error: StudioError) -> Response:
    who: Principal | None = getattr(request.state, "principal", None)
    if is_partial(request):
        return page(request, "_error.html", who, status=error.status, error=error)
    if isinstance(error, Unauthorized):
        return page(
            request,
            "accounts/login.html",
            None,
            status=error.status,
            error=error if error.code in ("link_used", "invite_used") else None,
            name=None,
            token="",
            given="",
        )
    return page(request, "error.html", who, status=error.status, error=error)


def _headers(error: StudioError) -> dict[str, str]:
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if error.status in (429, 503):
        wait = error.details.get("retry_after") if isinstance(error.details, dict) else None
        return {"Retry-After": str(wait or 5)}
    return {}


def as_studio_error(error: Exception) -> StudioError | None:
    """What an exception means to the user; None when it is a fault of ours."""
    if isinstance(error, StudioError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, SQLAlchemyError):
        return _of_database(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("The disk is full, so nothing of this was kept. Free some space and try again.")
    if isinstance(error, OverflowError):
        return Invalid("A number is too large to be kept.")
    if isinstance(error, ClientDisconnect):  # such as a form that asks again with every key: nobody reads the answer
        return BadRequest("The request broke off before its end; nothing was changed. Send it again.")
    return None


def _of_http(error: HTTPException) -> StudioError:
    if error.status_code == 404:
        return NotFound("There is nothing at this address.")
    if error.status_code == 405:
        refused = StudioError("This address does not take this method.", code="method_not_allowed")
        refused.status = 405
        return refused
    if error.status_code == 413:
        return TooLarge(str(error.detail))
    if error.status_code == 400:
        return BadRequest("The request could not be read: its body is not what its headers say, or is nested too deeply.")
    other = StudioError(str(error.detail), code="error")
    other.status = error.status_code
    return other


def _of_database(error: SQLAlchemyError) -> StudioError | None:
    text = str(getattr(error, "orig", error))
    if isinstance(error, OperationalError | ProgrammingError) and (
        "no such table" in text or "no such column" in text or "UndefinedTable" in repr(error)
    ):
        return Unavailable(_NOT_MIGRATED)
    if "disk is full" in text or "No space left" in text:
        return DiskFull("The disk of the database is full, so nothing was changed. Free some space and try again.")
    if isinstance(error, OperationalError):
        return as_unavailable(error)
    if isinstance(error, IntegrityError):
        return Conflict("Somebody changed the same thing at the same moment. Load it again and repeat what you did.")
    if isinstance(error, DataError):
        return Invalid("A value holds a character or a number that the database cannot keep, such as a NUL character.")
    if (isinstance(error, DBAPIError) and error.connection_invalidated) or type(error).__name__ == "TimeoutError":
        return Unavailable("The database does not answer right now. Nothing was changed; try again in a moment.")
    return None


def _invalid(error: RequestValidationError) -> StudioError:
    problems = []
    for each in error.errors():
        place = [str(part) for part in each["loc"][1:]]
        if each["type"] == "json_invalid":
            return BadRequest(f"The body is not valid JSON: {each['ctx']['error']}, at character {each['loc'][-1]}.")
        problems.append({"field": ".".join(place) or str(each["loc"][0]), "message": plain_words(each)})
    first = problems[0]
    return Invalid(f"{first['field']}: {first['message']}", field=first["field"], details=problems if len(problems) > 1 else None)


def answer(request: Request, error: Exception) -> Response:
    """Exception handler for everything a route may raise. No coroutine: it reads the database, so it runs beside the event loop."""
    if isinstance(error, HTTPException):  # an address that is not there has asked nobody who calls; the page around it shows that
        with suppress(StudioError, SQLAlchemyError):
            authenticate(request)
    known = as_studio_error(error)
    return refuse(request, known) if known is not None else fault(request, error)


def fault(request: Request, error: Exception) -> Response:
    """The answer to a fault of ours: a number for the log, where the stack trace is, and nothing of it to the user."""
    number = secrets.token_hex(4)
    log.error("Fault %s at %s %s", number, request.method, request.url.path, exc_info=error)
    words = f"Something went wrong on our side; the log of the server has it as fault {number}. Try again, or report that number."
    return refuse(request, StudioError(words, code="internal"))


def install(app: FastAPI) -> None:
    """Have an application answer errors this way."""
    for kind in (StudioError, RequestValidationError, HTTPException, SQLAlchemyError, OSError, OverflowError, ClientDisconnect):
        app.add_exception_handler(kind, answer)
