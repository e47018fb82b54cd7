"""Raw votes as they are given out: one line of JSON for each item, read in pieces so that any number needs little memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson
from sqlalchemy import Text, cast, select, tuple_, type_coerce
from sqlalchemy.orm import Session

from app.database import Database, iso
from app.feedback.tables import Item, Rater, Rating, Response

PIECE = 500


def lines(database: Database, project_id: str) -> Iterator[bytes]:
    """Items with responses and votes, in the order they came in; those filtered or taken out say so in `status`."""
    after: tuple[float, str] = (0.0, "")
    with database.read() as session:
        raters = session.execute(select(Rater.id, Rater.name, Rater.kind).where(Rater.project_id == project_id))
        who = {rater.id: {"rater": rater.id, "name": rater.name, "kind": rater.kind} for rater in raters}
        as_text = text_of(session)
        items, answers, said = Item.__table__.c, Response.__table__.c, Rating.__table__.c
        place = tuple_(items.created_at, items.id)
        of_project = items.project_id == project_id
        told = (
            items.created_at, items.id, as_text(items.prompt), items.role, as_text(items.gold), items.status, items.reason, items.overlap,
            as_text(items.meta),
        )  # fmt: skip
        answered = (
            answers.item_id, answers.id, answers.place, answers.text, answers.source, answers.checkpoint_id, as_text(answers.sampling),
            answers.finish, answers.tokens, as_text(answers.style),
        )  # fmt: skip
        voted = (
            said.item_id, said.rater_id, said.at, said.round, said.kind, said.preference, said.quality, said.score, as_text(said.ranking),
            as_text(said.labels), said.comment, said.left, said.active_ms, said.is_extra,
        )  # fmt: skip
        while True:
            page = session.execute(select(*told).where(of_project, place > after).order_by(items.created_at, items.id).limit(PIECE)).all()
            if not page:
                return
            # What belongs to them is found by the same two ends: a list of ids would be parsed and planned anew for each piece.
            here = (of_project, place > after, place <= (page[-1].created_at, page[-1].id))
            after = (page[-1].created_at, page[-1].id)
            responses: dict[str, list[dict[str, Any]]] = {}
            of_items = select(*answered).join(Item.__table__, items.id == answers.item_id).where(*here)
            for row in session.execute(of_items.order_by(answers.item_id, answers.place)):
                responses.setdefault(row[0], []).append(
                    {
                        "id": row[1], "place": row[2], "text": row[3], "source": row[4], "checkpoint_id": row[5], "sampling": _json(row[6]),
                        "finish": row[7], "tokens": row[8], "style": _json(row[9]),
                    }
                )  # fmt: skip
            votes: dict[str, list[dict[str, Any]]] = {}
            on_items = select(*voted).join(Item.__table__, items.id == said.item_id).where(*here)
            for row in session.execute(on_items.order_by(said.item_id, said.at)):
                votes.setdefault(row[0], []).append(
                    {
                        **who.get(row[1], {"rater": row[1]}), "round": row[3], "kind": row[4], "preference": row[5], "quality": row[6],
                        "score": row[7], "ranking": _json(row[8]), "labels": _json(row[9]), "comment": row[10], "left": row[11],
                        "active_ms": row[12], "is_extra": row[13], "at": iso(row[2]),
                    }
                )  # fmt: skip
            yield b"".join(_line(item, responses.get(item.id, []), votes.get(item.id, [])) for item in page)


def _line(item: Any, responses: list[dict[str, Any]], votes: list[dict[str, Any]]) -> bytes:
    told = {
        "created_at": iso(item[0]), "id": item[1], "prompt": _json(item[2]), "role": item[3], "gold": _json(item[4]), "status": item[5],
        "reason": item[6], "overlap": item[7], "meta": _json(item[8]), "responses": responses, "votes": votes,
    }  # fmt: skip
    return orjson.dumps(told) + b"\n"


def text_of(session: Session) -> Any:
    """How a column of JSON is asked for as text: it is passed on as it is, and not taken apart and put together again."""
    if session.get_bind().dialect.name == "postgresql":
        return lambda column: cast(column, Text)
    return lambda column: type_coerce(column, Text)


def _json(text: str | None) -> Any:
    if text is None:
        return None
    # SQLite keeps what is no JSON; read and written anew it is null.
    return json.loads(text) if "NaN" in text or "Infinity" in text else orjson.Fragment(text)
