"""The generating child by itself: what it draws, what it keeps, and that a child killed anywhere is gone on with exactly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.models import tiny_llama, tiny_llama_folder
from worker.feedback_generate import chosen, items_of, main
from worker.reporting import Failed, Report

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = pytest.mark.train

HOT = {"temperature": 0.9, "top_p": 0.95, "top_k": 0, "max_tokens": 6}


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def spec_for(folder: Path, *, texts: int = 20, models: int = 2, sampling: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    model = {"path": str(tiny_llama_folder()), "adapter": None, "name": "tiny"}
    candidate = {"model": model, "sampling": sampling or HOT}
    return {
        "folder": str(folder),
        "texts": [f"What is {number} + {number}?" for number in range(texts)],
        "rows": None,
        "shape": None,
        "limit": 1000,
        "seed": 7,
        "project_kind": "pair",
        "pairs": "one",
        "chunk": 4,
        "candidates": [{**candidate, "name": f"tiny {number}", "checkpoint_id": f"ckpt_{number}"} for number in range(models)],
        "device": "cpu",
        "threads": 1,
        **more,
    }


def items(spec: dict[str, Any]) -> list[dict[str, Any]]:
    files = sorted(Path(spec["folder"], "items").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


# --- which prompts, and whose answers -------------------------------------------------------------------------------------


def test_prompts_are_drawn_once_each_whatever_their_order() -> None:
    prompts = [message(str(number % 50)) for number in range(200)]
    taken = chosen(prompts, 20, 1)
    assert len({key for key, _ in taken}) == 20 and taken == chosen(reversed(prompts), 20, 1) != chosen(prompts, 20, 2)
    assert len(chosen(prompts, 1000, 1)) == 50
    lengths = [len(prompt[0]["content"]) for _, prompt in taken]
    assert lengths == sorted(lengths)
    often = Counter(prompt[0]["content"] for seed in range(300) for _, prompt in chosen(prompts, 10, seed))
    assert min(often.values()) > 30 and max(often.values()) < 95  # 60 each is expected


def test_pairs_of_many_candidates_come_equally_often() -> None:
    pairs = Counter(items_of("pair", 5, "one", 3, number)[0] for number in range(100))
    assert len(pairs) == 10 and set(pairs.values()) == {10}
    assert [items_of("pair", 5, "one", 3, n) for n in range(10)] != [items_of("pair", 5, "one", 4, n) for n in range(10)]
    assert len(items_of("pair", 4, "all", 3, 0)) == 6
    first = Counter(items_of("pair", 4, "first", 3, number)[0] for number in range(30))
    assert first == {((0, 0), (other, 0)): 10 for other in (1, 2, 3)}
    assert items_of("pair", 1, "one", 3, 0) == [((0, 0), (0, 1))] and items_of("pair", 2, "one", 3, 9) == [((0, 0), (1, 0))]
    assert items_of("single", 2, "one", 3, 0) == [((0, 0),), ((1, 0),)] and items_of("rank", 3, "one", 3, 0) == [((0, 0), (1, 0), (2, 0))]


# --- answers --------------------------------------------------------------------------------------------------------------


def test_items_carry_where_they_come_from(tmp_path: Path) -> None:
    spec = spec_for(tmp_path / "one")
    assert main(spec, Report()) == {"prompts": 20, "answers": 40, "chunks": 5}
    found = items(spec)
    assert len(found) == 20 and {tuple(each["prompt"][0]) for each in found} == {("role", "content")}
    for item in found:
        left, right = item["responses"]
        assert (left["source"], right["source"]) == ("tiny 0", "tiny 1") and left["checkpoint"] == "ckpt_0"
        assert left["sampling"]["seed"] != right["sampling"]["seed"] and left["sampling"]["temperature"] == 0.9
        assert left["text"] != right["text"] and 0 < left["tokens"] <= 6
        assert all(each["finish"] == ("length" if each["tokens"] == 6 else each["finish"]) in ("stop", "length") for each in (left, right))
    again = spec_for(tmp_path / "two")
    main(again, Report())
    assert items(again) == found
    other = spec_for(tmp_path / "three", seed=8)
    main(other, Report())
    assert items(other) != found


def test_one_candidate_answers_twice_and_differently(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, models=1, texts=6)
    main(spec, Report())
    assert all(item["responses"][0]["text"] != item["responses"][1]["text"] for item in items(spec)) and len(items(spec)) == 6


def test_rank_single_and_many_candidates(tmp_path: Path) -> None:
    for kind, models, pairs, number, width in (
        ("rank", 3, "one", 5, 3),
        ("single", 2, "one", 10, 1),
        ("pair", 3, "one", 5, 2),
        ("pair", 3, "all", 15, 2),
    ):
        spec = spec_for(tmp_path / f"{kind}-{pairs}-{models}", models=models, texts=5, project_kind=kind, pairs=pairs)
        main(spec, Report())
        found = items(spec)
        assert len(found) == number and {len(item["responses"]) for item in found} == {width}, kind


def test_prompts_of_any_shape(tmp_path: Path) -> None:
    chat = [*message("Hi"), {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}]
    for shape, row, expected in (
        ("chat", {"messages": [*chat, {"role": "assistant", "content": "Bye!"}]}, chat),
        ("preference", {"prompt": "a?", "chosen": "b", "rejected": "c"}, message("a?")),
        ("prompt_completion", {"prompt": chat, "completion": "x"}, chat),
        ("prompt", {"prompt": "a?"}, message("a?")),
        ("labelled", {"text": "a?", "label": 1}, message("a?")),
    ):
        rows = tmp_path / f"{shape}.jsonl"
        rows.write_text(2 * (json.dumps({"line": 1, "split": "train", "row": row, "source": row}) + "\n"))
        spec = spec_for(tmp_path / shape, texts=0, rows=str(rows), shape=shape, models=1)
        main({**spec, "texts": None}, Report())
        assert [item["prompt"] for item in items(spec)] == [expected], shape


def test_a_question_that_cannot_be_asked_does_not_end_the_job(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, texts=3)
    spec["texts"].append("long " * 200)
    main(spec, Report())
    told = {item["prompt"][0]["content"][:4]: [each["finish"] for each in item["responses"]] for item in items(spec)}
    assert told.pop("long") == ["error", "error"] and all("error" not in finish for finish in told.values())
    assert "this model reads at most 512" in items(spec)[-1]["responses"][0]["text"]


def test_a_batch_draws_as_single_prompts_do() -> None:
    from worker.feedback_answer import Question, answers
    from worker.generate import load

    speaker = load(tiny_llama_folder(), dtype="float32")
    asked = [Question(message(text), seed) for seed, text in enumerate(("1 + 1 =", "Name a very large number, please.", "?", "?"))]
    for sampling in (HOT, {**HOT, "top_k": 5}, {**HOT, "top_p": 0.3}, {**HOT, "temperature": 0}):
        alone = [next(answers(speaker, [each], sampling, 1)) for each in asked]
        assert list(answers(speaker, asked, sampling, 16)) == alone == list(answers(speaker, asked, sampling, 3))
        assert (alone[2] == alone[3]) is (sampling["temperature"] == 0)


def test_what_is_drawn_has_the_models_probabilities() -> None:
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    from worker import feedback_answer

    torch.manual_seed(0)
    scores = torch.randn(1, 3000) * 3
    for likely in (1024, 8):
        for sampling in ({"top_p": 0.9, "top_k": 0}, {"top_p": 1.0, "top_k": 0}, {"top_p": 0.8, "top_k": 6}):
            kept = TemperatureLogitsWarper(0.7)(None, scores)
            kept = TopKLogitsWarper(sampling["top_k"])(None, kept) if sampling["top_k"] else kept
            expected = torch.softmax(TopPLogitsWarper(sampling["top_p"])(None, kept), dim=-1)[0]
            old, feedback_answer.LIKELY = feedback_answer.LIKELY, likely
            try:
                draw = feedback_answer._drawing({"temperature": 0.7, **sampling}, range(2000))
                drawn = Counter(torch.isfinite(draw(None, scores.expand(2000, -1))).nonzero()[:, 1].tolist())
            finally:
                feedback_answer.LIKELY = old
            assert sum(drawn.values()) == 2000 and all(expected[token] > 0 for token in drawn)
            for token in expected.topk(5).indices.tolist():
                share = float(expected[token])
                assert abs(drawn[token] / 2000 - share) < 4 * (share * (1 - share) / 2000) ** 0.5 + 1e-9


# --- ends that were not meant ---------------------------------------------------------------------------------------------

KILLED = """
import json, os, signal, sys
from worker import feedback_generate
from worker.reporting import Report
spec, after, where = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
keep, count = feedback_generate._keep, 0
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
def counted(file, records):
    global count
    count += 1
    if count > after and where == "before":
        kill()
    if count > after and where == "amid":
        records = list(records)
        file.with_name("." + file.name + ".1").write_bytes(b'{"half')
        kill()
    keep(file, records)
    if count > after:
        kill()
feedback_generate._keep = counted
feedback_generate.main(spec, Report())
"""


@pytest.mark.slow
def test_a_child_that_is_killed_anywhere_is_gone_on_with_exactly(tmp_path: Path) -> None:
    whole = spec_for(tmp_path / "whole", models=3, texts=10)
    main(whole, Report())
    expected = items(whole)
    spec = spec_for(tmp_path / "killed", models=3, texts=10)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    seen: dict[Path, bytes] = {}
    for after, where in ((0, "amid"), (1, "before"), (2, "amid"), (3, "after"), (2, "before"), (3, "amid"), (1, "after")):
        done = subprocess.run([sys.executable, "-c", KILLED, json.dumps(spec), str(after), where], env=environment, capture_output=True)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        now = {file: file.read_bytes() for file in Path(spec["folder"]).rglob("*.jsonl")}
        assert all(now[file] == content for file, content in seen.items())  # nothing is answered a second time
        seen = now
    assert len(seen) > 6
    main(spec, Report())
    assert items(spec) == expected
    assert all(file.read_bytes() == content for file, content in seen.items())


def test_a_checkpoint_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    gone = tiny_llama(tmp_path / "gone", seed=1)
    spec = spec_for(tmp_path / "work", texts=6)
    spec["candidates"][1]["model"] = {"path": str(gone), "adapter": None, "name": "gone"}
    main({**spec, "candidates": spec["candidates"]}, Report())
    shutil.rmtree(tmp_path / "work" / "items")
    for file in (tmp_path / "work" / "answers").glob("1-*"):
        file.unlink()
    (tmp_path / "work" / "items").mkdir()
    shutil.rmtree(gone)
    with pytest.raises(Failed, match="“tiny 1” was deleted") as caught:
        main(spec, Report())
    assert caught.value.code == "deleted" and not items(spec)


def test_a_project_that_is_deleted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker import feedback_generate

    plain = feedback_generate._keep

    def keep(file: Path, records: Any) -> None:
        if file.name == "1-000000.jsonl":
            shutil.rmtree(tmp_path / "work")
        plain(file, records)

    monkeypatch.setattr(feedback_generate, "_keep", keep)
    with pytest.raises(Failed, match="project was deleted"):
        main(spec_for(tmp_path / "work", texts=6), Report())


def test_too_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker import feedback_answer

    class Memory:
        available, total = 10**5, 10**9

    monkeypatch.setattr(feedback_answer.psutil, "virtual_memory", lambda: Memory)
    with pytest.raises(Failed, match=r"“tiny 0” needs about .* GB of memory") as caught:
        main(spec_for(tmp_path), Report())
    assert caught.value.code == "oom"


def test_a_batch_too_large_for_the_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker import feedback_answer
    from worker.feedback_answer import Question, answers
    from worker.generate import load

    plain, sizes = feedback_answer._generate, []

    def generate(speaker: Any, part: Any, *more: Any) -> Any:
        sizes.append(len(part))
        if len(part) > 2:
            raise RuntimeError("CUDA out of memory")
        return plain(speaker, part, *more)

    monkeypatch.setattr(feedback_answer, "_generate", generate)
    asked = [Question(message(f"{seed}?"), seed) for seed in range(5)]
    speaker = load(tiny_llama_folder(), dtype="float32")
    found = list(answers(speaker, asked, HOT, 5))
    assert sizes == [5, 2, 2, 1] and found == [next(answers(speaker, [each], HOT, 1)) for each in asked]
