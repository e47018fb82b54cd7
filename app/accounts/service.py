"""The door of this noun for others: what they call, gathered from the modules that do it, one subject each. Does nothing itself."""

from app.accounts.audit import record
from app.accounts.keys import reserve_key
from app.accounts.members import list_workspaces
from app.accounts.people import MAY_GIVE, ROLES, add_user, ensure_first, find_user, first_admin, first_workspace, list_users
from app.accounts.sessions import (
    ANOTHER_LINK,
    IDLE_SECONDS,
    SESSION_SECONDS,
    create_login_link,
    link_for,
    session_principal,
    sign_in,
    touch,
)
from app.accounts.tokens import create_token, list_tokens, revoke_token, token_principal

__all__ = [
    "ANOTHER_LINK",
    "IDLE_SECONDS",
    "MAY_GIVE",
    "ROLES",
    "SESSION_SECONDS",
    "add_user",
    "create_login_link",
    "create_token",
    "ensure_first",
    "find_user",
    "first_admin",
    "first_workspace",
    "link_for",
    "list_tokens",
    "list_users",
    "list_workspaces",
    "record",
    "reserve_key",
    "revoke_token",
    "session_principal",
    "sign_in",
    "token_principal",
    "touch",
]
