"""Every table of the studio, gathered for migrations and for tests that make a schema."""

from __future__ import annotations

import app.accounts.tables
import app.chains.tables
import app.chats.tables
import app.checkpoints.tables
import app.datasets.tables
import app.exports.tables
import app.feedback.tables
import app.feedback.tables_judges
import app.jobs.tables
import app.metrics.tables
import app.runs.tables
import app.webhooks.tables
import app.workers.tables  # noqa: F401
from app.database import Base

metadata = Base.metadata
