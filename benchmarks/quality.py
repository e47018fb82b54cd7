"""How long the quality report and the leaderboard take, anew and kept, and the pages over a million ratings.

    .venv/bin/python -m benchmarks.quality [sqlite] [postgres] [--ratings 100000] [--pages 1000000]
"""  # fmt: skip

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import insert, text, update

from app.database import Database, new_id
from app.feedback import kept, leaderboard, quality, votes_read
from app.feedback.tables import Item, Project, Rater, Rating, Response, Slot
from benchmarks.pages import ask
from benchmarks.studio import Studio, header, quantile, studio

MODELS, RATERS, OVERLAP = 5, 50, 3
BATCH = 5_000


def fill(database: Database, workspace_id: str, ratings: int) -> str:
    """A project of pairs with so many ratings, three on each item; returns its id."""
    draw = random.Random(1)
    with database.write() as session:
        project = Project(workspace_id=workspace_id, name="many votes", kind="pair", seq=1)
        session.add(project)
        session.flush()
        raters = [new_id("rtr") for _ in range(RATERS)]
        session.execute(
            insert(Rater),
            [{"id": one, "project_id": project.id, "who": f"user:{one}", "name": f"rater {n}"} for n, one in enumerate(raters)],
        )
        project_id = project.id
    for start in range(0, ratings // OVERLAP, BATCH):
        items: list[dict[str, Any]] = []
        responses: list[dict[str, Any]] = []
        votes: list[dict[str, Any]] = []
        filled: list[dict[str, Any]] = []
        for number in range(start, min(start + BATCH, ratings // OVERLAP)):
            item, pair = new_id("itm"), draw.sample(range(MODELS), 2)
            prompt = [{"role": "user", "content": f"Question {number}?"}]
            known = {"prompt": prompt, "prompt_hash": str(number), "order_key": draw.random(), "gold": None, "reason": None}
            items.append({"id": item, "project_id": project_id, **known})
            for place, model in enumerate(pair):
                style = {
                    "words": draw.randint(20, 200),
                    "headers": draw.randint(0, 2),
                    "lists": draw.randint(0, 6),
                    "bold": draw.randint(0, 4),
                }
                words = "An answer of a few sentences. " * 10
                responses.append({"item_id": item, "place": place, "text": words, "source": f"model {model}", "style": style, "tokens": 80})
            for rater in draw.sample(raters, OVERLAP):
                grade = draw.randint(1, 3) * (1 if (pair[1] > pair[0]) == (draw.random() < 0.75) else -1) * (draw.random() > 0.1)
                at, ms = 1.79e9 + 10 * len(votes) + number, draw.randint(1_000, 30_000)
                shown = {"left": draw.randrange(2), "active_ms": ms, "at": at, "event_id": new_id("evt")}
                votes.append({"item_id": item, "rater_id": rater, "project_id": project_id, "kind": "rate", "preference": grade, **shown})
                slot = {"item_id": item, "k": draw.getrandbits(31), "project_id": project_id, "rank": 0, "order_key": at}
                filled.append({**slot, "rater_id": rater, "done_at": at})
        with database.write() as session:
            session.execute(insert(Item), items)
            session.execute(insert(Response), responses)
            session.execute(insert(Rating), votes)
            session.execute(insert(Slot), filled)
    there = ratings // OVERLAP
    with database.write() as session:
        counted = {"items": there, "slots": there * OVERLAP, "done": there * OVERLAP}
        session.execute(update(Project).where(Project.id == project_id).values(counted))
        if not database.is_sqlite:  # as Postgres does itself within a minute
            session.execute(text("ANALYZE"))
    return project_id


def measure(database: Database, project_id: str) -> None:
    """Print each time, anew and from what is kept."""
    with database.read() as session:
        project = session.get_one(Project, project_id)
        parts: dict[str, Callable[[], object]] = {
            "votes_read.read": lambda: votes_read.read(session, project),
            "quality.report": lambda: quality.report(session, project),
            "leaderboard.board": lambda: leaderboard.board(session, project),
            "leaderboard.board adjusted": lambda: leaderboard.board(session, project, adjusted=True),
        }
        kept.forget()
        for name, part in parts.items():
            times = []
            for _ in range(2):
                began = time.perf_counter()
                part()
                times.append(time.perf_counter() - began)
            print(f"  {name:28} first {times[0]:7.2f} s   again {times[1] * 1000:8.1f} ms")


def pages(here: Studio, ratings: int) -> None:
    """The pages over many ratings, asked of the web server."""
    project_id = fill(here.database, here.workspace_id, ratings)
    for path in (f"/feedback/{project_id}", f"/feedback/{project_id}/items", f"/feedback/{project_id}/raters"):
        found = ask(here, path, times=10)
        shown = path.replace(project_id, "…")
        print(f"  {shown} over {ratings:,} ratings: median {quantile(found, 0.5) * 1000:.0f} ms, p95 {quantile(found, 0.95) * 1000:.0f} ms")
    for name in ("quality", "leaderboard"):
        began = time.perf_counter()
        again = quantile(ask(here, f"/feedback/{project_id}/{name}", times=3), 0.5)
        first = time.perf_counter() - began - 3 * again
        print(f"  /feedback/…/{name} over {ratings:,} ratings: first {first:.1f} s, again {again * 1000:.0f} ms")


def main() -> None:
    """Both databases, unless one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stacks", nargs="*", default=[])
    parser.add_argument("--ratings", type=int, default=100_000)
    parser.add_argument("--pages", type=int, default=1_000_000, help="ratings under the pages; 0 leaves them out")
    asked = parser.parse_args()
    header("Quality and leaderboard")
    for name in asked.stacks or ["sqlite", "postgres"]:
        with studio(name, web=False) as made:
            project_id = fill(made.database, made.workspace_id, asked.ratings)
            print(f"{name}: {asked.ratings:,} ratings, {MODELS} models, {RATERS} raters")
            measure(made.database, project_id)
        if asked.pages:
            with studio(name) as made:
                pages(made, asked.pages)


if __name__ == "__main__":
    main()
