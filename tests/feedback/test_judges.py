"""Judges without a model: who may judge what, verdicts from numbers, and how far they agree with people."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sqlalchemy import delete, select

from app.checkpoints import service as checkpoints
from app.checkpoints.tables import Checkpoint
from app.errors import Conflict, Invalid, NotFound, StudioError
from app.feedback import chunked_jobs, judge_report, judge_verdicts, judge_words, judges
from app.feedback.judges import JudgeIn
from app.feedback.tables import Item, Project, Response, Snapshot
from app.feedback.tables_judges import Judge, Judgement
from app.jobs.tables import Job
from app.runs.tables import Run
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset
from tests.feedback import rated


@pytest.fixture(autouse=True)
def _there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints whose files are taken to be there."""
    monkeypatch.setattr(checkpoints, "training_paths", lambda session, checkpoint: {"path": "there", "adapter": None})


# --- verdicts -------------------------------------------------------------------------------------------------------------


def test_probabilities_become_grades() -> None:
    assert [judge_verdicts.grade(lean, 0.1) for lean in (0.0, 0.25, 0.3, 0.4, 0.5, 0.6, 0.65, 0.75, 0.9, 1.0)] == [
        -3,
        -2,
        -1,
        0,
        0,
        0,
        1,
        2,
        3,
        3,
    ]
    assert judge_verdicts.grade(0.5001, 0) == 1 and judge_verdicts.sigmoid(-800) == 0


def ask(first: int, second: int, p: float, q: float, principle: int = 0) -> dict[str, Any]:
    return {"principle": principle, "first": first, "second": second, "p": p, "q": q, "mass": 0.8}


def verdict(said: dict[str, Any], kind: str = "pair", scale: str = "graded", turned: bool = False, answers: str = "ab") -> dict[str, Any]:
    return judge_verdicts.verdict(said, kind=kind, scale=scale, turned=turned, tie=0.1, answers=list(answers))


def test_orders_and_principles_are_averaged() -> None:
    found = verdict({"asked": [ask(0, 1, 0.9, 0.7), ask(0, 1, 0.2, 0.6, 1)]})
    assert found["lean"] == pytest.approx(0.6) and found["preference"] == 0
    assert (found["questions"], found["flips"], found["firsts"], found["mass"]) == (2, 1, 3, pytest.approx(0.8))
    assert verdict({"asked": [ask(0, 1, 0.9, 0.8)]}, turned=True)["preference"] == -2
    ranked = {"asked": [ask(0, 1, 0.9, 0.9), ask(0, 2, 0.5, 0.5), ask(1, 2, 0.1, 0.1)]}
    assert verdict(ranked, "rank", "ranks", answers="abc")["ranking"] == [["b"], ["a", "c"]]
    assert verdict(ranked, "rank", "ranks", True, "abc")["ranking"] == [["a", "c"], ["b"]]
    assert verdict({"rewards": [1.0, 0.0, 2.0]}, "rank", "ranks", answers="abc")["ranking"] == [["c"], ["a"], ["b"]]
    numbers = {"numbers": [{"principle": 0, "value": 4.4, "mass": 1}, {"principle": 1, "value": 4.8, "mass": 1}]}
    assert [verdict(numbers, "single", scale, turned)["score"] for scale in ("five", "thumbs") for turned in (False, True)] == [5, 1, 1, 0]
    assert verdict({"rewards": [3.5]}, "single", "five", True) | {"detail": {}} == verdict({"problem": "x"}) | {
        "lean": -3.5,
        "problem": None,
    }


def test_what_is_asked() -> None:
    assert judge_words.questions("rank", "worse", "Order them.", []) == ["Which answer is worse?"]
    assert judge_words.questions("pair", "better", "Which is kinder? ", []) == ["Which is kinder?"]
    text = judge_words.asked("pair", "Which?", [{"role": "user", "content": "Hi {x}"}], "one {y}", "second")
    assert "User: Hi {x}" in text and text.index("one {y}") < text.index("second") and text.endswith("A or B.")


# --- adding, stopping, deleting -------------------------------------------------------------------------------------------


def test_what_cannot_judge_is_refused(stack: Stack) -> None:
    with stack.database.write() as session:
        model = add_checkpoint(session, stack.workspace_id, name="tiny").id
        marks = add_checkpoint(session, stack.workspace_id, name="marks", kind="adapter", config={"task": "reward"}).id
        add_checkpoint(session, stack.workspace_id, name="sorts", kind="classifier")
        project_id = rated.rated_pairs(session, stack.workspace_id, 1).id
        empty = rated.add_project(session, stack.workspace_id).id

    def refused(
        error: type[StudioError], words: str, field: str | None, checkpoint: str = model, on: str = project_id, **asked: Any
    ) -> None:
        with pytest.raises(error, match=words) as caught, stack.database.write() as session:
            judges.add(session, session.get_one(Project, on), JudgeIn(checkpoint=checkpoint, **asked))
        assert caught.value.field == field

    refused(NotFound, "no checkpoint “nobody”", "checkpoint", "nobody")
    refused(Invalid, "classifier checkpoint", "checkpoint", "sorts")
    refused(Invalid, "reads no principles", "principles", marks, principles=["Be kind."])
    refused(Invalid, "Principle 2 is empty", "principles.1", principles=["Be kind.", "\x00"])
    refused(Invalid, "Principle 2 is there twice", "principles.1", principles=["Be kind.", "Be  kind."])
    refused(Invalid, "1,001 characters", "principles.0", principles=["x" * 1001])
    refused(Conflict, "no item to judge", None, on=empty)
    with stack.database.write() as session:
        project = session.get_one(Project, project_id)
        for _ in range(judges.MOST_JUDGES):
            judges.add(session, project, JudgeIn(checkpoint="marks"))
    refused(Conflict, "at most 20 judges", None)
    with stack.database.read() as session:
        assert len(list(session.scalars(select(Job)))) == judges.MOST_JUDGES


def test_stopped_gone_on_with_and_deleted(stack: Stack) -> None:
    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id, name="tiny").id
        project = rated.rated_pairs(session, stack.workspace_id, 3)
        judge = judges.add(session, project, JudgeIn(checkpoint=checkpoint, name="Solomon"))
        assert judges.judge_out(session, judge) | {"id": 0, "created_at": 0} == {
            **{"id": 0, "project": project.id, "name": "Solomon", "kind": "model", "checkpoint": checkpoint, "principles": []},
            **{"questions": ["Which answer is better?"], "limit": 1000, "tie": 0.1, "done": 0, "created_at": 0},
            "progress": {"job": judges.progress(session, judge)["job"], "status": "queued", "reason": None, **chunked_jobs.STARTING},  # type: ignore[index]
        }
        with pytest.raises(Conflict, match="at work"):
            judges.go_on(session, project, judge)
        assert judges.cancel(session, judge) and not judges.cancel(session, judge)
        first = judges.progress(session, judge)
        assert first and first["status"] == "cancelled" and judges.go_on(session, project, judge).id == first["job"]
        judges.cancel(session, judge)
        for item in session.scalars(select(Item)):
            session.add(Judgement(judge_id=judge.id, item_id=item.id, preference=1))
        judge.done = 3
        session.flush()
        with pytest.raises(Conflict, match="every item there is"):
            judges.go_on(session, project, judge)
        with pytest.raises(Invalid, match="from 1 to 20,000"):
            judges.go_on(session, project, judge, 0)
        rated.add_item(session, project, "One more", ["a", "b"])
        session.get_one(Job, first["job"]).status = "succeeded"
        session.flush()
        assert judges.waiting(session, project, judge) == 1 and judges.go_on(session, project, judge).id != first["job"]
        other = judges.add(session, project, JudgeIn(checkpoint=checkpoint))
        judges.delete(session, other)
        assert judges.listed(session, project) == [judge]
        judges.forget(session, project)
        assert chunked_jobs.active(session, judges.KIND, judge.id) is None
        session.execute(delete(Project).where(Project.id == project.id))
        session.expire_all()
        assert not list(session.scalars(select(Judge))) and not list(session.scalars(select(Judgement)))


# --- agreement ------------------------------------------------------------------------------------------------------------


def judged(session: Any, project: Project, checkpoint: str, verdicts: dict[str, dict[str, Any]], **fields: Any) -> Judge:
    """A judge that has said this of items."""
    judge = Judge(project_id=project.id, checkpoint_id=checkpoint, name="J", kind="model", done=len(verdicts), **fields)
    session.add(judge)
    session.flush()
    session.add_all(Judgement(judge_id=judge.id, item_id=item, **one) for item, one in verdicts.items())
    session.flush()
    return judge


def test_agreement_with_people_next_to_people_among_each_other(stack: Stack) -> None:
    """60 pairs by three people: they agree in three of four; the judge follows the first of them in all but ten, and always itself."""
    draw = random.Random(4)
    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id, name="tiny")
        project = rated.add_project(session, stack.workspace_id)
        people = [rated.add_rater(session, project, name) for name in ("Ada", "Bo", "Cy")]
        verdicts: dict[str, dict[str, Any]] = {}
        for number in range(60):
            whose = checkpoint.id if number >= 52 else None
            texts = {"text": f"short {number}", "checkpoint_id": whose, "style": {"words": 2}}, {"text": "longer", "style": {"words": 3}}
            item = rated.add_item(session, project, f"Question {number}?", list(texts))
            side = draw.choice((-1, 1))
            for place, person in enumerate(people):
                rated.say(session, item, person, (-side if place == 2 and number % 2 else side) * (1 + place))
            value = 2 * side if number >= 10 else -2 * side
            told = {"preference": -3, "is_own": True} if number >= 52 else {"preference": value}
            verdicts[item.id] = {**told, "questions": 2, "flips": int(number % 4 == 0), "firsts": 2, "mass": 0.9}
        judge = judged(session, project, checkpoint.id, verdicts)
        report = judge_report.reckon(session, project, judge)
        figures = {figure.key: figure for figure in report.figures}
        most, one = figures["most"].judge, figures["one"]
        assert (report.judged, report.rated, report.own) == (60, 52, 8)
        assert (most.value, most.n) == (pytest.approx(42 / 52), 52) and most.low and most.high and most.low < 42 / 52 < most.high
        # Of each two items one has a third vote for the other side.
        assert one.judge.n == 156 and one.judge.value == pytest.approx((5 * 0 + 5 * 1 + 21 * 3 + 21 * 2) / 156)
        assert one.people and one.people.value == pytest.approx(120 / 180)
        ac1, kappa = figures["ac1"].judge, figures["kappa"].judge
        assert ac1.value and 0.5 < ac1.value < 0.9 and ac1.low and ac1.low < ac1.value and kappa.value and 0.4 < kappa.value < 0.9
        assert (report.flips.value, report.flips.n, report.firsts.value) == (15 / 120, 120, 0.5)
        assert report.own_taken and report.own_taken.judge.value == 1.0 and report.own_taken.people and report.own_taken.people.n == 8
        assert report.longer and report.longer.judge.n == 60
        assert (
            "it takes that of most people in 81 % (95 %: 68 to 89) of cases." in report.sentence
            and "two people with each other in 67 %" in report.sentence
        )
        assert [words.split(" an answer")[0] for words in report.warnings] == ["8 items have"]
        assert judge_report.report_out(report)["figures"][0]["judge"]["n"] == 52
        # Trained on these very votes: that is said.
        dataset = add_dataset(session, stack.workspace_id)
        session.add(Snapshot(project_id=project.id, dataset_id=dataset.id, shape="preference", sha256="x", up_to="e"))
        run = Run(
            workspace_id=stack.workspace_id, dataset_id=dataset.id, checkpoint_id=checkpoint.id, name="r", method="reward", tuner="lora"
        )
        session.add(run)
        session.flush()
        learned = add_checkpoint(session, stack.workspace_id, name="learned", run_id=run.id, step=1)
        again = judge_report.reckon(session, project, judged(session, project, learned.id, verdicts))
        assert again.trained_here and "no proof" in again.warnings[0]
        session.execute(delete(Checkpoint).where(Checkpoint.id == learned.id))


@pytest.mark.one_stack
def test_single_answers_by_their_order_and_rankings_by_their_pairs(stack: Stack) -> None:
    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id, name="tiny").id
        single = rated.add_project(session, stack.workspace_id, "single")
        person = rated.add_rater(session, single)
        verdicts: dict[str, dict[str, Any]] = {}
        for number in range(60):
            item = rated.add_item(session, single, f"Q {number}?", ["a"])
            rated.say(session, item, person, score=1 + number % 5)
            verdicts[item.id] = {"lean": float(number % 5) if number % 6 else 9.0}
        report = judge_report.reckon(session, single, judged(session, single, checkpoint, verdicts))
        [order] = report.figures
        assert order.key == "order" and order.judge.value and 0.7 < order.judge.value < 0.95 and order.judge.low and order.judge.low > 0.5
        assert "same order as people" in report.sentence
        ranks = rated.add_project(session, stack.workspace_id, "rank", name="ranks")
        person, verdicts = rated.add_rater(session, ranks), {}
        for number in range(55):
            item = rated.add_item(session, ranks, f"R {number}?", ["a", "b", "c"])
            ids = list(session.scalars(select(Response.id).where(Response.item_id == item.id).order_by(Response.place)))
            rated.say(session, item, person, ranking=[[ids[0]], [ids[1]], [ids[2]]])
            verdicts[item.id] = {"ranking": [[ids[0]], [ids[2]], [ids[1]]]}
        report = judge_report.reckon(session, ranks, judged(session, ranks, checkpoint, verdicts))
        most = report.figures[0].judge
        assert (most.value, most.n, report.rated) == (pytest.approx(2 / 3), 165, 55) and "66 %" not in report.sentence
