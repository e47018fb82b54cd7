"""Feedback."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

JSON_ = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("tokens", sa.Column("project_id", sa.String(), nullable=True))
    op.create_table(
        "feedback_projects",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workspace_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("question", sa.String(), nullable=False),
        sa.Column("direction", sa.String(), nullable=False),
        sa.Column("guidelines", sa.String(), nullable=False),
        sa.Column("guideline_version", sa.BigInteger(), nullable=False),
        sa.Column("scale", sa.String(), nullable=False),
        sa.Column("criteria", JSON_, nullable=False),
        sa.Column("overlap", sa.BigInteger(), nullable=False),
        sa.Column("overlap_share", sa.Double(), nullable=False),
        sa.Column("gold_rate", sa.Double(), nullable=False),
        sa.Column("repeat_rate", sa.Double(), nullable=False),
        sa.Column("practice", sa.BigInteger(), nullable=False),
        sa.Column("gate_accuracy", sa.Double(), nullable=False),
        sa.Column("gate_items", sa.BigInteger(), nullable=False),
        sa.Column("lease_seconds", sa.BigInteger(), nullable=False),
        sa.Column("reveals", sa.Boolean(), nullable=False),
        sa.Column("careful", sa.Boolean(), nullable=False),
        sa.Column("active_choice", sa.Boolean(), nullable=False),
        sa.Column("candidates", JSON_, nullable=False),
        sa.Column("prompts_dataset_id", sa.String(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.Column("filtered", sa.BigInteger(), nullable=False),
        sa.Column("slots", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("extras", sa.BigInteger(), nullable=False),
        sa.Column("roles", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["prompts_dataset_id"], ["datasets.id"], name="fk_feedback_projects_prompts_dataset_id_datasets", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="fk_feedback_projects_workspace_id_workspaces", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_feedback_projects"),
    )
    op.create_index("ix_feedback_projects_workspace_id_id", "feedback_projects", ["workspace_id", "id"])
    op.create_table(
        "feedback_items",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("prompt", JSON_, nullable=False),
        sa.Column("prompt_hash", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("gold", JSON_, nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("overlap", sa.BigInteger(), nullable=False),
        sa.Column("order_key", sa.Double(), nullable=False),
        sa.Column("meta", JSON_, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["feedback_projects.id"], name="fk_feedback_items_project_id_feedback_projects", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_feedback_items"),
    )
    op.create_index("ix_feedback_items_project_id_created_at_id", "feedback_items", ["project_id", "created_at", "id"])
    op.create_index("ix_feedback_items_project_id_id", "feedback_items", ["project_id", "id"])
    op.create_index("ix_feedback_items_project_id_status", "feedback_items", ["project_id", "status"])
    op.create_table(
        "feedback_raters",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("gold_seen", sa.BigInteger(), nullable=False),
        sa.Column("gold_right", sa.BigInteger(), nullable=False),
        sa.Column("practised", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("done_before", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["feedback_projects.id"], name="fk_feedback_raters_project_id_feedback_projects", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_feedback_raters"),
        sa.UniqueConstraint("project_id", "who", name="uq_feedback_raters_project_id_who"),
    )
    op.create_index("ix_feedback_raters_who", "feedback_raters", ["who"])
    op.create_table(
        "feedback_snapshots",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("dataset_id", sa.String(), nullable=True),
        sa.Column("shape", sa.String(), nullable=False),
        sa.Column("rules", JSON_, nullable=False),
        sa.Column("counts", JSON_, nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("up_to", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_feedback_snapshots_dataset_id_datasets", ondelete="SET NULL"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["feedback_projects.id"], name="fk_feedback_snapshots_project_id_feedback_projects", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_feedback_snapshots"),
    )
    op.create_index("ix_feedback_snapshots_project_id", "feedback_snapshots", ["project_id"])
    op.create_table(
        "feedback_events",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("k", sa.BigInteger(), nullable=False),
        sa.Column("rater_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("answer", JSON_, nullable=False),
        sa.Column("order", JSON_, nullable=False),
        sa.Column("active_ms", sa.BigInteger(), nullable=True),
        sa.Column("wall_ms", sa.BigInteger(), nullable=True),
        sa.Column("ui", JSON_, nullable=False),
        sa.Column("guideline_version", sa.BigInteger(), nullable=False),
        sa.Column("is_extra", sa.Boolean(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["feedback_items.id"], name="fk_feedback_events_item_id_feedback_items", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["feedback_projects.id"], name="fk_feedback_events_project_id_feedback_projects", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["rater_id"], ["feedback_raters.id"], name="fk_feedback_events_rater_id_feedback_raters", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_feedback_events"),
        sa.UniqueConstraint("rater_id", "key", name="uq_feedback_events_rater_id_key"),
    )
    op.create_index("ix_feedback_events_item_id", "feedback_events", ["item_id"])
    op.create_index("ix_feedback_events_project_id_id", "feedback_events", ["project_id", "id"])
    op.create_index("ix_feedback_events_rater_id_id", "feedback_events", ["rater_id", "id"])
    op.create_table(
        "feedback_ratings",
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("rater_id", sa.String(), nullable=False),
        sa.Column("round", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("preference", sa.BigInteger(), nullable=True),
        sa.Column("quality", sa.String(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("ranking", JSON_, nullable=True),
        sa.Column("labels", JSON_, nullable=False),
        sa.Column("comment", sa.String(), nullable=False),
        sa.Column("left", sa.BigInteger(), nullable=True),
        sa.Column("active_ms", sa.BigInteger(), nullable=True),
        sa.Column("is_extra", sa.Boolean(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["feedback_items.id"], name="fk_feedback_ratings_item_id_feedback_items", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["feedback_projects.id"], name="fk_feedback_ratings_project_id_feedback_projects", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["rater_id"], ["feedback_raters.id"], name="fk_feedback_ratings_rater_id_feedback_raters", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("item_id", "rater_id", "round", name="pk_feedback_ratings"),
    )
    op.create_index("ix_feedback_ratings_project_id_at", "feedback_ratings", ["project_id", "at"])
    op.create_table(
        "feedback_responses",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("checkpoint_id", sa.String(), nullable=True),
        sa.Column("sampling", JSON_, nullable=False),
        sa.Column("finish", sa.String(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=True),
        sa.Column("style", JSON_, nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"], ["checkpoints.id"], name="fk_feedback_responses_checkpoint_id_checkpoints", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["item_id"], ["feedback_items.id"], name="fk_feedback_responses_item_id_feedback_items", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_feedback_responses"),
        sa.UniqueConstraint("item_id", "place", name="uq_feedback_responses_item_id_place"),
    )
    op.create_index("ix_feedback_responses_checkpoint_id", "feedback_responses", ["checkpoint_id"])
    op.create_table(
        "feedback_slots",
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("k", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("round", sa.BigInteger(), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("order_key", sa.Double(), nullable=False),
        sa.Column("rater_id", sa.String(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("done_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["item_id"], ["feedback_items.id"], name="fk_feedback_slots_item_id_feedback_items", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["feedback_projects.id"], name="fk_feedback_slots_project_id_feedback_projects", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["rater_id"], ["feedback_raters.id"], name="fk_feedback_slots_rater_id_feedback_raters", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("item_id", "k", name="pk_feedback_slots"),
    )
    op.create_index(
        "ix_feedback_slots_once",
        "feedback_slots",
        ["item_id", "rater_id", "round"],
        unique=True,
        sqlite_where=sa.text("rater_id IS NOT NULL"),
        postgresql_where=sa.text("rater_id IS NOT NULL"),
    )
    op.create_index("ix_feedback_slots_rater_id_lease_until", "feedback_slots", ["rater_id", "lease_until"])
    op.create_index(
        "ix_feedback_slots_waiting",
        "feedback_slots",
        ["project_id", "rank", "order_key"],
        sqlite_where=sa.text("done_at IS NULL"),
        postgresql_where=sa.text("done_at IS NULL"),
    )
    op.create_table(
        "feedback_judges",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("checkpoint_id", sa.String(), nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("principles", JSON_, nullable=False),
        sa.Column("questions", JSON_, nullable=False),
        sa.Column("tie", sa.Double(), nullable=False),
        sa.Column("most", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"], ["checkpoints.id"], name="fk_feedback_judges_checkpoint_id_checkpoints", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["feedback_projects.id"], name="fk_feedback_judges_project_id_feedback_projects", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_feedback_judges"),
    )
    op.create_index("ix_feedback_judges_checkpoint_id", "feedback_judges", ["checkpoint_id"])
    op.create_index("ix_feedback_judges_project_id", "feedback_judges", ["project_id"])
    op.create_table(
        "feedback_judgements",
        sa.Column("judge_id", sa.String(), nullable=False),
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("preference", sa.BigInteger(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("ranking", JSON_, nullable=True),
        sa.Column("lean", sa.Double(), nullable=True),
        sa.Column("questions", sa.BigInteger(), nullable=False),
        sa.Column("flips", sa.BigInteger(), nullable=False),
        sa.Column("firsts", sa.BigInteger(), nullable=False),
        sa.Column("mass", sa.Double(), nullable=True),
        sa.Column("is_own", sa.Boolean(), nullable=False),
        sa.Column("problem", sa.String(), nullable=True),
        sa.Column("detail", JSON_, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["item_id"], ["feedback_items.id"], name="fk_feedback_judgements_item_id_feedback_items", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["judge_id"], ["feedback_judges.id"], name="fk_feedback_judgements_judge_id_feedback_judges", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("judge_id", "item_id", name="pk_feedback_judgements"),
    )
    op.create_index("ix_feedback_judgements_item_id", "feedback_judgements", ["item_id"])
    op.create_table(
        "run_grades",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("step", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("grade", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("pairs", sa.BigInteger(), nullable=False),
        sa.Column("right", sa.BigInteger(), nullable=False),
        sa.Column("margin", sa.Double(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_grades_run_id_runs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "step", "grade", name="pk_run_grades"),
    )


def downgrade() -> None:
    """Go back to the revision before it."""
    op.drop_table("run_grades")
    op.drop_column("tokens", "project_id")
    op.drop_table("feedback_judgements")
    op.drop_table("feedback_judges")
    op.drop_table("feedback_slots")
    op.drop_table("feedback_responses")
    op.drop_table("feedback_ratings")
    op.drop_table("feedback_events")
    op.drop_table("feedback_snapshots")
    op.drop_table("feedback_raters")
    op.drop_table("feedback_items")
    op.drop_table("feedback_projects")
