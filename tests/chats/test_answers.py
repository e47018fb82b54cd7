"""Answers by a real speaker with a tiny real model: greedy as elsewhere, stopped amid their words, ended in words by any kill."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from sqlalchemy import update

from app.chats import progress, service
from app.chats.tables import Answer, Chat, Piece
from app.checkpoints.bits import Bits
from app.database import now
from app.errors import Conflict, NotFound, StudioError, TooMany, Unavailable
from tests.chats.talk import able_worker, answers, ask, forget_files, over, tiny, wait, worker
from tests.factories import add_checkpoint, add_run, claim_run
from tests.models import tiny_llama_folder

torch = pytest.importorskip("torch", reason="needs the train extra")
pytestmark = [pytest.mark.train, pytest.mark.one_stack]

ENDLESS = {"temperature": 1.5, "max_new_tokens": 400, "seed": 3}


@pytest.mark.one_stack
def test_two_checkpoints_answer_greedily_as_everywhere_in_the_studio(stack: Any) -> None:
    from worker.generate import answer, load

    first, second = tiny(stack, "first"), tiny(stack, "second")
    speaker = load(tiny_llama_folder(), dtype="float32")
    expected = next(answer(speaker, [[{"role": "user", "content": "1 + 1 ="}]], max_new_tokens=12))
    with worker(stack) as station:
        chat_id = ask(stack, first, second)
        found = wait(stack, chat_id, over)
        assert [(each.status, each.text) for each in found] == [("done", expected)] * 2
        assert found[0].tokens == 12 and found[0].finish == "length" and (found[0].seconds or 0) > 0 and found[0].prompt_tokens
        assert list(station.speaker.names.values()) == ["first", "second"]
        with stack.database.write() as session:
            chat = session.get_one(Chat, chat_id)
            asked = {"checkpoints": [first], "system": "Be brief.", "sampling": service.Sampling.model_validate(chat.sampling)}
            service.go_on(session, chat, stack.admin_id, "And 2 + 2?", asked)
        again = wait(stack, chat_id, lambda listed: over(listed) and len(listed) == 3)[2]
        assert [message["role"] for message in again.messages] == ["system", "user", "assistant", "user"]
        assert again.messages[2]["content"] == expected and again.status == "done"


@pytest.mark.one_stack
def test_the_same_seed_says_the_same_and_tokens_arrive_one_after_the_other(stack: Any) -> None:
    checkpoint = tiny(stack)
    with worker(stack):
        chat_id = ask(stack, checkpoint, **{**ENDLESS, "max_new_tokens": 120})
        seen: list[int] = []

        def watched(found: list[Answer]) -> bool:
            with stack.database.read() as session:
                seen.append(len(progress.said_so_far(session, [found[0].id]).get(found[0].id, "")))
            return over(found)

        first = wait(stack, chat_id, watched)[0]
        assert first.status == "done" and any(0 < length < len(first.text) for length in seen), "the text came all at once"
        second = wait(stack, ask(stack, checkpoint, **{**ENDLESS, "max_new_tokens": 120}), over)[0]
        other = wait(stack, ask(stack, checkpoint, **{**ENDLESS, "max_new_tokens": 120, "seed": 4}), over)[0]
        assert first.text == second.text != other.text
    with stack.database.read() as session:
        assert session.query(Piece).count() == 0, "pieces stay behind"


def test_an_answer_is_stopped_amid_its_words_and_keeps_them(stack: Any) -> None:
    checkpoint = tiny(stack)
    with worker(stack):
        chat_id = ask(stack, checkpoint, **ENDLESS)
        wait(stack, chat_id, lambda found: found[0].status == "answering")
        with stack.database.write() as session:
            service.stop(session, stack.workspace_id, chat_id)
        found = wait(stack, chat_id, over)[0]
        assert found.status == "stopped" and found.finish == "stopped" and found.text and found.tokens < 400


def test_a_killed_speaker_ends_the_answer_in_words_and_the_next_one_works(stack: Any) -> None:
    checkpoint = tiny(stack)
    with worker(stack) as station:
        chat_id = ask(stack, checkpoint, **ENDLESS)
        wait(stack, chat_id, lambda found: found[0].status == "answering")
        os.kill(station.speaker._child.pid, signal.SIGKILL)
        found = wait(stack, chat_id, over)[0]
        assert found.status == "failed" and "SIGKILL" in (found.reason or "") and "Retry" in (found.reason or "") and found.text
        with stack.database.write() as session:
            chat = session.get_one(Chat, chat_id)
            asked = {"checkpoints": [checkpoint], "system": "", "sampling": service.Sampling(temperature=0, max_new_tokens=4)}
            service.ask_again(session, chat, stack.admin_id, asked)
        assert wait(stack, chat_id, over)[0].status == "done"


@pytest.mark.one_stack
def test_an_idle_model_is_unloaded_and_a_run_finds_the_device_empty(stack: Any) -> None:
    checkpoint = tiny(stack)
    with worker(stack) as station:
        wait(stack, ask(stack, checkpoint), over)
        pid = station.speaker._child.pid
        with station.speaker._turn:  # the answer is over a moment before the one who gave it is free
            pass
        station.speaker.make_room("cpu")
        assert station.speaker._child is None and not os.path.exists(f"/proc/{pid}")
        wait(stack, ask(stack, checkpoint), over)
        station.settings.chat_idle_seconds = 0.01
        end = time.monotonic() + 10
        while station.speaker._child is not None:
            assert time.monotonic() < end, "the idle model stays loaded"
            time.sleep(0.02)


@pytest.mark.one_stack
def test_a_run_that_needs_the_gpu_ends_an_answer_that_does_not_end_itself(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.chat.ROOM_SECONDS", 0.1)
    checkpoint = tiny(stack)
    with worker(stack) as station:
        chat_id = ask(stack, checkpoint, **ENDLESS)
        wait(stack, chat_id, lambda found: found[0].status == "answering")
        station.speaker.device = "cuda:0"  # as if it were loaded there
        station.speaker.make_room("cuda:0")
        assert station.speaker._child is None
        found = wait(stack, chat_id, over)[0]
    assert found.status == "failed" and "A run needed the memory" in (found.reason or "") and found.text


@pytest.mark.one_stack
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks transformers the old way
@pytest.mark.parametrize("held", [Bits(), Bits("nf4")], ids=str)
def test_an_adapter_answers_as_its_base_with_it_does(stack: Any, held: Bits) -> None:
    if held:
        pytest.importorskip("bitsandbytes")
    from peft import LoraConfig, get_peft_model

    from app import storage
    from app.checkpoints import manifest
    from worker.generate import answer, load

    base = tiny(stack, "base")
    folder = storage.root() / "checkpoints" / "adapter"
    model = load(tiny_llama_folder(), dtype="float32").model
    torch.manual_seed(12)  # what it says differs from its base, and from itself on weights that are rounded otherwise
    get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)).save_pretrained(
        folder
    )
    held.keep(folder)
    manifest.write_manifest(folder, run_id=None, step=None, attempt=None, config_hash="")
    with stack.database.write() as session:
        fields = {
            "name": "tuned",
            "kind": "adapter",
            "base_id": base,
            "path": "checkpoints/adapter",
            "sha256": "1" * 64,
            "size_bytes": 10_000,
        }
        adapter = add_checkpoint(session, stack.workspace_id, **fields).id
    prompt = [[{"role": "user", "content": "1 + 1 ="}]]
    expected = [
        next(answer(load(tiny_llama_folder(), adapter=each, dtype="float32"), prompt, max_new_tokens=12)) for each in (None, folder)
    ]
    with worker(stack):
        found = wait(stack, ask(stack, base, adapter), over)
    assert [each.text for each in found] == expected and expected[0] != expected[1]


def test_what_cannot_be_answered_is_refused_in_words(stack: Any) -> None:
    checkpoint, doomed = tiny(stack), tiny(stack, "doomed")
    with worker(stack) as station:
        long = wait(stack, ask(stack, checkpoint, text="x " * 400), over)[0]
        assert long.status == "failed" and long.reason_code == "too_long" and "at most 512" in (long.reason or "")
        queued = ask(stack, checkpoint, **ENDLESS)
        wait(stack, queued, lambda found: found[0].status == "answering")
        chat_id = ask(stack, doomed)
        forget_files(stack, doomed)
        with stack.database.write() as session:
            service.stop(session, stack.workspace_id, queued)
        gone = wait(stack, chat_id, over)[0]
        assert gone.status == "failed" and "“doomed” was deleted" in (gone.reason or "")
        with stack.database.write() as session:
            add_run(session, stack.workspace_id, name="big run", checkpoint_id=checkpoint)
            mine = claim_run(session)
            session.execute(update(Answer).values(priority=0))
            from app.runs.tables import Run

            session.get_one(Run, mine.id).lease_owner = f"{station.id}/x"
        station.devices = [{"slot": "cuda:0", "name": "GPU", "kind": "cuda"}]
        station._training.add("cuda:0")
        busy = wait(stack, ask(stack, checkpoint), over)[0]
        assert busy.status == "failed" and "“big run” holds the memory of the GPU" in (busy.reason or "")


@pytest.mark.one_stack
def test_too_little_memory_is_said_with_figures(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tiny(stack)
    monkeypatch.setattr("worker.chat.free_bytes", lambda slot: (300 * 1024**2, 1024**3))
    with worker(stack):
        found = wait(stack, ask(stack, checkpoint), over)[0]
    assert found.status == "failed" and "needs about" in (found.reason or "") and "249 MB are free" in (found.reason or "")


# --- without a speaker ----------------------------------------------------------------------------------------------------


def test_nobody_there_and_nothing_to_ask_is_said_before_anything_is_written(stack: Any) -> None:
    checkpoint = tiny(stack)
    with pytest.raises(Unavailable, match="No worker that can answer"):
        ask(stack, checkpoint)
    able_worker(stack)
    with stack.database.write() as session:
        reward = add_checkpoint(session, stack.workspace_id, name="judge", kind="reward").id
        unready = add_checkpoint(session, stack.workspace_id, name="new", status="importing").id
    with pytest.raises(StudioError, match="does not answer"):
        ask(stack, reward)
    with pytest.raises(Conflict, match="importing"):
        ask(stack, unready)
    with pytest.raises(NotFound):
        ask(stack, "ckpt_nothing")
    with stack.database.read() as session:
        assert session.query(Chat).count() == 0


def test_one_person_waits_for_so_many_answers_at_once(stack: Any) -> None:
    able_worker(stack)
    checkpoint = tiny(stack)
    for _ in range(2):
        ask(stack, checkpoint, checkpoint)
    with pytest.raises(TooMany, match="already wait for 4 answers"):
        ask(stack, checkpoint)


def test_an_answer_whose_worker_is_gone_is_failed_for_whoever_looks(stack: Any) -> None:
    able_worker(stack)
    checkpoint = tiny(stack)
    chat_id = ask(stack, checkpoint)
    with stack.database.write() as session:
        mine = progress.claim(session, "dead", 30)
        assert mine is not None
        progress.add(session, mine, "half a ", 2)
    with stack.database.write() as session:
        session.execute(update(Answer).values(lease_until=now() - 1))
    found = answers(stack, chat_id)[0]
    assert found.status == "failed" and found.text == "half a " and "Retry" in (found.reason or "")
    with stack.database.write() as session:
        assert progress.reap(session) == 1
    found = answers(stack, chat_id)[0]
    assert found.status == "failed" and found.text == "half a " and found.lease_owner is None


def test_a_chat_deleted_in_the_midst_of_an_answer_takes_all_with_it(stack: Any) -> None:
    checkpoint = tiny(stack)
    with worker(stack):
        chat_id = ask(stack, checkpoint, **ENDLESS)
        wait(stack, chat_id, lambda found: found[0].status == "answering")
        with stack.database.write() as session:
            service.delete(session, stack.workspace_id, chat_id)
        assert wait(stack, ask(stack, checkpoint), over)[0].status == "done", "the worker does not answer any more"
