"""What happens to pages that stay open: the line is cut again and again, many tabs look on, the server is started anew."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from app.runs.tables import Run
from tests.browser.conftest import Studio, serve
from tests.browser.seed import Trainer
from tests.browser.test_run_page import own  # noqa: F401  # a run of this test's own

pytestmark = pytest.mark.browser

COLLECT = """
window.steps = [];
document.addEventListener("metrics", (event) => {
  for (const [name, step] of JSON.parse(event.detail.data).points) if (name === "loss") window.steps.push(step);
});
"""


class Line:
    """A telephone line to the web server that can be cut: whoever speaks at that moment hears nothing more."""

    def __init__(self, port: int) -> None:
        self.target = ("127.0.0.1", port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.target)
                with self._lock:
                    self._open |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> int:
        """Cut every open connection; how many there were."""
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        return len(ends) // 2

    def close(self) -> None:
        """Let nobody in any more."""
        self.listener.close()
        self.cut()


@pytest.fixture
def line(studio: Studio) -> Iterator[Line]:
    """A line to the studio."""
    made = Line(studio.settings.port)
    yield made
    made.close()


def context_at(browser: Browser, studio: Studio, address: str) -> Any:
    """A browser that is signed in and reaches the studio at another address."""
    signed_in: Any = {"cookies": studio.cookies(), "origins": []}
    return browser.new_context(storage_state=signed_in, base_url=address, reduced_motion="reduce")


def test_a_stream_cut_twenty_times_shows_every_step_once(browser: Browser, studio: Studio, line: Line, own: Trainer) -> None:  # noqa: F811
    context = context_at(browser, studio, f"http://127.0.0.1:{line.port}")
    page: Page = context.new_page()
    page.add_init_script(COLLECT)
    page.goto(f"/runs/{own.run_id}")
    page.wait_for_selector("#charts .uplot")
    for _ in range(20):
        own.step(3)
        expect(page.locator("#live")).to_be_visible()
        line.cut()
        own.step(2)
        page.wait_for_timeout(150)
    expect(page.locator("#live")).to_contain_text("step 200 of 400", timeout=30_000)
    expect(page.locator('[data-key="loss"]')).to_have_attribute("aria-label", r_at(200), timeout=30_000)
    assert page.evaluate("window.steps") == list(range(101, 201))
    expect(page.locator("#connection")).to_be_hidden()
    context.close()


def r_at(step: int) -> Any:
    """What a chart says of itself when it ends at a step."""
    return re.compile(f"at step {step}$")


def hide(page: Page, hidden: bool) -> None:
    """Do what a browser does when a tab goes to the back or comes to the front (one without a screen never does)."""
    page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
          Object.defineProperty(document, "visibilityState", { configurable: true, get: () => (hidden ? "hidden" : "visible") });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_seven_tabs(browser: Browser, studio: Studio, own: Trainer) -> None:  # noqa: F811
    """A browser opens at most six connections to a server: tabs at the back let go of theirs."""
    context = context_at(browser, studio, studio.url)
    tabs: list[Page] = []
    for _ in range(7):
        tab = context.new_page()
        tab.goto(f"/runs/{own.run_id}", timeout=10_000)
        tab.wait_for_selector("#charts .uplot")
        for earlier in tabs:
            hide(earlier, True)
        tabs.append(tab)
    own.step(5)
    expect(tabs[-1].locator("#live")).to_contain_text("step 105 of 400")
    hide(tabs[-1], True)
    hide(tabs[0], False)
    expect(tabs[0].locator("#live")).to_contain_text("step 105 of 400", timeout=10_000)
    expect(tabs[0].locator('[data-key="loss"]')).to_have_attribute("aria-label", r_at(105))
    context.close()


def test_the_web_server_is_killed_and_started_anew_under_open_pages(browser: Browser, tmp_path: Path) -> None:
    """The page says so, goes on by itself without a gap, and keeps what was typed."""
    with contextlib.contextmanager(serve)(tmp_path, seeded=True) as studio:
        trainer = Trainer(studio.database, studio.ids["live"])
        with studio.database.read() as session:
            first = session.get_one(Run, studio.ids["live"]).step
        context = context_at(browser, studio, studio.url)
        page: Page = context.new_page()
        page.add_init_script(COLLECT)
        page.goto(f"/runs/{studio.ids['live']}")
        page.wait_for_selector("#charts .uplot")
        listed = context.new_page()
        listed.goto("/runs?q=qwen3")
        listed.get_by_role("searchbox").fill("qwen3-4b")
        expect(page.locator("#connection")).to_be_hidden()
        trainer.step(2)
        expect(page.locator("#live")).to_contain_text(f"{first + 2:,}")
        studio.process.kill()
        studio.process.wait(10)
        expect(page.locator("#connection")).to_be_visible()
        trainer.step(3)
        studio.restart()
        trainer.step(2)
        expect(page.locator("#connection")).to_be_hidden(timeout=30_000)
        expect(page.locator("#live")).to_contain_text(f"{first + 7:,}", timeout=30_000)
        expect(listed.locator(f"#row-{studio.ids['live']}")).to_contain_text(f"{first + 7:,}", timeout=30_000)
        assert page.evaluate("window.steps") == list(range(first + 1, first + 8))
        assert listed.get_by_role("searchbox").input_value() == "qwen3-4b"
        context.close()
