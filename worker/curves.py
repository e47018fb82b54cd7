"""Feeds a run's trackers from the metrics table, only as far as a committed checkpoint reaches; beside the supervisor, never in its way."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.exc import DBAPIError

from app import storage, trackers
from app.database import Database
from app.metrics import service as metrics
from app.runs.schemas import ENDED
from app.runs.tables import Run
from app.settings import Settings
from worker import trackers as external
from worker.event_files import EventFile, read_state, write_state
from worker.process import Child
from worker.track import END
from worker.trackers.base import Row, Story, plain

log = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
LEASE_SECONDS = 60.0
"""A tracker's process ends by itself when its supervisor has been gone for about this long."""
END_SECONDS = 60.0
"""How long trackers may take for the end of a run; the device is free meanwhile."""
HAND_OVER_SECONDS = 10.0
"""How long they may take to note what they have when a run was interrupted and goes on."""
DATABASE_TRIES = 20
EVERYTHING = 2**62
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")

Say = Callable[[str, str], None]
_at_work: dict[str, threading.Thread] = {}
"""The newest thread of each run in this process."""


class Curves:
    """The trackers of one attempt at a run. Failures are said in the run's log and fail nothing."""

    def __init__(self, database: Database, settings: Settings, run_id: str, attempt: int, resume_step: int, say: Say) -> None:
        self.database, self.settings, self.say = database, settings, say
        self.run_id, self.attempt = run_id, attempt
        with database.read() as session:
            run = session.get_one(Run, run_id)
            self.story = _story(run, settings)
        self._state = trackers.state_file(run_id)
        self._file = EventFile(trackers.folder(run_id), [], started_at=self.story.started_at)
        self._steps: dict[str, int] = {}
        """What each of the other trackers has said it has."""
        self._sent = EVERYTHING
        self._child: Child | None = None
        self._inbox = Path()
        self._number = 0
        self._target = resume_step
        self._ended: str | None = None
        self._abandoned = False
        self._hands_over = False
        self._files = find_spec("tensorboardX") is not None
        self._wake = threading.Event()
        self._written = threading.Event()
        """Set once the event file holds the end of the run."""
        self._before = _at_work.get(run_id)
        self._thread = threading.Thread(target=self._work, args=(resume_step,), name=f"curves {run_id}", daemon=True)
        _at_work[run_id] = self._thread
        self._thread.start()

    def _begin(self, resume_step: int) -> None:
        """Find out what the trackers have, once an earlier attempt in this process has noted it."""
        if self._before is not None:
            self._before.join(END_SECONDS + HAND_OVER_SECONDS)
        noted = read_state(self._state)
        self._steps = {name: int((noted.get("steps") or {}).get(name, -1)) for name in self._wanted()}
        self._sent = min(self._steps.values(), default=EVERYTHING)
        self._file.marks = list(noted.get("tensorboard") or [])
        self._guarded(lambda: self._file.cut(resume_step if resume_step else -1), "TensorBoard files")

    def _wanted(self) -> list[str]:
        known = external.registry()
        found = []
        for name in self.settings.tracker_names:
            if find_spec(known[name].package) is None:
                words = (
                    f"{known[name].title} is not told of this run: LUTHIER_TRACKERS names it, and this worker has no package "
                    f"“{known[name].package}”. Install it with: pip install 'luthier[trackers]'"
                )
                self.say("warning", words)
            else:
                found.append(name)
        return found

    def committed(self, step: int) -> None:
        """Everything up to a step is final now."""
        self._target = max(self._target, step)
        self._wake.set()

    def abandon(self) -> None:
        """Stop, and write nothing more, unless the end was told: the run is somebody else's, or this worker failed at it."""
        if self._ended is not None:
            return
        self._abandoned = True
        self._wake.set()
        self._thread.join(HAND_OVER_SECONDS)

    def end(self) -> None:
        """The attempt is over: write what is final, and wait for the event file; the other trackers take their time beside the next run."""
        with self.database.read() as session:
            run = session.get(Run, self.run_id)
            status, current = (run.status, run.attempt) if run is not None else ("deleted", -1)
        if current == self.attempt and status not in (*ENDED, "paused"):
            self._hands_over = True  # the next attempt begins with what we lack
        if current != self.attempt or self._hands_over:
            self.abandon()
            return
        self._ended = status
        self._wake.set()
        self._written.wait(END_SECONDS)

    # --- the thread -----------------------------------------------------------------------------------------------------------

    def _work(self, resume_step: int) -> None:
        try:
            self._begin(resume_step)
            tries = 0
            while not self._abandoned:
                over = self._ended  # looked at before the target, which no longer moves then
                try:
                    self._feed(over)
                except DBAPIError as error:
                    log.warning("The database does not answer (%s); the trackers of %s wait.", str(error.orig).splitlines()[0], self.run_id)
                    tries += 1
                    if over is None or tries < DATABASE_TRIES:
                        time.sleep(1.0)
                        continue
                if over is not None:
                    break
                self._wake.wait(BEAT_SECONDS)
                self._wake.clear()
            self._written.set()
            if not self._abandoned and self._ended is not None:
                self._finish(self._ended, END_SECONDS)
            elif self._hands_over:
                self._finish("interrupted", HAND_OVER_SECONDS)
        except Exception:  # boundary: a tracker must never end a run
            log.exception("The trackers of run %s have ended.", self.run_id)
        finally:
            self._written.set()
            if self._child is not None:
                self._child.close()
                self._hear()
                shutil.rmtree(self._inbox, ignore_errors=True)
            if _at_work.get(self.run_id) is threading.current_thread():
                _at_work.pop(self.run_id)

    def _guarded(self, action: Callable[[], None], what: str) -> None:
        try:
            action()
        except Exception as error:  # boundary, as above
            self.say("warning", f"{what} cannot be written: {type(error).__name__}: {str(error)[:300]}")
            self._files = False

    def _feed(self, over: str | None) -> None:
        """Bring every tracker to the last committed step; a run that has ended shows all its points in the event file, which can be cut."""
        target = self._target
        limit = EVERYTHING if over == "succeeded" else target
        shown = EVERYTHING if over in ENDED else target
        if self._files and shown > self._file.last and (target > 0 or over):
            rows = self._rows(self._file.last, shown)
            up_to = max([target, *(row.step for row in rows)])
            if rows:
                self._guarded(lambda: self._file.append(rows, up_to), "TensorBoard files")
                self._note()
        if self._steps and limit > self._sent and (target > 0 or over):
            rows = self._rows(self._sent, limit)
            if rows:
                self._put(rows)
                self._sent = rows[-1].step
        self._hear()

    def _rows(self, after: int, up_to: int) -> list[Row]:
        with self.database.read() as session:
            series = metrics.series(session, self.run_id, None, after if after >= 0 else None, EVERYTHING)
            elapsed = metrics.value_at(session, self.run_id, "elapsed_seconds", after) if after >= 0 else None
        by_step: dict[int, dict[str, float]] = {}
        for name, (steps, values) in series.items():
            stop = int(np.searchsorted(steps, up_to, side="right"))
            for step, value in zip(steps[:stop].tolist(), values[:stop].tolist(), strict=True):
                by_step.setdefault(step, {})[name] = value
        rows = []
        for step in sorted(by_step):
            elapsed = by_step[step].get("elapsed_seconds", elapsed)
            rows.append(Row(step, self.story.started_at + (elapsed or 0.0), by_step[step]))
        return rows

    def _note(self) -> None:
        if self._abandoned and not self._hands_over:  # the note is the new owner's
            return
        write_state(self._state, {"tensorboard": self._file.marks, "steps": self._steps})

    # --- the process of the other trackers ------------------------------------------------------------------------------------

    def _put(self, rows: list[Row]) -> None:
        if self._child is None:
            folder = storage.path(f"runs/{self.run_id}")
            shutil.rmtree(folder / "trackers", ignore_errors=True)  # what a worker left that was killed
            self._inbox = folder / "trackers" / str(self.attempt)
            self._inbox.mkdir(parents=True, mode=0o700)
            spec = {
                "module": "worker.track",
                "lease_seconds": LEASE_SECONDS,
                "work": str(self._inbox),
                "folder": str(folder),
                "story": vars(self.story),
                "trackers": self._steps,
            }
            self._child = Child(spec, self._inbox, _environment(list(self._steps)))
        self._number += 1
        self._drop(f"rows-{self._number:06}.json", [vars(row) for row in rows])

    def _drop(self, name: str, content: Any) -> None:
        temporary = self._inbox / f"{name}.tmp"
        temporary.write_text(json.dumps(content))
        temporary.replace(self._inbox / name)

    def _hear(self) -> None:
        if self._child is None:
            return
        if self._child.code is None:
            self._child.beat()
        changed = False
        for message in self._child.drain(0.0):
            if message["kind"] == "wrote":
                self._steps[message["tracker"]] = int(message["step"])
                changed = True
            elif message["kind"] == "note":
                self.say(message["level"], message["text"])
            elif message["kind"] == "fatal":
                self.say("warning", f"The trackers have stopped: {message['reason']}")
            elif message["kind"] == "log":
                log.info("Trackers of %s: %s", self.run_id, message["text"])
        if changed:
            self._note()

    def _finish(self, status: str, seconds: float) -> None:
        """Tell the trackers how the run ended, and wait for them a while."""
        if self._child is None:
            return
        self._drop(END, {"status": status})
        end = time.monotonic() + seconds
        while self._child.code is None and time.monotonic() < end:
            self._hear()
            time.sleep(0.2)
        if self._child.code is None:
            log.warning("The trackers of run %s took longer than %.0f s for its end; what they lack is not sent.", self.run_id, seconds)


def _story(run: Run, settings: Settings) -> Story:
    config: dict[str, Any] = {
        "run_id": run.id,
        "method": run.method,
        "tuner": run.tuner,
        "checkpoint": run.checkpoint_id,
        "dataset": run.dataset_id,
        "seed": run.seed,
        **{f"params.{name}": plain(value) for name, value in run.params.items()},
        **{f"tuner_params.{name}": plain(value) for name, value in run.tuner_params.items()},
    }
    return Story(run.id, run.name, f"{settings.address}/runs/{run.id}", config, list(run.tags), float(run.started_at or 0.0))


def _environment(names: list[str]) -> dict[str, str]:
    """Variables of the trackers that are on, and proxies; nothing else of the worker's reaches their process."""
    known = external.registry()
    wanted = tuple(beginning for name in names for beginning in known[name].environment)
    return {name: value for name, value in os.environ.items() if name.startswith(wanted) or name in _PROXIES}
