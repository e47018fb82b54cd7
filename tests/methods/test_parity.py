"""The loss curve of a run is that of a plain script with trl: same data, seed and settings, step by step."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from app.methods.kto import order
from tests.methods import child
from tests.models import tiny_llama_folder
from worker import rows

pytestmark = pytest.mark.train


def plain_trl(folder: Path, method: str, params: dict[str, Any], *, adapter: bool) -> dict[int, float]:
    """What somebody would write without the studio."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_folder())
    if method == "reward":
        set_seed(7)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_llama_folder(), dtype="float32", num_labels=1)
    else:
        model = AutoModelForCausalLM.from_pretrained(tiny_llama_folder(), dtype="float32")
    shape = child.SHAPES[method]
    data = Dataset.from_list([rows.to_trl(each["row"], shape, True) for each in rows.read(folder / "rows.jsonl", "train")])
    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "sft": (SFTConfig, SFTTrainer, {"train_sampling_strategy": "group_by_length"} if params.get("group_by_length", True) else {}),
        "dpo": (DPOConfig, DPOTrainer, {}),
        "kto": (KTOConfig, KTOTrainer, {}),
        "reward": (RewardConfig, RewardTrainer, {"center_rewards_coefficient": 0.01}),
    }
    config, kind, more = kinds[method]
    if method == "kto":
        data = data.select(order([json.dumps(prompt, sort_keys=True) for prompt in data["prompt"]], 4, 7))
    arguments = config(
        output_dir=str(folder / "plain"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=7,
        max_steps=params["max_steps"],
        per_device_train_batch_size=4,
        gradient_accumulation_steps=params["gradient_accumulation"],
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )
    task = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]} if method == "reward" else {"task_type": "CAUSAL_LM"}
    peft_config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", **task) if adapter else None
    trainer = kind(model=model, args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=peft_config)
    trainer.train()
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


@pytest.mark.parametrize(
    ("method", "tuner", "params"),
    [
        ("sft", "lora", {"max_steps": 14, "gradient_accumulation": 1}),
        ("sft", "full", {"max_steps": 8, "gradient_accumulation": 2, "group_by_length": False}),
        ("dpo", "lora", {"max_steps": 14, "gradient_accumulation": 1}),
        ("dpo", "full", {"max_steps": 8, "gradient_accumulation": 2}),
        ("kto", "lora", {"max_steps": 14, "gradient_accumulation": 1}),
        ("reward", "lora", {"max_steps": 14, "gradient_accumulation": 1}),
        ("reward", "full", {"max_steps": 8, "gradient_accumulation": 2}),
    ],
)
def test_the_loss_curve_is_that_of_a_plain_trl_script(tmp_path: Path, method: str, tuner: str, params: dict[str, Any]) -> None:
    job = child.spec(tmp_path, method, tuner, params=params, held_out=4, sample_prompts=1)
    job["params"] = {**job["params"], "eval_steps": 100, "answer_check": "none" if method in ("kto", "reward") else "last_integer"}
    _, report = child.run(job)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            plain = plain_trl(tmp_path, method, params, adapter=tuner == "lora")
        finally:
            logging.disable(logging.NOTSET)
    curve = report.curve("loss")
    assert len(plain) == params["max_steps"]
    assert curve == pytest.approx(plain, abs=1e-4)
    if method == "dpo":
        assert curve[1] == pytest.approx(0.6931, abs=1e-3)
