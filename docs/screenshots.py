"""Takes the pictures of docs/images from a throw-away studio with made-up work. `python docs/screenshots.py` (needs Chromium)."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser.conftest import ARGUMENTS, serve  # noqa: E402  # the studio and its work are those of the browser tests
from tests.browser.seed import Trainer  # noqa: E402

FOLDER = ROOT / "docs" / "images"
WIDE, NARROW = (1440, 900), (390, 844)
PICTURES = [
    ("runs-light", "/runs", "light", WIDE),
    ("runs-dark", "/runs", "dark", WIDE),
    ("run-light", "/runs/{live}", "light", WIDE),
    ("run-dark", "/runs/{live}", "dark", WIDE),
    ("overlay-light", "/runs/{live}?with={lr1e4},{r64}", "light", WIDE),
    ("outcome-dark", "/runs/{outcome}", "dark", WIDE),
    ("failed-dark", "/runs/{failed}", "dark", WIDE),
    ("samples-light", "/runs/{live}?tab=samples", "light", WIDE),
    ("new-light", "/runs/new?from={live}", "light", WIDE),
    ("mobile-run", "/runs/{live}", "dark", NARROW),
    ("mobile-runs", "/runs", "light", NARROW),
]


def main() -> None:
    """Take every picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with (
        tempfile.TemporaryDirectory() as home,
        contextmanager(serve)(Path(home), seeded=True) as studio,
        Trainer(studio.database, studio.ids["live"], seconds=0.5),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS.split())
        state = {"cookies": studio.cookies(), "origins": []}
        for name, path, scheme, (width, height) in PICTURES:
            context = browser.new_context(
                base_url=studio.url,
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
                storage_state=state,  # type: ignore[arg-type]
            )
            page = context.new_page()
            page.goto(path.format(**studio.ids))
            if page.locator("#charts").count():
                page.wait_for_selector("#charts .uplot")
            if page.locator("#plan").count():
                page.wait_for_selector("#plan dl")
            page.wait_for_timeout(700)
            page.screenshot(path=FOLDER / f"{name}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
