"""Learning from a teacher's probabilities: the trainer of the objective `distill`. The teacher stays as it is, and is kept nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import TrainingArguments

from worker import loading
from worker.engines.asking import writing
from worker.engines.own import OwnTrainer
from worker.engines.pairs import sides
from worker.tuning import attached

CHUNK = 1024
"""Positions whose probabilities are held at once; with large vocabularies they are most of the memory."""


class DistillTrainer(OwnTrainer):
    """The divergence between student and teacher over the next token, averaged over the tokens of answers (GKD, arXiv 2306.13649).

    Args:
        teacher: `path`, `adapter` and `name` of its checkpoint.
        precision: what was asked of the run; the teacher is held as frozen weights are.
        on_policy: share of the batches whose answers the student writes itself.
        beta: 0 for the forward divergence, 1 for the reverse one, between them the generalised Jensen-Shannon divergence.
        temperature: divides the logits of both, and those of the student when it writes.
        max_new_tokens: length of the answers the student writes.
    """

    columns = ("prompt_ids", "answer_ids")

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        train_dataset: Any,
        eval_dataset: Any,
        processing_class: Any,
        peft_config: Any,
        teacher: Mapping[str, Any],
        precision: str,
        max_length: int,
        on_policy: float,
        beta: float,
        temperature: float,
        max_new_tokens: int,
    ) -> None:
        self.on_policy, self.beta, self.temperature = on_policy, beta, temperature
        self.max_length, self.max_new_tokens = max_length, max_new_tokens
        self.tokens_seen = 0
        self._sums = {"train": torch.zeros(4, dtype=torch.float64), "eval": torch.zeros(4, dtype=torch.float64)}
        if "completion" not in train_dataset.column_names and on_policy < 1:
            raise ValueError("the rows hold prompts and no answers, so the student has to write all of them: set on_policy to 1")

        def prepared(rows: Any) -> Any:
            def tokens(row: dict[str, Any]) -> dict[str, Any]:
                prompt, answers = sides(processing_class, row["prompt"], *([row["completion"]] if "completion" in row else []))
                return {"prompt_ids": prompt, "answer_ids": answers[0][: max(0, max_length - len(prompt))] if answers else []}

            return rows.map(tokens, remove_columns=rows.column_names).filter(lambda row: len(row["prompt_ids"]) < max_length)

        self.teacher = load_teacher(teacher, processing_class, precision, args.device)
        if not hasattr(model, "peft_config") and not hasattr(model, "hf_quantizer") and _is_it(model, teacher):
            raise ValueError("the teacher is the model to train itself, so there is nothing to learn from it. Choose another")
        model = attached(model, peft_config, args, processing_class, dropout=False)
        super().__init__(model, args, processing_class, prepared, train_dataset, eval_dataset)

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        prompts, answers = [row["prompt_ids"] for row in rows], [row["answer_ids"] for row in rows]
        pad = self.processing_class.pad_token_id
        asked, asked_mask = _padded(prompts, pad, left=True)
        batch = {"prompts": asked, "prompts_mask": asked_mask}
        return {**batch, **_sequences(prompts, answers, pad)} if all(answers) else batch

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The mean divergence of a token, in nats."""
        training = self.model.training
        if training:
            writes = self.on_policy >= 1 or (self.on_policy > 0 and float(torch.rand(())) < self.on_policy)
        else:
            writes = "ids" not in inputs  # held-out rows with answers are judged by those, so that figures can be compared
        given = self._write(inputs, draw=training) if writes else inputs
        ids, mask, learned = given["ids"], given["mask"], given["learned"][:, 1:].bool()
        if training:
            self.tokens_seen += int(mask.sum())
        length = ids.shape[1]
        outputs = model(input_ids=ids, attention_mask=mask, use_cache=False)
        with torch.no_grad():
            theirs = self.teacher(input_ids=ids, attention_mask=mask, use_cache=False).logits
        # Virtual tokens have logits of their own, before those of the prompt.
        ours, theirs = (logits[:, -length:][:, :-1][learned] for logits in (outputs.logits, theirs))
        parts = divergence(ours, theirs, self.beta, self.temperature)
        count = ours.shape[0]
        told = [*torch.stack(parts).detach().double().tolist(), count]
        self._sums["train" if training else "eval"] += torch.tensor(told, dtype=torch.float64)
        loss = parts[0] / count
        if training and getattr(outputs, "aux_loss", None) is not None:  # experts that are to be used alike
            loss = loss + model.config.get_text_config().router_aux_loss_coef * outputs.aux_loss
        return (loss, outputs) if return_outputs else loss

    def _write(self, inputs: dict[str, Any], *, draw: bool) -> dict[str, torch.Tensor]:
        """Answers of the student to the prompts of a batch, drawn or the likeliest; nothing after their end is learned."""
        model, tokenizer = self.accelerator.unwrap_model(self.model), self.processing_class
        ends = model.generation_config.eos_token_id
        stops = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends] if ends is not None else [])}
        asked, asked_mask = inputs["prompts"], inputs["prompts_mask"]
        was_training = model.training
        model.eval()
        try:
            with writing(model), torch.no_grad():
                tokens = model.generate(
                    input_ids=asked,
                    attention_mask=asked_mask,
                    max_new_tokens=min(self.max_new_tokens, self.max_length - asked.shape[1]),
                    do_sample=draw,
                    temperature=self.temperature if draw else None,
                    top_k=0 if draw else None,
                    top_p=1.0 if draw else None,
                    use_cache=True,
                    eos_token_id=sorted(stops),
                    pad_token_id=tokenizer.pad_token_id,
                )
        finally:
            model.train(was_training)
        prompts = [row[mask.bool()].tolist() for row, mask in zip(asked, asked_mask, strict=True)]
        answers = [until(row.tolist(), stops) for row in tokens[:, asked.shape[1] :]]
        return {name: each.to(asked.device) for name, each in _sequences(prompts, answers, tokenizer.pad_token_id).items()}

    def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[torch.Tensor, None, None]:
        """The loss of an evaluation batch."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the divergence from the teacher and the student's entropy, by the token."""
        for mode, prefix in (("train", ""), ("eval", "eval_")):
            total, kl, entropy, count = self._sums[mode].tolist()
            if f"{prefix}loss" in logs and count:
                logs |= {f"{prefix}kl": kl / count, f"{prefix}entropy": entropy / count}
                if mode == "eval":  # batches hold unlike numbers of tokens
                    logs["eval_loss"] = total / count
                self._sums[mode].zero_()
        super().log(logs, *args, **kwargs)


def divergence(
    ours: torch.Tensor, theirs: torch.Tensor, beta: float, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums over positions: the divergence that is learned, how far the student is from the teacher, and the student's entropy, in nats.

    The second is the forward divergence KL(teacher ‖ student) at temperature 1, whatever is learned, so that runs can be compared.

    Args:
        ours, theirs: logits of student and teacher, positions × vocabulary. Some models have more logits than tokens, for speed; those
            beyond the smaller number are left away.
    """
    width = min(ours.shape[-1], theirs.shape[-1])
    total = ours.new_zeros((), dtype=torch.float32)
    kl, entropy = torch.zeros_like(total), torch.zeros_like(total)
    for mine, its in zip(ours[:, :width].split(CHUNK), theirs[:, :width].split(CHUNK), strict=True):
        total = total + checkpoint(_divergence, mine, its, beta, temperature, use_reentrant=False)
        with torch.no_grad():
            student, teacher = mine.float().log_softmax(-1), its.float().log_softmax(-1)
            kl, entropy = kl + _kl(teacher, student), entropy - (student.exp() * student).sum()
    return total, kl, entropy


def _divergence(ours: torch.Tensor, theirs: torch.Tensor, beta: float, temperature: float) -> torch.Tensor:
    student, teacher = ((logits.float() / temperature).log_softmax(-1) for logits in (ours, theirs))
    if beta == 0:
        return _kl(teacher, student)
    if beta == 1:
        return _kl(student, teacher)
    share = torch.tensor(beta, device=student.device)
    mixed = torch.logaddexp(teacher + share.log(), student + torch.log1p(-share))
    return beta * _kl(teacher, mixed) + (1 - beta) * _kl(student, mixed)


def _kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL(first ‖ second), summed over positions, of log-probabilities."""
    return torch.nn.functional.kl_div(second, first, reduction="sum", log_target=True)


def load_teacher(teacher: Mapping[str, Any], tokenizer: Any, precision: str, device: torch.device) -> Any:
    """A teacher, frozen and ready to be asked.

    Raises:
        ValueError: it has other tokens than the student.
    """
    path, adapter = str(teacher["path"]), teacher.get("adapter")
    speaker = adapter if adapter and (Path(adapter) / "tokenizer_config.json").is_file() else path
    found = difference(tokenizer, loading.load_tokenizer(speaker))
    if found:
        raise ValueError(
            f"the teacher has another vocabulary: {found}. Take another teacher, or sequence distillation, that is, let the teacher write "
            "answers and train on them with sft"
        )
    dtype = loading.precision(precision, "adapter", device.type).loaded
    return loading.load_model(path, adapter, dtype, head=False).to(device).eval().requires_grad_(False)


def difference(student: Any, teacher: Any) -> str:
    """In which tokens two tokenizers differ, in words; empty where they do not."""
    ours, theirs = ({number: token for token, number in each.get_vocab().items()} for each in (student, teacher))
    if ours == theirs:
        return ""
    count = f"it has {len(theirs):,} tokens and the student {len(ours):,}" if len(ours) != len(theirs) else ""
    unlike = [number for number in sorted(ours.keys() | theirs.keys()) if ours.get(number) != theirs.get(number)]
    told = [f"token {number} is {_shown(theirs.get(number))} there and {_shown(ours.get(number))} here" for number in unlike[:2]]
    more = f"{len(unlike):,} tokens differ" if len(unlike) > len(told) else ""
    return ", ".join(part for part in (count, *told, more) if part)


def _shown(token: str | None) -> str:
    return f"“{token[:20]}”" if token is not None else "none"


def _is_it(model: Any, teacher: Mapping[str, Any]) -> bool:
    return teacher.get("adapter") is None and Path(model.config.name_or_path).resolve() == Path(teacher["path"]).resolve()


def until(tokens: Sequence[int], stops: set[int]) -> list[int]:
    """Tokens up to the first end, which belongs to them."""
    end = next((place + 1 for place, token in enumerate(tokens) if token in stops), len(tokens))
    return list(tokens[:end])


def _sequences(prompts: Sequence[list[int]], answers: Sequence[list[int]], pad: int) -> dict[str, torch.Tensor]:
    ids, mask = _padded([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)], pad)
    learned, _ = _padded([[0] * len(prompt) + [1] * len(answer) for prompt, answer in zip(prompts, answers, strict=True)], 0)
    return {"ids": ids, "mask": mask, "learned": learned}


def _padded(rows: Sequence[list[int]], pad: int, *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))

    def filled(row: list[int], fill: int) -> list[int]:
        rest = [fill] * (width - len(row))
        return rest + row if left else row + rest

    return torch.tensor([filled(row, pad) for row in rows]), torch.tensor([filled([1] * len(row), 0) for row in rows])
