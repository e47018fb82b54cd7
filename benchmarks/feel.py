"""What a page weighs, and how soon a key press or click shows on it, in a real browser. `python -m benchmarks.feel` (needs Chromium)"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Page, sync_playwright

from benchmarks.studio import header, quantile
from tests.browser.conftest import ARGUMENTS, Studio, chromium, serve

PAGES = {
    "runs": "/runs",
    "run": "/runs/{live}",
    "comparison": "/runs/compare?runs={r64},{lr1e4}",
    "new run": "/runs/new",
    "datasets": "/datasets",
    "models": "/models",
    "playground": "/playground",
    "system": "/system",
    "settings": "/settings",
}
TIMES = 10
WATCH = """
window.slowest = 0;
new PerformanceObserver((list) => { for (const each of list.getEntries()) window.slowest = Math.max(window.slowest, each.duration); })
  .observe({ type: "event", durationThreshold: 16, buffered: true });
addEventListener("click", (event) => sessionStorage.setItem("clicked", performance.timeOrigin + event.timeStamp), true);
"""
KEYS = {
    "open the palette": ("/runs", "Control+k"),
    "go to the search box": ("/runs", "/"),
    "move down the list": ("/runs", "j"),
    "tick a run": ("/runs", "x"),
    "log scale": ("/runs/{live}", "l"),
    "more smoothing": ("/runs/{live}", "]"),
    "show the keys": ("/runs/{live}", "?"),
}
CLICKS = {
    "to datasets": ("/runs", "a[href='/datasets']"),
    "to a run": ("/runs", "#runs a[href^='/runs/run_']"),
    "to the form": ("/runs", "a[href='/runs/new']"),
    "to the log": ("/runs/{live}", "a[href$='tab=logs']"),
    "to settings": ("/runs", "a[href='/settings']"),
}


def settled(page: Page, address: str) -> None:
    """Open a page and let it come to rest."""
    page.goto(address)
    page.wait_for_load_state("load")
    page.wait_for_timeout(400)


def weights(page: Page, here: Studio) -> None:
    """Bytes that a browser with an empty cache gets, as they were sent (compressed)."""
    for name, path in PAGES.items():
        client = page.context.new_cdp_session(page)
        client.send("Network.clearBrowserCache")
        settled(page, here.url + path.format(**here.ids))
        page.wait_for_timeout(600)
        size = page.evaluate(
            """performance.getEntriesByType("resource").concat(performance.getEntriesByType("navigation"))
               .reduce((sum, each) => sum + each.encodedBodySize, 0)"""
        )
        print(f"weight of {name}: {size / 1000:.0f} kB")
        client.detach()


def keys(page: Page, here: Studio) -> None:
    """From a key press to the next paint (Event Timing, in steps of 8 ms)."""
    for name, (path, key) in KEYS.items():
        took = []
        for _ in range(TIMES):
            settled(page, here.url + path.format(**here.ids))
            page.evaluate("window.slowest = 0")
            page.keyboard.press(key)
            page.wait_for_timeout(300)
            took.append(page.evaluate("window.slowest"))
        print(f"key, {name}, ms: median {quantile(took, 0.5):.0f}, worst {max(took):.0f}")


def clicks(page: Page, here: Studio) -> None:
    """From a click on a link to the first contentful paint of the page it leads to."""
    painted = "performance.getEntriesByName('first-contentful-paint')[0]"
    for name, (path, link) in CLICKS.items():
        took = []
        for _ in range(TIMES):
            settled(page, here.url + path.format(**here.ids))
            page.locator(link).first.click(no_wait_after=True)
            page.wait_for_function(f"() => performance.timeOrigin > sessionStorage.getItem('clicked') - 100 && {painted}")
            took.append(page.evaluate(f"performance.timeOrigin + {painted}.startTime - sessionStorage.getItem('clicked')"))
        print(f"click, {name}, ms: median {quantile(took, 0.5):.0f}, worst {max(took):.0f}")


def main() -> None:
    """Measure on SQLite, signed in as the admin, with the work of the browser tests in the studio."""
    header("feel")
    with TemporaryDirectory() as folder, contextmanager(serve)(Path(folder), seeded=True) as here, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS.split())
        signed_in: Any = {"cookies": here.cookies(), "origins": []}
        page = browser.new_context(viewport={"width": 1440, "height": 900}, storage_state=signed_in).new_page()
        page.add_init_script(WATCH)
        weights(page, here)
        keys(page, here)
        clicks(page, here)
        browser.close()


if __name__ == "__main__":
    main()
