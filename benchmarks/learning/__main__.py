"""Each objective learns on a real model, with the defaults that are shipped, and is judged on rows it has not seen.

    .venv/bin/python -m benchmarks.learning [--only sft dpo …] [--threads 2] [--keep FOLDER] [--record]

SmolLM2-135M-Instruct in a studio of its own, with a token and REST only; a worker on the CPU trains. Settings are the defaults but for
lengths and, where answers are rewarded, the number of steps. Each line tells a figure before and after, its 95 % interval over held-out
prompts, and the bound it has to keep, which was written down before. The exit status is 1 when one is missed.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path

from benchmarks.learning import preferences, pupils, rewarded, supervised
from benchmarks.learning.bench import Bench, Finding
from benchmarks.ratings_loop import Rest, worker
from benchmarks.studio import header, studio

RECORD = Path(__file__).parents[1] / "results" / "learning.json"
EXPERIMENTS: dict[str, Callable[[Bench], list[Finding]]] = {
    "sft": supervised.sft,
    "distill": supervised.distill,
    "pretrain": supervised.pretrain,
    "classify": lambda bench: supervised.classes(bench, "classify"),
    "features": lambda bench: supervised.classes(bench, "features"),
    "dpo": lambda bench: preferences.speaker(bench, "dpo", "preference", means=False),
    "kto": lambda bench: preferences.speaker(bench, "kto", "unpaired", means=False),
    "orpo": lambda bench: preferences.speaker(bench, "orpo", "preference", means=True),
    "simpo": lambda bench: preferences.speaker(bench, "simpo", "preference", means=True),
    "reward": lambda bench: preferences.head(bench, "reward"),
    "score": lambda bench: preferences.head(bench, "score"),
    "grpo": lambda bench: rewarded.learner(bench, "grpo"),
    "rloo": lambda bench: rewarded.learner(bench, "rloo"),
    "ppo": lambda bench: rewarded.learner(bench, "ppo", steps=2 * rewarded.STEPS),
    "ppo on a reward run": lambda bench: rewarded.learner(bench, "ppo", model=True, steps=rewarded.STEPS_ON_A_MODEL),
    "online_dpo": rewarded.online,
    "context_distillation": pupils.context_distillation,
    "ghost_attention": pupils.ghost_attention,
    "best_of_n": pupils.best_of_n,
    **{recipe: partial(pupils.for_real, recipe=recipe) for recipe in pupils.SMALL},
}


def main() -> None:
    """Run the experiments and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*EXPERIMENTS], default=[*EXPERIMENTS])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="folder for the start's own answers, which then are not drawn again the next time")
    parser.add_argument("--record", action="store_true", help=f"write what was found into {RECORD.name}, which the reference shows")
    asked = parser.parse_args()
    header("Learning")
    print("# " + " ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "trl", "peft", "scikit-learn")))
    print(f"# {' '.join(sys.argv[1:]) or 'defaults'}; {asked.threads} threads\n")
    print("| Objective | Figure | Before | After (95 %) | n | Bound | Kept | Training, s |\n|---|---|---|---|---|---|---|---|", flush=True)
    missed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="luthier-learning-") as folder, studio("sqlite") as place:
        place.environment["OMP_NUM_THREADS"] = str(asked.threads)
        with worker(place, asked.threads):
            bench = Bench(place, Rest(place), asked.threads, asked.keep or Path(folder))
            bench.bring_model()
            for name in asked.only:
                missed += experiment(bench, name, asked.record)
    sys.exit(bool(missed))


def experiment(bench: Bench, name: str, record: bool) -> list[str]:
    """Run one, print what it found; its name, where a bound was missed. One that fails does not stop the others."""
    bench.notes.clear()
    bench.runs.clear()
    try:
        findings = EXPERIMENTS[name](bench)
    except (SystemExit, Exception):  # boundary: whatever ends an experiment
        traceback.print_exc()
        print(f"| {name} | failed | | | | | no | |", flush=True)
        return [name]
    for each in findings:
        found = each.after
        after = f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})" if found.low is not None else f"{found.value:.3g}"
        spent = f"{each.seconds:.0f}" if each.seconds else ""
        kept = "yes" if each.kept else "**no**"
        print(f"| {name} | {each.what} | {each.before:.3g} | {after} | {found.n} | {each.bound} | {kept} | {spent} |", flush=True)
    if record and bench.runs:
        kept = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
        figures = [
            {"what": each.what, "before": each.before, "after": each.after.value, "low": each.after.low, "high": each.after.high}
            | {"n": each.after.n, "bound": each.bound, "kept": each.kept}
            for each in findings
        ]
        kept[name] = {"date": str(date.today()), "threads": bench.threads, "run": bench.runs[-1], "figures": figures}
        RECORD.write_text(json.dumps(dict(sorted(kept.items())), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for note in bench.notes:
        print(f"<!-- {note} -->", flush=True)
    return [] if all(each.kept for each in findings) else [name]


if __name__ == "__main__":
    main()
