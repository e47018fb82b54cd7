"""Recipe `arithmetic`: questions with exact answers, such as “What is 37 + 58?” → “95” (the task of Goat, arXiv:2305.14201)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from app.recipes.base import Recipe, RecipeParams

Operation = Literal["add", "subtract", "multiply", "divide"]
_SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


class ArithmeticParams(RecipeParams):
    """Settings of the recipe."""

    operations: list[Operation] = Field(default=["add", "subtract"], min_length=1, max_length=4)
    """Which operations are asked. Differences are never negative, and divisions come out even."""
    min_digits: int = Field(2, ge=1, le=12)
    """Fewest digits of an operand (of divisor and result in a division)."""
    max_digits: int = Field(2, ge=1, le=12)
    """Most digits of an operand."""
    rows: int = Field(2000, ge=1, le=1_000_000)
    """How many different questions to make for training."""
    seed: int = Field(42, ge=0, lt=2**31)
    """The same settings and seed give the same rows."""
    held_out: int = Field(0, ge=0, le=100_000)
    """Questions in a second dataset for tests. Their pairs of operands, in either order, do not occur in training."""
    held_out_operations: list[Operation] = Field(default=[], max_length=4)
    """Which operations the held-out questions ask. Empty: the same as in training."""

    @model_validator(mode="after")
    def _fits(self) -> ArithmeticParams:
        if self.max_digits < self.min_digits:
            raise ValueError(f"max_digits must be at least min_digits, which is {self.min_digits}")
        # Each unordered pair gives one question per operation at least; half of them leaves room to draw without looking long.
        numbers = 10**self.max_digits - (10 ** (self.min_digits - 1) if self.min_digits > 1 else 0)
        pairs = numbers * (numbers - 1) // 2
        if self.held_out > pairs // 4:
            raise ValueError(f"held_out may be at most {pairs // 4:,} with so few digits, and it is {self.held_out:,}")
        most = (pairs - self.held_out) * len(set(self.operations)) // 2
        if self.rows > most:
            raise ValueError(f"rows may be at most {most:,} with these digits and operations, and it is {self.rows:,}")
        return self


class Arithmetic(Recipe):
    """Draws operands at random, reckons the answer, and never asks the same twice."""

    name = "arithmetic"
    title = "Arithmetic"
    summary = "Sums, differences, products and quotients with exact answers: a task whose progress can be measured to the last digit."
    produces = "prompt_completion"
    params = ArithmeticParams

    def parts(self, params: ArithmeticParams) -> dict[str, str]:
        """Training rows, and held-out ones where asked for."""
        return {"train": "", **({"held_out": "-heldout"} if params.held_out else {})}

    def generate(self, params: ArithmeticParams, part: str = "train") -> Iterator[dict[str, Any]]:
        """Rows `{prompt, completion}` of one part."""
        held = list(self._held_out(params))
        if part == "held_out":
            for operation, a, b in held:
                yield _row(operation, a, b)
            return
        absent = {_pair(a, b) for _, a, b in held}
        yield from (_row(*question) for question in _draw(random.Random(params.seed), params, params.operations, params.rows, absent))

    def _held_out(self, params: ArithmeticParams) -> Iterator[tuple[str, int, int]]:
        operations = params.held_out_operations or params.operations
        return _draw(random.Random(f"held out {params.seed}"), params, operations, params.held_out, set())


def _draw(
    source: random.Random, params: ArithmeticParams, operations: Sequence[str], count: int, absent: set[tuple[int, int]]
) -> Iterator[tuple[str, int, int]]:
    seen: set[tuple[str, int, int]] = set()
    kinds = list(dict.fromkeys(operations))
    while len(seen) < count:
        operation = kinds[len(seen) % len(kinds)]
        a, b = _number(source, params), _number(source, params)
        if operation == "divide" and b == 0:
            continue
        if operation == "subtract" and a < b:
            a, b = b, a
        if _pair(a, b) in absent or (operation, a, b) in seen:
            continue
        seen.add((operation, a, b))
        yield operation, a, b


def _number(source: random.Random, params: ArithmeticParams) -> int:
    digits = source.randint(params.min_digits, params.max_digits)
    return source.randrange(0 if digits == 1 else 10 ** (digits - 1), 10**digits)


def _pair(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a <= b else (b, a)


def _row(operation: str, a: int, b: int) -> dict[str, Any]:
    # In a division the drawn numbers are result and divisor, so that it comes out even.
    left = a * b if operation == "divide" else a
    answer = {"add": a + b, "subtract": a - b, "multiply": a * b, "divide": a}[operation]
    return {"prompt": f"What is {left} {_SIGNS[operation]} {b}?", "completion": str(answer)}
