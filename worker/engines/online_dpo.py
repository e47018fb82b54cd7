"""Online preference optimisation: the trainer of the objective `online_dpo`. The rewards and the asking are its base's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from worker.engines import rollouts
from worker.engines.rollouts import Tensors, masked_mean


class OnlineDpoTrainer(rollouts.Rollouts):
    """DPO on two answers of the model to each prompt, of which the one that earns more is the chosen one. Settings are those of
    `app.methods.online_dpo.OnlineDpoParams`."""

    answers = 2

    def batches_of(self, rows: Sequence[dict[str, Any]], written: Tensors, columns: list[list[float]]) -> list[Tensors]:
        """Pairs of answers, the better one first; where both earn the same, the pair counts for nothing."""
        mask = written["answer_mask"].float()
        with self.before_training() as before:
            written["reference"] = torch.cat([self.read(before, part).logs for part in self.in_parts(written)]) * mask
        earned = self.rewarded.total(columns).to(mask.device).view(-1, 2)
        order = torch.stack([earned.argmax(dim=1), 1 - earned.argmax(dim=1)], dim=1)
        pairs = torch.arange(len(earned), device=mask.device)[:, None]
        paired = {name: tensor.view(len(earned), 2, *tensor.shape[1:])[pairs, order] for name, tensor in written.items()}
        differs = (earned[:, 0] != earned[:, 1]).float()
        self.note("frac_reward_zero_std", 1 - differs.mean())
        size, steps = self.args.train_batch_size, self.args.gradient_accumulation_steps
        whole = torch.tensor(float(size * steps), device=mask.device)
        parts = range(0, len(earned), size)
        return [
            {
                **{name: tensor[start : start + size] for name, tensor in paired.items()},
                "differs": differs[start : start + size],
                "pairs": whole,
            }
            for start in parts
        ]

    def loss_of(self, model: Any, batch: Tensors) -> torch.Tensor:
        """The preference loss of each pair, as a mean over the pairs of the step."""
        flat = {name: tensor.flatten(0, 1) for name, tensor in batch.items() if tensor.dim() > 1}
        mask = flat["answer_mask"].float()
        read = self.read(model, flat)
        drift = (read.logs - flat["reference"]) * mask
        implied = drift.sum(dim=1).view(-1, 2)
        margin = implied[:, 0] - implied[:, 1]
        losses = preference_loss(margin, self.settings.beta, self.settings.loss)
        tokens, differs = mask.sum(), batch["differs"]
        self.note("kl", masked_mean(drift.detach(), mask), tokens)
        self.note("entropy", masked_mean(read.entropy, mask), tokens)
        self.note("rewards/margins", masked_mean(self.settings.beta * margin.detach(), differs), differs.sum())
        self.note("rewards/accuracies", masked_mean((margin.detach() > 0).float(), differs), differs.sum())
        return (losses * differs).sum() / batch["pairs"]


def preference_loss(margin: torch.Tensor, beta: float, kind: Literal["sigmoid", "ipo"]) -> torch.Tensor:
    """The loss of each pair.

    Args:
        margin: how much more the chosen answer's log-probability has grown, since before training, than the rejected one's.
    """
    if kind == "ipo":
        return (margin - 1 / (2 * beta)) ** 2
    return -torch.nn.functional.logsigmoid(beta * margin)
