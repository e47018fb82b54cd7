"""Takes the pictures of the docs from a studio that really works: fine-tunes a small model first. `python docs/screenshots.py` (Chromium).

Every page in light and dark, on a wide screen, a tablet and a phone, goes into docs/images/all (not committed); those that the docs show go
into docs/images. `--home FOLDER` keeps the work, so that a second call takes pictures only.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from rated import bring_ratings  # noqa: E402  # the folder docs is no package
from work import Work, bring_data, studio, train, until  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SIZES = {"1440": (1440, 900), "1024": (1024, 768), "390": (390, 844)}
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
PAGES = {
    "runs": "/runs",
    "run": "/runs/{good}",
    "run-live": "/runs/{live}",
    "run-overlay": "/runs/{good}?with={small}",
    "run-samples": "/runs/{good}?tab=samples",
    "run-logs": "/runs/{good}?tab=logs",
    "run-config": "/runs/{good}?tab=config",
    "run-checkpoints": "/runs/{good}?tab=checkpoints",
    "run-system": "/runs/{good}?tab=system",
    "run-history": "/runs/{good}?tab=history",
    "run-failed": "/runs/{wild}",
    "run-dpo": "/runs/{dpo}",
    "compare": "/runs/compare?runs={good},{small},{full}",
    "new": "/runs/new?dataset={sums}",
    "new-again": "/runs/new?from={good}",
    "datasets": "/datasets",
    "dataset": "/datasets/{sums}",
    "dataset-problems": "/datasets/{odd}",
    "dataset-pairs": "/datasets/{pairs}",
    "dataset-add": "/datasets/new",
    "models": "/models",
    "model": "/models/{model}",
    "model-tuned": "/models/{tuned}",
    "model-import": "/models/import",
    "exports": "/exports",
    "ratings": "/feedback",
    "ratings-new": "/feedback/new",
    "ratings-project": "/feedback/{asked}",
    "ratings-items": "/feedback/{asked}/items",
    "ratings-item": "/feedback/{asked}/items/{asked_item}",
    "ratings-raters": "/feedback/{asked}/raters",
    "ratings-quality": "/feedback/{asked}/quality",
    "ratings-leaderboard": "/feedback/{asked}/leaderboard",
    "ratings-adjudicate": "/feedback/{asked}/adjudicate",
    "ratings-train": "/feedback/{asked}/train",
    "ratings-judges": "/feedback/{asked}/judges",
    "ratings-answer": "/feedback/{asked}/answer",
    "rate": "/rate",
    "rate-pair": "/rate/{asked}",
    "rate-keys": "/rate/{asked}",
    "rate-single": "/rate/{scored}",
    "rate-rank": "/rate/{ordered}",
    "rate-history": "/rate/{asked}/history",
    "playground": "/playground/{chat}",
    "playground-empty": "/playground",
    "system": "/system",
    "settings": "/settings",
    "settings-tokens": "/settings/tokens",
    "settings-sessions": "/settings/sessions",
    "settings-people": "/settings/people",
    "settings-workspaces": "/settings/workspaces",
    "settings-limits": "/settings/limits",
    "settings-audit": "/settings/audit",
    "settings-webhooks": "/settings/webhooks",
    "rest": "/docs",
    "login": "/login",
    "nothing-here": "/runs/nothing",
}
PRESSED = {"rate-keys": ["?"], "rate-rank": ["3", "ArrowUp", "="]}
"""Keys that are pressed before a picture is taken, by page."""
SHOWN = {
    "run-light": ("run-live", "light", "1440"),
    "run-dark": ("run-live", "dark", "1440"),
    "runs-light": ("runs", "light", "1440"),
    "compare-light": ("compare", "light", "1440"),
    "outcome-dark": ("run", "dark", "1440"),
    "failed-dark": ("run-failed", "dark", "1440"),
    "samples-light": ("run-samples", "light", "1440"),
    "new-light": ("new-again", "light", "1440"),
    "dataset-light": ("dataset-problems", "light", "1440"),
    "model-light": ("model-tuned", "light", "1440"),
    "playground-light": ("playground", "light", "1440"),
    "rate-light": ("rate-pair", "light", "1440"),
    "system-dark": ("system", "dark", "1440"),
    "mobile-run": ("run-live", "dark", "390"),
    "mobile-runs": ("runs", "light", "390"),
}
"""Picture of the docs -> page, theme and width."""
SHEETS = {name: f"sheet-{name}" for name in PAGES if name.startswith("rat")}
"""Page -> picture of the docs that shows it in both themes, wide and on a phone."""
SHEET = """<body style="margin:0;background:#8a8a8f;display:grid;grid-template-columns:430px 430px 180px 180px;gap:8px;padding:8px">
{}</body>"""
PICTURE = '<div style="height:424px;overflow:hidden"><img style="width:100%" src="data:image/png;base64,{}"></div>'
SEEN = (("light", "1440"), ("dark", "1440"), ("light", "390"), ("dark", "390"))


def main() -> None:
    """Work, then take every picture."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--home", type=Path, help="a studio's folder to work in, and to find the work of an earlier call in")
    options.add_argument("--only", default="", help="names of pages, separated by commas")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = (given.home or Path(temporary)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        with studio(home) as work:
            names = [name for name in given.only.split(",") if name] or list(PAGES)
            _work(work, names)
            with sync_playwright() as playwright:
                chromium = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser"))), None)
                browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
                _take(browser, work, names)
                _put_together(browser, names)
                browser.close()


def _work(work: Work, names: list[str]) -> None:
    """Do what the pages show; those of ratings need no training."""
    kept = work.home / "pictures.json"
    if kept.exists():
        work.ids = json.loads(kept.read_text())

    def say(text: str) -> None:
        print(text, flush=True)
        kept.write_text(json.dumps(work.ids))

    if "asked_item" not in work.ids:
        bring_ratings(work)
        say("rated")
    if all(name.startswith("rat") for name in names):
        return
    if "odd" not in work.ids:
        bring_data(work)
    if "tuned" not in work.ids:
        train(work, say)
    if "chat" not in work.ids:
        _chat(work)
        work.ask("POST", "/exports", json={"checkpoint": work.ids["tuned"], "format": "adapter"})
    until(lambda: work.ask("GET", f"/runs/{work.ids['live']}")["step"] >= 60, 900)
    say("taking pictures")


def _chat(work: Work) -> None:
    """Ask the base and the tuned checkpoint the same, and remember the conversation."""
    sent = {
        "checkpoints": [work.ids["model"], work.ids["tuned"]],
        "messages": [{"role": "user", "content": "What is 47 + 38?"}],
        "sampling": {"temperature": 0, "max_new_tokens": 40},
        "stream": False,
    }
    work.ask("POST", "/chats", json=sent)
    work.ids["chat"] = work.ask("GET", "/chats")["data"][0]["id"]


def _take(browser: Browser, work: Work, names: list[str]) -> None:
    folder = IMAGES / "all"
    folder.mkdir(parents=True, exist_ok=True)
    state = _sign_in(browser, work)
    for width, (across, down) in SIZES.items():
        for theme in ("light", "dark"):
            context = browser.new_context(
                base_url=work.url,
                viewport={"width": across, "height": down},
                color_scheme="dark" if theme == "dark" else "light",
                reduced_motion="reduce",
                storage_state=state,
            )
            page = context.new_page()
            for name in names:
                _settled(page, PAGES[name].format(**work.ids))
                for key in PRESSED.get(name, ()) if across > 900 else ():
                    page.keyboard.press(key)
                page.screenshot(path=folder / f"{name}-{theme}-{width}.png", full_page=True)
                for shown, (what, *where) in SHOWN.items():
                    if [what, *where] == [name, theme, width]:
                        page.screenshot(path=IMAGES / f"{shown}.png")
            context.close()


def _put_together(browser: Browser, names: list[str]) -> None:
    """One picture of each page of `SHEETS`: four pictures of it side by side, cut off below."""
    page = browser.new_page(viewport={"width": 1270, "height": 440})
    for name in filter(SHEETS.__contains__, names):
        pictures = (base64.b64encode((IMAGES / "all" / f"{name}-{theme}-{width}.png").read_bytes()).decode() for theme, width in SEEN)
        page.set_content(SHEET.format("".join(PICTURE.format(each) for each in pictures)))
        page.wait_for_function("[...document.images].every((each) => each.complete)")
        page.screenshot(path=IMAGES / f"{SHEETS[name]}.jpg", type="jpeg", quality=82)
    page.close()


def _sign_in(browser: Browser, work: Work) -> Any:
    from subprocess import run

    told = run(
        [sys.executable, "-c", "from app.cli import main; main()", "user", "link"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "LUTHIER_HOME": str(work.home), "LUTHIER_PORT": work.url.rpartition(":")[2]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    context = browser.new_context()
    page = context.new_page()
    page.goto(next(word for word in told.split() if word.startswith("http")))
    state = context.storage_state()
    context.close()
    return state


def _settled(page: Page, path: str) -> None:
    """Open a page and wait until what is drawn late is drawn."""
    page.goto(path)
    if page.locator("#charts").count():
        page.wait_for_selector("#charts .uplot, #charts .empty")
    if page.locator("#plan").count():
        page.wait_for_selector("#plan dl, #plan .notes")
    page.wait_for_timeout(500)


if __name__ == "__main__":
    main()
