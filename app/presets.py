"""Ready-made combinations of method, tuner and settings, each with the source its values come from. Starts nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """One combination to begin with; every value can still be changed."""

    name: str
    title: str
    summary: str
    method: str
    source: str
    """Where its values come from."""
    tuner: str = "lora"
    params: dict[str, Any] = field(default_factory=dict)
    tuner_params: dict[str, Any] = field(default_factory=dict)


def _presets() -> list[Preset]:
    return [
        Preset(
            "instruction-tuning",
            "Instruction tuning",
            "Teach a base model to follow instructions, from prompts with good answers.",
            "sft",
            "Alpaca's three epochs (github.com/tatsu-lab/stanford_alpaca); LoRA on all linear layers as in QLoRA, arXiv 2305.14314",
            params={"epochs": 3, "batch_size": 16},
        ),
        Preset(
            "qlora-chat",
            "QLoRA chat tuning",
            "A chat model on a small GPU: the base in 4 bits, a LoRA on all linear layers.",
            "sft",
            "QLoRA, arXiv 2305.14314: nf4, double quantisation, rank 64, alpha 16, dropout 0.1, 2e-4 held, gradients clipped at 0.3",
            params={
                "learning_rate": 2e-4,
                "max_grad_norm": 0.3,
                "scheduler": "constant_with_warmup",
                "batch_size": 4,
                "gradient_accumulation": 4,
            },
            tuner_params={"r": 64, "alpha": 16, "dropout": 0.1, "quantization": "nf4"},
        ),
        Preset(
            "full-instruction-tuning",
            "Instruction tuning, all weights",
            "The strongest form of instruction tuning, for many rows and much memory.",
            "sft",
            "Alpaca: 2e-5, three epochs, warm-up 0.03, cosine (github.com/tatsu-lab/stanford_alpaca)",
            tuner="full",
            params={"epochs": 3, "learning_rate": 2e-5, "batch_size": 8, "gradient_accumulation": 4},
        ),
        Preset(
            "few-rows",
            "A small task from few rows",
            "Some hundred examples of one task: tiny trained vectors that cannot learn the rows by heart.",
            "sft",
            "T-Few, arXiv 2205.05638: (IA)³",
            tuner="ia3",
            params={"epochs": 10, "batch_size": 8},
        ),
        Preset(
            "style-by-prompt-tuning",
            "Style by prompt tuning",
            "A tone or a fixed instruction in a file of kilobytes; best with large models.",
            "sft",
            "Lester et al. 2021, arXiv 2104.08691: 20 to 100 virtual tokens, large learning rates",
            tuner="prompt",
            params={"epochs": 5, "learning_rate": 0.03},
            tuner_params={"num_virtual_tokens": 20},
        ),
        Preset(
            "style-by-prefix-tuning",
            "Style by prefix tuning",
            "Like prompt tuning with a prefix in every layer, which learns more.",
            "sft",
            "Li and Liang 2021, arXiv 2101.00190",
            tuner="prefix",
            params={"epochs": 5},
            tuner_params={"num_virtual_tokens": 20},
        ),
        Preset(
            "adapters",
            "Classic adapters",
            "Bottleneck adapters behind each block, as before LoRA.",
            "sft",
            "Houlsby et al. 2019, arXiv 1902.00751: size 64, learning rates about 1e-3",
            tuner="bottleneck",
            params={"epochs": 3},
        ),
        Preset(
            "last-layers",
            "Fine-tune the top of the model",
            "Only the last layers change: cheap, and the model forgets little.",
            "sft",
            "Howard and Ruder 2018, arXiv 1801.06146",
            tuner="last_layers",
            params={"epochs": 3},
            tuner_params={"layers": 2},
        ),
        Preset(
            "biases-only",
            "Biases only",
            "The smallest change to the weights themselves.",
            "sft",
            "BitFit, arXiv 2106.10199: learning rates of 1e-4 to 1e-3",
            tuner="bitfit",
            params={"epochs": 5},
        ),
        Preset(
            "any-rank",
            "One adapter for every size",
            "A LoRA that can be cut to any smaller rank when it is exported.",
            "sft",
            "DyLoRA, arXiv 2210.07558",
            params={"epochs": 3},
            tuner_params={"any_rank": True, "r": 16, "alpha": 32},
        ),
        Preset(
            "experts",
            "Grow into a mixture of experts",
            "Copies of the feed-forward blocks with a gate, for data of several kinds.",
            "sft",
            "Sparse upcycling, arXiv 2212.05055",
            tuner="experts",
            params={"epochs": 1},
        ),
        Preset(
            "domain-text",
            "Learn a domain from plain text",
            "Manuals, notes or code without questions and answers.",
            "pretrain",
            "Don't stop pretraining, arXiv 2004.10964",
            params={"epochs": 1},
        ),
        Preset(
            "preferences-dpo",
            "Learn from comparisons",
            "Pairs of a better and a worse answer, without a reward model.",
            "dpo",
            "DPO, arXiv 2305.18290: beta 0.1; 1e-4 for LoRA from our own trials",
            params={"epochs": 1, "beta": 0.1},
        ),
        Preset(
            "preferences-noisy",
            "Learn from comparisons with mistakes",
            "As above, when about one vote in ten is wrong.",
            "dpo",
            "Robust DPO, arXiv 2403.00409",
            params={"loss": "robust", "label_smoothing": 0.1},
        ),
        Preset(
            "thumbs",
            "Learn from thumbs up and down",
            "Ratings of single answers, as users of a chat give them.",
            "kto",
            "KTO, arXiv 2402.01306",
            params={"batch_size": 8},
        ),
        Preset(
            "one-step-preferences",
            "Examples and preferences in one step",
            "From a base model straight to preferences, without a reference model.",
            "orpo",
            "ORPO, arXiv 2403.07691",
            params={"epochs": 2},
        ),
        Preset(
            "reward-model",
            "Reward model",
            "A judge of answers, for choosing the best of several or for reinforcement learning.",
            "reward",
            "Llama 2's margins, arXiv 2307.09288; InstructGPT, arXiv 2203.02155",
            params={"epochs": 1},
        ),
        Preset(
            "reasoning",
            "Reasoning by reinforcement",
            "Questions with answers that can be checked, such as sums; the model finds its own way there.",
            "grpo",
            "DeepSeekMath, arXiv 2402.03300; DAPO, arXiv 2503.14476",
            params={"rewards": [{"kind": "numeric_answer"}]},
        ),
        Preset(
            "distillation",
            "Learn from a larger model",
            "A small model learns the probabilities of a better one with the same vocabulary.",
            "distill",
            "GKD, arXiv 2306.13649",
        ),
        Preset(
            "classifier",
            "Text classifier",
            "Texts with labels, such as intents or sentiments.",
            "classify",
            "BERT, arXiv 1810.04805: two to four epochs",
            params={"epochs": 3, "batch_size": 16},
        ),
        Preset(
            "classifier-quick",
            "Text classifier in seconds",
            "The model is only read; a classic classifier learns on what it sees.",
            "features",
            "Peters et al. 2019, arXiv 1903.05987: to tune or not to tune",
            tuner="head_only",
        ),
    ]


def registry() -> dict[str, Preset]:
    """All presets by name, in the order they are offered in."""
    return {each.name: each for each in _presets()}
