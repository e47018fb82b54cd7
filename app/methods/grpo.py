"""Group relative policy optimisation: learn which of several answers to one prompt earn more than the others."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from app.methods.base import BATCH, TrainingJob
from app.methods.rewarded import ANSWERS, REWARDS, Grouped, RewardedParams


class GrpoParams(RewardedParams):
    """Settings of group relative policy optimisation."""

    batch_size: int = Field(8, ge=1, le=4096, title="Batch size", json_schema_extra={"group": BATCH})
    """Answers that go through the model at once."""
    gradient_accumulation: int = Field(4, ge=1, le=4096, title="Gradient accumulation", json_schema_extra={"group": BATCH})
    """Batches of each step. Their answers are written together: batch size × this, divided by the answers to a prompt, is the number of
    prompts a step asks. Four or more keep one odd prompt from ruling a step."""
    num_generations: int = Field(8, ge=2, le=1024, title="Answers to a prompt", json_schema_extra={"group": ANSWERS})
    """Each answer is compared with the others to its prompt. 8 is TRL's default; 64 in the paper."""
    beta: float = Field(0.0, ge=0, le=100, title="Beta", json_schema_extra={"group": REWARDS})
    """How strongly the model is held to what it was (KL). 0 as in DAPO (arXiv 2503.14476) and as TRL has it: no reference is kept. With a
    reward model or a judge take 0.04, as in the paper, since those can be outwitted."""
    loss: Literal["dapo", "grpo", "bnpo", "dr_grpo"] = Field("dapo", title="Loss", json_schema_extra={"group": REWARDS, "advanced": True})
    """How tokens of long and short answers are weighed: `dapo` all alike (TRL's default), `grpo` each answer alike (the paper),
    `dr_grpo` by the longest answer (arXiv 2503.20783), `bnpo` all alike within a batch."""
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", title="Scale rewards", json_schema_extra={"group": REWARDS, "advanced": True}
    )
    """Divide rewards by their spread within the answers to a prompt (the paper), within the batch, or not (Dr. GRPO, arXiv 2503.20783)."""
    num_iterations: int = Field(1, ge=1, le=16, title="Uses of answers", json_schema_extra={"group": REWARDS, "advanced": True})
    """Steps made with the same answers. 1 as in the paper; more saves time where writing answers takes most of it."""
    epsilon: float = Field(0.2, gt=0, lt=1, title="Clipping", json_schema_extra={"group": REWARDS, "advanced": True})
    """How far one set of answers may change the chance of a token, as in PPO. Matters where answers are used more than once."""
    mask_truncated: bool = Field(False, title="Leave out cut answers", json_schema_extra={"group": ANSWERS, "advanced": True})
    """Learn nothing from answers that reached the longest length without an end (DAPO's overlong filtering)."""


class Grpo(Grouped):
    """Has the model write several answers to each prompt, scores them, and makes those likelier that earn more than the others to the
    same prompt (DeepSeekMath, Shao et al. 2024, arXiv 2402.03300).

    Take it when answers can be checked, such as results of calculations, and the model is right now and then: where all answers to a
    prompt earn the same, nothing is learned from it (watch frac_reward_zero_std). It needs no value model. Its loss stays near 0 by
    construction; the reward is what should rise. By TRL's GRPOTrainer; dropout is switched off.
    """

    name = "grpo"
    title = "Group relative policy optimisation"
    summary = "Learn from rewards: of several answers to a prompt, those that earn more become likelier. For what can be checked."
    avoid = "Not where examples of good answers can be had: they teach faster than trial and error."
    params = GrpoParams

    def build_trainer(self, params: GrpoParams, job: TrainingJob) -> Any:
        """TRL's GRPOTrainer with the studio's rewards."""
        from trl import GRPOConfig, GRPOTrainer

        return self.trainer(params, job, GRPOConfig, GRPOTrainer, loss_type=params.loss, scale_rewards=params.scale_rewards)
