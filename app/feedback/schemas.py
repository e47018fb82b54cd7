"""What feedback takes and answers. Touches no database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.database import iso

Kind = Literal["pair", "single", "rank"]
Status = Literal["draft", "open", "paused", "closed"]
Preference = Annotated[int, Field(ge=-3, le=3)]
SKIP_REASONS = {
    "cannot_judge": "I cannot judge this",
    "needs_expert": "It needs an expert",
    "broken": "Something is broken",
    "duplicate": "I have seen it before",
    "other": "Another reason",
}
FLAG_REASONS = {
    "unsafe": "Unsafe or harmful",
    "personal": "Personal data",
    "leak": "It names the model",
    "cut": "An answer is cut off",
}
FILTERS = {
    "identical": "the answers are the same",
    "empty": "an answer is empty",
    "cut": "an answer is cut off",
    "error": "an answer is an error message",
    "leak": "an answer names the model or its maker",
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, use_attribute_docstrings=True)


class Criterion(_Strict):
    """An extra question about every item."""

    key: str = Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")
    title: str = Field(min_length=1, max_length=200)
    options: list[str] = Field(["yes", "no"], min_length=2, max_length=7)
    each: bool = False
    """Asked of each response rather than of the item."""


class Candidate(_Strict):
    """A checkpoint that answers the prompts, and how."""

    checkpoint: str
    """Id or name."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    """As in a chat: temperature, top_p, top_k, max_tokens, seed."""


class ProjectChange(_Strict):
    """What may be changed at any time."""

    name: str | None = Field(None, min_length=1, max_length=200)
    status: Status | None = None
    question: str | None = Field(None, max_length=500)
    guidelines: str | None = Field(None, max_length=100_000)
    criteria: list[Criterion] | None = Field(None, max_length=5)
    overlap: int | None = Field(None, ge=1, le=50)
    """Raising it adds slots; lowering it closes slots nobody has taken."""
    overlap_share: float | None = Field(None, ge=0, le=1)
    gold_rate: float | None = Field(None, ge=0, le=0.5)
    repeat_rate: float | None = Field(None, ge=0, le=0.5)
    practice: int | None = Field(None, ge=0, le=50)
    gate_accuracy: float | None = Field(None, ge=0, le=1)
    gate_items: int | None = Field(None, ge=1, le=1000)
    lease_seconds: int | None = Field(None, ge=30, le=86_400)
    reveals: bool | None = None
    careful: bool | None = None
    active_choice: bool | None = None
    """Whether items come first whose models the votes so far tell apart least; for pairs and rankings."""


class ProjectCreate(ProjectChange):
    """A new project."""

    name: str = Field(min_length=1, max_length=200)
    kind: Kind = "pair"
    direction: Literal["better", "worse"] = "better"
    """Whether raters pick the better answer, or the worse one (red teaming)."""
    scale: Literal["graded", "thumbs", "five", "ranks"] | None = None
    """Default: graded for pairs, five for single answers, ranks for rankings."""
    prompts: str | None = None
    """Dataset (id or name) whose prompts are answered by the candidates."""
    prompt_texts: list[str] | None = Field(None, max_length=10_000)
    """Prompts as typed, instead of a dataset."""
    candidates: list[Candidate] = Field(default_factory=list, max_length=9)
    limit: int = Field(200, ge=1, le=100_000)
    """How many prompts at most."""
    seed: int = Field(42, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _fits(self) -> ProjectCreate:
        allowed = {"pair": ("graded",), "single": ("five", "thumbs"), "rank": ("ranks",)}[self.kind]
        self.scale = self.scale or allowed[0]  # type: ignore[assignment]  # one of the literals
        if self.scale not in allowed:
            raise ValueError(f"a project of kind {self.kind} has the scale {' or '.join(allowed)}")
        return self


class ResponseIn(_Strict):
    """One answer of an item."""

    text: str = Field(max_length=2_000_000)
    source: str = Field("", max_length=300)
    """Where it came from; raters are never told before they vote."""
    checkpoint: str | None = None
    sampling: dict[str, Any] = Field(default_factory=dict)
    finish: str | None = None
    tokens: int | None = None


class Gold(_Strict):
    """The right answer of a gold item, in the order of its responses."""

    preference: Preference | None = None
    score: float | None = None
    best: int | None = None
    """Rank: place of the response that must be first."""
    tolerance: int = Field(1, ge=0, le=3)
    """Pairs: how far a vote with the right sign may be off; single: how many points."""
    why: str = Field("", max_length=2000)
    """Shown after a practice item."""


class ItemIn(_Strict):
    """A prompt with the responses to judge."""

    prompt: str | list[dict[str, Any]]
    responses: list[ResponseIn] = Field(min_length=1, max_length=9)
    gold: Gold | None = None
    practice: bool = False
    """A gold item for the practice round."""
    preference: Preference | None = None
    """An imported vote, if there is one."""


class Vote(_Strict):
    """What a rater says. For pairs `preference` < 0 means: the first response as it was returned to this rater is better."""

    preference: Preference | Literal["both_good", "both_bad"] | None = None
    score: float | None = None
    ranking: list[list[str]] | None = None
    """Ids of responses, best first; those in one list are tied."""
    labels: dict[str, Any] = Field(default_factory=dict)
    comment: str = Field("", max_length=10_000)
    better: str | None = Field(None, max_length=100_000)
    """A better answer that the rater wrote; kept as a further response."""
    active_ms: int | None = Field(None, ge=0)
    wall_ms: int | None = Field(None, ge=0)
    ui: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """A response as a rater sees it."""

    id: str
    text: str


@dataclass(frozen=True)
class Task:
    """What a rater has to judge now; holds nothing that tells where a response came from."""

    slot: str
    """`item.k`."""
    item_id: str
    prompt: list[dict[str, Any]]
    responses: list[Shown]
    """In the order for this rater: for pairs the first is A, on the left."""
    lease_until: float
    earlier: dict[str, Any] | None = None
    """The rater's own vote on it that was undone, as `Vote` takes it."""
    practice: bool = False


@dataclass(frozen=True)
class Done:
    """What became of a vote."""

    event_id: str
    is_extra: bool
    feedback: dict[str, Any] | None = None
    """After a practice item: `{right, why, expected}`."""
    sources: list[str] | None = None
    """Names behind the responses as shown, where the project reveals them."""


# --- answers of the REST API ----------------------------------------------------------------------------------------------


def project_out(project: Any) -> dict[str, Any]:
    """A project as who runs it sees it."""
    names = (
        "id name kind status question direction guidelines guideline_version scale criteria overlap overlap_share gold_rate repeat_rate "
        "practice gate_accuracy gate_items lease_seconds reveals careful active_choice candidates prompts_dataset_id seed items filtered "
        "slots done extras created_by"
    )
    moments = {name: iso(getattr(project, name)) for name in ("created_at", "updated_at")}
    return {name: getattr(project, name) for name in names.split()} | moments


def project_brief(project: Any) -> dict[str, Any]:
    """A project as a rater sees it: nothing tells where answers come from."""
    names = "id name kind status question guidelines guideline_version scale criteria careful items slots done"
    return {name: getattr(project, name) for name in names.split()}


def item_out(item: Any, responses: list[Any]) -> dict[str, Any]:
    """An item as who runs the project sees it."""
    names = ("id", "prompt", "role", "gold", "status", "reason", "overlap", "meta")
    told = ("id", "place", "text", "source", "checkpoint_id", "sampling", "finish", "tokens", "style")
    return {
        **{name: getattr(item, name) for name in names},
        "created_at": iso(item.created_at),
        "responses": [{name: getattr(response, name) for name in told} for response in responses],
    }


def rater_out(rater: Any) -> dict[str, Any]:
    """A rater as who runs the project sees them."""
    names = ("id", "who", "name", "kind", "status", "reason", "done", "gold_seen", "gold_right", "practised")
    return {name: getattr(rater, name) for name in names} | {"seen_at": iso(rater.seen_at), "created_at": iso(rater.created_at)}


def task_out(task: Task) -> dict[str, Any]:
    """What a rater is sent. Only this: no source, no place in the data, no mark of a known answer."""
    return {
        "slot": task.slot,
        "item": task.item_id,
        "prompt": task.prompt,
        "responses": [{"id": one.id, "text": one.text} for one in task.responses],
        "deadline": iso(task.lease_until),
        "earlier": task.earlier,
        "practice": task.practice,
    }


def done_out(done: Done) -> dict[str, Any]:
    """What a rater is told of a vote."""
    return {"id": done.event_id, "is_extra": done.is_extra, "feedback": done.feedback, "sources": done.sources}
