"""Generation from the request to the items, through the real supervisor and child; killed, cancelled, deleted under its hands."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from app import storage
from app.checkpoints import service as checkpoints
from app.checkpoints.manifest import write_manifest
from app.checkpoints.tables import Checkpoint
from app.database import Database
from app.datasets import service as datasets
from app.errors import Conflict, Invalid, NotFound, StudioError
from app.feedback import generation, generation_job, projects, service
from app.feedback.schemas import Candidate, ProjectCreate
from app.feedback.tables import Item, Project, Response
from app.jobs.tables import Job
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset
from tests.models import tiny_llama, tiny_llama_folder
from worker import kinds

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = pytest.mark.train

HOT = {"temperature": 1.0, "max_tokens": 6}
TEXTS = [f"What is {number} + {number}?" for number in range(70)]


def add_model(stack: Stack, name: str = "tiny", seed: int = 0) -> Checkpoint:
    """A tiny Llama with its files."""
    folder = storage.path(f"checkpoints/{name}")
    if seed:
        tiny_llama(folder, seed=seed)
    else:
        shutil.copytree(tiny_llama_folder(), folder)
    write_manifest(folder, run_id=None, step=None, attempt=None, config_hash="")
    with stack.database.write() as session:
        return add_checkpoint(session, stack.workspace_id, name=name, path=f"checkpoints/{name}")


def add_adapter(stack: Stack, base: Checkpoint) -> Checkpoint:
    """An adapter with weights that change the answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = storage.path("checkpoints/adapter")
    model = AutoModelForCausalLM.from_pretrained(storage.path(base.path or ""), dtype=torch.float32)
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)).save_pretrained(folder)
    write_manifest(folder, run_id=None, step=None, attempt=None, config_hash="")
    with stack.database.write() as session:
        return add_checkpoint(
            session, stack.workspace_id, name="tuned", kind="adapter", source="run", base_id=base.id, path="checkpoints/adapter"
        )


def start(stack: Stack, *models: Checkpoint, kind: str = "pair", sampling: dict[str, Any] | None = None, **asked: Any) -> tuple[str, str]:
    """A new project whose items are to be generated: its id, and the job's."""
    with stack.database.write() as session:
        project = projects.create(session, stack.workspace_id, ProjectCreate(name="which?", kind=kind), None)
        candidates = [Candidate(checkpoint=each.id, sampling=HOT if sampling is None else sampling) for each in models]
        if "dataset" not in asked:
            asked.setdefault("prompt_texts", TEXTS)
        return project.id, generation.start(session, project, candidates=candidates, **asked).id


def made(database: Database, project_id: str) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """All items of a project by their prompts, each with what was answered."""
    with database.read() as session:
        found = session.execute(
            select(Item.prompt, Response.place, Response.text, Response.source, Response.finish, Response.sampling, Item.id)
            .join(Response, Response.item_id == Item.id)
            .where(Item.project_id == project_id)
        )
        rows: dict[str, tuple[str, list[tuple[Any, ...]]]] = {}
        for prompt, place, text, source, finish, sampling, item in found:
            rows.setdefault(item, (json.dumps(prompt), []))[1].append((place, text, source, finish, sampling["seed"]))
    return sorted((prompt, sorted(answers)) for prompt, answers in rows.values())


def job_of(stack: Stack, job_id: str) -> Job:
    with stack.database.read() as session:
        return session.get_one(Job, job_id)


# --- from the request to the items ----------------------------------------------------------------------------------------


@pytest.mark.one_stack
def test_a_base_and_its_adapter_answer_the_same_prompts(stack: Stack, work: Callable[..., None]) -> None:
    base = add_model(stack)
    adapter = add_adapter(stack, base)
    project_id, job_id = start(stack, base, adapter, prompt_texts=[*TEXTS[:9], TEXTS[0], "  "], limit=8)
    with stack.database.read() as session:
        shown = generation.progress(session, session.get_one(Project, project_id))
    assert shown == {"job": job_id, "status": "queued", "reason": None, "done": 0, "total": None, "text": "Waiting for a worker"}
    work()
    job = job_of(stack, job_id)
    assert (job.status, job.reason, job.lane) == ("succeeded", None, "device")
    found = made(stack.database, project_id)
    assert len({prompt for prompt, _ in found}) == len(found) == 8
    assert all([source for _, _, source, _, _ in answers] == ["tiny", "tuned"] for _, answers in found)
    assert sum(left[1] == right[1] for _, (left, right) in found) < 4
    with stack.database.read() as session:
        project = session.get_one(Project, project_id)
        response = session.scalars(select(Response).where(Response.checkpoint_id == adapter.id)).first()
        assert response and response.tokens and response.finish in ("stop", "length")
        assert {"temperature": 1.0, "top_p": 0.95, "top_k": 0, "max_tokens": 6}.items() <= response.sampling.items()
        assert project.items + project.filtered == 8 and [each["checkpoint_id"] for each in project.candidates] == [base.id, adapter.id]
        progress = generation.progress(session, project)
        assert progress and progress["status"] == "succeeded"
    assert not storage.path(f"feedback/{project_id}/{job_id}").exists() and not list((stack.settings.storage / "work").iterdir())


@pytest.mark.one_stack
def test_prompts_of_a_dataset_and_one_candidate(api: TestClient, stack: Stack, work: Callable[..., None]) -> None:
    lines = [{"prompt": f"Say {number}.", "chosen": "a", "rejected": "b"} for number in (1, 2, 3, 1)]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    answer = api.post("/api/v1/datasets", files={"file": ("rows.jsonl", content)}, data={"name": "asked"})
    assert answer.status_code in (201, 202), answer.text
    work(runs=False)
    model = add_model(stack)
    project_id, job_id = start(stack, model, dataset="asked")
    work()
    assert job_of(stack, job_id).status == "succeeded", job_of(stack, job_id).reason
    found = made(stack.database, project_id)
    assert len(found) == 3 and all(left[1] != right[1] for _, (left, right) in found)
    with stack.database.read() as session:
        assert session.get_one(Project, project_id).prompts_dataset_id == answer.json()["id"]


def test_what_cannot_be_generated_is_refused(stack: Stack) -> None:
    model, cold = add_model(stack), {"temperature": 0}
    with stack.database.write() as session:
        other = add_checkpoint(session, stack.workspace_id, name="half", status="importing")
        judge = add_checkpoint(session, stack.workspace_id, name="judge", kind="reward", path="checkpoints/tiny")
        empty = add_dataset(session, stack.workspace_id, name="none", rows=0)
        waiting = add_dataset(session, stack.workspace_id, name="soon", status="importing")

    def refused(error: type[StudioError], words: str, *models: Checkpoint, **asked: Any) -> None:
        with pytest.raises(error, match=words) as caught:
            start(stack, *models, **asked)
        assert caught.value.field

    refused(Invalid, "at least one checkpoint")
    refused(Invalid, "same answer twice at temperature 0", model, sampling=cold)
    refused(Invalid, "same answer twice", model, sampling={"top_k": 1})
    refused(Invalid, "twice at temperature 0", model, model, sampling=cold)
    refused(Invalid, "at least two candidates", model, kind="rank")
    refused(Conflict, "“half” is importing", model, other)
    refused(Invalid, "reward checkpoint, which gives no answers", model, judge)
    refused(Invalid, "temperature: .* less than or equal to 2", model, model, sampling={"temperature": 3})
    refused(Invalid, "It takes temperature, top_p, top_k, max_tokens, seed", model, sampling={"beams": 4})
    refused(Invalid, "There is no prompt", model, prompt_texts=[" "])
    refused(Invalid, "not both", model, dataset="none", prompt_texts=["a"])
    refused(Invalid, "has no rows", model, dataset=empty.id)
    refused(Conflict, "is importing", model, dataset=waiting.name)
    refused(NotFound, "no such dataset", model, dataset="nothing")
    refused(Invalid, "5,000,000 characters", model, prompt_texts=["x" * 5_000_001])
    with pytest.raises(NotFound, match="no checkpoint “nobody”"), stack.database.write() as session:
        project = projects.create(session, stack.workspace_id, ProjectCreate(name="?"), None)
        generation.start(session, project, candidates=[Candidate(checkpoint="nobody")], prompt_texts=["a"])
    with stack.database.read() as session:
        assert session.scalars(select(Job)).first() is None and session.scalars(select(Project)).first() is None
    start(stack, model, model, kind="single", sampling=cold)
    project_id, _ = start(stack, model)
    with pytest.raises(Conflict, match="already"), stack.database.write() as session:
        project = session.get_one(Project, project_id)
        generation.start(session, project, candidates=[Candidate(checkpoint=model.id, sampling=HOT)], prompt_texts=["a"])


# --- ends that were not meant ---------------------------------------------------------------------------------------------


@pytest.fixture
def on_progress(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[dict[str, Any]], None]], None]]:
    """`on_progress(f)`: f is called with each progress, after it was taken in and before it is committed."""

    def _on_progress(f: Callable[[dict[str, Any]], None]) -> None:
        def progress(session: Any, job: Job, shown: dict[str, Any]) -> None:
            generation_job.generate_progress(session, job, shown)
            session.flush()
            f(shown)

        monkeypatch.setitem(kinds.KINDS, generation.KIND, replace(kinds.KINDS[generation.KIND], progress=progress))

    yield _on_progress


def kill_children() -> None:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # or it has just ended
            if "worker.child" in child.cmdline():
                child.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("stack", ["sqlite", pytest.param("postgres", marks=pytest.mark.soak)], indirect=True)
@pytest.mark.slow
def test_killed_and_rolled_back_it_goes_on_exactly(stack: Stack, work: Callable[..., None], on_progress: Any) -> None:
    models = add_model(stack), add_model(stack, "other", seed=5)
    sampling = {"temperature": 1.0, "max_tokens": 60}
    whole, _ = start(stack, *models, sampling=sampling)
    work()
    expected = made(stack.database, whole)
    assert len(expected) == len(TEXTS)
    seen: list[int] = []

    def trouble(shown: dict[str, Any]) -> None:
        place = next((place for place in (10, 60, 75, 120) if (shown.get("done") or 0) >= place and place not in seen), None)
        if place is not None:
            seen.append(place)
            kill_children()
            if place > 70:  # the worker's own transaction is lost as well
                raise OperationalError("lost", {}, Exception("the connection is gone"))

    on_progress(trouble)
    project_id, job_id = start(stack, *models, sampling=sampling)
    end = time.monotonic() + 120
    while job_of(stack, job_id).status not in ("succeeded", "failed") and time.monotonic() < end:
        work()
        with stack.database.write() as session:
            session.get_one(Job, job_id).not_before = None  # no back-off here
    assert len(seen) >= 3 and job_of(stack, job_id).status == "succeeded", job_of(stack, job_id).reason
    assert made(stack.database, project_id) == expected


def beside(f: Callable[[], bool]) -> threading.Thread:
    """Call a function every now and then until it is true, beside what goes on."""

    def repeat() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not f():
            time.sleep(0.05)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    return thread


def has_begun(stack: Stack, job_id: str) -> bool:
    job = job_of(stack, job_id)
    return job.status == "running" and bool((job.progress or {}).get("total"))


@pytest.mark.one_stack
@pytest.mark.slow
def test_cancelled_it_stops_and_can_go_on(stack: Stack, work: Callable[..., None]) -> None:
    models = add_model(stack), add_model(stack, "other", seed=5)
    slow = {"temperature": 1.0, "max_tokens": 200}
    project_id, job_id = start(stack, *models, sampling=slow)

    def cancel() -> bool:
        if not has_begun(stack, job_id):
            return False
        with stack.database.write() as session:
            assert generation.cancel(session, session.get_one(Project, project_id))
        return True

    thread = beside(cancel)
    work()
    thread.join()
    job = job_of(stack, job_id)
    assert job.status == "cancelled" and "Cancelled" in (job.reason or "") and len(made(stack.database, project_id)) < len(TEXTS)
    with stack.database.write() as session:
        project = session.get_one(Project, project_id)
        assert not generation.cancel(session, project)
        assert generation.go_on(session, project).id == job_id
        with pytest.raises(Conflict, match="nothing to go on with"):
            generation.go_on(session, project)
    work()
    assert job_of(stack, job_id).status == "succeeded" and len(made(stack.database, project_id)) == len(TEXTS)


def test_a_checkpoint_deleted_meanwhile_ends_it_with_words(stack: Stack, work: Callable[..., None]) -> None:
    models = add_model(stack), add_model(stack, "other", seed=5)
    before, early = start(stack, *models)
    _, job_id = start(stack, models[0], sampling={"temperature": 1.0, "max_tokens": 300})
    with stack.database.write() as session:
        checkpoints.delete(session, stack.workspace_id, models[1].id)

    def delete() -> bool:
        if not has_begun(stack, job_id):
            return False
        with stack.database.write() as session:
            checkpoints.delete(session, stack.workspace_id, models[0].id)
        return True

    thread = beside(delete)
    work()
    thread.join()
    assert (job_of(stack, early).status, job_of(stack, job_id).status) == ("failed", "failed")
    assert "“other” was deleted before it had answered" in (job_of(stack, early).reason or "")
    assert "“tiny” was deleted before it had answered" in (job_of(stack, job_id).reason or "")
    with stack.database.write() as session:
        shown = generation.progress(session, session.get_one(Project, before))
        assert shown and shown["status"] == "failed" and "deleted" in shown["reason"]


def test_a_project_deleted_meanwhile_leaves_nothing(stack: Stack, work: Callable[..., None]) -> None:
    model = add_model(stack)
    gone, early = start(stack, model)
    project_id, job_id = start(stack, model, sampling={"temperature": 1.0, "max_tokens": 300})

    def delete(which: str) -> None:
        with stack.database.write() as session:
            service.delete_project(session, session.get_one(Project, which))

    def once_begun() -> bool:
        if has_begun(stack, job_id):
            delete(project_id)
            return True
        return False

    delete(gone)
    thread = beside(once_begun)
    work()
    thread.join()
    assert {job_of(stack, each).status for each in (early, job_id)} == {"cancelled"}
    assert not list(storage.path("feedback").glob("*/*/prompts.jsonl"))
    dropped, job_id = start(stack, model)
    with stack.database.write() as session:
        session.delete(session.get_one(Project, dropped))  # without a word to us
    work()
    assert job_of(stack, job_id).status == "failed" and "project was deleted" in (job_of(stack, job_id).reason or "")


@pytest.mark.one_stack
def test_a_dataset_deleted_before_it_was_read(api: TestClient, stack: Stack, work: Callable[..., None]) -> None:
    content = json.dumps({"prompt": "Say 1.", "completion": "1"}) + "\n"
    api.post("/api/v1/datasets", files={"file": ("rows.jsonl", content)}, data={"name": "asked"})
    work(runs=False)
    _, job_id = start(stack, add_model(stack), dataset="asked")
    with stack.database.write() as session:
        datasets.delete(session, stack.workspace_id, datasets.list_datasets(session, stack.workspace_id)[0].id)
    work()
    assert job_of(stack, job_id).status == "failed" and "dataset with the prompts was deleted" in (job_of(stack, job_id).reason or "")
