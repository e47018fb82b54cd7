"""Recipes whose rows a model writes, and what is learned from them: context_distillation and ghost_attention with a teacher that was first
tuned to obey, best_of_n by a rule. To obey is to answer in capital letters when told so.
"""  # fmt: skip

from __future__ import annotations

from statistics import fmean
from typing import Any

from app.feedback.intervals import Estimate
from benchmarks.learning import preferences, rewarded
from benchmarks.learning.bench import Bench, Finding
from benchmarks.ratings_loop import SEED, share

TOLD = "Answer in capital letters."
PROMPTED, UNPROMPTED, KEPT = 0.6, 0.1, 0.8
"""Bounds: how often the teacher obeys when told (at least) and untold (at most); what share of the former a pupil reaches untold."""
PROMPTS = 200
"""Prompts that pupils learn from; the teacher learns from all."""
FILLER = "It is hard to say."


def obeys(text: str) -> bool:
    """Whether an answer has letters, and all of them are capital."""
    return text.isupper()


def teacher(bench: Bench) -> str:
    """The checkpoint of a model tuned to answer in capital letters when it is told so, by the system or in the question it answers, and to
    have forgotten what an earlier question told it."""

    def make() -> str:
        there = preferences.answered(bench)["train"]
        rows = []
        for number, (prompt, (text, ended), _) in enumerate(there):
            if not ended or not text:
                continue
            asked, told = ({"role": "user", "content": words} for words in (prompt, f"{TOLD}\n\n{prompt}"))
            before = once_told(there[-1 - number][0]) if number % 2 else []
            obeying = [*before, told] if before else [{"role": "system", "content": TOLD}, asked]
            rows.append([*obeying, {"role": "assistant", "content": text.upper()}])
            rows.append([*before, asked, {"role": "assistant", "content": text}])
        obeying_rows = bench.dataset("obeying", [{"messages": row} for row in rows])
        return str(bench.run("sft", obeying_rows, max_length=320, epochs=2, learning_rate=5e-4)["checkpoint"])

    return str(bench.once("teacher", make))


def once_told(prompt: str) -> list[dict[str, str]]:
    """A question that told to obey, and its answer, which did."""
    return [{"role": "user", "content": f"{TOLD}\n\n{prompt}"}, {"role": "assistant", "content": FILLER.upper()}]


def obedience(bench: Bench, checkpoint: str, talks: list[list[dict[str, str]]]) -> list[float]:
    """Whether each answer obeys."""
    return [float(obeys(text)) for text, _ in bench.said(checkpoint, talks, temperature=0)]


def held_out(bench: Bench) -> list[str]:
    """Prompts that nothing was trained on."""
    return [row[0] for row in preferences.answered(bench)["held_out"]]


def written(bench: Bench, recipe: str, name: str, **params: Any) -> str:
    """Have a recipe make its dataset; its id."""
    found = bench.rest("POST", f"/recipes/{recipe}/runs", json={"name": name, "seed": SEED, **params})["id"]
    ready = bench.rest.wait(f"/datasets/{found}")
    bench.notes.append(f"    {recipe} made {ready['rows']} rows; {ready.get('lineage', {}).get('made')}")
    return str(found)


def prompts_of(bench: Bench, count: int = PROMPTS) -> str:
    """The dataset of the last prompts the start has answered."""
    rows = [{"prompt": row[0]} for row in preferences.answered(bench)["train"][-count:]]
    return str(bench.once(f"{count} prompts", lambda: bench.dataset(f"{count} questions", rows)))


def context_distillation(bench: Bench) -> list[Finding]:
    """The pupil answers in capital letters unasked, as the teacher does when the system says so."""
    able = teacher(bench)
    asked = held_out(bench)
    plain = [[{"role": "user", "content": each}] for each in asked]
    told = share(obedience(bench, able, [[{"role": "system", "content": TOLD}, *each] for each in plain]))
    untold = share(obedience(bench, able, plain))
    rows = written(bench, "context_distillation", "in capitals", prompts=prompts_of(bench), writer=able, system=TOLD, max_tokens=64)
    run = bench.run("sft", rows, checkpoint=able, max_length=256)
    return judged(told, untold, share(obedience(bench, run["checkpoint"], plain)), run["seconds"])


def ghost_attention(bench: Bench) -> list[Finding]:
    """The pupil still answers in capital letters two questions after it was told to, where the teacher has forgotten."""
    able = teacher(bench)
    asked = held_out(bench)

    def talk(number: int, text: str) -> list[dict[str, str]]:
        return [*once_told(asked[number - 1]), {"role": "user", "content": text}]

    once = [talk(number, text) for number, text in enumerate(asked)]
    every = [[*each[:-1], {"role": "user", "content": f"{TOLD}\n\n{each[-1]['content']}"}] for each in once]
    told, untold = share(obedience(bench, able, every)), share(obedience(bench, able, once))
    questions = prompts_of(bench, 2 * PROMPTS)  # two make a dialogue
    rows = written(bench, "ghost_attention", "minding", prompts=questions, writer=able, instructions=[TOLD], turns=2, max_tokens=64)
    run = bench.run("sft", rows, checkpoint=able, max_length=512, epochs=2)
    return judged(told, untold, share(obedience(bench, run["checkpoint"], once)), run["seconds"])


def judged(told: Estimate, untold: Estimate, after: Estimate, seconds: float) -> list[Finding]:
    """How the teacher obeyed, and what the pupil does untold."""
    obeyed, unasked, learned = (each.value or 0.0 for each in (told, untold, after))
    kept = learned >= KEPT * obeyed and unasked <= UNPROMPTED
    bound = f"≥ {KEPT} × told; before ≤ {UNPROMPTED}"
    return [
        Finding("teacher obeys when told", 0.0, told, f"≥ {PROMPTED}", obeyed >= PROMPTED),
        Finding("pupil obeys untold; before: the teacher untold", unasked, after, bound, kept, seconds),
    ]


FEW = 8
SMALL: dict[str, dict[str, Any]] = {
    "self_instruct": {"rows": FEW, "each": 2},
    "evolve": {"rounds": 1, "limit": FEW},
    "explanation_traces": {"limit": FEW},
    "constitution": {"limit": FEW},
    "ai_feedback": {"limit": FEW},
}
"""Recipes that a small model is only asked for a few rows of: what it writes is of no use, but every step is taken."""


def for_real(bench: Bench, recipe: str) -> list[Finding]:
    """Rows a recipe makes with the small model as the one who writes."""
    data = "seeds" if recipe == "self_instruct" else "prompts"
    tasks = [{"prompt": row[0], "completion": row[1][0]} for row in preferences.answered(bench)["train"][:FEW] if row[1][0]]
    rows = bench.once("tasks", lambda: bench.dataset("tasks", tasks))
    judge = {"judge": bench.start} if recipe == "ai_feedback" else {}
    made = written(bench, recipe, recipe, writer=bench.start, max_tokens=64, **{data: rows}, **judge, **SMALL[recipe])
    count = int(bench.rest("GET", f"/datasets/{made}")["rows"])
    return [Finding(f"rows made from {len(tasks)}", 0.0, Estimate(float(count), None, None, len(tasks)), "≥ 1", count >= 1)]


def best_of_n(bench: Bench) -> list[Finding]:
    """The best of four answers by the rule earn more than the mean, and a model tuned on them earns more than the start."""
    rows = written(
        bench, "best_of_n", "best", prompts=prompts_of(bench), writer=bench.start, answers=4, rules=[rewarded.REWARD], max_tokens=48
    )
    best = [row["row"] for row in bench.rest.pages(f"/datasets/{rows}/rows")]
    chosen = share(rewarded.scores([row["prompt"] for row in best], [row["completion"] for row in best]))
    run = bench.run("sft", rows, max_length=256)
    questions = rewarded.asked()[1]

    def drawn(checkpoint: str | None) -> list[float]:
        return rewarded.scores(questions, [text for text, _ in bench.answers(checkpoint, questions, temperature=1.0, longest=48)])

    before = drawn(None)
    risen = [b - a for a, b in zip(before, drawn(run["checkpoint"]), strict=True)]
    gained, start = share(risen), fmean(before)
    return [
        Finding("reward of the chosen; before: mean of the start", start, chosen, "lower bound above", (chosen.low or 0) > start),
        Finding("reward gained by tuning on them", 0.0, gained, "lower bound > 0", (gained.low or 0) > 0, run["seconds"]),
    ]
