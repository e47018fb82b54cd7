"""Check the settings of a run against its method, its tuner and its rows, and describe methods and tuners. Knows no table."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel, ValidationError

from app import methods, tuners
from app.errors import Invalid
from app.methods.base import Objective, TrainingParams
from app.shapes import SHAPES
from app.tuners.base import Tuner
from app.words import known, plain_words


def objective(name: str) -> Objective:
    """An objective by name.

    Raises:
        Invalid: there is none; the message says what was meant.
    """
    found = methods.registry().get(name)
    if found is None:
        raise Invalid(known("method", name, methods.registry()), field="method")
    return found


def tuner(name: str) -> Tuner:
    """A tuner by name.

    Raises:
        Invalid: there is none; the message says what was meant.
    """
    found = tuners.registry().get(name)
    if found is None:
        raise Invalid(known("tuner", name, tuners.registry()), field="tuner")
    return found


def validate(
    method: str,
    tuner_name: str,
    params: dict[str, Any],
    tuner_params: dict[str, Any],
    shape: str | None,
    *,
    field: str = "dataset",
    has_eval: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a run with every default filled in.

    Args:
        shape: row shape of the dataset, or None where none is chosen yet.
        field: name of the field that holds the dataset, for the message.
        has_eval: whether the run has evaluation rows.

    Raises:
        Invalid: something does not exist, cannot be combined or is out of range. `field` is such as `params.learning_rate`, and `details`
        lists all findings.
    """
    aim, how = objective(method), tuner(tuner_name)
    refusal = aim.refusal(how)
    if refusal is not None:
        offered = ", ".join(aim.accepts_tuners)
        raise Invalid(f"{aim.name} cannot be combined with the tuner {how.name}: {refusal} Take one of: {offered}.", field="tuner")
    problems: list[dict[str, str]] = []
    checked = _checked(aim.params, params, "params", problems)
    checked_tuner = _checked(how.params, tuner_params, "tuner_params", problems)
    if isinstance(checked, TrainingParams):
        if checked.learning_rate is None:
            checked.learning_rate = aim.rate_with(how)
        if checked.answer_check != "none" and aim.head:
            words = "A model that gives numbers writes no answers that could be checked. Set it to none."
            problems.append({"field": "params.answer_check", "message": words})
        elif checked.answer_check != "none" and not has_eval:
            words = "There are no evaluation rows to check. Name an eval_dataset, split the dataset, or set it to none."
            problems.append({"field": "params.answer_check", "message": words})
    if checked is not None and checked_tuner is not None:
        found = [*aim.problems(checked), *how.problems(checked_tuner, checked)]
        problems += [{"field": name, "message": words} for name, words in found]
    if checked is not None and shape is not None and shape in aim.consumes:
        problems += [{"field": name, "message": words} for name, words in aim.problems_with(checked, shape)]
    if shape is not None and shape not in aim.consumes:
        problems.append({"field": field, "message": _misfit(aim, shape)})
    if problems:
        first = problems[0]
        named = first["message"] if first["field"] == field else f"{first['field']}: {first['message']}"
        raise Invalid(named, field=first["field"], details=problems)
    assert checked is not None and checked_tuner is not None
    return checked.model_dump(), checked_tuner.model_dump()


def _checked(kind: type[BaseModel], values: dict[str, Any], prefix: str, problems: list[dict[str, str]]) -> BaseModel | None:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        for each in error.errors():
            name = ".".join(_place(each["loc"], values))
            words = known("setting", name, kind.model_fields) if each["type"] == "extra_forbidden" else plain_words(each)
            problems.append({"field": f"{prefix}.{name}" if name else prefix, "message": words})
    return None


def _place(loc: tuple[int | str, ...], values: Any) -> list[str]:
    """Where an error is, as fields are named; pydantic also tells which kind of entry it took one for."""
    found: list[str] = []
    for before, part in zip((None, *loc), loc, strict=False):
        if isinstance(before, int) and isinstance(values, dict) and part == values.get("kind"):
            continue
        found.append(str(part))
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            values = None
    return found


def _misfit(aim: Objective, shape: str) -> str:
    held = shape.replace("_", "/")
    wanted = " or ".join(f"{name.replace('_', '/')} rows ({', '.join(SHAPES[name].fields)})" for name in aim.consumes)
    others = sorted((name for name, each in methods.registry().items() if shape in each.consumes), key=lambda name: name != "sft")
    listed = f"{', '.join(others[:-1])} or {others[-1]}" if len(others) > 1 else "".join(others)
    hint = f" Take another dataset, or the method {listed}." if others else " Take another dataset."
    return f"This dataset holds {held} rows; {aim.name} needs {wanted}.{hint}"


def describe(each: Objective | Tuner) -> dict[str, Any]:
    """A method or tuner as REST shows it: its texts and the JSON Schema of its settings."""
    told: dict[str, Any] = {
        "name": each.name,
        "title": each.title,
        "summary": each.summary,
        "description": inspect.cleandoc(type(each).__doc__ or ""),
        "params": each.params.model_json_schema(),
    }
    if isinstance(each, Objective):
        told |= {"consumes": list(each.consumes), "produces": each.produces, "accepts_tuners": each.accepts_tuners}
        told["learning_rate"] = {name: each.rate_with(tuners.registry()[name]) for name in each.accepts_tuners}
        told["refuses"] = {name: why for name, how in tuners.registry().items() if (why := each.refusal(how)) is not None}
    else:
        told |= {"family": each.family, "mergeable": each.family == "full" or each.mergeable}
    return told
