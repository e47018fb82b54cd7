"""What an API token may be used for, by noun and method: one rule for every route. Knows no route by name."""

from __future__ import annotations

from collections.abc import Iterable

from app.accounts.schemas import Principal
from app.errors import Forbidden, Invalid

SCOPES = {
    "read": "Look at runs, datasets, checkpoints, chats and machines; change nothing.",
    "runs": "Plan, start, change, stop and delete runs.",
    "datasets": "Add, change and delete datasets, and make them by recipes.",
    "checkpoints": "Import, export and delete checkpoints.",
    "chats": "Talk to models.",
    "feedback": "Make feedback projects, rate answers, and steer raters.",
    "admin": "People, invites, workspaces, tokens, sessions, webhooks and the audit log.",
}
"""Scope -> what it opens, always within the role of the token."""

_OWNERS = {
    "runs": "runs",
    "chains": "runs",
    "evaluations": "runs",
    "datasets": "datasets",
    "recipes": "datasets",
    "checkpoints": "checkpoints",
    "models": "checkpoints",
    "exports": "checkpoints",
    "chats": "chats",
    "playground": "chats",
    "chat": "chats",
    "completions": "chats",
    "feedback": "feedback",
    "rate": "feedback",
    **dict.fromkeys(("users", "invites", "workspaces", "members", "tokens", "sessions", "audit", "webhooks", "settings"), "admin"),
}
_ANY = frozenset(SCOPES)
_SAFE = ("GET", "HEAD", "OPTIONS")


def noun_of(path: str) -> str:
    """The noun a path is about: `runs` of `/api/v1/runs/run_1/cancel`."""
    parts = [part for part in path.split("/") if part]
    while parts[:1] in (["api"], ["v1"]):
        parts.pop(0)
    return parts[0] if parts else ""


def opening(method: str, path: str) -> frozenset[str]:
    """The scopes that open a call; any one of them does. What no scope is known for needs `admin` to be changed."""
    noun = noun_of(path)
    if noun == "me":
        return _ANY
    owner = _OWNERS.get(noun)
    if method in _SAFE:
        return frozenset({"admin"}) if owner == "admin" else frozenset({"read", owner or "read"})
    return frozenset({owner or "admin"})


def refuse(who: Principal, method: str, path: str) -> None:
    """See that the caller's token may be used for a call.

    Raises:
        Forbidden: it lacks the scope, or is bound to another project.
    """
    if who.project_id and not _is_within(who.project_id, path):
        raise Forbidden(f"This token rates in the project {who.project_id} and nothing else.", code="bound")
    needed = opening(method, path)
    if who.scopes is None or needed & who.scopes:
        return
    raise Forbidden(
        f"This token is for {listed(who.scopes)} only, and this needs {' or '.join(in_order(needed))}. "
        "Make a token with that scope under Settings, or with `luthier token create --scope`.",
        code="scope",
    )


def _is_within(project_id: str, path: str) -> bool:
    """Whether a path is of one feedback project, or leads there. Whose item a slot is, feedback looks up itself."""
    parts = [part for part in path.split("/") if part]
    if parts[:2] == ["api", "v1"]:
        parts = parts[2:]
    noun, rest = parts[0] if parts else "", parts[1:]
    if noun == "rate":
        return not rest or rest[0] == project_id
    if noun == "feedback" and rest:
        return rest[0] == "slots" or (rest[0] == "projects" and rest[1:2] in ([], [project_id]))
    return parts == ["me"]


def in_order(names: Iterable[str]) -> list[str]:
    """Scopes in the order they are shown in."""
    found = set(names)
    return [name for name in SCOPES if name in found]


def listed(names: Iterable[str]) -> str:
    """Scopes in a sentence."""
    return ", ".join(in_order(names)) or "nothing"


def checked(names: Iterable[str] | None, by: Principal | None) -> list[str] | None:
    """Scopes for a new token: known ones, and no more than its maker has; None stands for all there are.

    Raises:
        Invalid: there is no such scope.
        Forbidden: the maker is a token that lacks one of them.
    """
    wanted = None if names is None else set(names)
    if wanted is not None:
        if unknown := sorted(wanted - SCOPES.keys()):
            raise Invalid(f"There is no scope “{unknown[0][:40]}”. The scopes are {', '.join(SCOPES)}.", field="scopes")
        if not wanted:
            raise Invalid("A token needs at least one scope, or none named for everything its role may do.", field="scopes")
    own = by.scopes if by else None
    if own is not None:
        if wanted is None:
            wanted = set(own)
        if not wanted <= own:
            raise Forbidden(f"You act with a token for {listed(own)}, so you cannot make one for more than that.", code="scope")
    return None if wanted is None else in_order(wanted)
