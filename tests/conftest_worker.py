"""The fixture `work`: do what waits in the queues, here and now, through the real supervisor and real child processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def work(stack: Any) -> Callable[..., None]:
    """`work()` does all waiting jobs and runs; `work(runs=False)` only jobs."""
    from worker.tasks import drain

    def _work(*, runs: bool = True) -> None:
        drain(stack.database, stack.settings, runs=runs)

    return _work
