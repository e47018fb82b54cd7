"""The whole way with real data and a real model: upload in the browser, map columns, train, and the adapter works outside of Luthier."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import watch
from tests.faults.studio import Up, until
from tests.models import smollm2_folder

pytestmark = [pytest.mark.train, pytest.mark.browser, pytest.mark.slow]
DATA = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "train.jsonl"
STEPS = 30


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    home = tmp_path / "home"
    home.mkdir()
    studio = Up(home, {"LUTHIER_DEVICE": "cpu", "LUTHIER_SAMPLE_PROMPTS": "0"})
    yield studio
    studio.stop()


def _sign_in(up: Up, page: Page) -> None:
    command = [sys.executable, "-c", "from app.cli import main; main()", "user", "link"]
    environment = {"LUTHIER_HOME": str(up.home), "LUTHIER_PORT": str(up.port), "PATH": "/usr/bin:/bin"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    link = re.search(r"http://\S+", printed)
    assert link, printed
    page.goto(link.group())


@pytest.mark.skipif(not DATA.is_file(), reason="the GSM8K data is not beside the checkout (../shared/data/gsm8k)")
def test_gsm8k_from_upload_to_an_adapter_that_works_elsewhere(up: Up, browser: Browser) -> None:
    page = browser.new_page()
    faults = watch(page, up.url)
    _sign_in(up, page)
    page.goto(f"{up.url}/datasets/new")
    page.get_by_label("File", exact=True).set_input_files(DATA)
    page.get_by_label("Name", exact=True).first.fill("gsm8k")
    glance = page.locator("#glance")
    expect(glance).to_contain_text("can be used", timeout=30_000)
    page.get_by_label("prompt", exact=True).select_option("question")
    page.get_by_label("completion", exact=True).select_option("answer")
    expect(glance.locator(".chip")).to_have_text("Prompt and completion")
    page.get_by_role("button", name="Use this mapping").click()
    page.wait_for_url(re.compile(r"/datasets/ds_"))
    dataset = until(
        lambda: next((d for d in up.ask("GET", "/datasets")["data"] if d["status"] == "ready"), None),
        90,
        "the dataset did not become ready",
    )
    assert (dataset["rows"], dataset["shape"], dataset["problems"]["errors"]) == (7473, "prompt_completion", 0)

    checkpoint = up.ask("POST", "/checkpoints", json={"source": "folder", "ref": str(smollm2_folder()), "name": "SmolLM2-135M-Instruct"})
    until(lambda: up.ask("GET", f"/checkpoints/{checkpoint['id']}")["status"] == "ready", 120, "the model did not become ready")
    params = {
        "max_steps": STEPS,
        "batch_size": 2,
        "max_length": 160,
        "sample_tokens": 8,
        "save_steps": STEPS,
        "logging_steps": 1,
        "scheduler": "constant",
    }
    run = up.ask(
        "POST", "/runs", json={"method": "sft", "tuner": "lora", "checkpoint": checkpoint["id"], "dataset": dataset["id"], "params": params}
    )
    page.goto(f"{up.url}/runs/{run['id']}")
    until(lambda: up.ask("GET", f"/runs/{run['id']}")["status"] in ("succeeded", "failed"), 600, "the run did not end")
    run = up.ask("GET", f"/runs/{run['id']}")
    assert run["status"] == "succeeded", run["reason"]

    losses = up.ask("GET", f"/runs/{run['id']}/metrics?names=loss")["data"]["loss"]
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    values = [value for _, value in losses]
    assert sum(values[-10:]) < 0.95 * sum(values[:10]), "the loss did not fall"
    saved = up.ask("GET", f"/runs/{run['id']}/checkpoints")["data"][0]
    assert saved["step"] == STEPS and saved["metrics"]["loss"] == run["metrics"]["loss"] == values[-1]
    shown = page.locator('[data-key="loss"]')
    expect(shown).to_have_attribute("aria-label", re.compile(rf"at step {STEPS}$"), timeout=20_000)
    assert f"{values[-1]:.4g}" in str(shown.get_attribute("aria-label")), "the chart shows another loss than the API"
    assert not faults, faults
    page.close()
    _same_logits(up, checkpoint, saved)


def _same_logits(up: Up, checkpoint: dict[str, Any], saved: dict[str, Any]) -> None:
    """Plain peft on plain transformers gives what Luthier's own loader gives, and not what the base gives."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from worker.generate import load

    storage = up.home / "storage"
    base = storage / "checkpoints" / checkpoint["id"]
    adapter = next((storage / "runs" / saved["run_id"] / "checkpoints").glob(f"step-{STEPS}-*"))
    ids = AutoTokenizer.from_pretrained(base)("Natalia sold 48 clips. How many are left of 60?", return_tensors="pt").input_ids
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        before = plain(ids).logits
        outside = PeftModel.from_pretrained(plain, adapter).eval()(ids).logits
        inside = load(base, adapter=adapter, dtype="float32").model(ids).logits
    assert (outside - inside).abs().max() <= 1e-5
    assert (outside - before).abs().max() > 1e-3
