"""Which ratings become which rows, and the sheet that says what would come of it. Holds words and fields; reckons nothing."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RowShape = Literal["preference", "margin", "unpaired", "rated", "prompt_completion", "chat"]
SHAPES: dict[str, str] = {
    "preference": "Pairs, for direct preference optimisation",
    "margin": "Pairs with a margin, for a reward model",
    "unpaired": "Good and bad answers, for KTO",
    "rated": "Answers with a score, for a model that scores",
    "prompt_completion": "The best answer to each prompt, for supervised fine-tuning",
    "chat": "The best answer as a conversation, for supervised fine-tuning",
}
METHODS: dict[str, str] = {
    "preference": "dpo",
    "margin": "reward",
    "unpaired": "kto",
    "rated": "score",
    "prompt_completion": "sft",
    "chat": "sft",
}
"""Method that trains on a shape."""
FORMS: dict[str, str] = {name: "preference" if name == "margin" else name for name in SHAPES}
"""Row shape (`app.shapes`) of the dataset; a margin is an optional field of a preference."""
DROPPED: dict[str, str] = {
    "gold": "gold items, whose answer is known",
    "practice": "practice items",
    "filtered": "filtered when they were added",
    "flagged": "flagged by a rater",
    "removed": "removed",
    "unrated": "without a vote that counts",
    "tie": "ties",
    "both_good": "ties: both good",
    "both_bad": "ties: both bad",
    "no_label": "votes that say which is better, not whether it is good",
    "split": "no side has most of the votes",
    "divided": "not unanimous",
    "wide": "votes far apart, on both sides",
    "weak": "below the least grade",
    "unclear": "neither good nor bad",
    "not_best": "a better answer to the same prompt is there",
    "cycle": "rankings that go in a circle",
    "identical": "the answers are the same",
    "empty": "an answer is empty",
    "cut": "an answer is cut off",
    "error": "an answer is an error message",
    "unusable": "the prompt cannot be trained on",
    "over_cap": "pairs beyond the most for one prompt",
    "double": "the same row again",
    "contradiction": "the same answer called good and bad",
}
"""Why an item (or, from `over_cap` on, a row) is not in the dataset."""
VOTES_OUT: dict[str, str] = {
    "repeat": "second votes on repeated items",
    "skip": "skipped",
    "flag": "flagged",
    "rater": "of raters left out",
    "removed": "of removed raters",
    "automatic": "of automatic raters",
    "other": "answers of another kind",
}


class Rules(BaseModel):
    """How votes become rows. The same rules over the same votes give the same rows."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    shape: RowShape = "preference"
    """What the rows look like, which is what a method can learn from."""
    combine: Literal["majority", "unanimous", "every"] = "majority"
    """What several votes on an item come to. `majority` needs more than half of them on one side, `unanimous` all; `every` makes a row of
    each vote."""
    min_grade: int = Field(1, ge=1, le=3, title="Least grade")
    """Pairs: 1 takes slightly better too, 3 only much better. Rankings have no grades."""
    drop_wide: bool = Field(False, title="Leave out wide disagreement")
    """Leave out items whose votes are more than 2 grades apart across the middle, or whose scores are more than 2 points apart."""
    max_pairs_per_prompt: int = Field(4, ge=1, le=100, title="Pairs of a prompt")
    """Rankings: pairs of one prompt at most. The first against the last and the neighbours come first."""
    margin: Literal["small", "large", "none"] = "small"
    """Reward models: how far apart the scores of a pair must be. By grade `small` is 1, 2/3 and 1/3, `large` 3, 2 and 1, `none` 0."""
    strong_pairs: bool = Field(False, title="Labels from strong pairs")
    """KTO: call the winner of a pair of grade 2 or 3 good and the loser bad. The loser may well be good, so this is off by default."""
    good_from: float = Field(4, ge=0, le=5, title="Good from")
    """Scores 1 to 5: an answer is good from here on."""
    bad_to: float = Field(2, ge=0, le=5, title="Bad up to")
    """Scores 1 to 5: an answer is bad up to here; what lies between is left out of KTO."""
    held_out: float = Field(0.1, ge=0, le=0.9, title="Kept for evaluation")
    """Share of the rows. A prompt, and a whole conversation, is on one side only."""
    seed: int = Field(42, ge=0, lt=2**31)
    """Of the split, and of the order of KTO's rows."""
    without: list[str] = Field(default_factory=list, max_length=1000)
    """Ids of raters whose votes do not count. Those of removed raters never do."""
    automatic: bool = Field(False, title="Automatic raters count")
    """Whether votes of reward models and judges count like those of people."""


class Share(BaseModel):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


class SourceCount(BaseModel):
    """A model whose answers are in the rows."""

    name: str
    checkpoint: str | None
    answers: int
    share: float


class Cost(BaseModel):
    """What a run on the rows would take with the usual tuner; None is what is not known."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    tuner: str
    steps: int
    tokens: int
    """Tokens that go through the model, guessed from the length of the texts."""
    seconds: float | None
    seconds_basis: Literal["measured", "rough"] | None
    """`measured`: from the speed of earlier runs; `rough`: from a rule of thumb."""
    memory: int | None
    """Bytes."""
    device_memory: int | None
    """Bytes the device has; None while no worker is there."""
    fits: bool | None
    device: str | None


class Sheet(BaseModel):
    """What a snapshot holds, or would hold: all that should be looked at before training on it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    shape: str
    method: str
    rows: int
    train_rows: int
    eval_rows: int
    prompts: int
    leaks: int
    """Rows for evaluation whose prompt, but for case and spaces, is trained on; always 0."""
    items: int
    """Items that gave a row."""
    votes: int
    """Votes that counted, late ones included."""
    extras: int
    """Of these, votes that came late."""
    raters: int
    dropped: dict[str, int]
    votes_out: dict[str, int]
    per_prompt: dict[str, int]
    """Rows of one prompt → how many prompts have so many."""
    grades: dict[str, int]
    """Rows of each grade (3 is much better), scores or labels."""
    left: Share | None
    """How often the answer on the left won, of the votes that took a side."""
    longer: Share | None
    """How often the longer answer is the chosen one, of the rows where one is longer."""
    flips: Share | None
    """How often a vote takes the other side than the others on the same item."""
    people: dict[str, Share] = Field(default_factory=dict)
    """How often a vote takes the side of most others on the same pair, by grade of the pair: how well a person does."""
    label_smoothing: float | None
    """What the flips suggest for the robust loss."""
    weights: dict[str, float] | None
    """KTO: `desirable_weight` and `undesirable_weight` that balance good and bad answers."""
    longest_run: int | None
    """KTO: rows in a row with the same label."""
    neighbours: int | None
    """KTO: neighbours with the same prompt; 0 unless one prompt has more than half of the rows."""
    sources: list[SourceCount]
    on_policy: float | None
    """Share of the answers that come from the model to be trained; None where none is named."""
    long_rows: int
    """Rows that probably have more than 1,024 tokens, the usual limit."""
    mean_tokens: int = 0
    """Of a row with its longer answer, guessed from the length of the text."""
    most_tokens: int = 0
    """Of the longest row, guessed likewise."""
    cap: int | None = None
    """Rankings: pairs that one prompt gives at most."""
    steps: int
    """Steps of one epoch in batches of 8."""
    suggested: dict[str, Any] = Field(default_factory=dict)
    """Settings of the run that the data suggest; the page of a new run is opened with them."""
    cost: Cost | None = None
    """None where no model to be trained is named."""
    warnings: list[str]
