"""Feedback: projects, items with their responses, the slots raters fill, every event, and the ratings that hold now."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, drawn_id, new_id, now


class Project(Base):
    """One question put to raters about many items. Counters are kept, so that no page counts rows.

    Status: draft (nobody rates yet), open, paused or closed; no others.
    """

    __tablename__ = "feedback_projects"
    __table_args__ = (Index("ix_feedback_projects_workspace_id_id", "workspace_id", "id"),)
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("prj"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    name: Mapped[str]
    kind: Mapped[str]
    """pair, single or rank."""
    status: Mapped[str] = mapped_column(default="open")
    question: Mapped[str] = mapped_column(default="")
    """What raters are asked, in one line."""
    direction: Mapped[str] = mapped_column(default="better")
    """better, or worse when raters pick the worse answer (red teaming): training then turns chosen and rejected round."""
    guidelines: Mapped[str] = mapped_column(default="")
    """Markdown."""
    guideline_version: Mapped[int] = mapped_column(default=1)
    scale: Mapped[str] = mapped_column(default="graded")
    """pair: graded (-3..3); single: thumbs or five; rank: ranks."""
    criteria: Mapped[list[Any]] = mapped_column(default=list)
    """Extra questions: `{key, title, options}`, asked of each item."""
    overlap: Mapped[int] = mapped_column(default=1)
    """How many different raters an item needs."""
    overlap_share: Mapped[float] = mapped_column(default=1.0)
    """Share of the items that needs `overlap` raters; the rest needs one."""
    gold_rate: Mapped[float] = mapped_column(default=0.0)
    repeat_rate: Mapped[float] = mapped_column(default=0.0)
    """Share of items a rater sees a second time, sides swapped, at least 20 items later."""
    practice: Mapped[int] = mapped_column(default=0)
    """Gold items with feedback that a rater does before the real ones."""
    gate_accuracy: Mapped[float] = mapped_column(default=0.75)
    """A rater below it after `gate_items` gold items is paused."""
    gate_items: Mapped[int] = mapped_column(default=10)
    lease_seconds: Mapped[int] = mapped_column(default=600)
    reveals: Mapped[bool] = mapped_column(default=False)
    """Whether a rater is told the sources after the vote."""
    careful: Mapped[bool] = mapped_column(default=False)
    """Whether a key only selects and Enter commits."""
    active_choice: Mapped[bool] = mapped_column(default=False)
    """Whether items come first whose models the votes so far tell apart least (pairs and ranks)."""
    candidates: Mapped[list[Any]] = mapped_column(default=list)
    """What the responses were generated from: `{checkpoint_id, name, sampling}`."""
    prompts_dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id", ondelete="SET NULL"))
    seed: Mapped[int] = mapped_column(default=42)
    items: Mapped[int] = mapped_column(default=0)
    """Items that can be rated; filtered, gold and practice ones not counted."""
    filtered: Mapped[int] = mapped_column(default=0)
    slots: Mapped[int] = mapped_column(default=0)
    done: Mapped[int] = mapped_column(default=0)
    """Slots that are filled."""
    extras: Mapped[int] = mapped_column(default=0)
    """Ratings that came after their slot had been filled by somebody else: kept, and not among the wanted ones."""
    roles: Mapped[int] = mapped_column(default=0)
    """Counts changes of which items are gold or practice."""
    seq: Mapped[int] = mapped_column(default=0)
    """Counts what changed; the cursor of live streams."""
    created_by: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=now())
    updated_at: Mapped[float] = mapped_column(default=now())


class Item(Base):
    """One prompt with the responses to judge.

    Status: open, filtered (`reason` says why), flagged or removed; no others. Role: normal, gold or practice.
    """

    __tablename__ = "feedback_items"
    __table_args__ = (
        Index("ix_feedback_items_project_id_id", "project_id", "id"),
        Index("ix_feedback_items_project_id_status", "project_id", "status"),
        Index("ix_feedback_items_project_id_created_at_id", "project_id", "created_at", "id"),
    )
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: drawn_id("itm"))
    """Raters see it, and that of the responses: were they counted up, those of gold items that were added later would stand out."""
    project_id: Mapped[str] = mapped_column(ForeignKey("feedback_projects.id", ondelete="CASCADE"))
    prompt: Mapped[list[Any]]
    """Messages up to the one that is answered."""
    prompt_hash: Mapped[str]
    role: Mapped[str] = mapped_column(default="normal")
    gold: Mapped[dict[str, Any] | None]
    """The right answer of a gold or practice item: `{preference, tolerance?, why?}`; `since` when an item in use became one."""
    status: Mapped[str] = mapped_column(default="open")
    reason: Mapped[str | None]
    """identical, empty, cut, error or leak; or why it was flagged."""
    overlap: Mapped[int] = mapped_column(default=1)
    order_key: Mapped[float]
    """Random place in the queue, the same for all raters."""
    meta: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[float] = mapped_column(default=now())


class Response(Base):
    """One answer to an item's prompt, and where it came from; raters are told only the text."""

    __tablename__ = "feedback_responses"
    __table_args__ = (UniqueConstraint("item_id", "place"),)
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: drawn_id("rsp"))
    item_id: Mapped[str] = mapped_column(ForeignKey("feedback_items.id", ondelete="CASCADE"))
    place: Mapped[int]
    """Place in the data, from 0; not the side it is shown on."""
    text: Mapped[str]
    source: Mapped[str]
    """Name of the checkpoint, or what an import calls it."""
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id", ondelete="SET NULL"), index=True)
    sampling: Mapped[dict[str, Any]] = mapped_column(default=dict)
    finish: Mapped[str | None]
    """stop, length, error or edited (a rater's better answer)."""
    tokens: Mapped[int | None]
    style: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What could sway a rater: `{words, headers, lists, bold}`."""


class Rater(Base):
    """Somebody, or something, that rates in one project.

    Status: practice, active, paused (`reason` says why) or removed; no others. Kind: person, reward or judge.
    """

    __tablename__ = "feedback_raters"
    __table_args__ = (UniqueConstraint("project_id", "who"),)
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("rtr"))
    project_id: Mapped[str] = mapped_column(ForeignKey("feedback_projects.id", ondelete="CASCADE"))
    who: Mapped[str] = mapped_column(index=True)
    """`user:ID`, `token:ID`, or `checkpoint:ID` of an automatic rater."""
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(default="person")
    status: Mapped[str] = mapped_column(default="active")
    reason: Mapped[str | None]
    done: Mapped[int] = mapped_column(default=0)
    gold_seen: Mapped[int] = mapped_column(default=0)
    gold_right: Mapped[int] = mapped_column(default=0)
    practised: Mapped[int] = mapped_column(default=0)
    day: Mapped[int] = mapped_column(default=0)
    """Day of the newest vote, counted from 1970 (UTC)."""
    done_before: Mapped[int] = mapped_column(default=0)
    """`done` when that day began: what was done today is told without counting votes."""
    created_at: Mapped[float] = mapped_column(default=now())
    seen_at: Mapped[float | None]


class Slot(Base):
    """One rating that is wanted of an item. Exactly `overlap` of them exist for each, so no item is rated too often."""

    __tablename__ = "feedback_slots"
    __table_args__ = (
        # One slot of an item for each rater; a repeat has round 1.
        Index(
            "ix_feedback_slots_once",
            "item_id",
            "rater_id",
            "round",
            unique=True,
            sqlite_where=text("rater_id IS NOT NULL"),
            postgresql_where=text("rater_id IS NOT NULL"),
        ),
        Index(
            "ix_feedback_slots_waiting",
            "project_id",
            "rank",
            "order_key",
            sqlite_where=text("done_at IS NULL"),
            postgresql_where=text("done_at IS NULL"),
        ),
        Index("ix_feedback_slots_rater_id_lease_until", "rater_id", "lease_until"),
    )
    item_id: Mapped[str] = mapped_column(ForeignKey("feedback_items.id", ondelete="CASCADE"), primary_key=True)
    k: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    project_id: Mapped[str] = mapped_column(ForeignKey("feedback_projects.id", ondelete="CASCADE"))
    round: Mapped[int] = mapped_column(default=0)
    """1 for a swapped repeat, which is for one rater alone."""
    rank: Mapped[int] = mapped_column(default=1)
    """0 once the item has been started: started items are finished first."""
    order_key: Mapped[float]
    rater_id: Mapped[str | None] = mapped_column(ForeignKey("feedback_raters.id", ondelete="SET NULL"))
    lease_until: Mapped[float | None]
    done_at: Mapped[float | None]


class Event(Base):
    """What a rater did. Rows are only ever added."""

    __tablename__ = "feedback_events"
    __table_args__ = (
        UniqueConstraint("rater_id", "key"),
        Index("ix_feedback_events_project_id_id", "project_id", "id"),
        Index("ix_feedback_events_item_id", "item_id"),
        Index("ix_feedback_events_rater_id_id", "rater_id", "id"),
    )
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("evt"))
    project_id: Mapped[str] = mapped_column(ForeignKey("feedback_projects.id", ondelete="CASCADE"))
    item_id: Mapped[str] = mapped_column(ForeignKey("feedback_items.id", ondelete="CASCADE"))
    k: Mapped[int]
    rater_id: Mapped[str] = mapped_column(ForeignKey("feedback_raters.id", ondelete="CASCADE"))
    key: Mapped[str]
    """Idempotency key of the request."""
    kind: Mapped[str]
    """rate, skip, flag, undo or adjudicate."""
    answer: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """As `Rating` stores it, and for skip and flag `{reason}`."""
    order: Mapped[list[str]] = mapped_column(default=list)
    """Ids of the responses, in the order they were shown."""
    active_ms: Mapped[int | None]
    wall_ms: Mapped[int | None]
    ui: Mapped[dict[str, Any]] = mapped_column(default=dict)
    guideline_version: Mapped[int] = mapped_column(default=1)
    is_extra: Mapped[bool] = mapped_column(default=False)
    at: Mapped[float] = mapped_column(default=now())


class Rating(Base):
    """What a rater says of an item now: the last event that was not undone."""

    __tablename__ = "feedback_ratings"
    __table_args__ = (Index("ix_feedback_ratings_project_id_at", "project_id", "at"),)
    item_id: Mapped[str] = mapped_column(ForeignKey("feedback_items.id", ondelete="CASCADE"), primary_key=True)
    rater_id: Mapped[str] = mapped_column(ForeignKey("feedback_raters.id", ondelete="CASCADE"), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True, default=0, autoincrement=False)
    project_id: Mapped[str] = mapped_column(ForeignKey("feedback_projects.id", ondelete="CASCADE"))
    event_id: Mapped[str]
    kind: Mapped[str]
    """rate, skip, flag or adjudicate."""
    preference: Mapped[int | None]
    """Pairs: -3 (response 0 much better) to 3 (response 1 much better), whatever side they were shown on; 0 is about the same."""
    quality: Mapped[str | None]
    """both_good or both_bad of a tie that says so."""
    score: Mapped[float | None]
    """Single: 1..5, or 0 and 1 for thumbs."""
    ranking: Mapped[list[Any] | None]
    """Rank: lists of response ids, best first, ties in one list."""
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    comment: Mapped[str] = mapped_column(default="")
    left: Mapped[int | None]
    """Place of the response that was shown on the left."""
    active_ms: Mapped[int | None]
    is_extra: Mapped[bool] = mapped_column(default=False)
    at: Mapped[float] = mapped_column(default=now())


class Snapshot(Base):
    """Ratings frozen into a dataset: which rules, how many rows, what was left out and why."""

    __tablename__ = "feedback_snapshots"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("snp"))
    project_id: Mapped[str] = mapped_column(ForeignKey("feedback_projects.id", ondelete="CASCADE"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id", ondelete="SET NULL"))
    shape: Mapped[str]
    """preference, unpaired, rated or chat."""
    rules: Mapped[dict[str, Any]] = mapped_column(default=dict)
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    sha256: Mapped[str]
    up_to: Mapped[str]
    """Id of the last event it takes in."""
    created_by: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=now())
