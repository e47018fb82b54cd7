"""Recipes whose rows a model writes, from the request to the datasets: through the real supervisor and child, killed and cancelled too."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from app import storage
from app.checkpoints.manifest import write_manifest
from app.datasets.tables import Dataset
from app.jobs.tables import Job
from app.settings import get_settings
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset
from tests.recipes.scripted import KEY, Reply, Scripted, last

pytestmark = pytest.mark.one_stack
SYSTEM = "Answer like a pirate."


@pytest.fixture
def endpoint(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """The admin has set an endpoint; tests change what it answers."""
    with Scripted(lambda body: f"Arr, {last(body)}").up() as server:
        monkeypatch.setenv("LUTHIER_WRITER_URL", server.url)
        monkeypatch.setenv("LUTHIER_WRITER_KEY", KEY)
        monkeypatch.setenv("LUTHIER_WRITER_MODEL", "known")
        get_settings.cache_clear()
        stack.settings = get_settings()
        yield server
        get_settings.cache_clear()


def add_prompts(stack: Stack, *texts: str) -> str:
    """A dataset of prompts with its rows."""
    import orjson

    with stack.database.write() as session:
        dataset = add_dataset(session, stack.workspace_id, shape="prompt", rows=len(texts), train_rows=len(texts))
    folder = storage.path(dataset.path)
    folder.mkdir(parents=True)
    rows = ({"line": number, "split": "train", "row": {"prompt": text}, "source": {}} for number, text in enumerate(texts, 1))
    (folder / "rows.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return dataset.id


def start(api: TestClient, recipe: str, **params: Any) -> list[str]:
    answer = api.post(f"/api/v1/recipes/{recipe}/runs", json=params)
    assert answer.status_code == 201, answer.text
    return [each["id"] for each in answer.json()["datasets"]]


def at_once(stack: Stack) -> None:
    """No back-off here."""
    with stack.database.write() as session:
        session.execute(update(Job).values(not_before=None))


def kill_children() -> None:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # or it has just ended
            if "worker.child" in child.cmdline():
                child.kill()


def test_from_the_request_to_the_rows(
    stack: Stack, api: TestClient, work: Callable[..., None], endpoint: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    data = add_prompts(stack, "Hello", "Name a fish", "hello")
    [made] = start(api, "context_distillation", name="pirate", prompts=data, system=SYSTEM)
    work(runs=False)
    dataset = api.get(f"/api/v1/datasets/{made}").json()
    assert (dataset["status"], dataset["shape"], dataset["rows"], dataset["name"]) == ("ready", "prompt_completion", 2, "pirate"), dataset
    assert dataset["problems"] == {"errors": 0, "warnings": 0} and dataset["source_bytes"] > 100
    assert dataset["lineage"]["made"]["counts"] == {"duplicate prompts": 1, "prompts": 2}
    assert "2 prompts asked." in dataset["lineage"]["made"]["words"] and dataset["lineage"]["params"]["system"] == SYSTEM
    rows = {row["row"]["prompt"]: row for row in api.get(f"/api/v1/datasets/{made}/rows").json()["data"]}
    assert rows["Hello"]["row"] == {"prompt": "Hello", "completion": "Arr, Hello"}
    assert rows["Hello"]["source"]["steps"][0]["asked"][0] == {"role": "system", "content": SYSTEM}
    files = [file for file in storage.root().rglob("*") if file.is_file()]
    assert not [file for file in files if file.name == "answered.jsonl"], "the answers are in the rows now"
    assert not [
        file for file in [*files, stack.home / "luthier.db", *stack.home.glob("luthier.db-wal")] if KEY.encode() in file.read_bytes()
    ]
    assert KEY not in caplog.text and KEY not in api.get("/api/v1/recipes").text
    page = api.get(f"/datasets/{made}")
    assert KEY not in page.text


def test_two_datasets_of_one_job(stack: Stack, api: TestClient, work: Callable[..., None], endpoint: Scripted) -> None:
    endpoint.answer = lambda body: "word " * (1 + body["seed"] % 5)
    params = {"prompts": add_prompts(stack, "one", "two"), "rules": [{"kind": "length", "target": 5}], "answers": 8}
    first, second = start(api, "best_of_n", name="best", **params)
    work(runs=False)
    best, pairs = (api.get(f"/api/v1/datasets/{each}").json() for each in (first, second))
    assert (best["status"], best["shape"], best["rows"]) == ("ready", "prompt_completion", 2), best
    assert (pairs["name"], pairs["status"], pairs["shape"], pairs["rows"]) == ("best-pairs", "ready", "preference", 2), pairs
    figures = best["lineage"]["made"]["figures"]
    assert figures == pairs["lineage"]["made"]["figures"] and figures["best_reward"] > figures["mean_reward"]
    assert len(endpoint.asked) == 16, "the parts share their answers"


@pytest.mark.slow
def test_a_killed_job_goes_on(stack: Stack, api: TestClient, work: Callable[..., None], endpoint: Scripted) -> None:
    data = add_prompts(stack, *(f"question {number:02}" for number in range(48)))

    def dies(body: dict[str, Any]) -> str:
        if len(endpoint.asked) == 30:
            kill_children()
        return f"Arr, {last(body)}"

    endpoint.answer = dies
    [made] = start(api, "context_distillation", prompts=data, system=SYSTEM)
    for _ in range(3):
        at_once(stack)
        work(runs=False)
    dataset = api.get(f"/api/v1/datasets/{made}").json()
    assert (dataset["status"], dataset["rows"]) == ("ready", 48), dataset
    asked = [last(body) for body in endpoint.asked]
    assert len(set(asked)) == 48 < len(asked) + 1 and len(asked) <= 48 + 8, "only what was under way is asked again"
    with stack.database.read() as session:
        job = session.scalars(select(Job).where(Job.subject_id == made)).one()
        assert (job.status, job.failures, job.lane) == ("succeeded", 1, "cpu")


def test_what_fails_says_why_and_can_go_on(stack: Stack, api: TestClient, work: Callable[..., None], endpoint: Scripted) -> None:
    data = add_prompts(stack, *(f"question {number:02}" for number in range(32)))
    endpoint.answer = lambda body: Reply(status=401, message=f"bad {KEY}") if len(endpoint.asked) > 20 else f"Arr, {last(body)}"
    [made] = start(api, "context_distillation", name="again", prompts=data, system=SYSTEM)
    work(runs=False)
    failed = api.get(f"/api/v1/datasets/{made}").json()
    assert failed["status"] == "failed" and "does not accept the key" in failed["reason"] and KEY not in str(failed)
    before = len(endpoint.asked)
    endpoint.answer = lambda body: f"Arr, {last(body)}"
    [other] = start(api, "context_distillation", name="again", prompts=data, system="Another prompt.")  # asks everything
    [again] = start(api, "context_distillation", name="again", prompts=data, system=SYSTEM)
    work(runs=False)
    assert [api.get(f"/api/v1/datasets/{each}").json()["rows"] for each in (other, again)] == [32, 32]
    assert len(endpoint.asked) - before <= 32 + 32 - 16


def test_deleted_while_it_is_made(stack: Stack, api: TestClient, work: Callable[..., None], endpoint: Scripted) -> None:
    params = {"prompts": add_prompts(stack, *map(str, range(200))), "rules": [{"kind": "length", "target": 5}]}
    begun = threading.Event()

    def slow(body: dict[str, Any]) -> str:
        begun.set()
        time.sleep(0.05)
        return f"Arr, {last(body)}"

    endpoint.answer = slow
    first, second = start(api, "best_of_n", **params)
    worker = threading.Thread(target=lambda: work(runs=False))
    worker.start()
    assert begun.wait(60)
    assert api.delete(f"/api/v1/datasets/{first}").status_code in (200, 204)
    worker.join(60)
    asked = len(endpoint.asked)
    time.sleep(0.5)
    assert not worker.is_alive() and len(endpoint.asked) <= asked + 4 < 800
    left = api.get(f"/api/v1/datasets/{second}").json()
    assert left["status"] == "failed" and "was deleted. Start the recipe again." in left["reason"]


def test_what_cannot_be_started(stack: Stack, api: TestClient) -> None:
    data = add_prompts(stack, "Hello")
    with stack.database.write() as session:
        text = add_dataset(session, stack.workspace_id, shape="text").id
        marks = add_checkpoint(session, stack.workspace_id, name="marks", config={"task": "reward"}).id

    def refused(recipe: str = "context_distillation", **params: Any) -> tuple[str, str]:
        answer = api.post(f"/api/v1/recipes/{recipe}/runs", json={"prompts": data, "system": SYSTEM, **params})
        assert answer.status_code == 422, answer.text
        return answer.json()["error"]["field"], answer.json()["error"]["message"]

    field, words = refused()
    assert field == "writer" and "LUTHIER_WRITER_URL" in words
    assert refused(writer="ckpt_none")[0] == "writer"
    assert refused(writer=marks) == ("writer", "“marks” is a reward model; this needs one that writes text.")
    assert refused(writer=marks, prompts="ds_none")[0] == "writer"
    with stack.database.read() as session:
        assert not list(session.scalars(select(Job))) and session.get(Dataset, text) is not None


def test_which_datasets_hold_prompts(stack: Stack, api: TestClient, endpoint: Scripted) -> None:
    with stack.database.write() as session:
        text = add_dataset(session, stack.workspace_id, name="plain", shape="text").id
        broken = add_dataset(session, stack.workspace_id, name="broken", status="failed").id
    for data, words in ((text, "rows of the shape text"), (broken, "is failed"), ("ds_none", "no such dataset")):
        answer = api.post("/api/v1/recipes/context_distillation/runs", json={"prompts": data, "system": SYSTEM})
        assert answer.status_code == 422 and answer.json()["error"]["field"] == "prompts" and words in answer.text


@pytest.mark.train
@pytest.mark.slow
def test_a_checkpoint_writes(stack: Stack, api: TestClient, work: Callable[..., None]) -> None:
    pytest.importorskip("torch", reason="needs the train extra")
    from tests.models import tiny_llama_folder

    folder = storage.path("checkpoints/tiny")
    shutil.copytree(tiny_llama_folder(), folder)
    write_manifest(folder, run_id=None, step=None, attempt=None, config_hash="")
    with stack.database.write() as session:
        tiny = add_checkpoint(session, stack.workspace_id, name="tiny", path="checkpoints/tiny").id
    data = add_prompts(stack, "Hello", "Name a fish", "Who?")
    params = {"prompts": data, "system": SYSTEM, "writer": tiny, "max_tokens": 6, "leave_out": [], "temperature": 1}
    [made] = start(api, "context_distillation", **params)
    work()
    dataset = api.get(f"/api/v1/datasets/{made}").json()
    assert (dataset["status"], dataset["rows"]) == ("ready", 3), dataset
    with stack.database.read() as session:
        assert session.scalars(select(Job.lane).where(Job.subject_id == made)).one() == "device"


def test_the_form_of_each_recipe(stack: Stack, endpoint: Scripted, client: TestClient) -> None:
    data = add_prompts(stack, "Hello")
    page = client.get("/datasets/new").text
    for title in ("context distillation", "best of n", "self-instruct", "ai feedback", "constitution", "evolve", "explanation traces"):
        assert f"Make {title} data" in page
    assert page.count(f'<option value="{data}"') == 8 and "The studio’s endpoint" in page and KEY not in page
    principle = '[{"id": "kind", "text": "Be kind.", "critique": "What is unkind?", "revision": "Say it kindly."}]'
    asked = {
        "prompts": data,
        "principles": principle,
        "preferences": ["false"],
        "leave_out": [""],
        "name": "kindly",
        "writer": "",
        "critic": "",
    }
    answer = client.post("/datasets/recipes/constitution", data=asked)
    assert answer.status_code == 303, answer.text
    with stack.database.read() as session:
        [dataset] = session.scalars(select(Dataset).where(Dataset.name.startswith("kindly")))
        params = (dataset.lineage or {})["params"]
    assert [each["id"] for each in params["principles"]] == ["kind"] and (params["preferences"], params["leave_out"]) == (False, [])
    shown = client.get(answer.headers["location"])
    assert shown.status_code == 200 and "recipe <b>constitution</b>" in shown.text
    refused = client.post("/datasets/recipes/constitution", data={**asked, "principles": "[{"})
    assert refused.status_code == 422 and "is not valid JSON" in refused.text and ">[{</textarea>" in refused.text
    rules = client.post("/datasets/recipes/ghost_attention", data={"prompts": data, "instructions": "Rhyme.\n\n Be brief. ", "turns": "2"})
    assert rules.status_code == 303, rules.text
    with stack.database.read() as session:
        [dataset] = session.scalars(select(Dataset).where(Dataset.name == "ghost_attention"))
        assert (dataset.lineage or {})["params"]["instructions"] == ["Rhyme.", "Be brief."]
