"""Held-out pairs by grade on a run: written once, cut back with the attempt, shown beside how far people agree, and sent out."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from app.database import now
from app.runs import graded, progress
from app.runs.progress import Batch
from app.runs.tables import Run
from tests.conftest import Stack
from tests.factories import add_dataset, add_run, claim_run

PEOPLE = {"3": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40}}


def lines_of(step: int, *told: tuple[int, int, int]) -> list[dict[str, Any]]:
    return [{"step": step, "grade": grade, "pairs": pairs, "right": right, "margin": 0.5 * grade} for grade, pairs, right in told]


def measured_run(stack: Stack, *, people: dict[str, Any] | None = None, method: str = "dpo") -> str:
    """A run on a snapshot that was evaluated twice, the second time past its last checkpoint."""
    with stack.database.write() as session:
        made_of = {"kind": "feedback", "project": "prj_1", "project_name": "taste", "snapshot": "snp_1", "people": people or {}}
        dataset = add_dataset(session, stack.workspace_id, shape="preference", eval_rows=20, lineage=made_of)
        # A split made anew of a snapshot is still made of its ratings.
        again = add_dataset(session, stack.workspace_id, shape="preference", eval_rows=20, lineage={"kind": "split", "from": dataset.id})
        run_id = add_run(session, stack.workspace_id, method=method, dataset_id=again.id).id
        mine = claim_run(session)
        progress.begin(session, mine, 0)
        progress.record(session, mine, Batch(step=5, total=20, grades=lines_of(5, (3, 10, 6), (1, 10, 5))))
        progress.record(session, mine, Batch(step=10, grades=lines_of(10, (3, 10, 9), (1, 10, 6))))
        progress.record(session, mine, Batch(step=10, grades=lines_of(10, (3, 10, 9), (1, 10, 6))))  # said twice, kept once
    return run_id


def test_figures_are_kept_once_and_cut_back_with_the_attempt(stack: Stack) -> None:
    run_id = measured_run(stack)
    with stack.database.write() as session:
        found = graded.of_run(session, session.get_one(Run, run_id))
        assert (
            found and found.step == 10 and [(each.grade, each.right) for each in found.lines] == [(3, 9), (1, 6)] and len(found.every) == 4
        )
        assert found.whole and (found.whole.pairs, found.whole.right, found.whole.margin) == (20, 15, 1.0)
        assert graded.overall(session, [run_id])[run_id].right == 15
        session.execute(update(Run).where(Run.id == run_id).values(lease_until=now() - 1))
        assert progress.reap(session) == 1
        progress.begin(session, claim_run(session), 5)
        session.flush()
        found = graded.of_run(session, session.get_one(Run, run_id))
        assert found and found.step == 5 and len(found.every) == 2
        other = add_run(session, stack.workspace_id, method="dpo")
        assert graded.of_run(session, other) is None


def test_the_run_says_it_to_rest_and_as_a_file(api: TestClient, client: TestClient, stack: Stack) -> None:
    run_id = measured_run(stack, people=PEOPLE)
    told = api.get(f"/api/v1/runs/{run_id}/held-out").json()
    assert (told["project"], told["snapshot"], told["measure"], told["people"]) == ("prj_1", "snp_1", "implicit reward", PEOPLE)
    top = told["data"][-2]
    assert (top["step"], top["grade"], top["pairs"], top["accuracy"]) == (10, 3, 10, 0.9)
    assert top["low"] == pytest.approx(0.5958, abs=1e-3) and top["high"] == pytest.approx(0.9821, abs=1e-3)  # Wilson, 9 of 10
    rows = list(csv.DictReader(io.StringIO(client.get(f"/runs/{run_id}/held-out.csv").text)))
    assert [(row["step"], row["grade"], row["right"], row["people"]) for row in rows] == [
        ("5", "3", "6", "0.9"),
        ("5", "1", "5", ""),
        ("10", "3", "9", "0.9"),
        ("10", "1", "6", ""),
    ]
    with stack.database.write() as session:
        plain = add_run(session, stack.workspace_id).id
    assert api.get(f"/api/v1/runs/{plain}/held-out").json()["data"] == []
    assert client.get("/runs/run_none/held-out.csv").status_code == 404


@pytest.mark.parametrize("stack", ["sqlite"], indirect=True)
def test_the_page_sets_people_beside_the_model(client: TestClient, stack: Stack) -> None:
    page = client.get(f"/runs/{measured_run(stack, people=PEOPLE)}").text
    for words in (
        "Held-out pairs by grade",
        "Much better",
        "Slightly better",
        "All grades",
        "90.0",
        "People agree",
        "(deleted)",
    ):
        assert words in page, words
    assert "/feedback/prj_1" not in page, "the project is gone, so nothing leads there"
    assert "How far people agree is not known" not in page
    alone = client.get(f"/runs/{measured_run(stack)}").text
    assert "every pair was rated by one person" in alone
    with stack.database.write() as session:
        plain = add_run(session, stack.workspace_id, method="dpo").id
    assert "Held-out pairs" not in client.get(f"/runs/{plain}").text
