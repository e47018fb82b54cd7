"""Writes the sheet of a snapshot: what its rows are, what was left out, and what to look at before training on it."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import median
from typing import Any

import numpy as np

from app import methods
from app.feedback.gather import Tally
from app.feedback.intervals import Estimate, exact
from app.feedback.pool import Pool
from app.feedback.rules import METHODS, Share, Sheet, SourceCount
from app.methods import kto
from app.runs.graded import level

FEW_ROWS, VERY_FEW_ROWS = 500, 100
LIMIT = 1024
BATCH = 8
SOURCES = 20
"""Models that are named."""
LEFT_BAND, LONGER_LIMIT = (0.45, 0.55), 0.60


def sheet(pool: Pool, tally: Tally, checkpoint_id: str | None) -> Sheet:
    """All that is known of the rows that were kept."""
    rules, order = pool.rules, pool.order
    eval_rows = sum(pool.is_eval)
    per_prompt, grades = pool.per_prompt(), pool.grades()
    sources = pool.sources()
    answers = sum(sources.values())
    longest, neighbours = pool.runs() if rules.shape == "unpaired" else (None, None)
    flips = _flips(tally)
    mean, most = pool.tokens()
    dropped = {reason: count for reason, count in (tally.dropped + pool.dropped).items() if count}
    found = Sheet(
        shape=rules.shape,
        method=METHODS[rules.shape],
        rows=len(order),
        train_rows=len(order) - eval_rows,
        eval_rows=eval_rows,
        prompts=sum(per_prompt.values()),
        leaks=pool.leaks(),
        items=pool.items(),
        votes=tally.votes,
        extras=tally.extras,
        raters=len(tally.raters),
        dropped=dropped,
        votes_out=dict(tally.votes_out),
        per_prompt=per_prompt,
        grades=grades,
        left=share_of(exact(tally.left, tally.decided)),
        longer=share_of(exact(*pool.longer())),
        flips=flips,
        people=_people(tally, pool.kept_items()) if rules.shape in ("preference", "margin") else {},
        label_smoothing=round(flips.value, 2) if flips and rules.shape == "preference" and round(flips.value, 2) else None,
        weights=kto_weights(*pool.labels()) if rules.shape == "unpaired" else None,
        longest_run=longest,
        neighbours=neighbours,
        sources=[
            SourceCount(name=name, checkpoint=checkpoint, answers=count, share=count / answers)
            for (name, checkpoint), count in sorted(sources.items(), key=lambda each: (-each[1], each[0][0]))[:SOURCES]
        ],
        on_policy=sum(count for (_, made_by), count in sources.items() if made_by == checkpoint_id) / answers
        if checkpoint_id and answers
        else None,
        long_rows=pool.long_rows(LIMIT),
        mean_tokens=mean,
        most_tokens=most,
        cap=rules.max_pairs_per_prompt if pool.kind == "rank" else None,
        steps=math.ceil((len(order) - eval_rows) / _batch(METHODS[rules.shape])),
        warnings=[],
    )
    found.suggested = suggested(found)
    found.warnings = _warnings(found, pool)
    return found


def share_of(estimate: Estimate) -> Share | None:
    """A share with its interval, or None where nothing was observed."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    return Share(value=estimate.value, low=estimate.low, high=estimate.high, n=estimate.n)


def kto_weights(good: int, bad: int) -> dict[str, float] | None:
    """Weights that balance good and bad answers, as the method sets them by itself. None where one kind is missing."""
    if not good or not bad:
        return None
    desirable, undesirable = kto.weights(good, bad)
    return {"desirable_weight": desirable, "undesirable_weight": undesirable}


def suggested(found: Sheet) -> dict[str, Any]:
    """Settings of the run that the data suggest."""
    settings: dict[str, Any] = dict(found.weights or {})
    if found.method in ("dpo", "reward", "kto"):
        settings["epochs"] = 1.0  # more of them learn the raters by heart (Llama 2)
    if found.label_smoothing:
        settings |= {"loss": "robust", "label_smoothing": found.label_smoothing}
    return settings


def _flips(tally: Tally) -> Share | None:
    if not tally.values:
        return None
    from app.feedback.agreement import flip_rate

    return share_of(flip_rate(tally.values))


def _people(tally: Tally, kept: set[str]) -> dict[str, Share]:
    """How often a vote takes the side most others on the pair take, by the grade of the pair; intervals by drawing pairs."""
    from app.feedback.agreement import by_item, leave_one_out
    from app.feedback.intervals import ratio_over_clusters

    counts: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for item, given in by_item(tally.values).items():
        middle = median(given.values())
        if item not in kept or not middle:
            continue
        told = leave_one_out((item, rater, value) for rater, value in given.items()).values()
        counts[level(middle)].append((sum(round((each.value or 0) * each.n) for each in told), sum(each.n for each in told)))
    found = {}
    for grade, pairs in sorted(counts.items(), reverse=True):
        hits, seen = np.array(pairs, dtype=np.float64).T
        if share := share_of(ratio_over_clusters(hits, seen)):
            found[str(grade)] = share
    return found


def _batch(method: str) -> int:
    objective = methods.registry().get(method)
    return int(objective.params.model_fields["batch_size"].default) if objective else BATCH


def _warnings(found: Sheet, pool: Pool) -> list[str]:
    if not found.rows:
        return ["No vote gives a row under these rules. The list of what was left out says why."]
    said = []
    if found.train_rows < VERY_FEW_ROWS:
        said.append(f"{found.train_rows} rows for training are very few: expect little but a change of style. A few hundred are a start.")
    elif found.train_rows < FEW_ROWS:
        said.append(f"{found.train_rows} rows for training are few: keep the epochs at 1 to 3 and look at the evaluation.")
    if pool.rules.held_out and not found.eval_rows:
        said.append("Nothing is kept for evaluation: all rows belong to one conversation.")
    if found.left and (found.left.low > LEFT_BAND[1] or found.left.high < LEFT_BAND[0]):
        said.append(f"The answer on the left won {found.left.value:.0%} of the votes. Sides are drawn by chance, so raters prefer a side.")
    if found.longer and found.longer.low > LONGER_LIMIT:
        said.append(f"The longer answer is the chosen one in {found.longer.value:.0%} of the pairs: the model may learn to be long.")
    if found.long_rows:
        what = "A reward model leaves them out" if found.method in ("reward", "score") else "They are cut there"
        said.append(f"{found.long_rows:,} rows probably have more than {LIMIT:,} tokens. {what}, unless the run has a higher limit.")
    if found.on_policy is not None and found.on_policy < 0.5:
        said.append(f"Only {found.on_policy:.0%} of the answers come from the model to be trained. It learns less from answers of others.")
    if found.label_smoothing and found.label_smoothing >= 0.2:
        said.append(
            f"Raters contradict each other in {found.label_smoothing:.0%} of the votes. Take unanimous items, or a higher least grade."
        )
    if found.shape == "unpaired" and found.weights is None:
        said.append("All labels are the same; KTO needs good and bad answers.")
    if found.longest_run and found.longest_run > 20 and found.weights:
        said.append(f"One label is so common that {found.longest_run} rows in a row have it.")
    if found.neighbours:
        said.append(f"One prompt has most of the rows, so neighbours ask the same ({found.neighbours:,} times).")
    if found.shape == "margin" and not found.grades:
        said.append("Rankings have no grades, so every margin is 0.")
    return said
