"""What pydantic finds wrong, and names: as sentences for people. Checks nothing but names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from app.errors import Invalid

_WORDS = {
    "missing": "This is needed.",
    "extra_forbidden": "There is no such field.",
    "greater_than_equal": "Must be at least {ge}, and it is {input}.",
    "greater_than": "Must be more than {gt}, and it is {input}.",
    "less_than_equal": "Must be at most {le}, and it is {input}.",
    "less_than": "Must be less than {lt}, and it is {input}.",
    "string_too_short": "Must have at least {min_length} characters.",
    "string_too_long": "Must have at most {max_length} characters.",
    "string_type": "Must be text.",
    "int_type": "Must be a whole number.",
    "int_parsing": "Must be a whole number.",
    "int_from_float": "Must be a whole number.",
    "int_parsing_size": "Is too large a number.",
    "float_type": "Must be a number.",
    "float_parsing": "Must be a number.",
    "finite_number": "Must be a finite number.",
    "bool_type": "Must be true or false.",
    "bool_parsing": "Must be true or false.",
    "list_type": "Must be a list.",
    "dict_type": "Must be an object.",
    "model_attributes_type": "Must be an object.",
    "model_type": "Must be an object.",
    "literal_error": "Must be {expected}, and it is {input}.",
    "enum": "Must be {expected}, and it is {input}.",
}


def plain_words(problem: Mapping[str, Any]) -> str:
    """One of pydantic's findings as a sentence for people."""
    template = _WORDS.get(problem["type"])
    if template is None:
        text = str(problem["msg"]).removeprefix("Value error, ")
        return text if text.endswith(".") else f"{text}."
    given = _shown(problem.get("input"))
    return template.format(**problem.get("ctx", {}), input=given if len(given) <= 60 else given[:60] + "…")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        try:  # a number typed into a form is shown as it was typed
            float(value)
        except ValueError:
            return repr(value)
        return value
    return repr(value)


def known(kind: str, given: str, names: Iterable[str]) -> str:
    """The sentence for a name that does not exist: what was meant, or all there are."""
    listed = sorted(names)
    close = get_close_matches(given, listed, n=1)
    if close and len(listed) > 8:
        return f"There is no {kind} “{given[:60]}”. Did you mean “{close[0]}”?"
    hint = f" Did you mean “{close[0]}”?" if close else ""
    return f"There is no {kind} “{given[:60]}”.{hint} There {'is' if len(listed) == 1 else 'are'}: {', '.join(listed)}."


def clean_name(what: str, name: str) -> str:
    """A name without control characters and surrounding blanks, at most 200 characters.

    Raises:
        Invalid: nothing is left of it.
    """
    cleaned = "".join(character for character in name if character.isprintable()).strip()
    if not cleaned:
        raise Invalid(f"Give the {what} a name with at least one visible character.", field="name")
    return cleaned[:200]
