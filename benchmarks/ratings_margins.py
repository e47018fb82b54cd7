"""What margins do: a reward model trained with and without them on graded pairs, and its score gap on held-out pairs by grade.

`python -m benchmarks.ratings_margins [--seeds 3] [--steps 60]`: a snapshot of made-up ratings, a tiny model, a CPU; a few minutes. Ratings
come from a hidden quality of the answers with noise, so the pairs of a grade are not told apart by anything else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the model is tiny: a second thread costs more than it does

from app import storage
from app.database import Database, new_id
from app.datasets.tables import Dataset
from app.feedback import snapshots
from app.feedback.intervals import ratio_over_clusters
from app.feedback.rules import Rules
from app.feedback.tables import Item, Project, Rater, Rating, Response
from app.runs.graded import GRADES, level
from benchmarks.studio import header, studio
from tests.models import tiny_llama
from worker import rewards, rows, train
from worker.reporting import Report

GOOD, BAD = ("thanks", "please", "gladly"), ("no", "meh", "whatever")
ITEMS = 480
NOISE = 0.7


class Silent(Report):
    """Keeps what a trainer says to itself."""

    def send(self, kind: str, **fields: Any) -> None:
        """Drop a message."""


def fill(database: Database, workspace_id: str) -> str:
    """A project of rated pairs: the more good words an answer has than the other, the better it is called. Returns its id."""
    draw = random.Random(1)
    with database.write() as session:
        project = Project(workspace_id=workspace_id, name="margins", kind="pair")
        session.add(project)
        session.flush()
        rater = Rater(project_id=project.id, who="user:bench", name="bench")
        session.add(rater)
        session.flush()
        items: list[dict[str, Any]] = []
        answers: list[dict[str, Any]] = []
        votes: list[dict[str, Any]] = []
        for number in range(ITEMS):
            item = new_id("itm")
            known = {"prompt_hash": str(number), "order_key": draw.random(), "gold": None, "reason": None}
            items.append({"id": item, "project_id": project.id, "prompt": [{"role": "user", "content": f"Ask {number}?"}], **known})
            quality = [draw.randint(0, 5), draw.randint(0, 5)]
            for place, good in enumerate(quality):
                words = [draw.choice(GOOD) for _ in range(good)] + [draw.choice(BAD) for _ in range(5 - good)]
                draw.shuffle(words)
                answers.append({"item_id": item, "place": place, "text": " ".join(words) + f" {number}", "source": f"m{place}"})
            felt = round(0.8 * (quality[1] - quality[0]) + draw.gauss(0, NOISE))
            shown = {"left": draw.randrange(2), "at": 1.79e9 + number, "event_id": new_id("evt")}
            rated = {"rater_id": rater.id, "project_id": project.id, "kind": "rate", "preference": max(-3, min(3, felt))}
            votes.append({"item_id": item, **rated, **shown})
        for table, made in ((Item, items), (Response, answers), (Rating, votes)):
            session.execute(insert(table), made)
        return project.id


def gaps(dataset: Dataset, model: Path, work: Path, *, margins: bool, seed: int, steps: int) -> list[tuple[int, float]]:
    """Train a reward model as a run does; for each held-out pair its grade, and how far its chosen answer is scored above the other."""
    file = str(storage.path(f"{dataset.path}/rows.jsonl"))
    part = {"path": file, "shape": "preference", "sha256": dataset.sha256}
    params = {"max_steps": steps, "eval_steps": steps, "save_steps": steps, "batch_size": 16, "learning_rate": 1e-3, "precision": "fp32"}
    work.mkdir(parents=True)
    spec = {"run_id": "bench", "attempt": 1, "work": str(work), "method": "reward", "tuner": "full", "tuner_params": {}, "seed": seed}
    spec |= {"params": {**params, "use_margin": margins, "center_rewards_coefficient": 0.01}, "device": "cpu", "threads": 1}
    spec |= {"model": {"path": str(model), "adapter": None, "name": "tiny"}, "train": {**part, "split": "train"}}
    spec |= {"eval": {**part, "split": "eval", "graded": True}, "resume": None, "resume_step": 0, "offsets": {}, "adjustments": {}}
    train.main(json.loads(json.dumps({**spec, "sample_prompts": 0})), Silent())
    held = list(rows.read(file, "eval"))
    sides = [[{"prompt": each["row"]["prompt"], "completion": each["row"][side]} for each in held] for side in ("chosen", "rejected")]
    scorer = rewards.load({"path": str(work / f"checkpoint-{steps}"), "adapter": None})
    chosen, rejected = (rewards.score(scorer, side) for side in sides)
    grades = [level(each["source"]["meta"]["grade"]) for each in held]
    return [(grade, above - below) for grade, above, below in zip(grades, chosen, rejected, strict=True)]


def main() -> None:
    """Print the mean gap by grade with and without margins, and the difference of the two with its interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    asked = parser.parse_args()
    header("Margins of graded pairs")
    with studio("sqlite", web=False) as bench:
        os.environ["LUTHIER_HOME"] = str(bench.home)
        project_id = fill(bench.database, bench.workspace_id)
        model = tiny_llama(bench.home / "tiny", seed=3)
        for margin in ("small", "large"):
            with bench.database.write() as session:
                project = session.get_one(Project, project_id)
                snapshot = snapshots.freeze(session, project, Rules(shape="margin", margin=margin, held_out=0.4), None)  # type: ignore[arg-type]
                dataset = session.get_one(Dataset, snapshot.dataset_id)
            compare(dataset, model, bench.home, margin, asked.seeds, asked.steps)


def compare(dataset: Dataset, model: Path, home: Path, margin: str, seeds: int, steps: int) -> None:
    """Train both ways with each seed and print the outcome of one kind of margin."""
    found: dict[bool, dict[int, list[list[float]]]] = {True: defaultdict(list), False: defaultdict(list)}
    began = time.perf_counter()
    for seed in range(seeds):
        for margins in (False, True):
            by_grade: dict[int, list[float]] = defaultdict(list)
            for grade, gap in gaps(dataset, model, home / f"{margin}-{seed}-{margins}", margins=margins, seed=seed, steps=steps):
                by_grade[grade].append(gap)
            for grade, values in by_grade.items():
                found[margins][grade].append(values)
    seconds = time.perf_counter() - began
    print(f"\nmargins {margin}: {dataset.train_rows} pairs trained on, {seeds} seeds, {steps} steps, {seconds:.0f} s")
    print("| people said | pairs | right without | right with | gap without | gap with | difference (95 %) |")
    print("|---|---|---|---|---|---|---|")
    for grade in sorted(found[True], reverse=True):
        without, with_ = (np.array(found[margins][grade]) for margins in (False, True))
        difference = (with_ - without).mean(axis=0)  # of each pair, over the seeds; pairs are drawn for the interval
        told = ratio_over_clusters(difference, np.ones_like(difference))
        interval = f"{told.value:+.2f} ({told.low:+.2f} to {told.high:+.2f})" if told.low is not None else f"{told.value:+.2f}"
        right = [f"{(each > 0).mean():.1%}" for each in (without, with_)]
        row = (GRADES[grade], without.shape[1], *right, f"{without.mean():.2f}", f"{with_.mean():.2f}", interval)
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
