"""Finds what the files of a package declare: one class with a `name` each. A file that is put there is found without being named."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")
_made: dict[type[Any], Any] = {}


def declared(package: str, places: Iterable[str], kind: type[T]) -> dict[str, T]:
    """One instance of every subclass of `kind` that a file of the package defines with a `name`, by that name, sorted.

    Args:
        package: name of the package, such as `app.methods`.
        places: its folders (`__path__`); more can be added to it, for methods of one's own.

    Raises:
        RuntimeError: two files declare the same name.
    """
    found: dict[str, T] = {}
    for module in pkgutil.iter_modules(places):
        loaded = import_module(f"{package}.{module.name}")
        for each in vars(loaded).values():
            if isinstance(each, type) and issubclass(each, kind) and each.__module__ == loaded.__name__ and "name" in vars(each):
                name = str(vars(each)["name"])
                if name in found:
                    raise RuntimeError(f"{each.__module__} declares “{name}”, which {type(found[name]).__module__} has declared already.")
                if each not in _made:
                    _made[each] = each()
                found[name] = _made[each]
    return dict(sorted(found.items()))
