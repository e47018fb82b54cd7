"""Orders: of the answers of a ranking, of the rows KTO trains on, of the prompts kept for evaluation. Pure functions."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b
from itertools import islice, pairwise

LOOK_AHEAD = 200
"""Rows that are looked at for one with another prompt, before the row is put aside for later."""
EVEN_RATIO = 9
"""With more of one label than this to one of the other, labels are spread evenly rather than by chance, so that runs stay short."""


def side(value: float) -> int:
    """-1, 0 or 1."""
    return (value > 0) - (value < 0)


# --- rankings -------------------------------------------------------------------------------------------------------------


def places_of(ranking: Sequence[Sequence[str]], turn: int = 1) -> dict[str, int]:
    """Response id → its place in a ranking, 0 for the best; ties share one. With `turn` -1 the ranking begins with the worst."""
    return {response: place for place, tied in enumerate(ranking[::turn]) for response in tied}


def tiers(ids: Iterable[str], won: Sequence[tuple[str, str]]) -> dict[str, int] | None:
    """Place of each answer when all pairs are put together, 0 for the best; None where they go in a circle."""
    worse: dict[str, list[str]] = {each: [] for each in ids}
    above: Counter[str] = Counter()
    for better, other in won:
        worse[better].append(other)
        above[other] += 1
    order: dict[str, int] = {}
    ready, tier = [each for each in worse if not above[each]], 0
    while ready:
        following: list[str] = []
        for each in ready:
            order[each] = tier
            for other in worse[each]:
                above[other] -= 1
                if not above[other]:
                    following.append(other)
        ready, tier = following, tier + 1
    return order if len(order) == len(worse) else None


def urgency(better: int, worse: int, last: int) -> tuple[int, int, int]:
    """Which pairs of a ranking come first: the first against the last, neighbours from the top, then the others, far apart first."""
    if better == 0 and worse == last:
        return (0, 0, 0)
    return (1, better, 0) if worse - better == 1 else (2, better - worse, better)


# --- rows -----------------------------------------------------------------------------------------------------------------


def held_out(groups: Sequence[int], share: float, seed: int) -> list[bool]:
    """Which rows are for evaluation: whole groups in a seeded order until the share is reached; never all.

    A group that would go far beyond the share is passed over, so that one long conversation does not become the whole evaluation.
    """
    counts = Counter(groups)
    wanted = max(1, round(share * len(groups))) if share and len(counts) > 1 else 0
    key = seed.to_bytes(8, "little")
    order = sorted(counts, key=lambda group: blake2b(group.to_bytes(8, "little"), digest_size=8, key=key).digest())
    taken: set[int] = set()
    total = 0
    for group in order:
        if total >= wanted or len(taken) == len(counts) - 1:
            break
        if total + counts[group] <= max(wanted * 3 // 2, wanted + 1):
            taken.add(group)
            total += counts[group]
    return [group in taken for group in groups]


def mixed(prompts: Sequence[Hashable], labels: Sequence[bool], seed: int) -> list[int]:
    """An order for KTO, which never shuffles: labels mixed, and no two neighbours with the same prompt where that can be had."""
    chance = random.Random(seed)
    waiting = {label: [place for place, each in enumerate(labels) if each is label] for label in (True, False)}
    few, many = sorted(len(places) for places in waiting.values())
    jitter = 1.0 if many <= EVEN_RATIO * max(1, few) else 0.0
    spread: list[tuple[float, bool]] = []
    for label, places in waiting.items():
        chance.shuffle(places)
        spread += [((number + (chance.random() if jitter else 0.5)) / len(places), label) for number in range(len(places))]
    queues = {label: deque(places) for label, places in waiting.items()}
    order: list[int] = []
    left: list[int] = []
    for _, label in sorted(spread):
        last = prompts[order[-1]] if order else None
        queue = queues[label]
        place = next((index for index, row in enumerate(islice(queue, LOOK_AHEAD)) if prompts[row] != last or not order), None)
        if place is None:
            left.append(queue.popleft())
            continue
        order.append(queue[place])
        del queue[place]
    return _woven(order, left, prompts, labels)


def _woven(order: list[int], left: list[int], prompts: Sequence[Hashable], labels: Sequence[bool]) -> list[int]:
    """Rows that found no place at their turn go where neither neighbour has their prompt, between unlike labels first; else to the end."""
    for strict in (True, False, False):
        if not left:
            break
        waiting, woven = deque(left), list[int]()
        for row in [*order, None]:
            before = woven[-1] if woven else None
            if waiting and not any(near is not None and prompts[near] == prompts[waiting[0]] for near in (before, row)):
                unlike = before is None or row is None or labels[before] != labels[row]
                if unlike or not strict:
                    woven.append(waiting.popleft())
            if row is not None:
                woven.append(row)
        order, left = woven, list(waiting)
    return order + left


def longest_run(labels: Sequence[bool]) -> int:
    """Most neighbours in a row with the same label."""
    longest = run = 0
    for place, label in enumerate(labels):
        run = run + 1 if place and labels[place - 1] is label else 1
        longest = max(longest, run)
    return longest


def same_neighbours(prompts: Sequence[Hashable]) -> int:
    """How many rows have the prompt of the row before."""
    return sum(one == other for one, other in pairwise(prompts))
