"""Settings that a link fills into the form of a new run, each checked by the field it is for. What cannot be used is left out and said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from app import forms, methods, tuners
from app.methods.base import Objective
from app.words import known, plain_words

if TYPE_CHECKING:
    from app.plans.draft import Draft

MOST = 60
"""Settings a link may name; each is one field of the form."""
LONGEST = 200


def settings(draft: Draft, query: Mapping[str, str]) -> None:
    """Take `params.NAME` and `tuner_params.NAME` of a link into the draft, and method and tuner only where they exist."""
    for name, registry in (("method", methods.registry()), ("tuner", tuners.registry())):
        if getattr(draft, name) not in registry:
            draft.refused.append(known(name, getattr(draft, name)[:60], registry))
            setattr(draft, name, getattr(type(draft), name))
    if draft.tuner not in draft.objective.accepts_tuners:
        draft.refused.append(f"tuner: {draft.objective.name} cannot be combined with {draft.tuner}.")
        draft.tuner = suited_tuner(draft.objective)
    asked = {name: value for name, value in list(query.items())[:MOST] if len(value) <= LONGEST}
    for prefix, model in (("params", draft.objective.params), ("tuner_params", draft.how.params)):
        values, refused = usable(model, forms.values_of(model, asked, prefix))
        setattr(draft, prefix, values)
        draft.filled += [str(model.model_fields[name].title or name) for name in values]
        draft.refused += [f"{name}: {words}" for name, words in refused.items()]
    too_long = [name[:60] for name, value in query.items() if len(value) > LONGEST and name.startswith(("params.", "tuner_params."))]
    draft.refused += [f"{name}: a value has at most {LONGEST} characters." for name in too_long]


def suited_tuner(objective: Objective) -> str:
    """The tuner to take first with a method."""
    offered = objective.accepts_tuners
    return "lora" if "lora" in offered else offered[0]


def usable(model: type[BaseModel], values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Those values that the fields take, as typed, and what is wrong with the others. Values that do not fit together all go."""
    kept, refused = dict(values), dict[str, str]()
    for _ in range(len(values) + 1):
        try:
            model.model_validate(kept)
        except ValidationError as error:
            found = [each for each in error.errors() if each["type"] != "missing" or len(each["loc"]) > 1]
            if not found:
                return kept, refused  # what else is needed is filled in on the page
            wrong = {str(each["loc"][0]) if each["loc"] else "": each for each in reversed(found)}
            for name, each in wrong.items():
                words = known("setting", name[:60], model.model_fields) if each["type"] == "extra_forbidden" else plain_words(each)
                refused[name[:60] or ", ".join(kept)] = words
            kept = {name: value for name, value in kept.items() if name not in wrong} if "" not in wrong else {}
        else:
            return kept, refused
    return {}, refused
