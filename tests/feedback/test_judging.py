"""Judges at work, with real tiny models: scores and letters, both orders, each item once, and people's figures untouched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app import storage
from app.checkpoints.manifest import write_manifest
from app.checkpoints.tables import Checkpoint
from app.feedback import chunked_jobs, judge_report, judges, judges_job, leaderboard, projects, quality, snapshots, views
from app.feedback.judge_verdicts import grade, sigmoid
from app.feedback.judges import JudgeIn
from app.feedback.tables import Item, Project, Rater, Rating, Response
from app.feedback.tables_judges import Judge, Judgement
from app.jobs import service as jobs
from app.jobs.tables import Job
from tests.conftest import Stack
from tests.factories import add_checkpoint
from tests.feedback import rated
from tests.feedback.test_generation import kill_children
from tests.methods.child import Kept
from tests.models import tiny_llama, tiny_llama_folder
from worker import feedback_judge, kinds, rewards
from worker.reporting import Failed

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = pytest.mark.train


def add_model(stack: Stack, name: str, make: Callable[[Path], object], **fields: Any) -> str:
    """A checkpoint whose folder `make` fills."""
    folder = storage.path(f"checkpoints/{name}")
    make(folder)
    write_manifest(folder, run_id=None, step=None, attempt=None, config_hash="")
    with stack.database.write() as session:
        return add_checkpoint(session, stack.workspace_id, name=name, path=f"checkpoints/{name}", **fields).id


def copied(folder: Path) -> None:
    shutil.copytree(tiny_llama_folder(), folder)


def rewarding(folder: Path) -> None:
    """A random model that gives numbers, far enough apart for grades."""
    import torch
    from transformers import AutoModelForSequenceClassification

    copied(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
        model.score.weight.data.mul_(40)
    model.save_pretrained(folder)


def taking_the_first(folder: Path) -> None:
    """A model that answers A, whatever it is asked."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_llama(folder, layers=1, tied=False)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Which?"}], add_generation_prompt=True, return_tensors="pt")
    with torch.no_grad():
        last = model.model(**ids).last_hidden_state[0, -1]
        model.lm_head.weight.zero_()
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("A")] = last
    model.save_pretrained(folder)


def run(stack: Stack, judge_id: str, *, dies_after: int | None = None) -> dict[str, Any]:
    """Do the newest job of a judge as a worker does, in this process; it may die once so many items are judged."""
    with stack.database.read() as session:
        job_id = session.scalars(select(Job.id).where(Job.subject_id == judge_id).order_by(Job.id.desc())).first()
        spec = kinds.KINDS[judges.KIND].spec(session, session.get_one(Job, job_id))

    def hear(message: dict[str, Any]) -> None:
        if dies_after is not None and message["done"] > dies_after:
            raise MemoryError("killed")
        with stack.database.write() as session:
            judges_job.judge_progress(session, session.get_one(Job, job_id), {"done": message["done"], "total": message["total"]})

    result = feedback_judge.main({**spec, "device": "cpu", "threads": 1}, Kept(hear))
    with stack.database.write() as session:
        judges_job.judge_done(session, job := session.get_one(Job, job_id), result)
        jobs.finish(session, job, {})
    return result


def add_judge(stack: Stack, project_id: str, checkpoint: str, **asked: Any) -> str:
    with stack.database.write() as session:
        return judges.add(session, session.get_one(Project, project_id), JudgeIn(checkpoint=checkpoint, **asked)).id


def said(stack: Stack, judge_id: str) -> list[Judgement]:
    with stack.database.read() as session:
        return list(session.scalars(select(Judgement).where(Judgement.judge_id == judge_id).order_by(Judgement.item_id)))


def of_people(stack: Stack, project_id: str) -> dict[str, Any]:
    """All that is shown and trained on of people."""
    with stack.database.read() as session:
        project = session.get_one(Project, project_id)
        report = quality.report_out(quality.reckon(session, project))
        names = ("items", "filtered", "slots", "done", "extras")
        return {
            "quality": {name: value for name, value in report.items() if name != "as_of"},
            "board": leaderboard.board_out(leaderboard.reckon(session, project, adjusted=False)),
            "sheet": snapshots.preflight(session, project, snapshots.read_rules(project, None, {}), None).model_dump(),
            "progress": (views.progress(session, project), *(getattr(project, name) for name in names)),
            "ratings": len(list(session.scalars(select(Rating)))),
            "raters": sorted(session.scalars(select(Rater.name))),
        }


def test_both_orders_are_averaged_and_people_never_count_it(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = add_model(stack, "first", taking_the_first)
    with stack.database.write() as session:
        project_id = rated.rated_pairs(session, stack.workspace_id, 7).id
        project = session.get_one(Project, project_id)
        rated.add_item(session, project, "Filtered", ["a", "b"], status="filtered")
        rated.add_item(session, project, "Practice", ["a", "b"], role="practice", gold={"preference": 1})
        rated.add_item(session, project, "Known", ["a", "b"], role="gold", gold={"preference": 0})
        long = rated.add_item(session, project, "Long " * 600, ["a", "b"]).id
        projects.recount(session, project)
    before = of_people(stack, project_id)
    monkeypatch.setattr(judges_job, "ASKED_AT_ONCE", 8)  # two items a chunk
    judge_id = add_judge(stack, project_id, checkpoint, principles=["Be kind.", "Be right."])
    with pytest.raises(MemoryError):
        run(stack, judge_id, dies_after=4)
    kept = said(stack, judge_id)
    assert len(kept) == 4 and all(one.at > 0 for one in kept)
    with stack.database.read() as session:
        folder = storage.path(judges.folder_of(judge_id))
        assert len(list(folder.glob("*/verdicts/*"))) == 3  # the one that was finished when it died is not lost
    assert run(stack, judge_id) == {"items": 9, "chunks": 5} and not folder.exists()
    found = {one.item_id: one for one in said(stack, judge_id)}
    assert len(found) == 9 and all(found[one.item_id].at == one.at for one in kept)
    failed = found.pop(long)
    assert failed.problem and "the model reads at most 512" in failed.problem and failed.preference is None
    for one in found.values():
        assert (one.preference, one.questions, one.flips, one.firsts, one.is_own) == (0, 2, 2, 4, False) and (one.mass or 0) > 0.9
        assert one.lean == pytest.approx(0.5, abs=0.05) and [each["principle"] for each in one.detail["asked"]] == [0, 1]
    assert of_people(stack, project_id) == before
    with stack.database.read() as session:
        project, judge = session.get_one(Project, project_id), session.get_one(Judge, judge_id)
        assert (judge.done, judge.kind, judges.waiting(session, project, judge)) == (9, "model", 0)
        report = judge_report.report(session, project, judge)
        assert (report.flips.value, report.flips.n, report.firsts.value, report.ties.value) == (1.0, 16, 1.0, 1.0)
        assert report.judged == 9 and report.rated == 7 and report.problems == [(failed.problem, 1)] and report.gold.accuracy.value == 1.0
        assert any("changes its mind" in words for words in report.warnings) and report.sentence.startswith("Too few items")
        assert report.figures[0].judge.n == 0 and "Principle: Be kind.\nWhich answer follows" in judge.questions[0]


@pytest.mark.one_stack
@pytest.mark.parametrize("kind", ["pair", "single", "rank"])
def test_a_reward_judge_gives_the_scores_of_the_reward_model(stack: Stack, kind: str) -> None:
    checkpoint = add_model(stack, "marks", rewarding, kind="full", config={"task": "reward"})
    count = {"pair": 2, "single": 1, "rank": 4}[kind]
    with stack.database.write() as session:
        project = rated.add_project(session, stack.workspace_id, kind, direction="worse" if kind == "rank" else "better")
        for number in range(6):
            texts: list[Any] = [f"Answer {number} {'really ' * place}{chr(97 + 3 * place)}" for place in range(count)]
            if number == 0:
                texts[-1] = {"text": texts[-1], "checkpoint_id": checkpoint}
            rated.add_item(session, project, f"Question {number}?", [*texts, {"text": "better", "finish": "edited"}])
        project_id = project.id
    judge_id = add_judge(stack, project_id, checkpoint)
    run(stack, judge_id)
    found = said(stack, judge_id)
    assert len(found) == 6
    with stack.database.read() as session:
        path = {"path": str(storage.path("checkpoints/marks")), "adapter": None}
        for one in found:
            item = session.get_one(Item, one.item_id)
            responses = session.scalars(
                select(Response).where(Response.item_id == item.id, Response.finish == "stop").order_by(Response.place)
            )
            there = list(responses)
            texts = [each.text for each in there]
            rows = [[*item.prompt, {"role": "assistant", "content": text}] for text in texts]
            expected = rewards.score(path, rows) if one is found[0] else None
            numbers = one.detail["rewards"]
            assert len(numbers) == count and (expected is None or numbers == pytest.approx(expected, abs=1e-4))
            if kind == "pair":
                assert one.lean == pytest.approx(sigmoid(numbers[1] - numbers[0])) and one.preference == grade(one.lean or 0, 0.1)
            elif kind == "single":
                assert one.lean == numbers[0] and one.score is None
            else:  # asked for the worst first
                order = [place for tied in one.ranking or [] for place in tied]
                ranks = [numbers[[each.id for each in there].index(each)] for each in order]
                assert len(order) == 4 and all(a <= b + 0.5 for a, b in pairwise(ranks))
        assert sorted(one.is_own for one in found) == [False] * 5 + [True]
        judge = session.get_one(Judge, judge_id)
        assert judge.kind == "reward" and judge.questions == [] and (found[0].mass, found[0].questions) == (None, 0)
    if kind == "pair":
        assert {one.preference for one in found} - {0}


@pytest.mark.one_stack
def test_single_answers_are_asked_for_a_number(stack: Stack) -> None:
    checkpoint = add_model(stack, "tiny", copied)
    with stack.database.write() as session:
        project = rated.add_project(session, stack.workspace_id, "single", question="How good is it?")
        for number in range(3):
            rated.add_item(session, project, f"Question {number}?", [f"Answer {number}"])
        rated.add_item(session, project, "None?", [])
        project_id = project.id
    judge_id = add_judge(stack, project_id, checkpoint, limit=2)
    run(stack, judge_id)
    assert len(said(stack, judge_id)) == 2
    with stack.database.write() as session:
        project, judge = session.get_one(Project, project_id), session.get_one(Judge, judge_id)
        with pytest.raises(judges.Conflict, match="which is its limit; 2 more are there"):
            judges.go_on(session, project, judge)
        judges.go_on(session, project, judge, 50)
    run(stack, judge_id)
    found = said(stack, judge_id)
    assert len(found) == 4 and sum(one.problem == "It has too few answers." for one in found) == 1
    for one in found:
        if not one.problem:
            assert 1 <= (one.lean or 0) <= 5 and one.score == round(one.lean or 0) and 0 < (one.mass or 0) < 0.5
    with stack.database.read() as session:
        warnings = judge_report.report(session, session.get_one(Project, project_id), session.get_one(Judge, judge_id)).warnings
        assert any("would rather say something else" in words for words in warnings)


def test_what_is_gone_ends_it_with_words(stack: Stack) -> None:
    checkpoint = add_model(stack, "tiny", copied)
    with stack.database.write() as session:
        project_id = rated.rated_pairs(session, stack.workspace_id, 2).id
    judge_id = add_judge(stack, project_id, checkpoint)
    with stack.database.write() as session:
        session.delete(session.get_one(Checkpoint, checkpoint))
    with stack.database.write() as session:
        project, judge = session.get_one(Project, project_id), session.get_one(Judge, judge_id)
        job = chunked_jobs.latest(session, judges.KIND, judge_id)
        assert job is not None
        with pytest.raises(judges.Conflict, match="checkpoint of the judge “tiny” was deleted"):
            judges_job.judge_spec(session, job)
        judges_job.judge_progress(session, job, {})
        assert job.status == "failed" and "Its verdicts stay" in (job.reason or "")
        with pytest.raises(judges.Conflict, match="cannot judge any more"):
            judges.go_on(session, project, judge)
        judges.delete(session, judge)
        with pytest.raises(judges.NotFound, match="judge was deleted"):
            judges_job.judge_spec(session, job)
    folder = storage.path("checkpoints/none")
    folder.mkdir(parents=True)
    storage.keep_lines(folder / "items.jsonl", [{"item": "itm", "prompt": [], "answers": []}])
    spec = {"folder": str(folder), "judge": "model", "name": "x", "model": {"path": str(folder), "adapter": None}, "chunk": 1, "threads": 1}
    with pytest.raises(Failed, match="“x” was deleted"):
        feedback_judge.main({**spec, "device": "cpu"}, Kept())


@pytest.mark.parametrize("stack", ["sqlite", pytest.param("postgres", marks=pytest.mark.soak)], indirect=True)
@pytest.mark.slow
def test_a_killed_worker_goes_on_and_judges_nothing_twice(stack: Stack, work: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = add_model(stack, "tiny", copied)
    with stack.database.write() as session:
        project_id = rated.rated_pairs(session, stack.workspace_id, 40).id
    whole = add_judge(stack, project_id, checkpoint)
    work()
    monkeypatch.setattr(judges_job, "ASKED_AT_ONCE", 8)
    judge_id = add_judge(stack, project_id, checkpoint)
    killed: list[float] = []
    take = judges_job.judge_progress

    def trouble(session: Any, job: Job, shown: dict[str, Any]) -> None:
        take(session, job, shown)
        if (shown.get("done") or 0) >= 4 and len(killed) < 2 and shown["done"] not in killed:
            killed.append(shown["done"])
            kill_children()

    monkeypatch.setitem(kinds.KINDS, judges.KIND, replace(kinds.KINDS[judges.KIND], progress=trouble))
    for _ in range(6):
        with stack.database.write() as session:
            session.execute(update(Job).values(not_before=None))  # no back-off here
        work()
    with stack.database.read() as session:
        assert session.get_one(Judge, judge_id).done == 40 and killed
        assert judges.progress(session, session.get_one(Judge, judge_id))["status"] == "succeeded"  # type: ignore[index]  # there is one
    leans = [{one.item_id: one.lean for one in said(stack, each)} for each in (whole, judge_id)]
    assert leans[0].keys() == leans[1].keys() and list(leans[1].values()) == pytest.approx(list(leans[0].values()), abs=1e-5)
