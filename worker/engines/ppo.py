"""Proximal policy optimisation: the trainer of the objective `ppo`. The rewards and the asking are its base's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from worker.engines import rollouts
from worker.engines.rollouts import Tensors, masked_mean

VALUE_FILE = "value_head.pth"


class PpoTrainer(rollouts.Rollouts):
    """PPO on tokens: a clipped policy loss with advantages by GAE, and a value head on the model's own last layer.

    The value of a place is a linear function of what the model knows there, begins at zero, and is trained with the model. It is kept
    beside checkpoints and is no part of the model. Settings are those of `app.methods.ppo.PpoParams`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = self.model.get_output_embeddings().in_features
        self.value = torch.nn.Linear(width, 1, device=self.args.device, dtype=torch.float32)
        torch.nn.init.zeros_(self.value.weight)
        torch.nn.init.zeros_(self.value.bias)

    def values(self, read: rollouts.Read) -> torch.Tensor:
        """What the value head expects at each place."""
        with torch.autocast(self.args.device.type, enabled=False):
            found: torch.Tensor = self.value(read.hidden).squeeze(-1)
        return found

    def batches_of(self, rows: Sequence[dict[str, Any]], written: Tensors, columns: list[list[float]]) -> list[Tensors]:
        """Answers with their advantages, in a new order for each epoch over them."""
        settings, mask = self.settings, written["answer_mask"].float()
        reads = [self.read(self.model, part) for part in self.in_parts(written)]
        old = torch.cat([read.logs for read in reads]) * mask
        values = torch.cat([self.values(read) for read in reads]) * mask
        drift = torch.zeros_like(old)
        if settings.beta:
            with self.before_training() as before:
                drift = (old - torch.cat([self.read(before, part).logs for part in self.in_parts(written)])) * mask
            self.note("kl", masked_mean(drift, mask))
        scores = self.rewarded.total(columns).to(old.device)
        earned = token_rewards(scores, drift, mask, settings.beta)
        advantages = generalised_advantages(earned, values, mask, settings.gamma, settings.gae_lambda)
        known = written | {"old": old, "values": values, "returns": (advantages + values) * mask, "advantages": whitened(advantages, mask)}
        size, steps = self.args.train_batch_size, self.args.gradient_accumulation_steps
        found = []
        for _ in range(settings.ppo_epochs):
            for step in torch.randperm(len(scores)).to(old.device).split(size * steps):
                tokens = mask[step].sum()
                found += [{**{name: tensor[part] for name, tensor in known.items()}, "tokens": tokens} for part in step.split(size)]
        return found

    def loss_of(self, model: Any, batch: Tensors) -> torch.Tensor:
        """Clipped policy loss and clipped value loss, as means over the tokens of the step's answers."""
        settings, mask = self.settings, batch["answer_mask"].float()
        read = self.read(model, batch)
        ratio = torch.where(mask.bool(), read.logs - batch["old"], 0.0).exp()
        policy = clipped_policy_loss(ratio, batch["advantages"], settings.clip)
        value = clipped_value_loss(self.values(read), batch["values"], batch["returns"], settings.value_clip)
        loss = policy + settings.value_weight * value
        tokens = mask.sum()
        self.note("entropy", masked_mean(read.entropy, mask), tokens)
        self.note("value_loss", masked_mean(value.detach(), mask), tokens)
        self.note("clip_ratio", masked_mean(((ratio - 1).abs() > settings.clip).float(), mask), tokens)
        return (loss * mask).sum() / batch["tokens"]

    # --- the value head beside the model ----------------------------------------------------------------------------------

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The model's optimiser, with the value head at a rate of its own."""
        fresh = self.optimizer is None
        made = super().create_optimizer(*args, **kwargs)
        if fresh:
            self.optimizer.add_param_group(
                {"params": list(self.value.parameters()), "lr": self.settings.value_learning_rate, "weight_decay": 0.0}
            )
        return made

    def _prepare_inputs(self, inputs: Any) -> Any:
        if self.made % self.args.gradient_accumulation_steps == 0:
            self.value.zero_grad()  # the library empties the gradients of the model only
        return super()._prepare_inputs(inputs)

    def _clip_grad_norm(self, model: Any) -> Any:
        torch.nn.utils.clip_grad_norm_(self.value.parameters(), self.args.max_grad_norm)
        return super()._clip_grad_norm(model)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        torch.save(self.value.state_dict(), Path(output_dir) / VALUE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)
        self.value.load_state_dict(torch.load(Path(resume_from_checkpoint) / VALUE_FILE, weights_only=True, map_location=self.args.device))


def token_rewards(scores: torch.Tensor, drift: torch.Tensor, mask: torch.Tensor, beta: float) -> torch.Tensor:
    """What each token earns: nothing but the penalty for leaving the reference, and the last one the score of its answer besides.

    Args:
        scores: one for each answer.
        drift: log-probability of each token less that under the reference.
        mask: 1 for tokens of answers; each row begins with its answer.
    """
    earned = -beta * drift * mask
    last = mask.sum(dim=1).long() - 1
    return earned.scatter_add(1, last[:, None], scores[:, None].to(earned.dtype))


def generalised_advantages(rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float) -> torch.Tensor:
    """Generalised advantage estimation (Schulman et al. 2015, arXiv 1506.02438); behind the end of an answer nothing is expected."""
    found, following = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    expected = torch.zeros_like(following)
    for step in range(rewards.shape[1] - 1, -1, -1):
        here = mask[:, step]
        following = (rewards[:, step] + gamma * expected - values[:, step] + gamma * lam * following) * here
        expected = values[:, step] * here
        found[:, step] = following
    return found


def whitened(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Values with mean 0 and spread 1 over what the mask lets through; 0 elsewhere."""
    mean = masked_mean(values, mask)
    spread = masked_mean((values - mean) ** 2, mask).sqrt()
    return (values - mean) / (spread + 1e-8) * mask


def clipped_policy_loss(ratio: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """For each token the worse of both: with its ratio of probabilities as it is, and clipped (Schulman et al. 2017, arXiv 1707.06347)."""
    return torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))


def clipped_value_loss(values: torch.Tensor, before: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error of each value, the worse of both: as it is, and moved from what it was by no more than `clip`."""
    near = before + (values - before).clamp(-clip, clip)
    return 0.5 * torch.max((values - returns) ** 2, (near - returns) ** 2)
