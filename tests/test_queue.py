"""The broker in a folder: a reader that is quicker than the writer never sees half a message."""

from __future__ import annotations

import threading
from queue import Empty
from typing import Any

import pytest

from app.queue import get_celery


@pytest.mark.parametrize("stack", ["sqlite"], indirect=True)
def test_messages_come_whole_however_soon_they_are_read(stack: Any) -> None:
    celery, wanted = get_celery(), 300
    reading, writing = (celery.connection_for_read().default_channel for _ in range(2))

    def _write() -> None:
        for number in range(wanted):
            writing._put("tried", {"body": "x" * 5000, "number": number})

    writer = threading.Thread(target=_write)
    writer.start()
    found: list[int] = []
    while len(found) < wanted and (writer.is_alive() or reading._size("tried")):
        try:
            found.append(reading._get("tried")["number"])
        except Empty:
            continue
    writer.join()
    assert sorted(found) == list(range(wanted))
