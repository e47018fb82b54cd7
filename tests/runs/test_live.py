"""The live stream: every point to every reader once, whoever joins, falls behind or comes back."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.events import Hub, parse_cursors
from app.leases import Claim
from app.runs import progress
from app.runs.live import QueueTopic, RunTopic
from app.runs.progress import Batch
from tests.factories import add_run, claim_run


@asynccontextmanager
async def _hub(stack: Any) -> AsyncIterator[Hub]:
    hub = Hub(stack.database, {"run": RunTopic(), "queue": QueueTopic()})
    hub.start()
    try:
        yield hub
    finally:
        await asyncio.to_thread(hub.stop)


def _claimed(stack: Any) -> Claim:
    with stack.database.write() as session:
        add_run(session, stack.workspace_id)
        mine = claim_run(session)
        progress.begin(session, mine, 0)
    return mine


def _write(stack: Any, mine: Claim, step: int) -> None:
    with stack.database.write() as session:
        progress.record(session, mine, Batch(points=[("loss", step, float(step))], step=step))


class Reader:
    """Reads a stream as a browser does, and remembers the last id."""

    def __init__(self, hub: Hub, topic: str, after: str) -> None:
        self.hub, self.topic, self.last = hub, topic, after
        self.steps: list[int] = []
        self.kinds: list[str] = []

    async def read(self, until: int, seconds: float = 60.0, frames: int | None = None) -> None:
        """Until the step `until` was seen, or so many frames, then the connection is cut."""
        stream = self.hub.stream([self.topic], parse_cursors(self.last), html=False)
        count = 0
        try:
            async with asyncio.timeout(seconds):
                async for part in stream:
                    for block in part.decode().split("\n\n"):
                        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
                        if "event" not in fields:
                            continue
                        count += 1
                        self.last = fields["id"]
                        self.kinds.append(fields["event"])
                        data = json.loads(fields["data"])
                        self.steps += [point[1] for point in data.get("points", [])]
                    if (self.steps and self.steps[-1] >= until) or (frames is not None and count >= frames):
                        return
        finally:
            await stream.aclose()


def test_readers_that_join_late_get_every_point_once(stack: Any) -> None:
    mine = _claimed(stack)

    async def scene() -> list[Reader]:
        async with _hub(stack) as hub:
            readers = [Reader(hub, f"run:{mine.id}", f"run:{mine.id}=0") for _ in range(10)]

            async def late(reader: Reader, wait: float) -> None:
                await asyncio.sleep(wait)
                await reader.read(60)

            tasks = [asyncio.create_task(late(reader, i * 0.05)) for i, reader in enumerate(readers)]
            for step in range(1, 61):
                await asyncio.to_thread(_write, stack, mine, step)
                await asyncio.sleep(0.005)
            await asyncio.gather(*tasks)
            return readers

    for reader in asyncio.run(scene()):
        assert reader.steps == list(range(1, 61))


def test_a_stream_cut_twenty_times_loses_and_doubles_nothing(stack: Any) -> None:
    mine = _claimed(stack)
    chance = random.Random(4)

    async def scene() -> Reader:
        async with _hub(stack) as hub:
            reader = Reader(hub, f"run:{mine.id}", f"run:{mine.id}=0")

            async def cut_often() -> None:
                for _ in range(20):
                    await reader.read(200, frames=chance.randrange(1, 6))
                await reader.read(200)

            task = asyncio.create_task(cut_often())
            for step in range(1, 201):
                await asyncio.to_thread(_write, stack, mine, step)
            await task
            return reader

    assert asyncio.run(scene()).steps == list(range(1, 201))


def test_a_reader_that_falls_behind_is_served_from_the_database(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.events.WAITING_FRAMES", 3)
    mine = _claimed(stack)

    async def scene() -> Reader:
        async with _hub(stack) as hub:
            reader = Reader(hub, f"run:{mine.id}", f"run:{mine.id}=0")
            task = asyncio.create_task(reader.read(100))
            for step in range(1, 101):
                await asyncio.to_thread(_write, stack, mine, step)
                if step % 10 == 0:
                    await asyncio.sleep(0.06)
            await task
            return reader

    assert asyncio.run(scene()).steps == list(range(1, 101))


def test_a_new_attempt_tells_pages_to_drop_what_is_void(stack: Any) -> None:
    mine = _claimed(stack)
    for step in range(1, 8):
        _write(stack, mine, step)

    async def scene() -> Reader:
        async with _hub(stack) as hub:
            reader = Reader(hub, f"run:{mine.id}", f"run:{mine.id}=0")
            task = asyncio.create_task(reader.read(9))
            await asyncio.sleep(0.3)

            def retry() -> None:
                with stack.database.write() as session:
                    progress.failed(session, mine, "killed", "The trainer was killed.")
                with stack.database.write() as session:
                    again = claim_run(session)
                    progress.begin(session, again, 0)
                for step in range(1, 10):
                    _write(stack, again, step)

            await asyncio.to_thread(retry)
            await task
            return reader

    reader = asyncio.run(scene())
    assert reader.steps == [*range(1, 8), *range(1, 10)]
    cut = reader.kinds.index("truncate")
    assert "metrics" in reader.kinds[:cut] and "metrics" in reader.kinds[cut:]


def test_cursors_that_cannot_be_read_are_left_out() -> None:
    assert parse_cursors("run:a=12,queue:w=3,x,run:b=,=4,run:c=-1") == {"run:a": 12, "queue:w": 3}
    assert parse_cursors(None) == {}


def test_the_list_is_told_each_movement_once_however_many_runs_there_are(stack: Any) -> None:
    claims = [_claimed(stack) for _ in range(3)]
    topic = QueueTopic()
    with stack.database.read() as session:
        cursor = topic.now(session, stack.workspace_id)
        topic.changed(session, {stack.workspace_id: cursor})
        _, cursor = topic.frames(session, stack.workspace_id, cursor)
    _write(stack, claims[1], 1)
    with stack.database.read() as session:
        assert topic.changed(session, {stack.workspace_id: cursor}) == [stack.workspace_id]
        frames, further = topic.frames(session, stack.workspace_id, cursor)
        told = [json.loads(frame.body.split(b"data: ")[1])["run"]["id"] for frame in frames]
        assert told == [claims[1].id]
        assert topic.changed(session, {stack.workspace_id: further}) == []
        # Whoever comes from elsewhere, with a cursor of the past, is told of all three.
        late, _ = topic.frames(session, stack.workspace_id, 1)
        assert len(late) == 3
