"""The audit log: who did what, added in the caller's transaction and chained by hash. Knows no route and changes no row."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event, select, text
from sqlalchemy.orm import ORMExecuteState, Session

from app.accounts.schemas import Principal
from app.accounts.tables import AuditEntry
from app.database import now

LOCK = 7_261_001
"""Number of the advisory lock of Postgres that keeps the chain in one line; SQLite has one writer anyway."""
TEXT = 200
JOINERS = "\u200c\u200d"
"""Cannot be seen, but hold the parts of some letters and emoji together."""
FIRST = "0" * 64
_COLUMNS = ("number", "at", "action", "subject", "details", "actor_id", "actor", "via", "credential_id", "workspace_id", "address")


@dataclass(frozen=True)
class Chain:
    """What a check of the log found."""

    entries: int
    newest: str
    """Hash of the newest entry; who keeps it elsewhere will notice a log that was cut short."""
    broken_at: int | None
    """Number of the first entry that is not what it was, or is missing."""


# --- adding ---------------------------------------------------------------------------------------------------------------


def record(
    session: Session,
    who: Principal | None,
    action: str,
    subject: str = "",
    *,
    actor: str = "",
    actor_id: str | None = None,
    via: str = "command",
    workspace_id: str | None = None,
    **details: Any,
) -> None:
    """Note what is being done; it is written when the session's transaction commits, and only then.

    Args:
        who: who does it; None for somebody who is not signed in (then say `actor` and `via`).
        action: noun and verb, such as `runs.delete`.
        subject: what it is done to: an id, or a name.
        details: more, in short; values that are None are left out.
    """
    if "audit" not in session.info:
        session.info["audit"] = []
        event.listen(session, "before_commit", _write)
    session.info["audit"].append(
        {
            "action": action,
            "subject": plain(subject),
            "details": {name: plain(value) for name, value in details.items() if value is not None},
            "actor_id": who.user_id if who else actor_id,
            "actor": plain(who.user_name if who else actor or "command line"),
            "via": who.via if who else via,
            "credential_id": who.credential_id if who else None,
            "workspace_id": workspace_id or (who.workspace_id if who else None),
            "address": session.info.get("address"),
        }
    )


def plain(value: object) -> str:
    """Text as it is kept: without control characters, and short."""
    shown = "".join(character if character.isprintable() or character in JOINERS else " " for character in str(value)).strip()
    return shown if len(shown) <= TEXT else shown[: TEXT - 1] + "…"


def _write(session: Session) -> None:
    """Add what was noted, last of all in its transaction, so that nobody waits for the lock longer than a commit takes."""
    if session.in_nested_transaction() or not session.info["audit"]:
        return
    waiting, session.info["audit"] = session.info["audit"], []
    session.flush()
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    last = session.execute(select(AuditEntry.number, AuditEntry.hash).order_by(AuditEntry.number.desc()).limit(1)).first()
    number, before = (last.number, last.hash) if last else (0, FIRST)
    for each in waiting:
        number += 1
        entry = AuditEntry(number=number, at=session.scalar(select(now())), **each)
        entry.hash = before = _chained(before, entry)
        session.add(entry)
    session.flush()


def _chained(before: str, entry: AuditEntry) -> str:
    fields = [before, *(getattr(entry, name) for name in _COLUMNS)]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def watch(session: Session) -> None:
    """Have a session remember whether it wrote, and which rows it made: `written` and `made` in its info."""

    def _flushed(flushed: Session, _context: Any) -> None:
        if flushed.new or flushed.dirty or flushed.deleted:
            flushed.info["written"] = True
        made = flushed.info.setdefault("made", {})
        for row in flushed.new:
            made.setdefault(row.__tablename__, str(getattr(row, "id", "")))

    def _executed(state: ORMExecuteState) -> None:
        if state.is_insert or state.is_update or state.is_delete:
            state.session.info["written"] = True

    event.listen(session, "after_flush", _flushed)
    event.listen(session, "do_orm_execute", _executed)


# --- reading --------------------------------------------------------------------------------------------------------------


def entries(
    session: Session,
    *,
    workspace_id: str | None = None,
    actor: str = "",
    action: str = "",
    subject: str = "",
    limit: int = 50,
    after: int | None = None,
) -> list[AuditEntry]:
    """Entries, newest first: of one workspace when named, by somebody, of a kind (`runs`, or `runs.delete`), about something."""
    query = select(AuditEntry).order_by(AuditEntry.number.desc()).limit(limit)
    if workspace_id is not None:
        query = query.where(AuditEntry.workspace_id == workspace_id)
    if actor:
        query = query.where(AuditEntry.actor.icontains(actor, autoescape=True) | (AuditEntry.actor_id == actor))
    if action:
        query = query.where((AuditEntry.action == action) | AuditEntry.action.startswith(f"{action}.", autoescape=True))
    if subject:
        query = query.where(AuditEntry.subject.icontains(subject, autoescape=True))
    if after is not None:
        query = query.where(AuditEntry.number < after)
    return list(session.scalars(query))


def nouns(session: Session) -> list[str]:
    """Kinds of things the log tells of."""
    return sorted({action.split(".")[0] for action in session.scalars(select(AuditEntry.action).distinct())})


def as_csv(found: Sequence[AuditEntry]) -> Iterator[str]:
    """Entries as a table for spreadsheets; nothing in it is taken for a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([*_COLUMNS, "hash"])
    for entry in found:
        writer.writerow([_cell(getattr(entry, name)) for name in (*_COLUMNS, "hash")])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, sort_keys=True) if isinstance(value, dict) else "" if value is None else str(value)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def check(session: Session) -> Chain:
    """Reckon the whole chain anew."""
    count, before = 0, FIRST
    query = select(AuditEntry).order_by(AuditEntry.number).execution_options(yield_per=1000)
    with closing(session.scalars(query)) as rows:
        for entry in rows:
            count += 1
            if entry.number != count or _chained(before, entry) != entry.hash:
                return Chain(count, entry.hash, count)
            before = entry.hash
    return Chain(count, before, None)
