"""What the web process does for feedback beside requests: draws the order of queues anew where votes changed what is least certain."""

from __future__ import annotations

import logging
import threading

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.database import Database
from app.feedback import active
from app.feedback.tables import Project

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How often projects are looked at; a vote never waits for it."""


class Upkeep:
    """A thread that looks after the queues of open projects. Of several web processes each does so, which harms nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._votes: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feedback upkeep", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End it; what is being written is finished first."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self.look()
            except SQLAlchemyError:
                log.debug("The queues of feedback could not be looked at; the next look decides.", exc_info=True)
            except Exception:
                log.exception("The queue of a feedback project could not be put in order.")

    def look(self) -> list[str]:
        """Draw the order anew where enough votes came since the last time; ids of these projects."""
        due = []
        with self._database.read() as session:
            mine = select(Project.id, Project.done + Project.extras).where(Project.active_choice, Project.status == "open")
            votes: dict[str, int] = {project_id: count for project_id, count in session.execute(mine)}
        self._votes = {project_id: count for project_id, count in self._votes.items() if project_id in votes}
        for project_id, count in votes.items():
            if active.is_due(count, self._votes.get(project_id)):
                self._votes[project_id] = count
                active.reorder(self._database, project_id)
                due.append(project_id)
        return due
