"""Signing in and out, the settings page, and what every server has: health, front door, REST documentation. No feature of the studio."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any

from fastapi import Form, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from sqlalchemy import text

from app.accounts import service
from app.accounts.schemas import Principal
from app.errors import Forbidden, StudioError, Unauthorized
from app.security import Attempts
from app.settings import Settings
from app.web import (
    Reader,
    ReadSession,
    WriteSession,
    authenticate,
    cookie_name,
    database_of,
    page,
    pages_router,
    public,
    see_other,
    settings_of,
    uses_https,
)

router = pages_router()

PlainText = Annotated[str, Form(max_length=200)]


@router.get("/healthz")
@public
async def health() -> JSONResponse:
    """Say that the process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
@public
def ready(request: Request) -> JSONResponse:
    """Say whether requests can be served: the database answers."""
    with database_of(request).read() as session:
        session.execute(text("SELECT id FROM users LIMIT 1"))
    return JSONResponse({"status": "ok"})


@router.get("/")
@public
async def front_door() -> RedirectResponse:
    """The studio opens with its runs."""
    return see_other("/runs")


@router.get("/login")
@public
def login(request: Request, token: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Sign in by a link, or say how to get one.

    The link works at once when the user opened it. When another site leads here, or a browser only looks ahead, a button has to be
    pressed first: so nobody is signed in as somebody else by a page, and a preview does not use the link up.
    """
    if not token:
        return page(request, "accounts/login.html", None, error=None, name=None, token="")
    looks_ahead = "prefetch" in request.headers.get("sec-purpose", request.headers.get("purpose", ""))
    if looks_ahead or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        with database_of(request).read() as session:
            owner = service.link_owner(session, token)
        return page(request, "accounts/login.html", None, error=None, name=owner.name if owner else None, token=token if owner else "")
    return _sign_in(request, token)


@router.post("/login")
@public
def confirm_login(request: Request, token: Annotated[str, Form(max_length=200)]) -> Response:
    """Sign in by a link that the user has confirmed."""
    return _sign_in(request, token)


def _sign_in(request: Request, token: str) -> Response:
    settings, attempts = settings_of(request), request.app.state.attempts
    assert isinstance(attempts, Attempts)
    address = request.client.host if request.client else "unknown"
    _refuse_plain_http(request, settings, address)
    attempts.check(address)
    name = cookie_name(settings)
    try:
        with database_of(request).write() as session:
            if name in request.cookies:
                service.sign_out(session, request.cookies[name])
            _, cookie = service.sign_in(session, token, address=address, agent=request.headers.get("user-agent"))
    except Unauthorized:
        if _is_signed_in(request):  # the link was opened a second time in the browser that it signed in
            return see_other("/runs")
        attempts.failed(address)
        raise
    response = see_other("/runs")
    response.set_cookie(name, cookie, max_age=service.SESSION_SECONDS, path="/", secure=uses_https(settings), httponly=True, samesite="lax")
    return response


def _is_signed_in(request: Request) -> bool:
    try:
        return authenticate(request).via == "session"
    except Unauthorized:
        return False


def _refuse_plain_http(request: Request, settings: Settings, address: str) -> None:
    if uses_https(settings) or request.url.scheme == "https" or settings.allow_http or _is_loopback(address):
        return
    raise Forbidden(
        "Signing in over plain HTTP from another machine is off, since anybody on the way could read the session. Put Luthier behind HTTPS "
        "and set LUTHIER_PUBLIC_URL to its https:// address, or accept the risk with LUTHIER_ALLOW_HTTP=true.",
        code="plain_http",
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@router.post("/logout")
@public
def logout(request: Request, session: WriteSession) -> Response:
    """Sign this browser out."""
    name = cookie_name(settings_of(request))
    if name in request.cookies:
        service.sign_out(session, request.cookies[name])
    response = see_other("/login")
    response.delete_cookie(name, path="/", secure=uses_https(settings_of(request)), httponly=True, samesite="lax")
    return response


@router.get("/settings")
def settings_page(request: Request, who: Reader, session: ReadSession) -> HTMLResponse:
    """The user's own tokens and signed-in browsers."""
    return _settings(request, who, session)


def _settings(request: Request, who: Principal, session: ReadSession, **more: Any) -> HTMLResponse:
    context: dict[str, Any] = {"made": None, "error": None, "given": {}} | more
    return page(
        request,
        "accounts/settings.html",
        who,
        status=context["error"].status if context["error"] else 200,
        tokens=service.list_tokens(session, who.workspace_id, user_id=who.user_id),
        sessions=[(browser, browser_name(browser.agent)) for browser in service.list_sessions(session, who.user_id)],
        roles=[role for role in service.MAY_GIVE[who.role] if role != "rater"],
        **context,
    )


def browser_name(agent: str | None) -> str:
    """A browser and its system in a few words, as far as its `User-Agent` tells."""
    known = (("Edg", "Edge"), ("Firefox", "Firefox"), ("Chrom", "Chrome"), ("Safari", "Safari"))
    systems = (("Android", "Android"), ("iPhone", "iPhone"), ("Mac OS", "macOS"), ("Windows", "Windows"), ("Linux", "Linux"))
    name = next((name for mark, name in known if mark in (agent or "")), "A program" if agent else "Unknown")
    return name + next((f" on {system}" for mark, system in systems if mark in (agent or "")), "")


@router.post("/settings/tokens")
def make_token(request: Request, who: Reader, session: WriteSession, name: PlainText = "", role: PlainText = "") -> Response:
    """Make an API token; its secret is on the answered page and nowhere else."""
    try:
        service.refuse_beyond(who, role)
        token, plain = service.create_token(session, name=name, role=role, user_id=who.user_id, workspace_id=who.workspace_id)
    except StudioError as error:
        return _settings(request, who, session, error=error, given={"name": name, "role": role})
    return _settings(request, who, session, made={"name": token.name, "plain": plain})


@router.post("/settings/tokens/{token_id}/revoke")
def revoke_token(token_id: str, who: Reader, session: WriteSession) -> Response:
    """End one of the user's tokens."""
    service.revoke_token(session, who.workspace_id, token_id, user_id=who.user_id)
    return see_other("/settings#tokens")


@router.post("/settings/sessions/{session_id}/end")
def end_session(session_id: str, who: Reader, session: WriteSession) -> Response:
    """Sign one of the user's browsers out."""
    service.end_session(session, who.user_id, session_id)
    return see_other("/settings#sessions")


@router.post("/settings/sessions/end-others")
def end_other_sessions(who: Reader, session: WriteSession) -> Response:
    """Sign all of the user's browsers out but this one."""
    service.end_other_sessions(session, who.user_id, but=who.credential_id)
    return see_other("/settings#sessions")


@router.get("/openapi.json")
def openapi(request: Request, who: Reader) -> JSONResponse:
    """The OpenAPI document of the REST interface."""
    return JSONResponse(_document(request))


@router.get("/docs")
def documentation(request: Request, who: Reader) -> HTMLResponse:
    """The REST interface, readable without a script."""
    document = _document(request)
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation.get("tags", ["other"])[0], []).append(
                {"method": method.upper(), "path": path, **_operation(operation, document)}
            )
    return page(request, "accounts/docs.html", who, groups=groups)


def _document(request: Request) -> dict[str, Any]:
    document: dict[str, Any] = request.app.openapi()
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "description": "An API token `lt_…`."}}
    document["security"] = [{"token": []}]
    return document


def _operation(operation: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    schema: dict[str, Any] = next((each["schema"] for each in content.values()), {})
    named = document.get("components", {}).get("schemas", {}).get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    fields = [
        {"name": name, "needed": name in named.get("required", []), "text": field.get("description", "")}
        for name, field in named.get("properties", {}).items()
    ]
    parameters = [
        {"name": each["name"], "needed": each.get("required", False), "text": each.get("description", "")}
        for each in operation.get("parameters", [])
    ]
    text = operation.get("description") or operation.get("summary", "")
    return {"first": text.split(". ")[0].split("\n")[0].rstrip(".") + ".", "text": text, "fields": fields, "parameters": parameters}
