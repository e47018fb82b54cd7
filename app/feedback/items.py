"""Items of a project: taking them in, their responses and slots, looking at them, taking them out. Nothing here is about one rater."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import String, cast, func, insert, or_, select, tuple_
from sqlalchemy.orm import Session

from app import shapes
from app.checkpoints.tables import Checkpoint
from app.database import drawn_id, now
from app.errors import Conflict, Invalid, NotFound
from app.feedback import filters, slots
from app.feedback.projects import count, lock, recount
from app.feedback.schemas import Gold, ItemIn, ResponseIn
from app.feedback.tables import Item, Project, Response

BATCH = 500
WANTED = {"pair": (2, 2), "single": (1, 1), "rank": (2, 9)}
"""Kind -> fewest and most responses of an item."""


@dataclass
class Added:
    """What became of items that were taken in."""

    count: int = 0
    """All that were kept, those filtered too."""
    filtered: dict[str, int] = field(default_factory=dict)
    """Reason -> how many; they are kept, and nobody is asked about them."""


# --- taking in ------------------------------------------------------------------------------------------------------------


def add(session: Session, project: Project, items: Iterable[ItemIn]) -> Added:
    """Take in items, in batches, so that a stream of any length needs little memory. Bad ones are refused with all the others.

    Raises:
        Invalid: an item does not fit the project; the field names it by its number, from 0.
    """
    added, found, number = Added(), Counter[str](), 0
    known: dict[str, tuple[str, str]] = {}
    stream = iter(items)
    began = float(session.scalar(select(now())) or 0.0)
    while batch := list(islice(stream, BATCH)):
        rows: list[dict[str, Any]] = []
        answers: list[dict[str, Any]] = []
        wanted: list[dict[str, Any]] = []
        for item in batch:
            row = _row(project, item, f"items.{number}")
            row["created_at"] = began + number * 1e-6  # their order, which their ids do not tell
            rows.append(row)
            answers.extend(_answers(session, project, row["id"], item.responses, known, f"items.{number}.responses"))
            if row["status"] == "filtered":
                found[row["reason"]] += 1
            elif row["role"] == "normal":
                row["overlap"] = slots.overlap_of(project, row["id"])
                wanted.extend(slots.new_rows(row["id"], project.id, row["order_key"], row["overlap"]))
            number += 1
        session.execute(insert(Item), rows)
        session.execute(insert(Response), answers)
        if wanted:
            slots.insert_rows(session, wanted)
        normal = [row for row in rows if row["role"] == "normal"]
        filtered = sum(row["status"] == "filtered" for row in rows)
        added.count += len(rows)
        golden = int(len(normal) < len(rows))
        count(session, project, items=len(normal) - filtered, filtered=filtered, slots=len(wanted), roles=golden)
    added.filtered = dict(found)
    return added


def _row(project: Project, item: ItemIn, place: str) -> dict[str, Any]:
    prompt = _prompt(item.prompt, f"{place}.prompt")
    least, most = WANTED[project.kind]
    if not least <= len(item.responses) <= most:
        needed = str(least) if least == most else f"{least} to {most}"
        raise Invalid(
            f"An item of a project of kind {project.kind} has {needed} responses, and this one has {len(item.responses)}.",
            field=f"{place}.responses",
        )
    if item.practice and item.gold is None:
        raise Invalid("A practice item needs its right answer under “gold”.", field=f"{place}.gold")
    role = "practice" if item.practice else "gold" if item.gold is not None else "normal"
    if item.gold is not None:
        check_gold(project, item.gold, len(item.responses), f"{place}.gold")
    asked = "\n".join(message["content"] for message in prompt)
    reason = filters.reason_against(asked, item.responses) if role == "normal" else None
    return {
        "id": drawn_id("itm"),
        "project_id": project.id,
        "prompt": prompt,
        "prompt_hash": prompt_hash(prompt),
        "role": role,
        "gold": item.gold.model_dump(exclude_none=True) if item.gold is not None else None,
        "status": "filtered" if reason else "open",
        "reason": reason,
        "overlap": 1 if role == "normal" else 0,
        "order_key": random.random(),
        "meta": {} if item.preference is None else {"preference": item.preference},
    }


def _answers(
    session: Session, project: Project, item_id: str, given: Sequence[ResponseIn], known: dict[str, tuple[str, str]], place: str
) -> Iterator[dict[str, Any]]:
    for number, response in enumerate(given):
        checkpoint_id, name = None, ""
        if response.checkpoint:
            checkpoint_id, name = _checkpoint(session, project.workspace_id, response.checkpoint, known, f"{place}.{number}.checkpoint")
        text = clean(response.text)
        yield {
            "id": drawn_id("rsp"),
            "item_id": item_id,
            "place": number,
            "text": text,
            "source": clean(response.source) or name or f"response {number + 1}",
            "checkpoint_id": checkpoint_id,
            "sampling": response.sampling,
            "finish": response.finish,
            "tokens": response.tokens,
            "style": filters.style(text),
        }


def _checkpoint(session: Session, workspace_id: str, asked: str, known: dict[str, tuple[str, str]], place: str) -> tuple[str, str]:
    if asked not in known:
        query = select(Checkpoint.id, Checkpoint.name).where(Checkpoint.workspace_id == workspace_id)
        query = query.where(or_(Checkpoint.id == asked, Checkpoint.name == asked)).order_by(
            (Checkpoint.id == asked).desc(), Checkpoint.id.desc()
        )
        found = session.execute(query.limit(1)).first()
        if found is None:
            raise Invalid(f"There is no checkpoint “{asked[:100]}”. Leave it out, and name the source instead.", field=place)
        known[asked] = (found.id, found.name)
    return known[asked]


def clean(text: str) -> str:
    """Text as both databases can hold it: without NUL and half characters."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def prompt_hash(prompt: list[dict[str, Any]]) -> str:
    """The same for items that ask the same."""
    return hashlib.sha256(json.dumps(prompt, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _prompt(given: str | list[dict[str, Any]], place: str) -> list[dict[str, Any]]:
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    try:
        found = shapes.messages(given, "prompt", shapes.Finding({}))
    except shapes.Wrong as wrong:
        raise Invalid(wrong.message, field=place.removesuffix("prompt") + wrong.place) from None
    messages = [{"role": message["role"], "content": clean(message["content"])} for message in found]
    if not messages[-1]["content"].strip():
        raise Invalid("The prompt is empty.", field=place)
    if messages[-1]["role"] == "assistant":
        raise Invalid("The prompt ends with an answer; it must end with what is to be answered.", field=place)
    return messages


def check_gold(project: Project, gold: Gold, answers: int, place: str) -> None:
    """See that a right answer fits the kind of project.

    Raises:
        Invalid: it does not.
    """
    if project.kind == "pair" and gold.preference is None:
        raise Invalid("The right answer of a pair is a “preference” from -3 (the first is much better) to 3.", field=f"{place}.preference")
    if project.kind == "single":
        low, high = (0, 1) if project.scale == "thumbs" else (1, 5)
        if gold.score is None or not low <= gold.score <= high:
            raise Invalid(f"The right answer of a single response is a “score” from {low} to {high}.", field=f"{place}.score")
    if project.kind == "rank" and (gold.best is None or not 0 <= gold.best < answers):
        raise Invalid("The right answer of a ranking is “best”, the number of the best response, from 0.", field=f"{place}.best")


# --- looking --------------------------------------------------------------------------------------------------------------


def get(session: Session, project: Project, item_id: str) -> Item:
    """An item of the project.

    Raises:
        NotFound: there is none with that id.
    """
    item = session.scalars(select(Item).where(Item.id == item_id, Item.project_id == project.id)).first()
    if item is None:
        raise NotFound("There is no such item in this project.")
    return item


def responses(session: Session, item_ids: Sequence[str]) -> dict[str, list[Response]]:
    """The responses of items, in the order of the data; better answers that raters wrote come last."""
    found: dict[str, list[Response]] = {item_id: [] for item_id in item_ids}
    for response in session.scalars(select(Response).where(Response.item_id.in_(item_ids)).order_by(Response.item_id, Response.place)):
        found[response.item_id].append(response)
    return found


def some(session: Session, project: Project, item_ids: Sequence[str]) -> list[Item]:
    """Items of the project by their ids, in that order; those that are gone are left out."""
    found = {item.id: item for item in session.scalars(select(Item).where(Item.project_id == project.id, Item.id.in_(item_ids)))}
    return [found[item_id] for item_id in item_ids if item_id in found]


def page(
    session: Session, project: Project, after: str | None = None, limit: int = 50, status: str | None = None, q: str | None = None
) -> list[Item]:
    """Items in the order they came in, after an id.

    Args:
        status: open, filtered, flagged or removed; also gold or practice.
        q: only those whose prompt holds this text, whatever its case.
    """
    query = select(Item).where(Item.project_id == project.id)
    if after:
        before = select(Item.created_at).where(Item.id == after, Item.project_id == project.id).scalar_subquery()
        query = query.where(tuple_(Item.created_at, Item.id) > tuple_(before, after))
    if status in ("gold", "practice"):
        query = query.where(Item.role == status)
    elif status:
        query = query.where(Item.status == status)
    if q:
        text = q if session.get_bind().dialect.name == "postgresql" else json.dumps(q)[1:-1]
        pattern = text.lower().replace("!", "!!").replace("%", "!%").replace("_", "!_")
        query = query.where(func.lower(cast(Item.prompt, String)).like(f"%{pattern}%", escape="!"))
    return list(session.scalars(query.order_by(Item.created_at, Item.id).limit(limit)))


# --- taking out and asking again ------------------------------------------------------------------------------------------


def remove(session: Session, project: Project, item_id: str) -> None:
    """Take an item out: nobody is asked about it any more, and it is not exported. What was said of it stays."""
    item = get(session, project, item_id)
    # Slots before the project before the item, as votes do it: in another order two could wait for each other.
    slots.lock(session, item.id)
    lock(session, project)
    slots.close(session, item.id)
    item.status = "removed"
    session.flush()
    recount(session, project)


def reopen(session: Session, project: Project, item_id: str, extra: int) -> Item:
    """Ask for `extra` further ratings of an item; one that was flagged or filtered is open again. Votes stay.

    Raises:
        Conflict: it was removed, or is a gold item, which everybody gets once anyway.
        Invalid: `extra` is not 0 to 50.
    """
    item = get(session, project, item_id)
    if item.status == "removed":
        raise Conflict("The item was removed. Add it again instead.")
    if item.role != "normal":
        raise Conflict("Everybody gets this item once, since its right answer is known. It cannot be asked for more often.")
    if not 0 <= extra <= 50:
        raise Invalid("Ask for 0 to 50 further ratings.", field="extra")
    there = sum(slot.round == 0 for slot in slots.lock(session, item.id))
    lock(session, project)
    item.status, item.reason, item.overlap = "open", None, max(1, there + extra)
    session.flush()
    slots.fit(session, project, item.id)
    recount(session, project)
    return item
