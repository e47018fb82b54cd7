"""The live topic of a feedback project (`feedback:ID`): that something moved, and the overview anew for those who look at it."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.events import Frame
from app.feedback import service
from app.feedback.tables import Project


class FeedbackTopic:
    """Frames of one project: `moved` with its counters, whenever ratings or items came."""

    fragment_seconds = 1.0
    """How often a page gets the overview anew at most."""

    def __init__(self, render: Callable[[Session, str], str]) -> None:
        self._render = render

    def admit(self, session: Session, workspace_id: str, key: str) -> None:
        """See that the project is one of the workspace.

        Raises:
            NotFound: it is not.
        """
        service.get_project(session, workspace_id, key)

    def now(self, session: Session, key: str) -> int:
        """The project's newest sequence number."""
        return int(session.scalar(select(Project.seq).where(Project.id == key)) or 0)

    def changed(self, session: Session, cursors: dict[str, int]) -> list[str]:
        """Projects that moved past their cursor."""
        rows = session.execute(select(Project.id, Project.seq).where(Project.id.in_(list(cursors))))
        return [row.id for row in rows if row.seq != cursors[row.id]]

    def frames(self, session: Session, key: str, after: int) -> tuple[list[Frame], int]:
        """One frame with how it stands, however much came."""
        project = session.get(Project, key)
        if project is None or project.seq == after:
            return [], after
        names = ("status", "items", "filtered", "slots", "done", "extras")
        data = {"topic": f"feedback:{key}", **{name: getattr(project, name) for name in names}}
        return [Frame.of(project.seq, "moved", data)], project.seq

    def fragment(self, session: Session, key: str, after: int | None = None) -> str:
        """HTML of the overview as it is now."""
        return self._render(session, key)
