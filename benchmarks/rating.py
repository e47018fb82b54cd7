"""Many raters at once: what submit + next costs and takes, exactness with abandoned leases and double posts, saturation, export.

    .venv/bin/python -m benchmarks.rating [sqlite] [postgres] [--items 100000] [--seconds 40]
"""  # fmt: skip

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import event, func, insert, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.database import Database, new_id, now
from app.feedback import raw, service
from app.feedback.schemas import ItemIn, ProjectCreate, ResponseIn, Task, Vote
from app.feedback.tables import Event, Item, Project, Rating, Slot
from benchmarks.studio import header, quantile, studio

Result = TypeVar("Result")
RATERS = 50
ABANDONED, DOUBLED = 0.10, 0.05
TEXT = "An answer of a few sentences, as models give them, so that rows have a real size. " * 5


def items(many: int) -> Iterator[ItemIn]:
    """Pairs of answers."""
    for number in range(many):
        yield ItemIn.model_construct(
            prompt=f"Question {number}?",
            responses=[ResponseIn.model_construct(text=f"{place} {number} {TEXT}", source=f"model {place}", checkpoint=None, sampling={},
                                                  finish="stop", tokens=80) for place in (0, 1)],
            gold=None, practice=False, preference=None,
        )  # fmt: skip


def rate_for(url: str, workspace_id: str, project_id: str, first: int, many: int, think: float, seconds: float, out: Any) -> None:
    """One process with some raters, each in its own thread."""
    database = Database(url)
    end = time.monotonic() + seconds

    def insist(act: Callable[[Session], Result]) -> Result:
        """Do something, again and again while SQLite is busy, as the page does."""
        while True:
            try:
                with database.write() as session:
                    return act(session)
            except OperationalError:
                if time.monotonic() > end + 60:
                    raise

    def once_more(who: Principal, slot: str, key: str, session: Session) -> None:
        project, rater = service.enter(session, who, project_id, voting=True)
        service.rate(session, project, rater, slot, Vote(preference=1), key)

    def one(number: int) -> tuple[list[float], int, int]:
        draw, took, given, idle = random.Random(number), [], 0, 0
        who = Principal(f"usr_{number}", f"rater {number}", workspace_id, "rater", "session", "bench")
        time.sleep(draw.uniform(0, think or 0.05))
        task = insist(lambda session: service.claim(session, *service.enter(session, who, project_id)))
        while time.monotonic() < end and idle < 20:
            time.sleep(draw.expovariate(1 / think) if think else 0)
            abandon, key = draw.random() < ABANDONED, f"{number}/{given}/{draw.random()}"
            began = time.perf_counter()

            def step(session: Session, task: Task | None = task, abandon: bool = abandon, key: str = key) -> Task | None:
                project, rater = service.enter(session, who, project_id, voting=True)
                if task is not None and abandon:  # as if the lease had run out
                    gone = update(Slot).where(Slot.rater_id == rater.id, Slot.done_at.is_(None))
                    session.execute(gone.values(lease_until=now() - 1, rater_id=None))
                elif task is not None:
                    service.rate(session, project, rater, task.slot, Vote(preference=1, active_ms=500), key)
                return service.claim(session, project, rater)

            before, task = task, insist(step)
            if before is not None and not abandon:
                took.append(time.perf_counter() - began)
                given += 1
                if draw.random() < DOUBLED:
                    insist(partial(once_more, who, before.slot, key))
            elif before is not None and draw.random() < 0.5:  # half of those abandoned come late after all
                insist(partial(once_more, who, before.slot, key))
                given += 1
            idle = idle + 1 if task is None else 0
        return took, given, idle

    used = time.process_time()
    with ThreadPoolExecutor(many) as pool:
        found = list(pool.map(one, range(first, first + many)))
    out.put(([second for took, _, _ in found for second in took], sum(given for _, given, _ in found), time.process_time() - used))
    database.dispose()


def run(
    url: str, workspace_id: str, project_id: str, think: float, seconds: float, processes: int, raters: int
) -> tuple[list[float], int, float, float]:
    """Have raters rate in some processes; seconds of each submit + next, how many votes were given, and the time it took."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    share = raters // processes
    began = time.monotonic()
    children = [
        context.Process(target=rate_for, args=(url, workspace_id, project_id, number * share, share, think, seconds, out))
        for number in range(processes)
    ]
    for child in children:
        child.start()
    found = [out.get() for _ in children]
    for child in children:
        child.join()
    took = [second for each, _, _ in found for second in each]
    used = sum(seconds for _, _, seconds in found) / max(1, len(took))
    return took, sum(given for _, given, _ in found), time.monotonic() - began, used


def alone(database: Database, workspace_id: str, project_id: str, many: int) -> tuple[float, float]:
    """Processor time of one submit + next in Python, in seconds, and how many statements it has: six raters by turns, nobody else."""
    statements, given, used = 0, 0, 0.0

    def counted(*_: Any) -> None:
        nonlocal statements
        statements += 1

    tasks: dict[int, Task | None] = {}
    for number in range(many + 60):
        at = number % 6
        who = Principal(f"usr_alone_{at}", f"rater {at}", workspace_id, "rater", "session", "bench")
        if number == 60:  # by now everything is prepared
            event.listen(database.engine, "before_cursor_execute", counted)
            given, used = 0, time.process_time()
        with database.write() as session:
            project, rater = service.enter(session, who, project_id, voting=True)
            task = tasks.get(at)
            if task is not None:
                service.rate(session, project, rater, task.slot, Vote(preference=1, active_ms=500), f"{at}/{number}")
                given += 1
            tasks[at] = service.claim(session, project, rater)
    used = time.process_time() - used
    event.remove(database.engine, "before_cursor_execute", counted)
    return used / given, statements / given


def new_project(database: Database, workspace_id: str, many: int, overlap: int = 3) -> tuple[str, float]:
    """A project with items; and how long adding took."""
    began = time.monotonic()
    with database.write() as session:
        project = service.create_project(session, workspace_id, ProjectCreate(name=f"{many} pairs", overlap=overlap), None)
        service.add_items(session, project, items(many))
    return project.id, time.monotonic() - began


def check(session: Session, project_id: str, given: int) -> str:
    """What holds of the votes in the database."""
    project = session.get_one(Project, project_id)
    wanted = session.scalar(select(func.count()).select_from(Rating).where(Rating.project_id == project_id, ~Rating.is_extra)) or 0
    extras = session.scalar(select(func.count()).select_from(Rating).where(Rating.project_id == project_id, Rating.is_extra)) or 0
    filled = session.scalar(select(func.count(Slot.done_at)).where(Slot.project_id == project_id)) or 0
    events = session.scalar(select(func.count()).select_from(Event).where(Event.project_id == project_id)) or 0
    each = select(func.count(Slot.done_at).label("n")).where(Slot.project_id == project_id).group_by(Slot.item_id).subquery()
    by_depth: dict[int, int] = dict(session.execute(select(each.c.n, func.count()).group_by(each.c.n)).all())
    assert wanted == filled == project.done, (wanted, filled, project.done)
    assert extras == project.extras and events == given, (extras, project.extras, events, given)
    return f"{given} votes given = {events} kept, {wanted} wanted, {extras} late extras; items by ratings {dict(sorted(by_depth.items()))}"


def rate_all(database: Database, workspace_id: str, project_id: str, most: int) -> int:
    """Give the first items of a project three votes each, by rows written straight away; returns how many items."""
    with database.write() as session:
        people = [Principal(f"usr_export_{number}", "export", workspace_id, "rater", "session", "bench") for number in range(3)]
        raters = [service.enter(session, who, project_id)[1].id for who in people]
        first = select(Item.id).where(Item.project_id == project_id).order_by(Item.created_at, Item.id).limit(most)
        ids = session.scalars(first).all()
        for start in range(0, len(ids), 2000):
            rows = [
                {"item_id": item_id, "rater_id": rater, "round": 0, "project_id": project_id, "event_id": new_id("evt"), "kind": "rate",
                 "preference": 1, "labels": {}, "comment": "", "left": 0, "is_extra": False, "at": time.time()}
                for item_id in ids[start : start + 2000] for rater in raters
            ]  # fmt: skip
            session.execute(insert(Rating), rows)
    return len(ids)


def measure(stack: str, many: int, seconds: float) -> None:
    """All figures for one database."""
    with studio(stack, web=False) as there:
        url = there.environment["LUTHIER_DATABASE_URL"]
        project_id, added = new_project(there.database, there.workspace_id, many)
        print(f"{stack}: {many} items ({many * 3} slots) added in {added:.1f} s")
        processes = 5 if stack == "postgres" else 2
        took, given, _, used = run(url, there.workspace_id, project_id, 0.5, seconds, processes, RATERS)
        rate = len(took) / seconds
        print(f"{stack}: {RATERS} raters, think time exp(0.5 s): submit + next p50 {quantile(took, 0.5) * 1000:.1f} ms, "
              f"p95 {quantile(took, 0.95) * 1000:.1f} ms, p99 {quantile(took, 0.99) * 1000:.1f} ms; {rate:.0f}/s; "
            f"{used * 1000:.1f} ms of processor time in Python each, {used * rate:.2f} cores")  # fmt: skip
        with there.database.read() as session:
            print(f"{stack}: {check(session, project_id, given)}")
        cost, statements = alone(there.database, there.workspace_id, project_id, 300)
        print(f"{stack}: submit + next alone: {cost * 1000:.1f} ms of processor time in Python, {statements:.1f} statements")
        fast, _ = new_project(there.database, there.workspace_id, min(many, 5000))
        took, given, _, used = run(url, there.workspace_id, fast, 0.0, 10, 2, 8)
        print(f"{stack}: saturation, 8 raters without think time in 2 processes: {len(took) / 10:.0f} submit + next a second, "
              f"p95 {quantile(took, 0.95) * 1000:.1f} ms")  # fmt: skip
        small, _ = new_project(there.database, there.workspace_id, 300)
        _, given, lasted, _ = run(url, there.workspace_id, small, 0.0, 40, 2, 20)
        with there.database.read() as session:
            print(f"{stack}: rated to the end in {lasted:.1f} s: {check(session, small, given)}")
        for other in (fast, small):
            with there.database.write() as session:
                service.delete_project(session, session.get_one(Project, other))
        rated = rate_all(there.database, there.workspace_id, project_id, min(many, 50_000))
        began, lines, size = time.perf_counter(), 0, 0
        for piece in raw.lines(there.database, project_id):
            lines, size = lines + piece.count(b"\n"), size + len(piece)
            if lines >= rated:
                break
        lasted = time.perf_counter() - began
        print(f"{stack}: export of {lines} rated items, three votes each: {lasted:.1f} s, {size / 1e6:.0f} MB, streamed")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", nargs="*", default=["postgres", "sqlite"])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=20)
    asked = parser.parse_args()
    header("Rating")
    for stack in asked.stacks:
        measure(stack, asked.items if stack == "postgres" else asked.items // 5, asked.seconds)


if __name__ == "__main__":
    main()
