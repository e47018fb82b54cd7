"""The form of a project: what was typed, what it asks for, and what of it cannot be used, by field. Reads no database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import comb
from typing import Any

from pydantic import ValidationError

from app.errors import Invalid, StudioError
from app.feedback.schemas import Candidate, Criterion, ProjectChange, ProjectCreate
from app.feedback.tables import Project
from app.forms import Field, typed
from app.words import plain_words

MOST_CANDIDATES, MOST_QUESTIONS, MOST_OPTIONS = 9, 5, 7
KINDS = {
    "pair": ("Pairs", "columns-2", "Two answers side by side: which is better, and by how much. Trains DPO and reward models."),
    "single": ("Single answers", "star", "One answer at a time: thumbs, or 1 to 5 points. Trains KTO and reward models."),
    "rank": ("Rankings", "list-ordered", "Two to nine answers in order, ties allowed. A ranking says as much as many pairs."),
}
"""Kind -> title, icon, what it is for."""
QUESTIONS = {
    "pair": "Which answer is better?",
    "single": "How good is this answer?",
    "rank": "Put the answers in order, the best first.",
}
_TEXTS = (
    "name",
    "question",
    "guidelines",
    "direction",
    "scale",
    "source",
    "prompts",
    "typed",
    "limit",
    "pairs",
    "seed",
    "text",
    "draft",
    "counted",
)
_ROW = ("checkpoint", "temperature", "top_p", "max_tokens", "seed")
_ASKED = ("title", "options", "each", "key")


@dataclass(frozen=True)
class Spec:
    """A number or a switch of the form, in the unit people type it in."""

    name: str
    title: str
    help: str
    lowest: float = 0
    highest: float = 0
    factor: float = 1
    """What is stored is the typed number times this: 0.01 for per cent, 60 for minutes."""
    part: str = "page"
    switch: bool = False


SPECS = (
    Spec("overlap", "Ratings per item", "By different people. Two or more are needed to know how far they agree.", 1, 50, part="overlap"),
    Spec(
        "overlap_share",
        "Of how many items, in %",
        "The other items get one rating each: agreement costs little so.",
        0,
        100,
        0.01,
        "overlap",
    ),
    Spec(
        "gold_rate",
        "Gold items, in %",
        "Items with a known answer, hidden among the rest. They come with an import (`gold`).",
        0,
        50,
        0.01,
        "checks",
    ),
    Spec("practice", "Practice items", "Gold items with feedback that everybody does first.", 0, 50, part="checks"),
    Spec(
        "gate_accuracy",
        "Gold answers that must be right, in %",
        "Who falls below is paused and you are told; no vote is lost.",
        0,
        100,
        0.01,
        "checks",
    ),
    Spec("gate_items", "After how many gold items", "Nobody is judged by fewer.", 1, 1000, part="checks"),
    Spec("repeat_rate", "Shown twice, in %", "The same item later, sides swapped: tells how steady a rater is.", 0, 50, 0.01, "checks"),
    Spec(
        "lease_seconds", "Minutes an item waits for its rater", "Then somebody else gets it. A vote that comes late is kept.", 0.5, 1440, 60
    ),
    Spec("careful", "Careful mode", "A key only selects, and Enter commits.", switch=True),
    Spec("reveals", "Name the models after the vote", "Off: nobody learns where an answer came from.", switch=True),
    Spec(
        "active_choice",
        "Most uncertain first",
        "Items whose models the votes so far tell apart least: fewer ratings until a ranking holds, at the price of an uneven sample.",
        switch=True,
    ),
)
_INTEGERS = ("overlap", "practice", "gate_items", "lease_seconds")
TITLES = {
    **{spec.name: spec.title for spec in SPECS},
    **{
        "name": "Name",
        "question": "Question",
        "guidelines": "Guidelines",
        "prompts": "Prompts",
        "typed": "Prompts",
        "limit": "How many prompts",
    },
    **{"candidates": "Who answers", "text": "Items", "questions": "Extra questions", "seed": "Seed", "source": "Items"},
}


@dataclass
class Draft:
    """A project as far as it is typed."""

    kind: str = "pair"
    values: dict[str, str] = field(default_factory=dict)
    """Texts, numbers and switches by name, as typed."""
    candidates: list[dict[str, str]] = field(default_factory=list)
    questions: list[dict[str, str]] = field(default_factory=list)

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    @property
    def prompts(self) -> list[str]:
        """The prompts as typed: one a line, or several lines each where blank lines with `---` part them."""
        text = self["typed"].replace("\r\n", "\n")
        parts = re.split(r"(?m)^---+\s*$", text) if re.search(r"(?m)^---+\s*$", text) else text.split("\n")
        return list(dict.fromkeys(part.strip() for part in parts if part.strip()))

    def fields(self, part: str, errors: Mapping[str, str]) -> list[Field]:
        """The numbers and switches of one part of the form, to draw."""
        return [self._field(spec, errors.get(spec.name)) for spec in SPECS if spec.part == part and self._shows(spec)]

    def _shows(self, spec: Spec) -> bool:
        return spec.name != "active_choice" or self.kind != "single"

    def _field(self, spec: Spec, error: str | None) -> Field:
        default, value = DEFAULTS[spec.name], self[spec.name]
        kind = "boolean" if spec.switch else "number"
        changed = value not in ("", default)
        return Field(spec.name, spec.name, spec.title, kind, spec.help, value, default, False, error=error, changed=changed)  # type: ignore[arg-type]

    def is_open(self, part: str, errors: Mapping[str, str]) -> bool:
        """Whether a folded part has to be shown."""
        return any(each.error or each.changed for each in self.fields(part, errors))

    def items(self, prompts: int) -> int:
        """How many items a number of prompts makes."""
        answering = len([each for each in self.candidates if each.get("checkpoint")])
        if self.kind == "single":
            return prompts * max(1, answering)
        return prompts * (comb(answering, 2) if self.kind == "pair" and self["pairs"] == "all" and answering > 2 else 1)

    # ---- what it asks for

    def change(self) -> ProjectChange:
        """The change of a project that it asks for.

        Raises:
            Invalid: a field cannot be used; `details` has them all.
        """
        values, wrong = self._settings()
        made: ProjectChange = self._checked(ProjectChange, values, wrong)
        return made

    def request(self) -> ProjectCreate:
        """The project that it asks for.

        Raises:
            Invalid: a field cannot be used; `details` has them all.
        """
        values, wrong = self._settings()
        values |= {"kind": self.kind, "scale": self["scale"] or None, "direction": self["direction"] or "better"}
        values["status"] = "draft" if self["draft"] == "true" else "open"
        if self["source"] != "import":
            more, bad = self.generation()
            values |= more
            wrong += bad
        if self["seed"].strip():
            values["seed"] = self["seed"].strip()
        made: ProjectCreate = self._checked(ProjectCreate, values, wrong)
        return made

    def generation(self) -> tuple[dict[str, Any], list[dict[str, str]]]:
        """What is to be generated, and what is wrong with it."""
        wrong, values = [], dict[str, Any]()
        if self["prompts"]:
            values["prompts"] = self["prompts"]
        elif self.prompts:
            values["prompt_texts"] = self.prompts
        else:
            wrong.append({"field": "prompts", "message": "Choose a dataset whose prompts are answered, or type some prompts."})
        limit, problem = number_of(self["limit"] or "200", 1, 100_000)
        if problem or limit is None or limit != int(limit):
            wrong.append({"field": "limit", "message": problem or "Type a whole number."})
        else:
            values["limit"] = int(limit)
        values["candidates"] = []
        for place, row in enumerate(self.candidates):
            if not row.get("checkpoint"):
                continue
            sampling = {}
            for name, text in row.items():
                if name == "checkpoint" or not text.strip():
                    continue
                amount, problem = number_of(text, 0, 2**31 - 1)
                if problem or amount is None:
                    wrong.append({"field": f"candidates.{place}.{name}", "message": problem})
                else:
                    sampling[name] = int(amount) if name in ("max_tokens", "seed") and amount == int(amount) else amount
            values["candidates"].append(Candidate(checkpoint=row["checkpoint"], sampling=sampling))
        if not values["candidates"]:
            wrong.append({"field": "candidates.0.checkpoint", "message": "Choose at least one checkpoint that answers."})
        elif self.kind == "rank" and len(values["candidates"]) < 2:
            wrong.append({"field": "candidates", "message": "A ranking needs at least two answers: add another checkpoint."})
        return values, wrong

    def _settings(self) -> tuple[dict[str, Any], list[dict[str, str]]]:
        wrong: list[dict[str, str]] = []
        values: dict[str, Any] = {"name": self["name"], "question": self["question"].strip() or QUESTIONS[self.kind]}
        values["guidelines"] = self["guidelines"].replace("\r\n", "\n")
        for spec in SPECS:
            if spec.switch:
                values[spec.name] = (self[spec.name] or DEFAULTS[spec.name]) == "true"
                continue
            amount, problem = number_of(self[spec.name] or DEFAULTS[spec.name], spec.lowest, spec.highest)
            if not problem and spec.name in _INTEGERS and spec.factor == 1 and amount != int(amount or 0):
                problem = "Type a whole number."
            if problem or amount is None:
                wrong.append({"field": spec.name, "message": problem})
            else:
                stored = round(amount * spec.factor, 10)
                values[spec.name] = int(stored) if spec.name in _INTEGERS else stored
        values["criteria"] = []
        for place, row in enumerate(self.questions):
            if row.get("title", "").strip():
                values["criteria"].append(self._criterion(place, row, [each.key for each in values["criteria"]], wrong))
        return values, wrong

    def _criterion(self, place: int, row: Mapping[str, str], taken: list[str], wrong: list[dict[str, str]]) -> Criterion:
        options = list(dict.fromkeys(each.strip() for each in row.get("options", "").split(",") if each.strip())) or ["yes", "no"]
        if not 2 <= len(options) <= MOST_OPTIONS:
            words = f"Give two to seven answers, parted by commas; {'there is one' if len(options) == 1 else f'these are {len(options)}'}."
            wrong.append({"field": f"questions.{place}.options", "message": words})
            options = ["yes", "no"]
        title = row["title"].strip()
        if len(title) > 200:
            wrong.append({"field": f"questions.{place}.title", "message": "A question has at most 200 characters."})
        key = row.get("key", "") if re.fullmatch(r"[a-z][a-z0-9_]{0,30}", row.get("key", "")) else _key(title)
        while key in taken:
            key = f"{key[:28]}_{len(taken) + 1}"
        return Criterion(key=key, title=title[:200], options=options, each=row.get("each") == "true")

    def _checked(self, kind: type[Any], values: dict[str, Any], wrong: list[dict[str, str]]) -> Any:
        if not self["name"].strip():
            wrong.insert(0, {"field": "name", "message": "Give it a name, so that you and the raters find it again."})
        elif len(self["name"].strip()) > 200:
            wrong.insert(0, {"field": "name", "message": "A name has at most 200 characters."})
        try:
            made = kind.model_validate(values)
        except ValidationError as error:
            known = {each["field"] for each in wrong}
            found = [{"field": str(each["loc"][0]) if each["loc"] else "", "message": plain_words(each)} for each in error.errors()]
            wrong += [each for each in found if each["field"] not in known]
        if wrong:
            raise Invalid(wrong[0]["message"], field=wrong[0]["field"], details=wrong)
        return made


def _key(title: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:28].strip("_")
    return plain if re.match(r"[a-z]", plain) else f"q_{plain}".strip("_")


def number_of(text: str, lowest: float, highest: float) -> tuple[float | None, str]:
    """A number as people type it (`20`, `20 %`, `0,5`), or a sentence that says what is wrong."""
    plain = text.strip().removesuffix("%").strip().replace(",", ".")
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", plain) or len(plain) > 20:
        return None, f"Type a number from {lowest:,g} to {highest:,g}."
    amount = float(plain)
    if not lowest <= amount <= highest:
        return None, f"Must be from {lowest:,g} to {highest:,g}, and it is {amount:g}."
    return amount, ""


def errors_of(error: StudioError, draft: Draft) -> dict[str, str]:
    """The sentences of a refusal by field of the form."""
    if isinstance(error.details, list) and error.details and isinstance(error.details[0], dict) and "field" in error.details[0]:
        return {str(each["field"]): str(each["message"]) for each in reversed(error.details)}
    named = error.field or ""
    if found := re.fullmatch(r"candidates\.(\d+)(?:\.(.+))?", named):
        rows = [place for place, row in enumerate(draft.candidates) if row.get("checkpoint")]
        number = int(found[1])
        place = rows[number] if number < len(rows) else 0
        named = f"candidates.{place}.{(found[2] or 'checkpoint').removeprefix('sampling.')}"
    named = re.sub(r"^criteria\.", "questions.", named)
    return {{"prompt_texts": "typed", "items": "text"}.get(named, named): error.message}


# --- where a draft comes from ---------------------------------------------------------------------------------------------


def _defaults() -> dict[str, str]:
    columns = Project.__table__.columns
    found = {}
    for spec in SPECS:
        value = columns[spec.name].default.arg
        found[spec.name] = typed(value) if spec.switch else typed(round(value / spec.factor, 6) if spec.factor != 1 else value)
    return {name: text.removesuffix(".0") for name, text in found.items()}


DEFAULTS = _defaults()
CANDIDATE = {"checkpoint": "", "temperature": "0.7", "top_p": "0.95", "max_tokens": "128", "seed": ""}


def blank(kind: str, query: Iterable[tuple[str, str]] = ()) -> Draft:
    """The draft of a new project of a kind, with what a link names filled in (`checkpoint`, several times; `prompts`; `name`)."""
    named = [(name, text[:200]) for name, text in query]
    draft = Draft(kind, {"source": "generate", "question": QUESTIONS[kind], "limit": "200", "pairs": "one", **DEFAULTS})
    draft.values |= {name: text for name, text in named if name in ("name", "prompts", "source")}
    asked = [text for name, text in named if name == "checkpoint"][:MOST_CANDIDATES]
    wanted = 1 if kind == "single" else 2
    draft.candidates = [{**CANDIDATE, "checkpoint": each} for each in [*asked, *[""] * max(0, wanted - len(asked))]]
    return draft


def from_post(fields: Mapping[str, str]) -> Draft:
    """The draft a posted form holds. `act` may ask for a further row (`add-candidate`, `add-question`) or to leave one out (`drop-…-2`)."""
    kind = fields.get("kind", "")
    draft = Draft(kind if kind in KINDS else "pair")
    draft.values = {name: fields[name] for name in (*_TEXTS, *(spec.name for spec in SPECS)) if name in fields}
    draft.candidates = _rows(fields, "candidates", _ROW, MOST_CANDIDATES)
    draft.questions = _rows(fields, "questions", _ASKED, MOST_QUESTIONS)
    act = fields.get("act", "")
    if act == "add-candidate" and len(draft.candidates) < MOST_CANDIDATES:
        draft.candidates.append({**(draft.candidates[-1] if draft.candidates else CANDIDATE), "checkpoint": ""})
    elif act == "add-question" and len(draft.questions) < MOST_QUESTIONS:
        draft.questions.append({"title": "", "options": "yes, no", "each": "", "key": ""})
    elif found := re.fullmatch(r"drop-(candidate|question)-(\d)", act):
        rows = draft.candidates if found[1] == "candidate" else draft.questions
        del rows[int(found[2]) : int(found[2]) + 1]
    return draft


def _rows(fields: Mapping[str, str], prefix: str, names: tuple[str, ...], most: int) -> list[dict[str, str]]:
    there = sorted({int(found[1]) for name in fields if (found := re.fullmatch(rf"{prefix}\.(\d)\..+", name))})[:most]
    return [{name: fields.get(f"{prefix}.{place}.{name}", "") for name in names} for place in there]


def from_project(project: Project) -> Draft:
    """The draft that would change nothing of a project."""
    draft = Draft(project.kind, {"name": project.name, "question": project.question, "guidelines": project.guidelines})
    for spec in SPECS:
        value = getattr(project, spec.name)
        text = typed(value) if spec.switch else typed(round(value / spec.factor, 6) if spec.factor != 1 else value)
        draft.values[spec.name] = text.removesuffix(".0")
    for each in project.criteria:
        options = ", ".join(str(option) for option in each.get("options", ()))
        draft.questions.append(
            {"title": str(each["title"]), "options": options, "each": "true" if each.get("each") else "", "key": str(each["key"])}
        )
    return draft
