"""Reward: a function somebody wrote in Python. Only where an admin has allowed it, since it is code that runs on a worker."""

from __future__ import annotations

import ast
from typing import Literal

from pydantic import ConfigDict, Field, field_validator

from app.rewards.base import Reward, RewardParams

FUNCTION, ARGUMENTS = "score", 3
SETTING = "python_rewards"
"""The setting (`app.settings`) without which it is refused."""


class PythonParams(RewardParams):
    """A function of yours, in Python; only where an admin has allowed it."""

    model_config = ConfigDict(title="Python", json_schema_extra={"setting": SETTING})

    kind: Literal["python"] = "python"
    code: str = Field(min_length=1, max_length=20_000, title="Code", json_schema_extra={"multiline": True})
    """Defines `score(prompt, answer, expected)`, which returns a number. `prompt` is text or a list of messages, `expected` the answer of
    the row or None. Only Python's own library can be imported."""

    @field_validator("code")
    @classmethod
    def _can_be_called(cls, value: str) -> str:
        try:
            tree = ast.parse(value)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = f"Line {error.lineno} is" if isinstance(error, SyntaxError) and error.lineno else "This is"
            raise ValueError(f"{line} no Python that can be read: {getattr(error, 'msg', None) or error}. Correct it") from error
        found = next((each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == FUNCTION), None)
        if found is None:
            raise ValueError(f"It defines no function {FUNCTION}. Begin with: def {FUNCTION}(prompt, answer, expected):")
        takes, optional = len(found.args.posonlyargs) + len(found.args.args), len(found.args.defaults)
        if found.args.vararg is None and not takes - optional <= ARGUMENTS <= takes:
            raise ValueError(f"{FUNCTION} takes {takes} arguments, and is called with three: prompt, answer and expected. Name these")
        return value


class Python(Reward):
    """A function of yours in Python, which gives each answer a number.

    Off unless an admin sets LUTHIER_PYTHON_REWARDS on web server and workers: whoever can start a run can then run code on a worker. It
    runs in a process of its own, without the environment of the worker, with a limit on time and memory, and where the system permits it
    without network and as a user without rights; that keeps accidents in, and is no wall against somebody who means harm.
    """

    name = "python"
    title = "Python"
    summary = "A function of yours, in Python; only where an admin has allowed it."
    params = PythonParams
    engine = "worker.engines.python_reward:ScoredByPython"
