"""Signing in and out, accepting invites, and what every server has: health, front door, REST documentation. No feature of the studio."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Annotated, Any

from fastapi import Form, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.accounts import audit, documents, invites, pages_audit, pages_own, pages_studio, passwords, sessions
from app.accounts.schemas import Principal
from app.errors import Conflict, Forbidden, Invalid, StudioError, TooMany, Unauthorized
from app.security import Attempts
from app.settings import Settings
from app.web import (
    Person,
    Reader,
    WriteSession,
    address_of,
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
for part in (pages_own, pages_studio, pages_audit):
    router.routes.extend(part.router.routes)

Secret = Annotated[str, Form(max_length=200)]
Text = Annotated[str, Form(max_length=20_000)]

WRONG = "This name and password do not let anybody in. Check both, or sign in with a link."


# --- what every server has ------------------------------------------------------------------------------------------------


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
def front_door(request: Request) -> RedirectResponse:
    """The studio opens with its runs; for a rater, with what there is to rate."""
    who = _signed_in(request)
    return see_other(home_of(who))


def home_of(who: Principal | None) -> str:
    """Where somebody begins: a rater may see nothing but what is to be rated."""
    return "/rate" if who is not None and who.role == "rater" else "/runs"


@router.get("/openapi.json")
def openapi(request: Request, who: Reader) -> JSONResponse:
    """The OpenAPI document of the REST interface."""
    return JSONResponse(documents.document(request.app))


@router.get("/docs")
def documentation(request: Request, who: Reader) -> HTMLResponse:
    """The REST interface, readable without a script."""
    return page(request, "accounts/docs.html", who, groups=documents.groups(documents.document(request.app)))


# --- signing in and out ---------------------------------------------------------------------------------------------------


@router.get("/login")
@public
def login(request: Request, token: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Sign in by a link, or by name and password.

    A link works at once when a browser says that the user opened it, and on this machine. When another site leads here, or something
    only looks ahead, a button has to be pressed first: so nobody is signed in as somebody else by a page, and a preview does not use
    the link up.
    """
    if not token:
        return _login_page(request)
    _refuse_plain_http(request, settings_of(request), address_of(request))
    if _only_looks(request):
        with database_of(request).read() as session:
            owner = sessions.link_owner(session, token)
        return _login_page(request, name=owner.name if owner else None, token=token if owner else "")
    return _by_link(request, token)


def _only_looks(request: Request) -> bool:
    ahead = "prefetch" in request.headers.get("sec-purpose", request.headers.get("purpose", ""))
    silent = "none" if _is_loopback(address_of(request)) else ""  # programs that fetch a link to show what it is say nothing either
    return ahead or bool(request.scope.get("head")) or request.headers.get("sec-fetch-site", silent) not in ("none", "same-origin")


def _login_page(request: Request, *, error: StudioError | None = None, **more: Any) -> HTMLResponse:
    context = {"name": None, "token": "", "given": ""} | more
    response = page(request, "accounts/login.html", None, status=error.status if error else 200, error=error, **context)
    if isinstance(error, TooMany) and isinstance(error.details, dict):
        response.headers["Retry-After"] = str(error.details["retry_after"])
    return response


@router.post("/login")
@public
def confirm_login(request: Request, token: Secret = "", name: Text = "", password: Text = "") -> Response:
    """Sign in by a link that the user has confirmed, or by name (or e-mail address) and password."""
    return _by_link(request, token) if token else _by_password(request, name, password)


def _by_link(request: Request, token: str) -> Response:
    attempts, address = _attempts(request), address_of(request)
    try:
        _refuse_plain_http(request, settings_of(request), address)
        with database_of(request).read() as session:
            known = sessions.link_owner(session, token) is not None
        if not known:  # who has a link that works is not kept out by others who guess from the same address
            attempts.check(address)
        with database_of(request).write() as session:
            _leave(request, session)
            _, cookie = sessions.sign_in(session, token, address=address, agent=request.headers.get("user-agent"))
            home = home_of(sessions.session_principal(session, cookie))
    except TooMany as error:
        return _login_page(request, error=error)
    except Unauthorized:
        if who := _signed_in(request):  # the link was opened a second time in the browser that it signed in
            return see_other(home_of(who))
        attempts.failed(address)
        _failed(request, "", "link")
        raise
    return _with_cookie(request, see_other(home), cookie)


def _by_password(request: Request, name: str, password: str) -> Response:
    attempts, address = _attempts(request), address_of(request)
    account = "account " + hashlib.sha256(name.strip().casefold().encode()).hexdigest()  # known or not: both are counted alike
    try:
        _refuse_plain_http(request, settings_of(request), address)
        attempts.check(address, account)
        with database_of(request).read() as session:
            checked = passwords.check_sign_in(session, name, password)
        if checked is None:
            raise Unauthorized(WRONG, code="wrong_password")
        with database_of(request).write() as session:
            if not passwords.keep_rehashed(session, checked):
                raise Unauthorized(WRONG, code="wrong_password")
            _leave(request, session)
            agent = request.headers.get("user-agent")
            _, cookie = sessions.open_session(session, checked.user, via="password", address=address, agent=agent)
            home = home_of(sessions.session_principal(session, cookie))
    except (TooMany, Unauthorized) as error:
        if isinstance(error, Unauthorized):
            attempts.failed(address, account)
            _failed(request, name, "password")
        return _login_page(request, error=error, given=name[:200])
    attempts.succeeded(account)
    return _with_cookie(request, see_other(home), cookie)


def _attempts(request: Request) -> Attempts:
    attempts = request.app.state.attempts
    assert isinstance(attempts, Attempts)
    return attempts


def _failed(request: Request, name: str, via: str) -> None:
    with database_of(request).write() as session:
        session.info["address"] = address_of(request)
        audit.record(session, None, "sign_in.failed", name, actor="somebody", via=via)


def _leave(request: Request, session: Session) -> None:
    """End the session this browser has, if any: another one begins."""
    session.info["address"] = address_of(request)
    cookie = request.cookies.get(cookie_name(settings_of(request)))
    if cookie:
        sessions.sign_out(session, cookie)


def _with_cookie(request: Request, response: Response, cookie: str) -> Response:
    settings = settings_of(request)
    pages_own.set_cookie(response, settings, cookie)
    return response


def _signed_in(request: Request) -> Principal | None:
    try:
        who = authenticate(request)
    except Unauthorized:
        return None
    return who if who.via == "session" else None


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
        sessions.sign_out(session, request.cookies[name])
    response = see_other("/login")
    response.delete_cookie(name, path="/", secure=uses_https(settings_of(request)), httponly=True, samesite="lax")
    return response


# --- invites --------------------------------------------------------------------------------------------------------------


@router.get("/join")
@public
def invitation(request: Request, token: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Who invites to what, and the form to accept; looking at it does not use the invite up."""
    try:
        return _join_page(request, token)
    except (Unauthorized, TooMany) as error:
        return _login_page(request, error=error)


def _opened(request: Request, token: str) -> invites.Opened:
    """What an invite says; only those whose secret opens nothing are counted and made to wait."""
    attempts, address = _attempts(request), address_of(request)
    try:
        with database_of(request).read() as session:
            return invites.opened(session, token)
    except Unauthorized:
        attempts.check(address)
        attempts.failed(address)
        raise


def _join_page(request: Request, token: str, *, error: StudioError | None = None, name: str | None = None) -> HTMLResponse:
    opened = _opened(request, token)
    return page(
        request,
        "accounts/join.html",
        None,
        status=error.status if error else 200,
        opened=opened,
        token=token,
        error=error,
        name=opened.invite.name if name is None else name,
        here=_signed_in(request),
    )


@router.post("/join")
@public
def accept_invitation(
    request: Request, token: Secret = "", name: Text = "", password: Text = "", again: Text = "", as_me: Secret = ""
) -> Response:
    """Accept an invite: as a new person, with a password or without one, or as the one who is signed in here already."""
    address = address_of(request)
    try:
        _refuse_plain_http(request, settings_of(request), address)
        _opened(request, token)  # before a hash is reckoned for a stranger
        who = _signed_in(request) if as_me else None
        if who is not None:
            return _join_as(request, token, who)
        invites.check_form(name, password, again)
        kept = passwords.hashed(password, name=name) if password else None
        with database_of(request).write() as session:
            _leave(request, session)
            user = invites.accept(session, token, name=name, password_hash=kept)
            _, cookie = sessions.open_session(session, user, via="invite", address=address, agent=request.headers.get("user-agent"))
    except (Invalid, Conflict) as error:
        return _join_page(request, token, error=error, name=name[:200])
    except (Unauthorized, TooMany) as error:
        return _login_page(request, error=error)
    return _with_cookie(request, see_other("/runs" if user.role != "rater" else "/rate"), cookie)


def _join_as(request: Request, token: str, who: Principal) -> Response:
    with database_of(request).write() as session:
        session.info["address"] = address_of(request)
        invite = invites.join(session, token, who)
        sessions.switch_workspace(session, who, invite.workspace_id)
        home = _home_now(request, session)
    return see_other(home)


def _home_now(request: Request, session: Session) -> str:
    """Where the caller begins in the workspace that this request has just changed to."""
    cookie = request.cookies.get(cookie_name(settings_of(request)))
    return home_of(sessions.session_principal(session, cookie) if cookie else None)


@router.post("/settings/workspace")
def switch_workspace(request: Request, who: Person, session: WriteSession, workspace: Secret = "") -> Response:
    """Work in another workspace of one's own from now on."""
    sessions.switch_workspace(session, who, workspace)
    return see_other(_home_now(request, session))
