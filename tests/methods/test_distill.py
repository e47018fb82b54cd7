"""Distillation: the divergence is the one in the paper, the student comes closer to its teacher, and what cannot be taught is said."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import Invalid
from app.methods import service
from tests.methods import child, toys
from tests.methods.test_resume import weights
from tests.models import tiny_llama_folder

NAMED = {"teacher": "cp_1"}


def answers(count: int, seed: int) -> list[dict[str, Any]]:
    """Prompts with answers of unlike length, which say nothing the teacher knows."""
    draw = random.Random(seed)
    return [{"prompt": prompt, "completion": "be so " * draw.randrange(1, 5) + "now"} for prompt in toys.prompts(count, seed)]


def asked(count: int, seed: int) -> list[dict[str, Any]]:
    return [{"prompt": prompt} for prompt in toys.prompts(count, seed)]


def prompts_only(job: dict[str, Any]) -> dict[str, Any]:
    return {**job, "train": {**job["train"], "shape": "prompt"}, "eval": {**job["eval"], "shape": "prompt"}}


def held_out(job: dict[str, Any]) -> list[dict[str, Any]]:
    lines = Path(job["train"]["path"]).read_text().splitlines()
    return [line["row"] for line in map(json.loads, lines) if line["split"] == "eval"]


def hand(student: Path, teacher: Path, rows: list[dict[str, Any]], beta: float, adapter: str | None = None) -> tuple[float, float, float]:
    """Mean over all tokens of answers: the divergence that is learned, KL(teacher ‖ student), entropy of the student; row by row."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_llama_folder())
    ours: Any = AutoModelForCausalLM.from_pretrained(student)
    theirs: Any = AutoModelForCausalLM.from_pretrained(teacher)
    theirs = PeftModel.from_pretrained(theirs, adapter) if adapter else theirs
    total, count = np.zeros(3), 0
    for row in rows:
        turn = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"]
        whole = tokenizer.apply_chat_template([*turn, {"role": "assistant", "content": row["completion"]}], return_dict=True)["input_ids"]
        with torch.no_grad():
            told = [
                model.eval()(input_ids=torch.tensor([whole])).logits[0, len(prompt) - 1 : -1].double().numpy() for model in (ours, theirs)
            ]
        count += len(whole) - len(prompt)
        total += plain(*told, beta)
    loss, kl, entropy = total / count
    return float(loss), float(kl), float(entropy)


def plain(ours: Any, theirs: Any, beta: float, temperature: float = 1.0) -> np.ndarray[Any, Any]:
    """The sums `divergence` gives, as one would write them down."""

    def chances(logits: Any, over: float) -> Any:
        powers = np.exp(logits / over)
        return powers / powers.sum(-1, keepdims=True)

    def kl(first: Any, second: Any) -> float:
        return float((first * np.log(first / second)).sum())

    student, teacher = chances(ours, temperature), chances(theirs, temperature)
    mixed = beta * teacher + (1 - beta) * student
    learned = {0: kl(teacher, student), 1: kl(student, teacher)}.get(beta, beta * kl(teacher, mixed) + (1 - beta) * kl(student, mixed))
    real = chances(ours, 1)
    return np.array([learned, kl(chances(theirs, 1), real), -(real * np.log(real)).sum()])


@pytest.mark.train
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_divergence_is_the_one_of_the_paper(beta: float, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from worker.engines import distill

    monkeypatch.setattr(distill, "CHUNK", 3)  # 7 positions in chunks of 3, 3 and 1
    draw = torch.Generator().manual_seed(1)
    ours, theirs = (torch.randn(7, 11, generator=draw) for _ in range(2))
    wider = torch.cat([theirs, torch.full((7, 2), 9.0)], dim=1)  # logits that no token has
    found = distill.divergence(ours.requires_grad_(), wider, beta, temperature)
    expected = plain(ours.detach().double().numpy(), theirs.double().numpy(), beta, temperature)
    assert [float(each.detach()) for each in found] == pytest.approx(expected, rel=1e-5)
    found[0].backward()
    whole = ours.detach().clone().requires_grad_()
    distill._divergence(whole, theirs, beta, temperature).backward()
    assert torch.allclose(ours.grad, whole.grad, atol=1e-6) and ours.grad.abs().max() > 1e-3


@pytest.mark.every
@pytest.mark.train
@pytest.mark.parametrize(("on_policy", "beta"), [(0.0, 0.0), (1.0, 1.0)])
def test_it_comes_closer_to_its_teacher_on_rows_it_has_not_seen(tmp_path: Path, on_policy: float, beta: float) -> None:
    pytest.importorskip("torch")
    from tests.methods.child import tiny_teacher_folder

    params: dict[str, Any] = {"on_policy": on_policy, "beta": beta, "max_new_tokens": 8, "max_steps": 24, "learning_rate": 5e-3}
    job = toys.spec(tmp_path, "distill", "full", asked if on_policy else answers, **params, eval_steps=12)
    before = (tiny_teacher_folder() / "model.safetensors").read_bytes()
    _, report = child.run(prompts_only(job) if on_policy else job)
    kl = report.curve("kl")
    assert report.curve("eval_kl")[24] < 0.5 * kl[1] and report.curve("eval_kl")[24] < report.curve("eval_kl")[12]
    assert (report.curve("loss")[1] == pytest.approx(kl[1], rel=1e-3)) == (beta == 0)
    if not on_policy:
        folder = Path(report.of("checkpoint")[-1]["folder"])
        loss, distance, entropy = hand(folder, tiny_teacher_folder(), held_out(job), beta)
        assert report.curve("eval_loss")[24] == pytest.approx(loss, rel=1e-3)
        assert report.curve("eval_kl")[24] == pytest.approx(distance, rel=1e-3)
        assert report.curve("eval_loss")[24] == pytest.approx(report.curve("eval_kl")[24], rel=1e-6), "both by the token"
        assert report.curve("eval_entropy")[24] == pytest.approx(entropy, rel=1e-4)
    assert report.of("checkpoint")[-1]["task"] == "policy" and report.of("resolved")[0]["config"]["trainer"] == "DistillTrainer"
    assert (tiny_teacher_folder() / "model.safetensors").read_bytes() == before


@pytest.mark.every
@pytest.mark.train
def test_a_teacher_can_be_an_adapter(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    _, report = child.run(child.spec(tmp_path / "teacher", "sft", "lora", params={"max_steps": 20, "learning_rate": 1e-2}))
    adapter = report.of("checkpoint")[-1]["folder"]
    others = {child.TEACHER: {"path": str(tiny_llama_folder()), "adapter": adapter, "name": "teacher"}}
    params = {"max_steps": 1, "eval_steps": 1, "learning_rate": 1e-12, "beta": 0.4, "temperature": 1.0}
    job = child.spec(tmp_path / "student", "distill", "lora", held_out=7, params=params, others=others)
    _, report = child.run(job)
    loss, distance, entropy = hand(tiny_llama_folder(), tiny_llama_folder(), held_out(job), 0.4, adapter)
    assert distance > 0.01
    assert report.curve("eval_loss")[1] == pytest.approx(loss, rel=1e-4)
    assert report.curve("eval_kl")[1] == pytest.approx(distance, rel=1e-4)
    assert report.curve("eval_entropy")[1] == pytest.approx(entropy, rel=1e-4)


@pytest.mark.train
def test_dropout_is_off(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    curves = []
    for dropout in (0.0, 0.5):
        job = child.spec(tmp_path / str(dropout), "distill", "lora", params={"max_steps": 3}, tuner_params={"dropout": dropout})
        curves.append(child.run(job)[1].curve("loss"))
    assert curves[0] == curves[1] and len(curves[0]) == 3


@pytest.mark.every
@pytest.mark.train
@pytest.mark.parametrize("on_policy", [0.0, 0.5, 1.0])
def test_resuming_gives_the_same_bits(tmp_path: Path, on_policy: float) -> None:
    pytest.importorskip("torch")
    params = {"max_steps": 10, "save_steps": 2, "eval_steps": 3, "on_policy": on_policy, "max_new_tokens": 6}
    job = child.spec(tmp_path, "distill", "lora", held_out=4, params=params)
    _, whole = child.run(job)
    expected = weights(Path(job["work"]) / "checkpoint-10")
    resumed = child.resumed(job, 8, tmp_path)
    _, rest = child.run(resumed)
    assert expected and weights(Path(resumed["work"]) / "checkpoint-10") == expected
    assert rest.curve("loss") == {at: loss for at, loss in whole.curve("loss").items() if at > 8}
    assert rest.curve("kl")[10] == whole.curve("kl")[10]


@pytest.mark.train
def test_own_answers_end_where_they_end_and_keep_to_the_lengths(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from worker.engines.distill import DistillTrainer, _sequences, until

    assert until([5, 6, 2, 2, 7], {2}) == [5, 6, 2] and until([5, 6], {2}) == [5, 6] and until([2, 5], {2, 9}) == [2]
    made = _sequences([[7, 8], [9]], [[1], [2, 3]], 0)
    assert made["ids"].tolist() == [[7, 8, 1], [9, 2, 3]] and made["learned"].tolist() == [[0, 0, 1], [0, 1, 1]]
    seen: list[dict[str, torch.Tensor]] = []
    write, stops = DistillTrainer._write, {2, *range(3, 259, 6)}  # an untrained model says anything, so many tokens end an answer

    def written(self: Any, inputs: Any, *, draw: bool) -> Any:
        assert draw
        self.model.generation_config.eos_token_id = sorted(stops)
        seen.append(write(self, inputs, draw=draw))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillTrainer, "_write", written)
        params = {"on_policy": 1.0, "max_new_tokens": 500, "max_length": 48, "max_steps": 3}
        _, report = child.run(child.spec(tmp_path, "distill", "full", params=params))
    assert len(seen) == 3 and all(each["ids"].shape[1] <= 48 for each in seen)
    assert report.curve("tokens")[3] == sum(int(each["mask"].sum()) for each in seen)
    ended = 0
    for each in seen:
        for ids, mask, learned in zip(each["ids"], each["mask"], each["learned"], strict=True):
            answer = ids[learned.bool()].tolist()
            assert not stops & set(answer[:-1]), "what comes after the end is not learned"
            ended += answer[-1] in stops
            begun = int(learned.argmax())
            assert ids[:begun].tolist()[-10:] == [ord_of(letter) for letter in "assistant\n"], "no padding between prompt and answer"
            assert begun + len(answer) == int(mask.sum()), "nothing follows the answer"
    assert ended >= 6


def ord_of(letter: str) -> int:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_llama_folder())
    return int(tokenizer(letter)["input_ids"][0])


@pytest.mark.every
@pytest.mark.train
@pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")
@pytest.mark.parametrize("tuner", ["experts", "prompt", "prefix"])
def test_students_of_every_kind_write_answers(tmp_path: Path, tuner: str) -> None:
    pytest.importorskip("torch")
    params = {"on_policy": 1.0, "max_new_tokens": 6, "max_steps": 3}
    _, report = child.run(child.spec(tmp_path, "distill", tuner, params=params))
    assert all(0.01 < kl < 0.1 for kl in report.curve("kl").values()) and len(report.curve("kl")) == 3


@pytest.mark.train
def test_rows_whose_prompt_fills_the_length_are_left_out_and_counted(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    _, report = child.run(child.spec(tmp_path, "distill", "lora", params={"max_length": 44, "max_steps": 2}))
    told = report.of("event")[0]
    assert told["name"] == "rows_dropped" and 0 < told["data"]["dropped"] < 24
    assert all(math.isfinite(loss) for loss in report.curve("loss").values())


@pytest.mark.train
def test_what_cannot_be_taught_is_refused_in_words(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from transformers import AutoTokenizer

    from worker.engines.distill import difference
    from worker.reporting import Failed

    job = child.spec(tmp_path / "a", "distill", "lora", held_out=2, params={"max_steps": 1})
    with pytest.raises(Failed, match=r"prompts and no answers, so the student has to write all of them: set on_policy to 1\.$"):
        child.run(prompts_only(toys.spec(tmp_path / "b", "distill", "lora", asked, max_steps=1)))
    itself = {child.TEACHER: {"path": str(tiny_llama_folder()), "adapter": None, "name": "tiny"}}
    with pytest.raises(Failed, match="the teacher is the model to train itself"):
        child.run({**job, "others": itself})
    folder = tmp_path / "teacher"
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_llama_folder())
    tokenizer.add_tokens(["<|think|>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        Failed, match=r"another vocabulary: it has 260 tokens and the student 259, token 259 is “<\|think\|>” there and none here"
    ) as it:
        child.run({**job, "others": {child.TEACHER: {"path": str(folder), "adapter": None, "name": "other"}}})
    assert str(it.value).endswith("let the teacher write answers and train on them with sft.") and it.value.code == "config"

    class Words:
        def __init__(self, *words: str) -> None:
            self.words = words

        def get_vocab(self) -> dict[str, int]:
            return {word: number for number, word in enumerate(self.words)}

    assert difference(Words("a", "b"), Words("a", "b")) == ""
    swapped = difference(Words("a", "b", "c", "d"), Words("a", "c", "d", "b"))
    assert swapped == "token 1 is “c” there and “b” here, token 2 is “d” there and “c” here, 3 tokens differ"


def test_what_makes_no_sense_is_refused_in_words() -> None:
    with pytest.raises(Invalid, match="This is needed") as refused:
        service.validate("distill", "lora", {}, {}, "chat")
    assert refused.value.field == "params.teacher"
    bad = {"on_policy": 1.5, "beta": -0.1, "temperature": 0, "max_new_tokens": 0, "teacher": ""}
    for name, value in bad.items():
        with pytest.raises(Invalid) as refused:
            service.validate("distill", "lora", {**NAMED, name: value}, {}, "chat")
        assert refused.value.field == f"params.{name}"
    with pytest.raises(Invalid, match="distill needs chat rows"):
        service.validate("distill", "lora", NAMED, {}, "text")
    for shape in ("chat", "prompt_completion", "prompt"):
        assert service.validate("distill", "full", NAMED, {}, shape)[0]["learning_rate"] == 2e-5
