"""Chats; and what a worker is doing."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON_ = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "chats",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("checkpoints", JSON_, nullable=False),
        sa.Column("system", sa.String(), nullable=False),
        sa.Column("sampling", JSON_, nullable=False),
        sa.Column("opening", JSON_, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_chats_workspace_id_workspaces", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_chats"),
    )
    op.create_index("ix_chats_workspace_id_id", "chats", ["workspace_id", "id"])
    op.create_table(
        "chat_turns",
        sa.Column("chat_id", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("prompt", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name="fk_chat_turns_chat_id_chats", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("chat_id", "number", name="pk_chat_turns"),
    )
    op.create_table(
        "chat_answers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("chat_id", sa.String(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_id", sa.String(), nullable=True),
        sa.Column("checkpoint_name", sa.String(), nullable=False),
        sa.Column("messages", JSON_, nullable=False),
        sa.Column("sampling", JSON_, nullable=False),
        sa.Column("priority", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("finish", sa.String(), nullable=True),
        sa.Column("progress", JSON_, nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("reason_code", sa.String(), nullable=True),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("heartbeat_at", sa.Double(), nullable=True),
        sa.Column("not_before", sa.Double(), nullable=True),
        sa.Column("dispatched_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name="fk_chat_answers_chat_id_chats", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"], ["checkpoints.id"], name="fk_chat_answers_checkpoint_id_checkpoints", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_chat_answers_workspace_id_workspaces", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_chat_answers"),
    )
    for column in ("chat_id", "created_by", "lease_until", "status"):
        op.create_index(f"ix_chat_answers_{column}", "chat_answers", [column])
    op.create_table(
        "chat_pieces",
        sa.Column("answer_id", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["answer_id"], ["chat_answers.id"], name="fk_chat_pieces_answer_id_chat_answers", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("answer_id", "seq", name="pk_chat_pieces"),
    )
    op.add_column("workers", sa.Column("state", JSON_, nullable=True))


def downgrade() -> None:
    """Go back."""
    op.drop_column("workers", "state")
    op.drop_table("chat_pieces")
    op.drop_table("chat_answers")
    op.drop_table("chat_turns")
    op.drop_table("chats")
