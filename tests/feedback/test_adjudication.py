"""Disputed items: which come, deciding them, and what becomes of the votes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app.accounts.schemas import Principal
from app.errors import Conflict, Forbidden, Invalid
from app.feedback import adjudication, disputes, kept, leaderboard, quality, service
from app.feedback.schemas import ProjectChange
from app.feedback.tables import Event, Item, Project, Rating
from tests.conftest import Stack
from tests.feedback import factories
from tests.feedback.rated import add_item, add_project, add_rater, say


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    kept.forget()


def owner(stack: Stack, role: str = "admin") -> Principal:
    return Principal(stack.admin_id, "Owner", stack.workspace_id, role, "session", "ses_1")


def disputed(stack: Stack) -> tuple[str, dict[str, str]]:
    """A project with items of every sort: id of the project, ids of the items by what they are."""
    found: dict[str, str] = {}
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        raters = [add_rater(session, project, name) for name in ("Ada", "Bob", "Cid")]
        for name, votes in {
            "split": (2, -1),
            "wide": (3, -1, 1),
            "three apart": (1, 2, -1),
            "same": (0, 0),
            "alone": (3,),
            "tie or not": (0, 1),
        }.items():
            item = add_item(session, project, f"{name}?", ["first", "second"])
            found[name] = item.id
            for rater, vote in zip(raters, votes, strict=False):
                say(session, item, rater, vote)
        item = add_item(session, project, "flagged?", ["first", "second"], status="flagged", reason="unsafe")
        say(session, item, raters[0], None, kind="flag")
        found["flagged"] = item.id
        gold = add_item(session, project, "gold?", ["first", "second"], role="gold", gold={"preference": 1})
        say(session, gold, raters[0], 3)
        say(session, gold, raters[1], -3)
        return project.id, found


def waiting(stack: Stack, project_id: str) -> list[str]:
    with stack.database.read() as session:
        project = session.get_one(Project, project_id)
        found = [each.item.id for each in adjudication.queue(session, project)]
        assert adjudication.waiting(session, project) == len(found)
        return found


def test_which_items_come(stack: Stack) -> None:
    project_id, found = disputed(stack)
    ids = waiting(stack, project_id)
    assert ids[0] == found["flagged"] and ids[1] == found["wide"]
    assert set(ids[2:]) == {found["split"], found["tie or not"], found["three apart"]} and found["same"] not in ids


def test_items_that_wait_for_votes_come_later(stack: Stack) -> None:
    with stack.database.write() as session:
        project = factories.add_project(session, stack.workspace_id, 1, overlap=3)
        tasks = []
        for name, _ in (("ann", 1), ("ben", 2)):
            rater = factories.add_rater(session, project, name)
            tasks.append((rater, factories.claim(session, project, rater)))
        project_id = project.id
    for place, (rater, task) in enumerate(tasks):
        vote = factories.vote_for(stack, task, place)
        with stack.database.write() as session:
            service.rate(session, session.get_one(Project, project_id), rater, task.slot, vote, f"key {place}")
    assert waiting(stack, project_id) == []
    with stack.database.write() as session:
        service.change_project(session, service.get_project(session, stack.workspace_id, project_id), ProjectChange(overlap=2))
    assert len(waiting(stack, project_id)) == 1


def test_a_decision_stands_and_the_vote_stays_in_agreement(stack: Stack) -> None:
    """One of the raters settles a dispute: agreement still knows that they disagreed."""
    with stack.database.write() as session:
        project = factories.add_project(session, stack.workspace_id, 2, overlap=2)
        project_id = project.id
    me = owner(stack)
    for name, places in (("me", (0, 0)), ("ann", (1, 0))):
        for number, place in enumerate(places):
            with stack.database.write() as session:
                project = session.get_one(Project, project_id)
                rater = service.rater_for(session, project, me if name == "me" else factories.principal(stack.workspace_id, name))
                task = factories.claim(session, project, rater)
                session.expunge_all()
            vote = factories.vote_for(stack, task, place if number == 0 else 0)
            with stack.database.write() as session:
                project = session.get_one(Project, project_id)
                rater = service.rater_for(session, project, me if name == "me" else factories.principal(stack.workspace_id, name))
                service.rate(session, project, rater, task.slot, vote, f"{name} {number}")
    with stack.database.read() as session:
        before = quality.reckon(session, session.get_one(Project, project_id))
    [item_id] = waiting(stack, project_id)
    with stack.database.write() as session:
        project = session.get_one(Project, project_id)
        first = adjudication.decide(session, project, session.get_one(Item, item_id), me, -3, "one key")
        again = adjudication.decide(session, project, session.get_one(Item, item_id), me, -3, "one key")
        assert first is again and (first.kind, first.preference, first.left) == ("adjudicate", -3, None)
    assert waiting(stack, project_id) == []
    with stack.database.read() as session:
        events = select(func.count()).select_from(Event).where(Event.item_id == item_id)
        assert session.scalar(events.where(Event.kind == "adjudicate")) == 1 and session.scalar(events) == 3
        after = quality.reckon(session, session.get_one(Project, project_id))
    raw = [next(each for each in report.figures if each.key == "raw").estimate.value for report in (before, after)]
    assert raw == [0.5, 0.5] and after.position.left.n == before.position.left.n


def test_flagged_items_come_back_in(stack: Stack) -> None:
    project_id, found = disputed(stack)
    with stack.database.write() as session:
        project = session.get_one(Project, project_id)
        adjudication.decide(session, project, session.get_one(Item, found["flagged"]), owner(stack), "both_bad", "k")
    with stack.database.read() as session:
        assert session.get_one(Item, found["flagged"]).status == "open" and session.get_one(Project, project_id).items == 1
        rating = session.scalars(select(Rating).where(Rating.item_id == found["flagged"], Rating.kind == "adjudicate")).one()
        assert (rating.preference, rating.quality) == (0, "both_bad")
    assert found["flagged"] not in waiting(stack, project_id)


def test_what_is_refused_leaves_nothing(stack: Stack) -> None:
    project_id, found = disputed(stack)

    def attempt(name: str, preference: str, role: str = "admin") -> None:
        with stack.database.write() as session:
            project = session.get_one(Project, project_id)
            adjudication.decide(
                session, project, session.get_one(Item, found[name]), owner(stack, role), preference, f"{name} {preference}"
            )

    with pytest.raises(Invalid, match="Choose one"):
        attempt("split", "9")
    with pytest.raises(Invalid):
        attempt("split", "")
    with pytest.raises(Forbidden):
        attempt("split", "1", "rater")
    attempt("split", "1")
    with pytest.raises(Conflict, match="meanwhile"):
        attempt("split", "2")
    with stack.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Event).where(Event.kind == "adjudicate")) == 1


def test_page(stack: Stack, client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    project_id, found = disputed(stack)
    page = client.get(f"/feedback/{project_id}/adjudicate")
    assert page.status_code == 200 and "Flagged: Unsafe or harmful" in page.text and "model 0" not in page.text
    assert "Decide 5 disputed items" in client.get(f"/feedback/{project_id}/quality").text
    address = f"/feedback/{project_id}/adjudicate/{found['wide']}"
    assert client.post(address, data={"preference": "nonsense"}).status_code == 422
    assert as_role("viewer").post(address, data={"preference": "1"}).status_code == 403
    assert as_role("rater").post(address, data={"preference": "1"}).status_code == 403
    assert client.post(f"/feedback/prj_none/adjudicate/{found['wide']}", data={"preference": "1"}).status_code == 404
    answer = client.post(address, data={"preference": "2", "key": "abc", "comment": "clear"})
    assert answer.status_code == 303 and found["wide"] not in waiting(stack, project_id)
    assert client.post(address, data={"preference": "2", "key": "abc"}).status_code == 303
    assert client.post(address, data={"preference": "2", "key": "other"}).status_code == 409
    with stack.database.write() as session:
        empty = add_project(session, stack.workspace_id).id
    assert "Nothing to decide" in client.get(f"/feedback/{empty}/adjudicate").text


@pytest.mark.parametrize(
    ("rankings", "why"),
    [
        (("abc", "acb"), ""),
        (("abc", "bac"), disputes.NO_FIRST),
        (("a=b c", "a=b c"), ""),
        (("a=b c", "a c b", "b a c"), ""),
        (("abc", "acb", "bca", "cab", "a b=c"), ""),
        (("abc", "abc", "bca", "cab", "acb"), ""),
        (("abcd", "adcb"), ""),
        (("abcde", "aedcb"), disputes.OPPOSED),
        (("abcd", "acdb", "adbc"), disputes.CIRCLE),
        (("ab", "ab", "ba"), ""),
        (("ab", "ba"), disputes.NO_FIRST),
    ],
)
def test_which_rankings_settle_nothing(rankings: tuple[str, ...], why: str) -> None:
    said = [[tied.split("=") for part in each.split() for tied in (part.split() if "=" in part else list(part))] for each in rankings]
    assert disputes.judge(said)[0] == why


def test_rankings_are_decided_by_a_form_of_their_own(stack: Stack, client: TestClient) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, "rank")
        raters = [add_rater(session, project, name) for name in ("Ada", "Bob")]
        ids = {}
        for name, second in (("split", (1, 0, 2)), ("alike", (0, 2, 1)), ("alone", None)):
            item = add_item(session, project, f"{name}?", ["first", "second", "third"])
            answers = [one.id for one in service.responses_of(session, [item.id])[item.id]]
            ids[name] = (item.id, answers)
            for rater, order in zip(raters, ((0, 1, 2), second), strict=True):
                if order:
                    say(session, item, rater, None, ranking=[[answers[place]] for place in order])
        flagged = add_item(session, project, "flagged?", ["first", "second"], status="flagged", reason="cut")
        project_id = project.id
    assert waiting(stack, project_id) == [flagged.id, ids["split"][0]]
    item_id, answers = ids["split"]
    page = client.get(f"/feedback/{project_id}/adjudicate").text
    assert disputes.NO_FIRST in page and "Flagged: An answer is cut off" in page
    chosen = [page.split(f'name="rank.{one}"')[1].split("selected")[0].rsplit('value="', 1)[1][0] for one in answers]
    assert chosen == ["1", "1", "2"], "the mean of the two rankings, with a tie"
    address = f"/feedback/{project_id}/adjudicate/{item_id}"
    ranks = {f"rank.{answers[0]}": "2", f"rank.{answers[1]}": "1", f"rank.{answers[2]}": "2"}
    incomplete = client.post(address, data={f"rank.{answers[0]}": "1"})
    assert incomplete.status_code == 422 and "each response once" in incomplete.text
    assert client.post(address, data={**ranks, "key": "one", "comment": "clear"}).status_code == 303
    assert client.post(address, data={**ranks, "key": "one"}).status_code == 303, "the same key again changes nothing"
    assert waiting(stack, project_id) == [flagged.id]
    with stack.database.read() as session:
        rating = session.scalars(select(Rating).where(Rating.item_id == item_id, Rating.kind == "adjudicate")).one()
        assert rating.ranking == [[answers[1]], [answers[0], answers[2]]] and rating.comment == "clear"
        board = leaderboard.reckon(session, session.get_one(Project, project_id), adjusted=False)
        assert board.votes == 3 + 3 * 3, "the decision in place of both rankings, and those of the others"


@pytest.mark.one_stack
@pytest.mark.parametrize(("scale", "votes", "decision"), [("five", (1, 5), "4"), ("thumbs", (0, 1), "1")])
def test_single_answers_are_decided(stack: Stack, client: TestClient, scale: str, votes: tuple[int, int], decision: str) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, "single")
        project.scale = scale
        item = add_item(session, project, "How good?", ["an answer"])
        for name, vote in zip(("Ada", "Bob"), votes, strict=True):
            say(session, item, add_rater(session, project, name), None, score=vote)
        ids = project.id, item.id
    page = client.get(f"/feedback/{ids[0]}/adjudicate").text
    assert ("4 good" in page) == (scale == "five") and "Split: no side has most of the votes" in page
    assert client.post(f"/feedback/{ids[0]}/adjudicate/{ids[1]}", data={"preference": "9"}).status_code == 422
    assert client.post(f"/feedback/{ids[0]}/adjudicate/{ids[1]}", data={"preference": decision}).status_code == 303
    assert waiting(stack, ids[0]) == []
    with stack.database.read() as session:
        assert session.scalars(select(Rating.score).where(Rating.kind == "adjudicate")).one() == float(decision)
