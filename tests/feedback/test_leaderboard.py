"""The leaderboard: who leads and how surely, what is a battle and what is none, what cannot be compared, length, who may look."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.checkpoints.tables import Checkpoint
from app.feedback import kept, leaderboard
from app.feedback.items import responses
from app.feedback.leaderboard import Entry, Leaderboard
from app.feedback.tables import Item, Project
from tests.conftest import Stack
from tests.factories import add_checkpoint
from tests.feedback.rated import add_item, add_project, add_rater, say


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    kept.forget()


def seen(stack: Stack, project_id: str, *, adjusted: bool = False) -> Leaderboard:
    with stack.database.read() as session:
        return leaderboard.board(session, session.get_one(Project, project_id), adjusted=adjusted)


def entry(board: Leaderboard, name: str) -> Entry:
    return next(each for each in board.entries if each.name == name)


def battle(session: Session, project: Project, number: int, *sources: str, words: tuple[int, ...] = (), **fields: object) -> Item:
    answers = [
        {
            "text": f"{source} {number}",
            "source": source,
            "style": {"words": words[place] if words else 5, "headers": 0, "lists": 0, "bold": 0},
        }
        for place, source in enumerate(sources)
    ]
    return add_item(session, project, f"Question {number}?", answers, **fields)


def test_who_wins_leads_wherever_it_was_shown(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        ada = add_rater(session, project)
        for number in range(40):
            order = ("good", "poor") if number % 2 else ("poor", "good")
            item = battle(session, project, number, *order)
            towards = 1 if (number % 4 != 0) == (order[1] == "good") else -1  # good wins three of four
            say(session, item, ada, 2 * towards, left=number % 3 % 2)
        project_id = project.id
    board = seen(stack, project_id)
    assert [each.name for each in board.entries] == ["good", "poor"]
    cell = board.cells["good", "poor"]
    assert (cell.wins, cell.losses, cell.n) == (30, 10, 40)
    gap = board.entries[0].rating.value - board.entries[1].rating.value  # type: ignore[operator]
    assert gap == pytest.approx(190.85, abs=4)  # 400 log10(3), a little less for the ridge
    assert (board.entries[0].best_rank, board.entries[0].worst_rank) in ((1, 1), (1, 2)) and "beyond chance" in board.sentence


def test_what_counts_as_a_battle(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        ada, bob = add_rater(session, project, "Ada"), add_rater(session, project, "Bob")
        gone, judge = add_rater(session, project, "Gone", status="removed"), add_rater(session, project, "Judge", kind="judge")
        plain = battle(session, project, 1, "a", "b")
        for rater, vote in ((ada, -2), (bob, "both_bad"), (gone, 3), (judge, 3)):
            say(session, plain, rater, vote)
        say(session, plain, ada, 2, round=1)
        settled = battle(session, project, 2, "a", "b")
        say(session, settled, ada, 3)
        say(session, settled, bob, -1, kind="adjudicate")
        say(session, battle(session, project, 3, "a", "a"), ada, 1)
        for role, status in (("gold", "open"), ("practice", "open"), ("normal", "flagged")):
            say(session, battle(session, project, 4, "a", "b", role=role, status=status), ada, 3)
        edited = battle(session, project, 5, "a", "b")
        say(session, edited, ada, 0)
        project_id = project.id
    board = seen(stack, project_id)
    cell = board.cells["a", "b"]
    assert (cell.wins, cell.losses, cell.n, board.votes, board.same) == (2, 0, 4, 4, 1)
    assert cell.tie_rate.value == 0.25 and cell.both_bad_rate.value == 0.25 and board.prompts == 3


def test_a_project_that_picks_the_worse_is_turned_round(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, direction="worse")
        ada = add_rater(session, project)
        for number in range(5):
            say(session, battle(session, project, number, "harmful", "safe"), ada, -3)
        project_id = project.id
    board = seen(stack, project_id)
    assert board.entries[0].name == "safe" and not all(each.bounded for each in board.entries)


def test_rankings_become_pairs(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, "rank")
        ada = add_rater(session, project)
        item = battle(session, project, 1, "a", "b", "c")
        a, b, c = (each.id for each in responses(session, [item.id])[item.id])
        say(session, item, ada, ranking=[[b], [a, c]])
        project_id = project.id
    board = seen(stack, project_id)
    assert board.votes == 3 and board.cells["b", "a"].wins == 1 and board.cells["a", "c"].tie_rate.value == 1.0
    assert "one prompt" in board.sentence


def test_groups_that_no_vote_joins_and_too_few_votes(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        ada = add_rater(session, project)
        for number in range(8):
            say(session, battle(session, project, number, "a", "b"), ada, 1 if number % 2 else -1)
        say(session, battle(session, project, 20, "c", "d"), ada, 1)
        project_id = project.id
    board = seen(stack, project_id)
    assert sorted(len(group) for group in board.components) == [2, 2]
    assert entry(board, "c").rating.value is None
    assert "do not suffice" in board.sentence and "more would" in board.sentence


def test_length_is_taken_out(stack: Stack) -> None:
    draw = random.Random(1)
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        ada = add_rater(session, project)
        for number in range(150):
            words = (int(draw.uniform(50, 150)), int(draw.uniform(20, 80)))
            vote = -2 if (words[0] > words[1]) == (draw.random() < 0.9) else 2
            say(session, battle(session, project, number, "wordy", "brief", words=words), ada, vote)
        project_id = project.id
    raw, fair = seen(stack, project_id), seen(stack, project_id, adjusted=True)

    def gap(board: Leaderboard) -> float:
        return (entry(board, "wordy").rating.value or 0) - (entry(board, "brief").rating.value or 0)

    assert gap(raw) > 150 and abs(gap(fair)) < gap(raw) / 2
    effects = {each.name: each.effect for each in fair.effects}
    assert effects["length"].low is not None and effects["length"].low > 0 and not raw.effects


def test_base_is_the_anchor_and_names_are_those_of_now(stack: Stack, client: TestClient, api: TestClient) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        ada = add_rater(session, project)
        base, tuned = (
            add_checkpoint(session, stack.workspace_id, name="small base"),
            add_checkpoint(session, stack.workspace_id, name="tuned"),
        )
        tuned.kind = "full"
        for number in range(30):
            answers = [{"text": f"x{number}", "source": "old", "checkpoint_id": each.id} for each in (tuned, base)]
            say(session, add_item(session, project, f"Q{number}", answers), ada, 1 if number % 5 == 0 else -2)
        ids = project.id, base.id, tuned.id
    board = seen(stack, ids[0])
    assert [(each.name, each.is_anchor) for each in board.entries] == [("tuned", False), ("small base", True)]
    with stack.database.write() as session:
        session.get_one(Checkpoint, ids[2]).name = "renamed"
    page = client.get(f"/feedback/{ids[0]}/leaderboard")
    assert page.status_code == 200 and "renamed" in page.text and f"/models/{ids[2]}" in page.text and "anchor" in page.text
    fair = client.get(f"/feedback/{ids[0]}/leaderboard?adjusted=1")
    assert "What pleases besides the model" in fair.text
    found = api.get(f"/api/v1/feedback/projects/{ids[0]}/leaderboard").json()
    assert found["entries"][0]["checkpoint_id"] == ids[2] and {"model", "against", "wins"} <= set(found["cells"][0])


def test_empty_pages_lead_on(stack: Stack, client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    with stack.database.write() as session:
        pairs, single = add_project(session, stack.workspace_id).id, add_project(session, stack.workspace_id, "single").id
    assert "No comparison yet" in client.get(f"/feedback/{pairs}/leaderboard").text
    assert "Nothing is compared here" in client.get(f"/feedback/{single}/leaderboard").text
    assert as_role("rater").get(f"/feedback/{pairs}/leaderboard").status_code == 403
