"""Judges: models that judge the items of a project, and what each says. Nothing that reads people's ratings reads these."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, new_id, now


class Judge(Base):
    """A model that judges items of one project. What it is and what it is asked never change; how far it is, its job says.

    Kind: reward (a checkpoint that gives numbers) or model (one that writes, and is asked); no others.
    """

    __tablename__ = "feedback_judges"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("jdg"))
    project_id: Mapped[str] = mapped_column(ForeignKey("feedback_projects.id", ondelete="CASCADE"), index=True)
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id", ondelete="SET NULL"), index=True)
    name: Mapped[str]
    kind: Mapped[str]
    principles: Mapped[list[str]] = mapped_column(default=list)
    """As they were typed; none: the question of the project."""
    questions: Mapped[list[str]] = mapped_column(default=list)
    """What is asked of every item, word for word, and stays as it was when the judge was added; empty where it gives numbers."""
    tie: Mapped[float] = mapped_column(default=0.1)
    """How far the probability must be from one half for the judge to take a side."""
    most: Mapped[int] = mapped_column(default=1000)
    """Items it judges at most: first those that people rated."""
    done: Mapped[int] = mapped_column(default=0)
    """Items it has judged."""
    created_by: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=now())


class Judgement(Base):
    """What a judge says of an item; once, since judge and item are its key."""

    __tablename__ = "feedback_judgements"
    judge_id: Mapped[str] = mapped_column(ForeignKey("feedback_judges.id", ondelete="CASCADE"), primary_key=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("feedback_items.id", ondelete="CASCADE"), primary_key=True, index=True)
    preference: Mapped[int | None]
    """Pairs, as in a rating: -3 (response 0 much better) to 3 (response 1 much better)."""
    score: Mapped[float | None]
    """Single answers, on the scale of the project; none of a reward model, whose numbers have a scale of their own."""
    ranking: Mapped[list[Any] | None]
    """Rank: lists of response ids, best first."""
    lean: Mapped[float | None]
    """Before it becomes a grade. Pairs: probability that response 1 is picked. Single: the number."""
    questions: Mapped[int] = mapped_column(default=0)
    """Pairs of answers it was asked about in both orders, counted once for each principle."""
    flips: Mapped[int] = mapped_column(default=0)
    """Questions where the two orders gave different answers."""
    firsts: Mapped[int] = mapped_column(default=0)
    """Of twice as many prompts as questions, those where it took the answer that stood first."""
    mass: Mapped[float | None]
    """Probability of the letters, or numbers, it could answer with: near 0, it meant to say something else."""
    is_own: Mapped[bool] = mapped_column(default=False)
    """An answer of the item is by the judge's own checkpoint."""
    problem: Mapped[str | None]
    """Why it could not judge, in words."""
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What the model gave: `{rewards}`, or `{asked: [{principle, first, second, p, q}]}`, or `{numbers}`."""
    at: Mapped[float] = mapped_column(default=now())
