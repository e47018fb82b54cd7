"""`luthier` against a studio on another machine: another HOME, only an address and a token; from login to the pulled checkpoint."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.studio import Up, environment, luthier, running
from tests.cli.test_client import write_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The studio elsewhere."""
    with running(tmp_path_factory.mktemp("studio"), DEVICE="cpu", THREADS="1", SAMPLE_PROMPTS="0") as up:
        yield up


@pytest.fixture
def here(tmp_path: Path) -> dict[str, str]:
    """A machine that has nothing of it."""
    return environment(tmp_path / "elsewhere", PORT="1")


def login(studio: Up, here: dict[str, str], *more: str, token: str = "") -> Any:
    return luthier("login", studio.address, *more, env=here, input=f"{token or studio.token()}\n")


def test_login_checks_the_token_and_keeps_it_privately(studio: Up, here: dict[str, str], tmp_path: Path) -> None:
    wrong = login(studio, here, token="lt_a_b")
    assert wrong.returncode == 4 and "unknown, revoked or too old" in wrong.stderr and wrong.stdout == ""
    assert luthier("run", "list", env=here).returncode == 2, "a token that does not work is not kept"
    done = login(studio, here)
    assert done.returncode == 0 and "Signed in to" in done.stderr and studio.token() not in done.stderr + done.stdout
    file = Path(here["XDG_CONFIG_HOME"]) / "luthier" / "studios.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert luthier("run", "list", env=here).returncode == 0
    assert luthier("logout", env=here).returncode == 0 and studio.token() not in file.read_text()
    assert luthier("run", "list", env=here).returncode == 2
    assert luthier("logout", env=here).returncode == 4


def test_several_studios_are_told_apart_by_name(studio: Up, here: dict[str, str]) -> None:
    viewer = studio.json("token", "create", "--name", "v", "--role", "viewer")["token"]
    assert login(studio, here, "--studio", "one").returncode == 0
    assert luthier("--studio", "two", "login", studio.address, env=here, input=f"{viewer}\n").returncode == 0
    listed = json.loads(luthier("studios", "--json", env=here).stdout)
    assert [(each["name"], each["used"]) for each in listed] == [("one", False), ("two", True), ("local", False)]
    assert viewer not in json.dumps(listed)
    cancel = ["run", "cancel", "nothing"]
    assert "There is no run" in luthier(*cancel, env=here).stderr
    (Path(here["LUTHIER_HOME"])).mkdir(exist_ok=True)
    for how in (["dataset", "leave-out", "x", "--studio", "one"], ["--studio=one", "dataset", "leave-out", "x"]):
        assert "There is no dataset" in luthier(*how, env=here).stderr
    local = luthier("run", "list", "--studio", "local", env=here)
    assert local.returncode == 2 and "luthier up" in local.stderr
    # What the environment says wins over every login.
    won = luthier("run", "list", env={**here, "LUTHIER_URL": "http://127.0.0.1:1", "LUTHIER_TOKEN": "lt_a_b"})
    assert won.returncode == 3 and "http://127.0.0.1:1" in won.stderr
    assert luthier("run", "list", env={**here, "LUTHIER_TOKEN": "lt_a_b"}).returncode == 4


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://studio.example.invalid", "--allow-http"),
        ("ftp://studio.example.invalid", "no address of a studio"),
        ("https://user:secret@studio.example.invalid", "no address of a studio"),
        ("https://", "no address of a studio"),
    ],
)
def test_addresses_a_token_should_not_go_to(here: dict[str, str], url: str, words: str) -> None:
    done = luthier("login", url, "--token", "lt_a_b", env=here)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.train
def test_the_whole_flow_from_another_machine(studio: Up, here: dict[str, str], tmp_path: Path, tmp_path_factory: Any) -> None:
    pytest.importorskip("torch", reason="training needs the train extra")
    from tests.models import tiny_llama

    model = tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    assert studio.run("checkpoint", "import", str(model), "--wait").returncode == 0  # the studio's own machine has the weights

    def run(*arguments: str, code: int = 0, **more: Any) -> str:
        done = luthier(*arguments, env=here, **{"timeout": 300, **more})
        assert done.returncode == code, f"{arguments}: {done.stderr}"
        run.said = done.stderr  # type: ignore[attr-defined]
        return str(done.stdout)

    assert login(studio, here).returncode == 0
    file = write_rows(tmp_path / "sums.jsonl", [{"q": f"{n} + 1 =", "a": f" {n + 1}"} for n in range(64)])
    run("dataset", "add", str(file), "--map", "prompt=q", "--map", "completion=a", "--wait")
    rows = [json.loads(line) for line in run("dataset", "rows", "sums", "--limit", "3", "--json").splitlines()]
    assert [row["source"]["q"] for row in rows] == ["0 + 1 =", "1 + 1 =", "2 + 1 ="] and "1 + 1 =" in run("dataset", "rows", "sums")
    run("dataset", "export", "sums", str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_text().count("+ 1 =") == 64

    config = {
        "name": "first",
        "method": "sft",
        "tuner": "lora",
        "checkpoint": "tiny",
        "dataset": "sums",
        "params": {"max_steps": 4, "batch_size": 2, "save_steps": 2},
        "tuner_params": {"r": 4},
        "tags": ["flow"],
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))  # JSON is YAML
    plan = json.loads(run("run", "plan", "--file", str(tmp_path / "run.yaml"), "--json"))
    assert plan["steps"] == 4 and plan["trainable_parameters"] > 0
    first = run("run", "create", "--file", str(tmp_path / "run.yaml"), "--follow").strip()
    assert "Succeeded after 4 steps" in run.said  # type: ignore[attr-defined]
    second = json.loads(
        run("run", "create", "--file", "-", "--name", "second", "-p", "learning_rate=1e-3", "--follow", "--json", input=json.dumps(config))
    )  # fmt: skip
    assert second["status"] == "succeeded" and second["params"]["learning_rate"] == 0.001

    assert "Step 4 of 4" in run("run", "logs", first[:-2])  # the beginning of an id is enough
    assert [json.loads(line)["level"] for line in run("run", "logs", "first", "--json").splitlines()]
    found = json.loads(run("run", "compare", "first", second["id"], "--json"))
    assert [each["name"] for each in found["runs"]] == ["first", "second"]
    differs = {row["name"]: row["values"] for row in found["config"] if row["differs"]}
    assert set(differs) == {"params.learning_rate"}
    shown = run("run", "compare", "first", "second")
    assert "learning_rate" in shown and "max_steps" not in shown and " *" in shown
    assert "max_steps" in run("run", "compare", "first", "second", "--all")

    # The real trainer's curve, as TensorBoard reads it on the studio's machine and as REST gives it here.
    pytest.importorskip("tensorboardX", reason="the event files need the train extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(studio.home / "storage" / "runs" / first / "tensorboard"))
    accumulator.Reload()
    metrics = json.loads(run("run", "metrics", first, "--json"))["data"]
    assert set(accumulator.Tags()["scalars"]) == set(metrics) and [step for step, _ in metrics["loss"]] == [1, 2, 3, 4]
    for name, points in metrics.items():
        seen = [(each.step, each.value) for each in accumulator.Scalars(name)]
        assert seen == [(step, pytest.approx(value, rel=1e-6)) for step, value in points], name

    edited = json.loads(run("run", "edit", "second", "--name", "other", "--tag", "a", "--tag", "b", "--notes", "n", "--json"))
    assert (edited["name"], edited["tags"], edited["notes"]) == ("other", ["a", "b"], "n")
    assert [each["id"] for each in json.loads(run("run", "list", "--tag", "b", "--json"))] == [second["id"]]

    checkpoint = json.loads(run("checkpoint", "list", "--kind", "adapter", "--json"))[-1]
    assert checkpoint["id"] in run("checkpoint", "show", checkpoint["id"])
    folder = run("checkpoint", "pull", checkpoint["id"], "--to", str(tmp_path / "adapter")).strip()
    assert {"adapter_model.safetensors", "adapter_config.json"} <= set(os.listdir(folder))
    from safetensors import safe_open

    with safe_open(f"{folder}/adapter_model.safetensors", "pt") as tensors:
        assert len(list(tensors.keys())) > 0
    assert not list(tmp_path.glob(".luthier-*"))
    again = luthier("checkpoint", "pull", checkpoint["id"], "--to", folder, env=here)
    assert again.returncode == 2 and "not empty" in again.stderr

    copy = run("run", "duplicate", "first", "--follow").strip()
    refused = luthier("run", "delete", copy, env=here)
    assert refused.returncode == 2 and "--yes" in refused.stderr
    assert json.loads(run("run", "delete", copy, "--yes", "--json")) == {"deleted": [copy]}
    run("run", "show", copy, code=4)


@pytest.mark.train
def test_a_chain_from_its_file_to_its_end(studio: Up, here: dict[str, str], tmp_path: Path, tmp_path_factory: Any) -> None:
    pytest.importorskip("torch", reason="training needs the train extra")
    from tests.models import tiny_llama

    assert login(studio, here).returncode == 0

    def run(*arguments: str, code: int = 0, **more: Any) -> Any:
        done = luthier(*arguments, env=here, **{"timeout": 240, **more})
        assert done.returncode == code, f"{arguments}: {done.stderr}"
        return done

    model = tiny_llama(tmp_path_factory.mktemp("models") / "chained")
    assert studio.run("checkpoint", "import", str(model), "--wait").returncode == 0
    file = write_rows(tmp_path / "more.jsonl", [{"prompt": f"{n} + 1 =", "completion": f" {n + 1}"} for n in range(16)])
    run("dataset", "add", str(file), "--wait")
    step = {"method": "sft", "tuner": "lora", "dataset": "more", "params": {"max_steps": 2, "batch_size": 2}}
    chain = tmp_path / "chain.yaml"
    chain.write_text(json.dumps({"name": "Two", "steps": [{**step, "checkpoint": "chained"}, {**step, "checkpoint": "$1"}]}))
    followed = run("chain", "create", "--file", str(chain), "--follow", "--json")
    told = json.loads(followed.stdout)
    assert told["status"] == "succeeded" and [each["status"] for each in told["steps"]] == ["succeeded"] * 2
    assert "Step 1 of 2: sft" in followed.stderr and "Step 2 of 2: sft" in followed.stderr and "All runs succeeded." in followed.stderr
    assert told["id"] in run("chain", "show", "Two").stdout and told["steps"][1]["run"] in run("chain", "show", told["id"]).stdout
    assert "sft → sft" in run("chain", "list", "-q", "tw").stdout and "Two" not in run("chain", "list", "-q", "three").stdout

    # What is missing is said before anything is sent, what the studio refuses with its own words.
    chain.write_text(json.dumps({"steps": [{"method": "sft", "checkpoint": "chained"}]}))
    assert "Step 1 needs `dataset`." in run("chain", "create", "--file", str(chain), code=2).stderr
    chain.write_text(json.dumps({"steps": [{**step, "checkpoint": "$2"}, {**step, "checkpoint": "chained"}]}))
    assert "$2" in run("chain", "create", "--file", str(chain), code=4).stderr

    # A step that fails pauses the chain; it goes on with other settings.
    long = write_rows(tmp_path / "long.jsonl", [{"prompt": f"{n} " * 40, "completion": "1"} for n in range(16)])
    run("dataset", "add", str(long), "--wait")
    wrong = {**step, "checkpoint": "$1", "dataset": "long", "params": {"max_steps": 2, "batch_size": 2, "max_length": 8}}
    chain.write_text(json.dumps({"name": "Stops", "steps": [{**step, "checkpoint": "chained"}, wrong]}))
    stopped = run("chain", "create", "--file", str(chain), "--follow", code=1)
    assert "Paused at step 2" in stopped.stderr and "Raise max_length" in stopped.stderr
    went_on = run("chain", "continue", "Stops", "--file", "-", "--follow", input=json.dumps({**step, "checkpoint": "$1"}))
    assert "Step 2 of 2" in went_on.stderr and "All runs succeeded." in went_on.stderr
    assert run("chain", "delete", "Stops", code=2).stderr and "is deleted" in run("chain", "delete", "Stops", "--yes").stdout
    run("chain", "show", "Stops", code=4)


def test_a_shell_completes_commands_and_options(here: dict[str, str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        done = luthier("completion", shell, env=here)
        assert done.returncode == 0 and "_LUTHIER_COMPLETE" in done.stdout
    asked = {**here, "_LUTHIER_COMPLETE": "complete_bash", "COMP_WORDS": "luthier run c", "COMP_CWORD": "2"}
    assert luthier(env=asked).stdout.split() == ["create", "cancel", "compare"]
    assert luthier("completion", "tcsh", env=here).returncode == 2


def test_a_token_is_never_asked_for_where_nobody_types(here: dict[str, str]) -> None:
    done = luthier("login", "http://127.0.0.1:1", env=here)
    assert done.returncode == 2 and "no API token" in done.stderr
