"""Long lists and curves: an index that covers the filters of runs, and outlines of sealed metrics."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.create_index("ix_runs_filters", "runs", ["workspace_id", "method", "tuner", "checkpoint_id", "dataset_id"])
    op.add_column("metric_chunks", sa.Column("outline", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Go back."""
    op.drop_column("metric_chunks", "outline")
    op.drop_index("ix_runs_filters", table_name="runs")
