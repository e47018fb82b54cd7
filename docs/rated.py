"""An afternoon of ratings in a studio of its own, through REST: projects of all three kinds, and people who say what they think."""

from __future__ import annotations

import random
from typing import Any

import httpx

if __package__:
    from docs.work import Work
else:
    from work import Work

PEOPLE = {"Ada Park": 0.9, "Bo Lindqvist": 0.8, "Chidi Okafor": 0.75}
"""Name -> how often they take the better answer."""
FILE = """```python
with open(path) as file:
    for line in file:
        print(line.rstrip())
```"""
RAIN = """| When | What |
|---|---|
| 2 pm | the museum |
| 4 pm | cake |
| 6 pm | the cinema |"""
ASKED = {
    "How do I keep basil alive on a window sill?": "Water it when the soil is dry, and pick from the top.",
    "My sourdough is flat. What went wrong?": "Most likely it proved too short or too warm.",
    "Explain to a child why the sea is salty.": "Rivers wash tiny bits of salt out of stones, and the sun takes only the water away.",
    "How do I read a file line by line in Python?": FILE,
    "Write two sentences that say no to an invitation, kindly.": "Thank you for thinking of me! I cannot come this time.",
    "Which is longer, a nautical mile or a mile?": "A nautical mile: 1,852 metres against 1,609.",
    "Plan a rainy afternoon in a small town.": RAIN,
    "Why do cats purr?": "Often because they are content, and sometimes to calm themselves.",
}
WAYS = (
    "{answer}\n\nThat usually does it. If it does not, tell me what you have tried, and we look further.",
    "{answer}",
    "As a matter of fact, there are **many** things to say about this:\n\n1. It depends.\n2. It depends on a lot.\n\n{answer}",
)
SOURCES = ("tuned on sums", "base", "tuned twice")


def bring_ratings(work: Work) -> None:
    """Projects `asked` (pairs), `scored` (single answers) and `ordered` (rankings), the first with votes of three people and a dispute."""
    draw = random.Random(11)
    common = {"guidelines": "# What counts\n\n- It answers **what was asked**.\n- It is kind, and no longer than it has to be.\n"}
    pairs = {
        **common, "name": "Kind and to the point", "question": "Which answer would you rather get?", "overlap": 3, "reveals": True,
        "criteria": [{"key": "right", "title": "Is the better one right?", "options": ["yes", "no", "unsure"]}],
    }  # fmt: skip
    for short, kind, wanted in (("asked", "pair", pairs), ("scored", "single", common), ("ordered", "rank", common)):
        names = {"scored": "One answer at a time", "ordered": "From best to worst"}
        made = work.ask("POST", "/feedback/projects", json={"kind": kind, "name": names.get(short, ""), **wanted})
        work.ids[short] = made["id"]
        items = [_item(draw, kind, number) for number in range(48)]
        work.ask("POST", f"/feedback/projects/{made['id']}/items", json={"items": items})
    for name, sure in PEOPLE.items():
        _rate(work, _browser(work, name), name, sure, draw)
    items = work.ask("GET", f"/feedback/projects/{work.ids['asked']}/items?limit=50")["data"]
    work.ids["asked_item"] = next(item["id"] for item in items if item["status"] == "open")


def _item(draw: random.Random, kind: str, number: int) -> dict[str, Any]:
    question, answer = list(ASKED.items())[number % len(ASKED)]
    ways = draw.sample(range(3), {"pair": 2, "single": 1, "rank": 3}[kind])
    again = f" ({number // len(ASKED) + 1})" if number >= len(ASKED) else ""
    return {
        "prompt": question + again,
        "responses": [{"text": WAYS[way].format(answer=answer), "source": SOURCES[way]} for way in ways],
    }


def _browser(work: Work, name: str) -> httpx.Client:
    """Somebody with the role rater, signed in."""
    user = work.ask("POST", "/users", json={"name": name, "role": "rater"})
    link = work.ask("POST", f"/users/{user['id']}/link")
    client = httpx.Client(base_url=work.url, headers={"Sec-Fetch-Site": "same-origin"}, timeout=60)
    answer = client.get(next(value for value in link.values() if str(value).startswith("http")), headers={"Sec-Fetch-Site": "none"})
    if answer.status_code not in (200, 303):
        raise SystemExit(f"{name} could not sign in: {answer.status_code} {answer.text[:300]}")
    return client


def _rate(work: Work, client: httpx.Client, name: str, sure: float, draw: random.Random) -> None:
    """Rate thirty pairs, and leave the rest to whoever looks at the pictures."""
    for number in range(30):
        asked = client.post(f"/api/v1/feedback/projects/{work.ids['asked']}/next", json={})
        if asked.status_code == 204:
            return
        task = asked.json()
        first, second = (len(each["text"]) for each in task["responses"])
        better = -1 if first < second else 1
        if draw.random() > sure:
            better = -better
        vote: dict[str, Any] = {
            "preference": better * draw.choice((1, 2, 2, 3)),
            "active_ms": draw.randint(4000, 16000),
            "labels": {"right": "yes"},
        }
        if number % 9 == 4:
            vote = {"preference": "both_bad", "active_ms": 3000, "comment": "Neither says why."}
        sent = client.post(f"/api/v1/feedback/slots/{task['slot']}/rate", json=vote)
        if not sent.is_success:
            raise SystemExit(f"{name} could not vote: {sent.status_code} {sent.text[:300]}")
