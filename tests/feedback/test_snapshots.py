"""Snapshots: what is counted, what is never exported, how rows are frozen into a dataset, and that they can be trained on."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import shapes, storage
from app.datasets import exporting, imports
from app.datasets import service as datasets
from app.datasets.schemas import Split
from app.datasets.tables import Dataset
from app.errors import Conflict, Invalid
from app.feedback import snapshots
from app.feedback.rules import Rules
from app.feedback.tables import Item, Project, Rating, Snapshot
from tests.conftest import Stack
from tests.factories import add_checkpoint
from tests.feedback.rated import add_item, add_project, add_rater, rated_pairs, say


def rows_of(dataset: Dataset) -> list[dict[str, Any]]:
    """All of its rows with their sides."""
    return datasets.read_rows(dataset, 0, dataset.rows)


def frozen(session: Session, project: Project, **rules: Any) -> tuple[Snapshot, Dataset]:
    snapshot = snapshots.freeze(session, project, Rules(**rules), "user_1")
    return snapshot, session.get_one(Dataset, snapshot.dataset_id)


def trained_rows(session: Session, project: Project) -> list[dict[str, Any]]:
    """Rows for training of a snapshot for KTO."""
    return [each for each in rows_of(frozen(session, project, shape="unpaired")[1]) if each["split"] == "train"]


def exported(session: Session, project: Project, **rules: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in snapshots.export(session, project, Rules(**{"held_out": 0, **rules}))]


# --- what counts ----------------------------------------------------------------------------------------------------------


def test_what_must_never_be_trained_on_is_not(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        rater, removed = add_rater(session, project), add_rater(session, project, "Bob", status="removed")
        judge = add_rater(session, project, "a judge", kind="judge")
        for fields in (
            {"role": "gold"},
            {"role": "practice"},
            {"status": "filtered", "reason": "cut"},
            {"status": "flagged"},
            {"status": "removed"},
        ):
            say(session, add_item(session, project, f"never {fields}", ["a", "b"], **fields), rater, -3)
        good = add_item(session, project, "good", ["a", "b"])
        say(session, good, rater, -3, is_extra=True)
        say(session, good, rater, 3, round=1)
        for prompt, who, fields in (
            ("skipped", rater, {"kind": "skip"}),
            ("flagged by one", rater, {"kind": "flag"}),
            ("rated by a removed rater", removed, {}),
            ("rated by a judge", judge, {}),
        ):
            say(session, add_item(session, project, prompt, ["a", "b"]), who, None if fields else -3, **fields)
        add_item(session, project, "not rated", ["a", "b"])

        assert [row["prompt"][0]["content"] for row in exported(session, project)] == ["good"]
        sheet = snapshots.preflight(session, project, Rules())
        assert sheet.dropped == {"gold": 1, "practice": 1, "filtered": 1, "flagged": 1, "removed": 1, "unrated": 5}
        assert sheet.votes_out == {"repeat": 1, "skip": 1, "flag": 1, "removed": 1, "automatic": 1}
        assert (sheet.votes, sheet.extras, sheet.raters, sheet.items, sheet.rows) == (1, 1, 1, 1, 1)
        assert len(exported(session, project, automatic=True)) == 2
        assert exported(session, project, without=[rater.id]) == []


def test_somebody_who_adjudicates_has_the_last_word(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        item = add_item(session, project, "x", ["first", "second"])
        for name, vote, kind in (("a", -3, "rate"), ("b", -2, "rate"), ("c", 1, "adjudicate")):
            say(session, item, add_rater(session, project, name), vote, kind=kind)
        [row] = exported(session, project, shape="margin")
        assert row["chosen"][0]["content"] == "second" and row["margin"] == pytest.approx(1 / 3)


def test_rows_repeat_only_where_every_vote_is_a_row(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        raters = [add_rater(session, project, name) for name in "abc"]
        for _ in range(2):
            item = add_item(session, project, "the same", ["a", "b"])
            for rater in raters:
                say(session, item, rater, -2)
        assert len(exported(session, project)) == 1
        assert snapshots.preflight(session, project, Rules()).dropped == {"double": 1}
        assert len(exported(session, project, combine="every")) == 6


def test_an_answer_called_good_and_bad_is_left_out(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        rater = add_rater(session, project)
        say(session, add_item(session, project, "p", ["a", "b"]), rater, "both_good")
        say(session, add_item(session, project, "P ", ["a", "c"]), rater, "both_bad")
        rows = exported(session, project, shape="unpaired")
        assert sorted((row["completion"][0]["content"], row["label"]) for row in rows) == [("b", True), ("c", False)]
        assert snapshots.preflight(session, project, Rules(shape="unpaired")).dropped["contradiction"] == 2


def test_pairs_of_a_prompt_are_capped(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, "rank")
        rater = add_rater(session, project)
        item = add_item(session, project, "rank these", [{"id": f"rsp_{stack.name}{n}", "text": f"answer {n}"} for n in range(5)])
        say(session, item, rater, ranking=[[f"rsp_{stack.name}{n}"] for n in (3, 1, 4, 0, 2)], left=None)
        pairs = {(row["chosen"][0]["content"][-1] + row["rejected"][0]["content"][-1]) for row in exported(session, project)}
        assert pairs == {"32", "31", "14", "40"}
        sheet = snapshots.preflight(session, project, Rules(max_pairs_per_prompt=100))
        assert sheet.rows == 10 and sheet.per_prompt == {"10": 1} and not sheet.dropped
        assert snapshots.preflight(session, project, Rules()).dropped == {"over_cap": 6}
        [best] = exported(session, project, shape="chat")
        assert best["messages"][-1]["content"] == "answer 3"


def test_the_best_answer_of_a_prompt_is_one(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, "single")
        rater = add_rater(session, project)
        for number, score in enumerate((4.0, 5.0, 2.0)):
            say(session, add_item(session, project, "the prompt", [f"answer {number}"]), rater, score=score, left=None)
        [row] = exported(session, project, shape="prompt_completion")
        assert row["completion"][0]["content"] == "answer 1"
        assert snapshots.preflight(session, project, Rules(shape="chat")).dropped == {"not_best": 2}
        assert sorted(row["score"] for row in exported(session, project, shape="rated")) == [2.0, 4.0, 5.0]


def test_the_system_prompt_and_earlier_turns_stay(stack: Stack) -> None:
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "<b>שלום</b> 👋🏽 `code`"},
    ]
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        say(session, add_item(session, project, talk, ["a", "b"]), add_rater(session, project), -1)
        [row] = exported(session, project)
        assert row["prompt"] == talk
        [line] = snapshots.export(session, project, Rules(held_out=0), with_meta=True)
        assert json.loads(line)["meta"]["chosen_model"] == "model 0"


def test_what_a_rater_who_is_left_out_wrote_is_not_learned(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        ada, bob = add_rater(session, project), add_rater(session, project, "Bob")
        written = {"text": "what Bob would say", "source": "Bob", "finish": "edited"}
        item = add_item(session, project, "prompt", ["first", "second", written])
        say(session, item, ada, -2)
        say(session, item, bob, -2)
        for without, expected in (([], "what Bob would say"), ([bob.id], "first")):
            [row] = exported(session, project, shape="chat", without=without)
            assert row["messages"][-1]["content"] == expected
        bob.status = "removed"
        session.flush()
        [row] = exported(session, project, shape="chat")
        assert row["messages"][-1]["content"] == "first"


# --- the sheet ------------------------------------------------------------------------------------------------------------


def test_the_sheet_says_what_the_rows_are(stack: Stack) -> None:
    with stack.database.write() as session:
        project = rated_pairs(session, stack.workspace_id, 40)
        sheet = snapshots.preflight(session, project, Rules(held_out=0.2))
        assert (sheet.rows, sheet.train_rows, sheet.eval_rows, sheet.leaks, sheet.prompts) == (40, 32, 8, 0, 40)
        assert sheet.per_prompt == {"1": 40} and sheet.grades == {"1": 14, "2": 13, "3": 13} and sheet.steps == 4
        assert sheet.left and sheet.left.value == 0 and sheet.left.n == 40 and any("side" in each for each in sheet.warnings)
        assert sheet.longer and sheet.longer.value == 0.5 and sheet.longer.low < 0.5 < sheet.longer.high
        assert [(each.name, each.answers, each.share) for each in sheet.sources] == [("model 0", 40, 0.5), ("model 1", 40, 0.5)]
        assert sheet.flips is None and sheet.on_policy is None and any("very few" in each for each in sheet.warnings)


def test_what_raters_contradict_each_other_in_becomes_label_smoothing(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        raters = [add_rater(session, project, name) for name in "abc"]
        for number in range(20):
            item = add_item(session, project, f"prompt {number}", ["a", "b"])
            for place, rater in enumerate(raters):
                say(session, item, rater, 2 if place == 0 and number % 5 == 0 else -2)
        sheet = snapshots.preflight(session, project, Rules())
        assert sheet.flips and 0 < sheet.flips.value < 0.2 and sheet.label_smoothing == round(sheet.flips.value, 2)
        assert sheet.suggested == {"epochs": 1.0, "loss": "robust", "label_smoothing": sheet.label_smoothing}
        # Of four pairs one vote of three is against the others; of these three votes two see one for and one against, and have no most.
        assert {grade: (share.n, round(share.value, 4)) for grade, share in sheet.people.items()} == {"2": (52, round(48 / 52, 4))}
        assert snapshots.preflight(session, project, Rules(shape="margin")).label_smoothing is None
        _, dataset = frozen(session, project)
        assert dataset.lineage and dataset.lineage["people"]["2"]["n"] == 52


def test_the_share_of_the_model_to_be_trained_is_told(stack: Stack) -> None:
    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id)
        project = add_project(session, stack.workspace_id)
        rater = add_rater(session, project)
        for number in range(4):
            ours = {"text": "ours", "checkpoint_id": checkpoint.id if number else None}
            say(session, add_item(session, project, f"prompt {number}", [ours, "theirs"]), rater, -1)
        sheet = snapshots.preflight(session, project, Rules(), checkpoint.id)
        assert sheet.on_policy == pytest.approx(3 / 8) and any("learns less" in each for each in sheet.warnings)


def test_weights_balance_good_and_bad_answers(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, "single", scale="thumbs")
        rater = add_rater(session, project)
        for number in range(40):
            say(session, add_item(session, project, f"prompt {number}", [f"a {number}"]), rater, score=float(number % 4 > 0), left=None)
        sheet = snapshots.preflight(session, project, Rules(shape="unpaired"))
        assert sheet.grades == {"false": 10, "true": 30} and sheet.neighbours == 0 and sheet.longest_run
        assert sheet.weights and sheet.weights["desirable_weight"] == 1.0
        good, bad = (sum(each["row"]["label"] is label for each in trained_rows(session, project)) for label in (True, False))
        assert 1 <= good / (bad * sheet.weights["undesirable_weight"]) <= 1.33 and sheet.suggested == {**sheet.weights, "epochs": 1.0}


def test_no_votes_are_said_so(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        sheet = snapshots.preflight(session, project, Rules())
        assert sheet.rows == 0 and sheet.warnings and sheet.left is None
        with pytest.raises(Conflict, match="Loosen them, or rate more"):
            snapshots.freeze(session, project, Rules(), None)
        assert session.scalar(select(func.count()).select_from(Dataset)) == 0
    assert not list((storage.root() / "datasets").glob("*")) if (storage.root() / "datasets").exists() else True


@pytest.mark.parametrize(
    ("kind", "rules", "field"),
    [
        ("pair", {"shape": "rated"}, "shape"),
        ("rank", {"shape": "unpaired"}, "shape"),
        ("single", {"shape": "preference"}, "shape"),
        ("single", {"shape": "unpaired", "good_from": 2, "bad_to": 2}, "bad_to"),
        ("pair", {"without": ["rtr_unknown"]}, "without"),
    ],
)
def test_rules_that_do_not_fit_are_refused(stack: Stack, kind: str, rules: dict[str, Any], field: str) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, kind)
        with pytest.raises(Invalid) as refused:
            snapshots.preflight(session, project, Rules(**rules))
        assert refused.value.field == field


# --- freezing -------------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_a_dataset_that_is_ready(stack: Stack) -> None:
    with stack.database.write() as session:
        project = rated_pairs(session, stack.workspace_id, 40)
        snapshot, dataset = frozen(session, project)
    assert (dataset.name, dataset.version, dataset.status, dataset.shape) == ("taste-preference", 1, "ready", "preference")
    assert (dataset.rows, dataset.train_rows, dataset.eval_rows, dataset.errors) == (40, 36, 4, 0)
    assert dataset.lineage and dataset.lineage["snapshot"] == snapshot.id and dataset.lineage["project"] == project.id
    assert snapshot.sha256 == dataset.sha256 and snapshot.counts["rows"] == 40 and snapshot.rules["combine"] == "majority"
    assert snapshot.up_to.startswith("evt_") and snapshot.created_by == "user_1"
    found = rows_of(dataset)
    assert {each["split"] for each in found} == {"train", "eval"} and found[0]["source"]["meta"]["agreement"] == 1.0
    datasets.usable_for_run(dataset)
    assert len(list(exporting.export(dataset, "jsonl"))) == 40
    assert storage.sha256(storage.path(dataset.path) / "source.jsonl") == dataset.source_sha256


def test_its_files_are_those_an_import_would_write(stack: Stack, tmp_path: Path) -> None:
    from worker.rowfile import RowFile

    with stack.database.write() as session:
        _, dataset = frozen(session, rated_pairs(session, stack.workspace_id, 12), shape="margin", held_out=0.25)
    file = RowFile(tmp_path, 0)
    for each in rows_of(dataset):
        file.add(each["line"], shapes.read(each["source"], "preference").row, each["source"], each["row"]["prompt"])
    file.choose(None)
    file._chosen = file._chosen | [each["split"] == "eval" for each in rows_of(dataset)]
    assert file.lengths() == dataset.checks["characters"]  # type: ignore[index]  # it has checks
    assert file.finish()["sha256"] == dataset.sha256
    for name in (datasets.ROWS, datasets.INDEX, datasets.KEYS):
        assert (tmp_path / name).read_bytes() == (storage.path(dataset.path) / name).read_bytes(), name


def test_the_same_votes_give_the_same_snapshot(stack: Stack) -> None:
    with stack.database.write() as session:
        project = rated_pairs(session, stack.workspace_id, 12)
        first, dataset = frozen(session, project)
        again, _ = frozen(session, project)
        assert again.id == first.id and session.scalar(select(func.count()).select_from(Dataset)) == 1
        say(session, add_item(session, project, "one more", ["a", "b"]), add_rater(session, project, "Bob"), -1)
        newer, other = frozen(session, project)
        assert newer.id != first.id and (other.name, other.version, other.rows) == (dataset.name, 2, 13)
        assert len(rows_of(dataset)) == 12  # the first one stays as it was
        datasets.delete(session, stack.workspace_id, other.id)
        session.expire_all()
        anew, third = frozen(session, project)
        assert anew.id != newer.id and third.sha256 == newer.sha256
        assert [each.id for each, _ in snapshots.listed(session, project)] == [anew.id, newer.id, first.id]
        assert [each is None for _, each in snapshots.listed(session, project)] == [False, True, False]
    assert sorted(each.name for each in (storage.root() / "datasets").iterdir()) == sorted([dataset.id, third.id])


def test_nothing_is_left_behind_when_freezing_fails(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with stack.database.write() as session:
        project = rated_pairs(session, stack.workspace_id, 4)
    for place in ("app.feedback.frozen.webhooks.dataset_ended", "app.storage.fsync_file"):
        with monkeypatch.context() as patch, pytest.raises(Exception, match=r"disk is full|No space"), stack.database.write() as session:
            patch.setattr(place, full)
            snapshots.freeze(session, session.get_one(Project, project.id), Rules(), None)
        assert not list((storage.root() / "datasets").iterdir())
    with stack.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Snapshot)) == 0


def test_no_prompt_and_no_conversation_is_on_both_sides(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        rater = add_rater(session, project)
        for number in range(30):
            begin = {"role": "user", "content": f"Topic {number}"}
            longer = [begin, {"role": "assistant", "content": "Well"}, {"role": "user", "content": "go on"}]
            for prompt in ([begin], longer, [{"role": "user", "content": f"  topic   {number} "}]):
                say(session, add_item(session, project, prompt, [f"a {number}", f"b {number}"]), rater, -1)
        snapshot, dataset = frozen(session, project, held_out=0.2)
    sides: dict[str, set[str]] = {"train": set(), "eval": set()}
    for each in rows_of(dataset):
        sides[each["split"]].add(" ".join(each["row"]["prompt"][0]["content"].casefold().split()))
    assert not sides["train"] & sides["eval"] and len(sides["eval"]) == 6 and snapshot.counts["leaks"] == 0


def test_rows_for_kto_are_in_an_order_that_needs_no_shuffling(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id)
        rater = add_rater(session, project)
        for number in range(150):
            item = add_item(session, project, f"prompt {number}", [f"a {number}", f"b {number}"])
            say(session, item, rater, "both_good" if number < 90 else "both_bad")
        snapshot, dataset = frozen(session, project, shape="unpaired")
    found = rows_of(dataset)
    assert [each["split"] for each in found] == ["train"] * dataset.train_rows + ["eval"] * dataset.eval_rows
    for side in ("train", "eval"):
        rows = [each["row"] for each in found if each["split"] == side]
        assert all(one["prompt"] != other["prompt"] for one, other in pairwise(rows))
        longest = run = 0
        for place, row in enumerate(rows):
            run = run + 1 if place and rows[place - 1]["label"] is row["label"] else 1
            longest = max(longest, run)
        assert longest <= 20 and {row["label"] for row in rows} == {True, False}
    assert snapshot.counts["neighbours"] == 0


def test_votes_that_come_meanwhile_belong_to_the_next_snapshot(stack: Stack) -> None:
    with stack.database.write() as session:
        project = rated_pairs(session, stack.workspace_id, 3)
        item = add_item(session, project, "late", ["a", "b"])
        rating = say(session, item, add_rater(session, project, "Bob"), -1)
        session.get_one(Rating, (item.id, rating.rater_id, 0)).event_id = "evt_zzzzzzzzzzzzzzzzzz"
        session.flush()
        assert len(exported(session, project)) == 3


def test_a_frozen_dataset_can_be_split_anew(stack: Stack, work: Any) -> None:
    with stack.database.write() as session:
        _, dataset = frozen(session, rated_pairs(session, stack.workspace_id, 20), shape="margin")
        other = imports.resplit(session, stack.workspace_id, None, dataset.id, Split(eval=0.5))
    work(runs=False)
    with stack.database.read() as session:
        other = session.get_one(Dataset, other.id)
        assert other.status == "ready", other.reason
        assert (other.rows, other.errors, other.shape) == (20, 0, "preference")
        assert all(isinstance(each["row"]["margin"], float) for each in rows_of(other))


def test_prompts_as_an_export_gives_them_are_read_back(stack: Stack) -> None:
    with stack.database.write() as session:
        project = rated_pairs(session, stack.workspace_id, 6)
        for row in exported(session, project, shape="margin"):
            assert shapes.detect(row) == "preference" and shapes.read(row, "preference").row == row
        assert session.scalar(select(func.count()).select_from(Item)) == 6
