"""Results that cost seconds to reckon, kept in memory while nothing changed. Knows no statistics."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

MOST = 32
"""Results kept at most."""
SLOW = 1.0
"""Seconds a result must have cost to be shown although votes came since."""
PATIENCE = 20.0
"""How many times its cost a slow result is shown before it is reckoned anew: a page that costs 5 s is at most 100 s behind."""


@dataclass(frozen=True)
class _Kept:
    seq: int
    result: Any
    made: float
    cost: float


_kept: OrderedDict[Hashable, _Kept] = OrderedDict()
_gates: dict[Hashable, threading.Lock] = {}
_lock = threading.Lock()


def kept(key: Hashable, seq: int, reckon: Callable[[], Any]) -> Any:
    """The result for `key` as of `seq`, which counts changes; a slow one may be a little older.

    One thread reckons at a time; meanwhile others get what there was before, or wait where there is nothing yet.
    """
    found = _look(key)
    if found is not None and _holds(found, seq):
        return found.result
    with _lock:
        gate = _gates.setdefault(key, threading.Lock())
    if not gate.acquire(blocking=found is None or found.cost <= SLOW):
        return found.result if found is not None else None
    try:
        found = _look(key)
        if found is not None and _holds(found, seq):  # another thread was quicker
            return found.result
        began = time.monotonic()
        result = reckon()
        end = time.monotonic()
        with _lock:
            _kept[key] = _Kept(seq, result, end, end - began)
            _kept.move_to_end(key)
            while len(_kept) > MOST:
                _gates.pop(_kept.popitem(last=False)[0], None)
        return result
    finally:
        gate.release()


def _look(key: Hashable) -> _Kept | None:
    with _lock:
        found = _kept.get(key)
        if found is not None:
            _kept.move_to_end(key)
        return found


def _holds(found: _Kept, seq: int) -> bool:
    recent = found.cost > SLOW and time.monotonic() - found.made < PATIENCE * found.cost
    return found.seq == seq or (recent and found.seq < seq) or found.seq > seq


def forget() -> None:
    """Keep nothing."""
    with _lock:
        _kept.clear()
        _gates.clear()
