"""Chains."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

JSON_ = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "chains",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("reason_code", sa.String(), nullable=True),
        sa.Column("steps", JSON_, nullable=False),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_chains_workspace_id_workspaces", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_chains"),
    )
    op.create_index("ix_chains_status", "chains", ["status"])
    op.create_index("ix_chains_workspace_id_id", "chains", ["workspace_id", "id"])
    op.create_table(
        "chain_steps",
        sa.Column("chain_id", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["chain_id"], ["chains.id"], name="fk_chain_steps_chain_id_chains", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_chain_steps_run_id_runs", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("chain_id", "number", name="pk_chain_steps"),
    )
    op.create_index("ix_chain_steps_run_id", "chain_steps", ["run_id"])


def downgrade() -> None:
    """Go back to the revision before it."""
    op.drop_table("chain_steps")
    op.drop_table("chains")
