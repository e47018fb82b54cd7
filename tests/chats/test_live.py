"""The stream of a chat: cut anywhere, also by a restart of the web server, it brings every token once; a silent worker is noticed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import update

from app.chats import progress
from app.chats.live import ChatTopic
from app.chats.tables import Answer
from app.database import now
from app.errors import NotFound
from app.events import Hub, parse_cursors
from app.leases import Claim
from tests.chats.talk import able_worker, answers, ask, over, tiny, wait
from tests.factories import add_checkpoint


@asynccontextmanager
async def _hub(stack: Any, topic: ChatTopic | None = None) -> AsyncIterator[Hub]:
    hub = Hub(stack.database, {"chat": topic or ChatTopic()})
    hub.start()
    try:
        yield hub
    finally:
        await asyncio.to_thread(hub.stop)


def _asked(stack: Any) -> tuple[str, Claim]:
    able_worker(stack)
    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id).id
    chat_id = ask(stack, checkpoint)
    with stack.database.write() as session:
        mine = progress.claim(session, "w", 60)
    assert mine is not None
    return chat_id, mine


def _add(stack: Any, mine: Claim, number: int) -> None:
    with stack.database.write() as session:
        progress.add(session, mine, f"{number} ", number)


def _finish(stack: Any, mine: Claim, count: int) -> str:
    text = "".join(f"{number} " for number in range(1, count + 1))
    with stack.database.write() as session:
        progress.finish(session, mine, {"text": text, "tokens": count, "prompt_tokens": 1, "seconds": 1.0, "finish": "stop"})
    return text


class Reader:
    """Reads a chat as a browser does, and remembers the last id."""

    def __init__(self, topic: str) -> None:
        self.topic, self.last = topic, f"{topic}=0"
        self.text = ""
        self.kinds: list[str] = []
        self.whole: str | None = None

    async def read(self, hub: Hub, frames: int | None = None, seconds: float = 30.0) -> bool:
        """Until all is said, or so many frames; True when all was."""
        stream = hub.stream([self.topic], parse_cursors(self.last), html=False)
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
                        if fields["event"] == "token":
                            self.text += data["text"]
                        elif fields["event"] == "answer" and data["answer"]["text"] is not None:
                            self.whole = data["answer"]["text"]
                        elif fields["event"] == "done":
                            return True
                        if frames is not None and count >= frames:
                            return False
        finally:
            await stream.aclose()
        return False


def test_a_stream_cut_often_and_a_web_server_restarted_bring_every_token_once(stack: Any) -> None:
    chat_id, mine = _asked(stack)
    reader, chance = Reader(f"chat:{chat_id}"), random.Random(5)

    async def scene() -> str:
        async def write() -> str:
            for number in range(1, 101):
                await asyncio.to_thread(_add, stack, mine, number)
                await asyncio.sleep(0.005)
            await asyncio.sleep(1.5)  # what came last is read before the answer is whole
            return await asyncio.to_thread(_finish, stack, mine, 100)

        writing = asyncio.create_task(write())
        for _ in range(4):  # four lives of the web server
            async with _hub(stack) as hub:
                for _ in range(5):
                    if await reader.read(hub, chance.randrange(1, 5)):
                        break
        async with _hub(stack) as hub:
            while not await reader.read(hub):
                pass
        return await writing

    text = asyncio.run(scene())
    assert reader.whole == text and text.startswith(reader.text) and len(reader.text) > 0.9 * len(text)


def test_who_comes_late_gets_the_whole(stack: Any) -> None:
    chat_id, mine = _asked(stack)
    for number in range(1, 6):
        _add(stack, mine, number)
    text = _finish(stack, mine, 5)
    reader = Reader(f"chat:{chat_id}")

    async def scene() -> None:
        async with _hub(stack) as hub:
            assert await reader.read(hub)

    asyncio.run(scene())
    assert reader.whole == text and reader.text == "" and reader.kinds == ["answer", "done"]


def test_a_silent_worker_changes_the_page_without_anybody_writing(stack: Any) -> None:
    chat_id, mine = _asked(stack)
    _add(stack, mine, 1)
    shown: list[str] = []

    def render(session: Any, key: str, whole: bool) -> str:
        from app.chats import service

        found = service.answers(session, service.get(session, stack.workspace_id, key))
        shown.append(found[0].status)
        return "<p>x</p>"

    async def scene() -> None:
        async with _hub(stack, ChatTopic(render)) as hub:
            stream = hub.stream([f"chat:{chat_id}"], {f"chat:{chat_id}": 10_000}, html=True)

            async def read() -> None:
                async for _ in stream:
                    if "failed" in shown:
                        return

            reading = asyncio.create_task(read())
            await asyncio.sleep(0.3)
            with stack.database.write() as session:
                session.execute(update(Answer).values(lease_until=now() + 0.5))
            await asyncio.wait_for(reading, 20)
            await stream.aclose()

    asyncio.run(scene())
    assert "failed" in shown


def test_a_chat_of_another_workspace_cannot_be_followed(stack: Any) -> None:
    chat_id, _ = _asked(stack)
    with stack.database.read() as session, pytest.raises(NotFound):
        ChatTopic().admit(session, "ws_other", chat_id)


@pytest.mark.one_stack
@pytest.mark.train
def test_a_worker_killed_in_the_midst_of_an_answer_leaves_words_and_no_process(stack: Any) -> None:
    pytest.importorskip("torch", reason="needs the train extra")
    import psutil

    from worker.tasks import Station

    checkpoint = tiny(stack)
    with open(stack.home / "worker.log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "worker"], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                chat_id = ask(stack, checkpoint, temperature=1.5, max_new_tokens=400, seed=3)
                break
            except Exception:
                assert time.monotonic() < end and process.poll() is None, (stack.home / "worker.log").read_text()
                time.sleep(0.2)
        wait(stack, chat_id, lambda found: found[0].status == "answering")
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    finally:
        process.kill()
    station = Station(stack.database, stack.settings)
    station.arrive()
    try:
        found = wait(stack, chat_id, over, seconds=5)[0]
        assert found.status == "failed" and "The worker that was answering is gone" in (found.reason or "") and found.text
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, "the speaker outlives its worker"
    finally:
        station.leave()
    assert answers(stack, chat_id)[0].lease_owner is None
