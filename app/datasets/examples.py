"""What the viewer of examples shows of one row: as a chat, as the model reads it, token by token, as JSON; and rows found by a text."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy.orm import Session

from app.datasets import service, tokens
from app.datasets.tables import Dataset, TokenCount
from app.datasets.views import marked, rendered, turns
from app.errors import NotFound

VIEWS = {"chat": "Chat", "rendered": "Rendered", "tokens": "Tokens", "json": "JSON"}


def unit_of(dataset: Dataset) -> str:
    """What its rows are numbered by: line or row."""
    return str((dataset.lineage or {}).get("unit", "line"))


def ready_count(session: Session, dataset: Dataset) -> TokenCount | None:
    """A token count of a dataset that is ready."""
    return next((count for count in tokens.counts(session, dataset.id) if count.status == "ready"), None)


def example_context(session: Session, dataset: Dataset, row: int, view: str, q: str = "", after: int = 0) -> dict[str, Any]:
    """Everything the viewer's template shows."""
    number = min(row, dataset.rows)
    if dataset.status != "ready" or not number:
        return {"example": None, "views": VIEWS, "q": "", "hits": None}
    record = service.read_rows(dataset, number - 1, 1)[0]
    count = ready_count(session, dataset)
    seen, missing = _seen(session, dataset, count, number)
    sides = [seen[side] for side in ("tokens", "rejected") if seen[side]] if seen else []
    q = q.strip()
    return {
        "views": VIEWS,
        "q": q,
        "hits": service.search(dataset, q, after) if q else None,
        "searched_after": after,
        "example": {
            "number": number,
            "line": record["line"],
            "unit": unit_of(dataset),
            "split": record["split"],
            "view": view if view in VIEWS else "chat",
            "turns": turns(record["row"], dataset.shape or "text"),
            "json": orjson.dumps(record["source"], option=orjson.OPT_INDENT_2).decode(),
            "missing": missing,
            "tokens": [marked(side) for side in sides],
            "rendered": [rendered(side) for side in sides],
            "count": len(seen["tokens"]) if seen else 0,
            "trained": sum(token["trained"] for token in seen["tokens"]) if seen else 0,
            "truncated": bool(seen and seen["truncated"]),
        },
    }


def _seen(session: Session, dataset: Dataset, count: TokenCount | None, number: int) -> tuple[dict[str, Any] | None, str]:
    """A row token by token, or why it cannot be shown so."""
    if count is None:
        return None, "Tokens and chat template are those of a model: have the tokens counted first, under “Tokens per example”."
    try:
        return tokens.row(session, dataset, count.checkpoint_id, number), ""
    except NotFound as error:
        return None, error.message
