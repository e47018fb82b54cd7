"""Deletes a project: what goes on for it is stopped, its files and bound tokens go with it, and it is in the audit log. The one way to."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app.accounts import service as accounts
from app.accounts import tokens
from app.accounts.schemas import Principal
from app.feedback.tables import Project


def delete(session: Session, project: Project, *, by: Principal | None = None) -> None:
    """Remove a project with its items and all that was said of them. Datasets made from it stay."""
    from app.feedback import generation, judges

    generation.forget(session, project)
    judges.forget(session, project)
    tokens.revoke_bound(session, project.id, by=by)
    session.delete(project)
    session.flush()
    accounts.record(session, by, "feedback.delete", project.id, workspace_id=project.workspace_id, name=project.name)
