"""Greedy answers: base, adapter and full fine-tune; batches answer as single prompts do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import tiny_llama, tiny_llama_folder

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = pytest.mark.train

PROMPTS = [[{"role": "user", "content": text}] for text in ("1 + 1 =", "Name a very large number, please.", "?")]


def test_a_batch_answers_as_single_prompts_do() -> None:
    from worker.generate import answer, load

    speaker = load(tiny_llama_folder(), dtype="float32")
    alone = [next(answer(speaker, [prompt], max_new_tokens=12)) for prompt in PROMPTS]
    assert list(answer(speaker, PROMPTS, max_new_tokens=12, batch_size=2)) == alone
    assert list(answer(speaker, [], max_new_tokens=12)) == []
    assert next(answer(speaker, ["plain text"], max_new_tokens=4)) != ""


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks transformers the old way
def test_an_adapter_changes_the_answers_of_its_base(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from worker.generate import load

    base = tiny_llama(tmp_path / "base")
    plain = load(base, dtype="float32")
    tuned = get_peft_model(load(base, dtype="float32").model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    again = load(base, adapter=tmp_path / "adapter", dtype="float32")
    tokens = plain.tokenizer("12 + 30 =", return_tensors="pt").input_ids
    with torch.inference_mode():
        before, expected, after = (model(tokens).logits for model in (plain.model, tuned.eval(), again.model))
    assert torch.allclose(after, expected, atol=1e-5) and not torch.allclose(after, before, atol=1e-3)
    assert not again.model.training
