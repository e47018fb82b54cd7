"""Live streams: one tailer thread per web process reads what changed, once, and hands it to every browser. Knows no noun.

A source turns rows into frames; a subscriber holds one cursor per topic. A frame says from which cursor it follows, so that a
subscriber that fell behind, or joined in between, notices and reads the rest from the database: nothing is lost or doubled.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

import anyio.to_thread
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.database import Database
from app.errors import Invalid

log = logging.getLogger(__name__)

WAITING_FRAMES = 64
PING_SECONDS = 15.0
CATCH_UP_SECONDS = 1.0
SQLITE_LOOK_SECONDS = 0.05
FRAGMENT_SECONDS = 0.5
MAX_TOPICS = 64


@dataclass(frozen=True)
class Frame:
    """One server-sent event, encoded once for all, and the cursor that holds after it."""

    cursor: int
    body: bytes

    @classmethod
    def of(cls, cursor: int, event: str, data: dict[str, Any]) -> Frame:
        """A named event with JSON data."""
        return cls(cursor, f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode())

    @classmethod
    def fragment(cls, html: str) -> Frame:
        """An unnamed event with HTML for the page; moves no cursor."""
        lines = "".join(f"data: {line}\n" for line in html.splitlines() if line.strip())
        return cls(-1, f"{lines}\n".encode())


class Source(Protocol):
    """Where the frames of one kind of topic come from. `key` is the part behind the colon.

    One that may be followed by its id has a method `admit(session, workspace_id, key)`, and one whose HTML should flow faster than others'
    an attribute `fragment_seconds`.
    """

    def now(self, session: Session, key: str) -> int:
        """The newest cursor."""

    def changed(self, session: Session, cursors: dict[str, int]) -> list[str]:
        """Which of the keys have something past their cursor."""

    def frames(self, session: Session, key: str, after: int) -> tuple[list[Frame], int]:
        """What came after a cursor, and the cursor that holds then."""

    def fragment(self, session: Session, key: str, after: int | None = None) -> str:
        """HTML that shows the present state (with `after`: at least of what came after that cursor), or an empty string."""


@dataclass(frozen=True)
class Delivery:
    """Frames of one topic that follow on `after` and lead to `cursor`."""

    topic: str
    after: int
    cursor: int
    frames: list[Frame]


class Subscriber:
    """One open stream: its topics with their cursors, and a short queue that the tailer fills."""

    def __init__(self, cursors: dict[str, int], *, html: bool) -> None:
        self.cursors = cursors
        self.html = html
        self.queue: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self.behind: set[str] = set()

    def put(self, delivery: Delivery | None) -> None:
        """Queue a delivery; when too many wait, they are dropped and the topic is read from the database instead."""
        if delivery is not None and self.queue.qsize() >= WAITING_FRAMES:
            while not self.queue.empty():
                dropped = self.queue.get_nowait()
                if dropped is not None:
                    self.behind.add(dropped.topic)
            self.behind.add(delivery.topic)
        self.queue.put_nowait(delivery)

    def id_line(self) -> bytes:
        """The cursor vector, which a browser sends back as `Last-Event-ID`."""
        return f"id: {','.join(f'{topic}={cursor}' for topic, cursor in self.cursors.items())}\n".encode()


def parse_cursors(value: str | None) -> dict[str, int]:
    """Read a cursor vector such as `run:abc=12,queue=3`; parts that cannot be read are left out."""
    cursors = {}
    for part in (value or "").split(","):
        topic, _, number = part.rpartition("=")
        if topic and number.isdigit():
            cursors[topic] = int(number)
    return cursors


class Hub:
    """The tailer of this process and the streams it feeds."""

    def __init__(self, database: Database, sources: dict[str, Source]) -> None:
        self.database, self.sources = database, sources
        self._subscribers: dict[str, set[Subscriber]] = {}
        self._tails: dict[str, int] = {}
        self._rendered: dict[str, float] = {}
        self._unrendered: set[str] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the tailer; call it from the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._tail, name="tailer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the tailer and every stream."""
        self._stop.set()
        with self._lock:
            everyone = {subscriber for group in self._subscribers.values() for subscriber in group}
        for subscriber in everyone:
            subscriber.put(None)
        if self._thread:
            self._thread.join(timeout=3)

    def source(self, topic: str) -> tuple[Source, str]:
        """Source and key of a topic.

        Raises:
            Invalid: there is no such kind of topic.
        """
        kind, _, key = topic.partition(":")
        if kind not in self.sources:
            raise Invalid(f"There is no topic “{topic}”. Topics are run:ID, chat:ID, feedback:ID and queue.", field="topics")
        return self.sources[kind], key

    def admit(self, session: Session, workspace_id: str, topic: str) -> str:
        """See that a workspace may follow a topic, and return it.

        Raises:
            Invalid: there is no such kind of topic.
            NotFound: it is of another workspace, or not there.
        """
        source, key = self.source(topic)
        admit = getattr(source, "admit", None)
        if admit is None:
            raise Invalid(f"The topic “{topic}” cannot be followed by its id.", field="topics")
        admit(session, workspace_id, key)
        return topic

    # ---- the tailer thread

    def _tail(self) -> None:
        wait = self._sqlite_waiter() if self.database.is_sqlite else self._postgres_waiter()
        looked = 0.0
        while not self._stop.is_set():
            try:
                woken = next(wait)
                now = time.monotonic()
                if woken or self._unrendered or now - looked >= CATCH_UP_SECONDS:
                    looked = now
                    self._look()
            except (DBAPIError, OSError) as error:
                log.warning("The tailer lost the database (%s); trying again.", error)
                self._stop.wait(1.0)
                wait = self._sqlite_waiter() if self.database.is_sqlite else self._postgres_waiter()
            except Exception:  # boundary: live views must outlive one bad row
                log.exception("The tailer failed; trying again.")
                self._stop.wait(1.0)
                wait = self._sqlite_waiter() if self.database.is_sqlite else self._postgres_waiter()

    def _sqlite_waiter(self) -> Any:
        """Yields whether another connection has written since; looks every 50 ms, which costs microseconds."""
        with self.database.engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            connection.rollback()
            before = None
            while True:
                self._stop.wait(SQLITE_LOOK_SECONDS)
                version = raw.execute("PRAGMA data_version").fetchone()[0]
                changed, before = version != before, version
                yield changed

    def _postgres_waiter(self) -> Any:
        """Yields whether somebody notified; waits at most a quarter of a second, so that stopping is quick."""
        import psycopg

        url = self.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
                connection.execute("LISTEN luthier")
                while True:
                    yield any(True for _ in connection.notifies(timeout=0.25, stop_after=1))
        except psycopg.Error as error:
            raise OSError(str(error)) from error

    def _look(self) -> None:
        with self._lock:
            watched = {topic: self._tails.get(topic) for topic, group in self._subscribers.items() if group}
            for topic in [topic for topic in self._tails if topic not in watched]:
                del self._tails[topic]
        if not watched:
            self._unrendered.clear()
            return
        by_kind: dict[str, dict[str, int]] = {}
        for topic, tail in watched.items():
            kind, _, key = topic.partition(":")
            if tail is not None:
                by_kind.setdefault(kind, {})[key] = tail
        with self.database.read() as session:
            for kind, cursors in by_kind.items():
                source = self.sources[kind]
                for key in source.changed(session, cursors):
                    topic = f"{kind}:{key}" if key else kind
                    frames, cursor = source.frames(session, key, cursors[key])
                    self._tails[topic] = cursor
                    self._unrendered.add(topic)
                    if frames:
                        self._send(Delivery(topic, cursors[key], cursor, frames), html=False)
            self._render(session)

    def _render(self, session: Session) -> None:
        now = time.monotonic()
        for topic in list(self._unrendered):
            with self._lock:
                wanted = any(subscriber.html for subscriber in self._subscribers.get(topic, ()))
            if not wanted:
                self._unrendered.discard(topic)
                continue
            source, key = self.source(topic)
            if now - self._rendered.get(topic, 0.0) < getattr(source, "fragment_seconds", FRAGMENT_SECONDS):
                continue
            self._rendered[topic] = now
            self._unrendered.discard(topic)
            html = source.fragment(session, key)
            if html:
                self._send(Delivery(topic, -1, -1, [Frame.fragment(html)]), html=True)

    def _send(self, delivery: Delivery, *, html: bool) -> None:
        with self._lock:
            group = [subscriber for subscriber in self._subscribers.get(delivery.topic, ()) if subscriber.html or not html]
        if self._loop and group:
            self._loop.call_soon_threadsafe(_put_all, group, delivery)

    # ---- the streams

    async def stream(self, topics: list[str], after: dict[str, int], *, html: bool) -> AsyncIterator[bytes]:
        """The events of some topics, from the given cursors on (from now on where none is given), until the client goes."""
        subscriber = Subscriber({topic: after.get(topic, -1) for topic in topics}, html=html)
        with self._lock:
            for topic in topics:
                self._subscribers.setdefault(topic, set()).add(subscriber)
        try:
            yield b": connected\nretry: 1000\n\n"
            for topic in topics:
                for part in await anyio.to_thread.run_sync(self._catch_up, subscriber, topic):
                    yield part
            while not self._stop.is_set():
                try:
                    delivery = await asyncio.wait_for(subscriber.queue.get(), PING_SECONDS)
                except TimeoutError:
                    yield b": ping\n\n"
                    continue
                if delivery is None:
                    return
                for topic in list(subscriber.behind):
                    subscriber.behind.discard(topic)
                    for part in await anyio.to_thread.run_sync(self._catch_up, subscriber, topic):
                        yield part
                for part in await self._parts(subscriber, delivery):
                    yield part
        finally:
            with self._lock:
                for topic in topics:
                    self._subscribers.get(topic, set()).discard(subscriber)
                    if not self._subscribers.get(topic):
                        self._subscribers.pop(topic, None)

    async def _parts(self, subscriber: Subscriber, delivery: Delivery) -> list[bytes]:
        if delivery.after < 0:  # a fragment: it shows the present state, whatever the cursor
            return [frame.body for frame in delivery.frames]
        mine = subscriber.cursors[delivery.topic]
        if delivery.cursor <= mine:
            return []
        if delivery.after == mine:
            return _encode(subscriber, delivery.topic, delivery.frames, delivery.cursor)
        return await anyio.to_thread.run_sync(self._catch_up, subscriber, delivery.topic)

    def _catch_up(self, subscriber: Subscriber, topic: str) -> list[bytes]:
        """Read from the database what the subscriber has not had yet."""
        source, key = self.source(topic)
        with self.database.read() as session:
            if subscriber.cursors[topic] < 0:
                subscriber.cursors[topic] = source.now(session, key)
                parts = [subscriber.id_line() + b"event: hello\ndata: {}\n\n"]
            else:
                after = subscriber.cursors[topic]
                frames, cursor = source.frames(session, key, after)
                parts = _encode(subscriber, topic, frames, cursor)
                html = source.fragment(session, key, after) if frames and subscriber.html else ""
                if html:
                    parts.append(Frame.fragment(html).body)
        with self._lock:
            self._tails.setdefault(topic, subscriber.cursors[topic])
        return parts


def _put_all(group: list[Subscriber], delivery: Delivery) -> None:
    for subscriber in group:
        subscriber.put(delivery)


def _encode(subscriber: Subscriber, topic: str, frames: list[Frame], cursor: int) -> list[bytes]:
    parts = []
    for frame in frames:
        if frame.cursor >= 0:
            subscriber.cursors[topic] = frame.cursor
        parts.append(subscriber.id_line() + frame.body)
    subscriber.cursors[topic] = cursor
    return parts
