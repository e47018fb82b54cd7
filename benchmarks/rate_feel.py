"""Rating as it feels: from a key press to the next pair on the screen, and what the page weighs. `python -m benchmarks.rate_feel`"""

from __future__ import annotations

import random
import shutil
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Page, sync_playwright
from sqlalchemy import func, select

from app.feedback import service
from app.feedback.schemas import ItemIn, ProjectCreate, ResponseIn
from app.feedback.tables import Rating
from benchmarks.studio import header, quantile
from tests.browser.conftest import ARGUMENTS, Studio, serve

VOTES = 150
THINK_MS = 400
BURST = 40
WATCH = """
window.took = [];
addEventListener("keydown", (event) => {
  const form = document.querySelector("form.task");
  const look = () => {
    const now = document.querySelector("form.task");
    if (!now || now === form) return requestAnimationFrame(look);
    // The frame with the new pair is painted before the message comes.
    requestAnimationFrame(() => { const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => window.took.push(performance.now() - event.timeStamp); port2.postMessage(0); });
  };
  look();
}, true);
"""
SIZE = """performance.getEntriesByType("resource").concat(performance.getEntriesByType("navigation"))
  .reduce((sum, each) => sum + (each.transferSize > 0 || !{cached} ? each.encodedBodySize : 0), 0)"""


def _text(draw: random.Random) -> str:
    """An answer of about 1,500 characters, with a list and some code."""
    words = " ".join(draw.choice(("the", "answer", "is", "kind", "and", "short", "because", "it", "reads", "well")) for _ in range(200))
    code = "\n".join(f"    total += step({number})  # and so on" for number in range(6))
    return f"{words}\n\n- **first** {draw.random()}\n- second\n\n```python\ndef work(steps):\n{code}\n```\n\n{words[:300]}"


def _fill(here: Studio) -> str:
    draw = random.Random(7)
    with here.database.write() as session:
        project = service.create_project(session, here.workspace_id, ProjectCreate(name="feel"), here.admin_id)
        answers = [[ResponseIn(text=_text(draw), source=name) for name in ("one", "two")] for _ in range(VOTES + BURST + 60)]
        service.add_items(
            session, project, [ItemIn(prompt=f"Question {n}: {_text(draw)[:300]}", responses=each) for n, each in enumerate(answers)]
        )
        return project.id


def _weigh(page: Page, here: Studio, project: str) -> None:
    for name, cached in (("nothing in the cache", "false"), ("the studio's style sheets, scripts and fonts in the cache", "true")):
        if cached == "false":
            client = page.context.new_cdp_session(page)
            client.send("Network.clearBrowserCache")
        page.goto(f"{here.url}/rate/{project}")
        page.wait_for_load_state("networkidle")
        size = page.evaluate(SIZE.format(cached=cached))
        document = page.evaluate("performance.getEntriesByType('navigation')[0].encodedBodySize")
        ahead = page.evaluate(
            "performance.getEntriesByType('resource').filter((each) => each.name.includes('/next')).map((each) => each.encodedBodySize)"
        )
        print(f"weight, {name}: {size / 1000:.0f} kB: page {document / 1000:.0f} kB, {len(ahead)} items ahead {sum(ahead) / 1000:.0f} kB")


def _rate(page: Page, here: Studio, project: str, name: str, votes: int, think: int) -> None:
    page.goto(f"{here.url}/rate/{project}")
    page.wait_for_load_state("networkidle")
    before = _saved(here, project)
    for number in range(votes):
        page.wait_for_selector("form.task")
        page.keyboard.press(str(1 + number % 7))
        page.wait_for_timeout(think)
    for _ in range(300):
        if _saved(here, project) - before == votes:
            break
        page.wait_for_timeout(100)
    took = page.evaluate("window.took")
    assert len(took) == votes, "not every key led to another pair"
    print(
        f"key to next pair, {name}, ms: median {quantile(took, 0.5):.0f}, p95 {quantile(took, 0.95):.0f}, most {max(took):.0f}"
        f" ({votes} votes, {_saved(here, project) - before} saved)"
    )


def _saved(here: Studio, project: str) -> int:
    with here.database.read() as session:
        return session.scalar(select(func.count()).select_from(Rating).where(Rating.project_id == project)) or 0


def main() -> None:
    """Measure on SQLite, signed in as the admin, in a studio with nothing else to do."""
    header("rating, in a browser")
    with TemporaryDirectory() as folder, contextmanager(serve)(Path(folder), seeded=False) as here, sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS.split())
        signed_in: Any = {"cookies": here.cookies(), "origins": []}
        page = browser.new_context(viewport={"width": 1440, "height": 900}, storage_state=signed_in).new_page()
        page.add_init_script(WATCH)
        project = _fill(here)
        _weigh(page, here, project)
        _rate(page, here, project, f"a vote every {THINK_MS} ms", VOTES, THINK_MS)
        _rate(page, here, project, "as fast as the page goes", BURST, 0)
        browser.close()


if __name__ == "__main__":
    main()
