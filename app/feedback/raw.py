"""Raw votes as they are given out: one line of JSON for each item, read in pieces so that any number needs little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from sqlalchemy import select

from app.database import Database, iso
from app.feedback.tables import Item, Rater, Rating, Response

PIECE = 500


def lines(database: Database, project_id: str) -> Iterator[bytes]:
    """Items with responses and votes, in the order they came in; those filtered or taken out say so in `status`."""
    after = ""
    with database.read() as session:
        raters = {rater.id: rater for rater in session.scalars(select(Rater).where(Rater.project_id == project_id))}
        who = {rater.id: {"rater": rater.id, "name": rater.name, "kind": rater.kind} for rater in raters.values()}
        items, answers, said = Item.__table__.c, Response.__table__.c, Rating.__table__.c
        while True:
            columns = (items.id, items.prompt, items.role, items.gold, items.status, items.reason, items.overlap, items.meta)
            page = session.execute(
                select(*columns).where(items.project_id == project_id, items.id > after).order_by(items.id).limit(PIECE)
            ).all()
            if not page:
                return
            after = page[-1].id
            ids = [item.id for item in page]
            responses: dict[str, list[dict[str, Any]]] = {}
            wanted = (
                answers.item_id, answers.id, answers.place, answers.text, answers.source, answers.checkpoint_id, answers.sampling,
                answers.finish, answers.tokens, answers.style,
            )  # fmt: skip
            for row in session.execute(select(*wanted).where(answers.item_id.in_(ids)).order_by(answers.item_id, answers.place)).mappings():
                responses.setdefault(row["item_id"], []).append({name: row[name] for name in row if name != "item_id"})
            votes: dict[str, list[dict[str, Any]]] = {}
            told = (
                said.item_id, said.rater_id, said.round, said.kind, said.preference, said.quality, said.score, said.ranking, said.labels,
                said.comment, said.left, said.active_ms, said.is_extra, said.at,
            )  # fmt: skip
            for row in session.execute(select(*told).where(said.item_id.in_(ids)).order_by(said.item_id, said.at)).mappings():
                vote = {**who.get(row["rater_id"], {"rater": row["rater_id"]}), **row, "at": iso(row["at"])}
                del vote["item_id"], vote["rater_id"]
                votes.setdefault(row["item_id"], []).append(vote)
            yield b"".join(
                orjson.dumps({**item._mapping, "responses": responses.get(item.id, []), "votes": votes.get(item.id, [])}) + b"\n"
                for item in page
            )
