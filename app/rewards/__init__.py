"""The rewards there are: what tells a model that learns by reinforcement how good an answer of it is. Each file declares one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from app.errors import Invalid
from app.registry import declared
from app.rewards.base import Answered as Answered
from app.rewards.base import Reward, RewardParams
from app.settings import switched_off


def registry() -> dict[str, Reward]:
    """All rewards by name."""
    return declared(__name__, __path__, Reward)


def _settings() -> Any:
    kinds = [each.params for each in registry().values()]
    return Annotated[reduce(or_, kinds), Field(discriminator="kind")]


if TYPE_CHECKING:
    RewardSettings = RewardParams
else:
    RewardSettings = _settings()
"""Settings of any reward, told apart by their `kind`."""


def of(params: RewardParams) -> Reward:
    """The reward that settings are for."""
    return registry()[str(getattr(params, "kind"))]  # noqa: B009  # each kind declares its own literal


def must_be_allowed(given: Iterable[RewardParams]) -> None:
    """Refuse rewards that need a setting of the studio which is off.

    Raises:
        Invalid: the message names the setting.
    """
    for number, each in enumerate(given):
        needed = switched_off(type(each))
        if needed is not None:
            raise Invalid(
                f"The reward {of(each).name} is switched off here: an admin can allow it with LUTHIER_{needed.upper()}. "
                "Take another reward.",
                field=f"params.rewards.{number}",
            )


def in_need_of_answers(rewards: list[RewardParams]) -> list[str]:
    """Kinds among these that compare an answer with the one its row gives."""
    return [of(each).name for each in rewards if of(each).expects]
