"""Which item a vote would teach most about: what is known of models from votes added up, and the next groups to ask. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from app.feedback.intervals import Array
from app.feedback.ranking import RIDGE, logistic, sigmoid


class Known(NamedTuple):
    """What votes say of models, as far as the choice of the next item needs it."""

    names: tuple[str, ...]
    theta: Array
    """Ratings in log-odds; no model is the anchor."""
    covariance: Array
    """A model without votes has the variance that the L2 leaves it."""


def known(names: Iterable[str], said: Iterable[tuple[str, str, float, int]]) -> Known:
    """Ratings of some models from votes that are added up: (a, b, sum of the scores of a, how many). Votes on others are left out."""
    order = tuple(sorted(set(names)))
    place = {name: index for index, name in enumerate(order)}
    rows = [(place[a], place[b], score, n) for a, b, score, n in said if a in place and b in place and a != b]
    if not rows:
        return Known(order, np.zeros(len(order)), np.eye(len(order)) / RIDGE)
    a, b = (np.array([row[side] for row in rows], dtype=np.int64) for side in (0, 1))
    score, n = (np.array([[row[column] for row in rows]], dtype=np.float64) for column in (2, 3))
    unit = np.eye(len(order))
    theta, curvature = logistic(unit[a] - unit[b], score, n, np.full(len(order), RIDGE), np.zeros((1, len(order))))
    return Known(order, theta[0], np.linalg.inv(curvature[0]))


def most_uncertain(of: Known, groups: Sequence[Sequence[str]], n: int = 1, left: Sequence[int] | None = None) -> list[int]:
    """The n groups of models a vote on whose answers would teach most, by their place in `groups`; reckoned anew after each.

    What a pair teaches is by how much one more vote on it shrinks the variances of all differences of two models together; a ranking, the
    sum over its pairs. A model without votes is unknown and comes up early. A group comes up several times, at most `left` times; models
    that `of` does not name count nothing.
    """
    place, cov = {name: index for index, name in enumerate(of.names)}, of.covariance.copy()
    pairs = [(place[a], place[b], g) for g, group in enumerate(groups) for a, b in combinations(group, 2) if a in place and b in place]
    if not pairs:
        return []
    i, j, group_of = np.array(pairs, dtype=np.int64).T
    each_pair = np.arange(len(i))
    rooms = np.array([n] * len(groups) if left is None else left)
    certain = sigmoid(of.theta[i] - of.theta[j])
    information = certain * (1 - certain)
    chosen: list[int] = []
    while len(chosen) < n and rooms.any():
        moved = cov[:, i] - cov[:, j]
        spread = moved[i, each_pair] - moved[j, each_pair]
        shrinks = len(cov) * (moved**2).sum(axis=0) - moved.sum(axis=0) ** 2
        taught = np.bincount(group_of, weights=information * shrinks / (1 + information * spread), minlength=len(groups))
        best = int(np.where(rooms > 0, taught, -1.0).argmax())
        rooms[best] -= 1
        chosen.append(best)
        for each in np.flatnonzero(group_of == best):
            along = cov[:, i[each]] - cov[:, j[each]]
            cov -= np.outer(along, along) * information[each] / (1 + information[each] * (along[i[each]] - along[j[each]]))
    return chosen
