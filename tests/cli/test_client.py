"""`luthier run`, `dataset`, `checkpoint` against a studio that runs: everything over REST, with real worker and trainer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.cli.studio import LUTHIER, Up, environment, luthier, running, until
from tests.servers import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One studio for this module."""
    with running(tmp_path_factory.mktemp("studio"), DEVICE="cpu", THREADS="1", SAMPLE_PROMPTS="0") as up:
        yield up


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# --- datasets -------------------------------------------------------------------------------------------------------------


def test_a_dataset_is_uploaded_mapped_split_and_found_by_name(studio: Up, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "sums.jsonl", [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(40)])
    arguments = ["dataset", "add", str(file), "--map", "prompt=question", "--map", "completion=answer", "--split", "0.25", "--wait"]
    first = studio.run(*arguments)
    assert first.returncode == 0, first.stderr
    assert "“sums” version 1 has 40 rows (prompt_completion), 0 errors" in first.stderr
    second = studio.json(*arguments)
    assert (second["version"], second["rows"], second["status"]) == (2, 40, "ready") and second["eval_rows"] > 0
    assert studio.json("dataset", "show", "sums")["id"] == second["id"]
    assert studio.json("dataset", "show", "sums@1")["id"] == first.stdout.strip()
    assert "prompt_completion" in studio.run("dataset", "show", second["id"]).stdout
    assert {"sums"} == {each["name"] for each in studio.json("dataset", "list") if each["id"] in (second["id"], first.stdout.strip())}
    assert "sums" in studio.run("dataset", "list").stdout


def test_a_dataset_with_wrong_lines_ends_with_1_and_its_problems_are_listed(studio: Up, tmp_path: Path) -> None:
    file = tmp_path / "wrong.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion":\n')
    done = studio.run("dataset", "add", str(file), "--wait")
    assert done.returncode == 1 and "1 errors" in done.stderr and "left out" in done.stderr
    (problem,) = studio.json("dataset", "problems", "wrong")
    assert problem["line"] == 2 and problem["severity"] == "error"
    assert problem["message"] in studio.run("dataset", "problems", "wrong").stdout


def test_a_file_nobody_can_read_is_failed_with_its_reason(studio: Up, tmp_path: Path) -> None:
    file = tmp_path / "binary.jsonl"
    file.write_bytes(b"\xff\xfe\x00\x01" * 100)
    done = studio.run("dataset", "add", str(file), "--wait")
    assert done.returncode == 1 and "cannot be used" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["dataset", "add", "/nowhere/at/all.jsonl"], "There is no file", 2),
        (["dataset", "show", "nothing of this name"], "There is no dataset", 4),
        (["dataset", "show", "ds_000000000000000000"], "There is no dataset", 4),
        (["dataset", "export", "x", "rows.txt"], "--format", 2),
        (["run", "show", "run_000000000000000000"], "There is no run", 4),
        (["run", "show", "nothing"], "There is no run", 4),
        (["run", "create", "--method", "sft"], "--checkpoint", 2),
        (["run", "create", "--method", "sft", "--checkpoint", "nothing", "--dataset", "x"], "There is no checkpoint", 4),
        (["run", "create", "-p", "oops"], "key=value", 2),
        (["run", "compare", "one"], "There is no run", 4),
        (["run", "edit", "one"], "Say what to change", 2),
        (["checkpoint", "import", "./nothing"], "There is no folder", 2),
        (["checkpoint", "import", "../a b/c.gguf", "--source", "hub"], "owner/name", 4),
        (["checkpoint", "pull", "nothing"], "There is no checkpoint", 4),
        (["chat", "nothing", "Hello"], "There is no checkpoint", 4),
        (["run", "list", "--studio", "elsewhere"], "no login", 2),
    ],
)
def test_a_refusal_is_printed_as_its_message_only(studio: Up, arguments: list[str], words: str, code: int) -> None:
    done = studio.run(*arguments)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


# --- who is spoken to -----------------------------------------------------------------------------------------------------


def test_without_a_studio_it_says_how_to_start_one(tmp_path: Path) -> None:
    nothing = luthier("run", "list", env=environment(tmp_path, PORT=str(free_port())))
    assert nothing.returncode == 2 and "luthier up" in nothing.stderr and "LUTHIER_TOKEN" in nothing.stderr
    away = luthier("run", "list", env=environment(tmp_path, PORT=str(free_port()), TOKEN="lt_a_b"))
    assert away.returncode == 3 and "does not answer" in away.stderr and len(away.stderr.splitlines()) == 1


def test_the_local_token_is_never_sent_to_another_machine(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("lt_local_secret")
    done = luthier("run", "list", env=environment(tmp_path, URL="http://studio.example.invalid"))
    assert done.returncode == 2 and "LUTHIER_TOKEN" in done.stderr


def test_a_wrong_token_and_a_role_that_may_not_are_said_in_words(studio: Up, tmp_path: Path) -> None:
    wrong = luthier("run", "list", env={**studio.env, "LUTHIER_TOKEN": "lt_a_b"})
    assert wrong.returncode == 4 and "unknown, revoked or too old" in wrong.stderr
    viewer = studio.json("token", "create", "--name", "v", "--role", "viewer")["token"]
    file = write_rows(tmp_path / "x.jsonl", [{"text": "x"}])
    refused = luthier("dataset", "add", str(file), env={**studio.env, "LUTHIER_TOKEN": viewer})
    assert refused.returncode == 4 and "viewer" in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert luthier("run", "list", env={**studio.env, "LUTHIER_TOKEN": viewer, "LUTHIER_URL": studio.address + "/"}).returncode == 0


def test_a_server_that_is_no_studio_is_told_as_such(tmp_path: Path) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = luthier("run", "list", env=environment(tmp_path, URL=f"http://127.0.0.1:{server.server_port}", TOKEN="lt_a_b"))
        assert done.returncode == 4 and "Is it a Luthier?" in done.stderr
    finally:
        server.shutdown()
        server.server_close()


# --- runs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ready(studio: Up, tmp_path_factory: pytest.TempPathFactory) -> Up:
    """The studio with a tiny model and a dataset in it."""
    pytest.importorskip("torch", reason="training needs the train extra")
    from tests.models import tiny_llama

    folder = tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    done = studio.run("checkpoint", "import", str(folder), "--wait")
    assert done.returncode == 0, done.stderr
    file = write_rows(
        tmp_path_factory.mktemp("data") / "data.jsonl", [{"prompt": f"{n} + 1 =", "completion": f" {n + 1}"} for n in range(64)]
    )
    assert studio.run("dataset", "add", str(file), "--name", "data", "--wait").returncode == 0
    return studio


CREATE = ["run", "create", "--method", "sft", "--tuner", "lora", "--checkpoint", "tiny", "--dataset", "data", "-t", "r=4"]


@pytest.mark.train
def test_a_run_is_created_by_names_followed_and_shown(ready: Up) -> None:
    assert "tiny" in ready.run("checkpoint", "list").stdout
    done = ready.run(
        *CREATE,
        "-p",
        "max_steps=6",
        "-p",
        "batch_size=2",
        "-p",
        "learning_rate=1e-3",
        "--name",
        "by hand",
        "--tag",
        "a",
        "--follow",
        timeout=None,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert any(line.startswith("step 6/6  loss ") for line in lines), done.stderr
    assert lines[-1].startswith("Succeeded after 6 steps with a loss of ")
    run_id = done.stdout.strip()
    run = ready.json("run", "show", "by hand")
    assert (
        run["id"] == run_id and run["status"] == "succeeded" and run["params"]["learning_rate"] == 0.001 and run["tuner_params"]["r"] == 4
    )
    assert [step for step, _ in ready.json("run", "metrics", run_id, "--names", "loss")["data"]["loss"]] == [1, 2, 3, 4, 5, 6]
    assert "loss" in ready.run("run", "metrics", run_id).stdout
    assert "succeeded" in ready.run("run", "list").stdout and "max_steps" in ready.run("run", "show", run_id).stdout
    assert ready.run("run", "logs", run_id).returncode == 0
    again = ready.run("run", "follow", "by hand")
    assert again.returncode == 0 and "Succeeded" in again.stderr
    assert ready.run("run", "cancel", run_id).returncode == 4


@pytest.mark.train
def test_a_run_comes_from_a_file_and_options_win(ready: Up, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "method: sft\ntuner: full\ncheckpoint: tiny\ndataset: data\nname: from a file\nparams:\n  max_steps: 500\n  learning_rate: 1e-4\n"
    )
    made = ready.json("run", "create", "--file", str(file), "--tuner", "lora", "-p", "max_steps=400")
    assert made["tuner"] == "lora" and made["params"]["max_steps"] == 400 and made["params"]["learning_rate"] == 1e-4
    assert ready.json("run", "cancel", made["id"])["status"] in ("cancelled", "stopping")
    until(lambda: ready.json("run", "show", made["id"])["status"] == "cancelled", 30, "it is not cancelled")
    file.write_text("method: sft\ncheckpoint: tiny\ndataset: data\nspeed: 3\n")
    wrong = ready.run("run", "create", "--file", str(file))
    assert wrong.returncode == 4 and "speed" in wrong.stderr


@pytest.mark.train
def test_a_setting_out_of_range_is_said_with_its_field(ready: Up) -> None:
    done = ready.run(*CREATE, "-p", "learning_rate=5")
    assert done.returncode == 4 and "learning" in done.stderr.lower() and "at most" in done.stderr


@pytest.mark.train
def test_following_survives_a_restart_of_the_web_server_and_ends_with_1_when_cancelled(ready: Up) -> None:
    env = ready.env
    process = subprocess.Popen(
        [*LUTHIER, *CREATE, "-p", "max_steps=100000", "--name", "long", "-f"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: any(run["name"] == "long" and run["status"] == "running" for run in ready.json("run", "list")), 60, ready.said)
        web = ready.child("web")
        assert web is not None
        web.kill()
        until(lambda: (again := ready.child("web")) is not None and again.pid != web.pid, 20, ready.said)
        time.sleep(2)
        assert process.poll() is None
        ready.run("run", "cancel", "long")
        out, said = process.communicate(timeout=60)
        assert process.returncode == 1, said
        assert "Cancelled at step" in said and out.strip().startswith("run_")
        steps = [int(line.split()[1].partition("/")[0]) for line in said.splitlines() if line.startswith("step ")]
        assert steps == sorted(set(steps)), "a step was shown twice or out of order"
    finally:
        process.kill()
        process.wait()


@pytest.mark.train
def test_ctrl_c_while_following_leaves_the_run_alone_and_pause_and_resume_work(ready: Up) -> None:
    process = subprocess.Popen(
        [*LUTHIER, *CREATE, "-p", "max_steps=100000", "--name", "steered", "-f"],
        env=ready.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: any(run["name"] == "steered" and run["status"] == "running" for run in ready.json("run", "list")), 60, ready.said)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and "goes on without you" in said and "Traceback" not in said
    assert ready.json("run", "pause", "steered")["status"] in ("pausing", "paused")
    until(lambda: ready.json("run", "show", "steered")["status"] == "paused", 60, ready.said)
    followed = ready.run("run", "follow", "steered")
    assert followed.returncode == 1 and "luthier run resume" in followed.stderr
    assert ready.json("run", "resume", "steered")["status"] == "queued"
    ready.run("run", "cancel", "steered")
    until(lambda: ready.json("run", "show", "steered")["status"] == "cancelled", 60, ready.said)


@pytest.mark.train
def test_a_terminal_gets_a_bar(ready: Up) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [*LUTHIER, *CREATE, "-p", "max_steps=4", "-f"], env=ready.env | {"TERM": "xterm"}, stdout=theirs, stderr=theirs, stdin=theirs
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end was closed
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    assert process.wait(60) == 0
    text = said.decode()
    assert "4/4" in text and "loss " in text and "Succeeded after 4 steps" in text
