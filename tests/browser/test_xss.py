"""Texts of strangers stay texts: the whole corpus in names, rows, answers, logs and errors, on every page, in a real browser."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Dialog, Page, expect
from sqlalchemy.orm import Session

from app.accounts import service as accounts
from app.chats.tables import Answer, Chat, Turn
from app.exports.tables import Export
from app.runs import progress
from app.runs.tables import RunEvent, RunLog, RunSample
from app.webhooks.tables import Delivery, Webhook
from tests.browser.conftest import Studio, serve
from tests.browser.seed import Trainer, add_worker, fill
from tests.factories import add_checkpoint, add_dataset, add_run
from tests.xss import CALL, PAYLOADS, RUN

pytestmark = pytest.mark.browser

WATCH = """
window.broken = [];
document.addEventListener("securitypolicyviolation", (event) => window.broken.push(event.violatedDirective + " " + event.blockedURI));
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio in which everything that has a text has one of the corpus."""
    for here in serve(tmp_path_factory.mktemp("hostile"), seeded=False):
        with here.database.write() as session:
            _fill(session, here)
        here.ids["rows"] = _upload(here, "rows.jsonl", _rows())
        here.ids["odd"] = _upload(here, PAYLOADS[0][:60].replace("/", "") + ".jsonl", _odd_rows())
        here.ids["columns"] = _upload(here, "columns.jsonl", json.dumps({text: f"{text} value" for text in PAYLOADS[:60]}) + "\n")
        yield here


def _fill(session: Session, here: Studio) -> None:
    add_worker(session)
    workspace = here.workspace_id
    model = add_checkpoint(session, workspace, name=PAYLOADS[3], size_bytes=10)
    data = add_dataset(session, workspace, name=PAYLOADS[4], version=2, source_name=PAYLOADS[5])
    for number, text in enumerate(PAYLOADS):
        status = "failed" if number % 3 else "ready"
        here.ids[f"models {number}"] = add_checkpoint(session, workspace, name=text, ref=text, status=status, reason=text).id
        here.ids[f"datasets {number}"] = add_dataset(session, workspace, name=text, source_name=text, status=status, reason=text).id
        here.ids[f"runs {number}"] = add_run(
            session,
            workspace,
            name=text,
            status="failed",
            reason=f"{text}. {text}",
            reason_code="config",
            tags=[text[:50]],
            notes=text,
            checkpoint_id=model.id,
            dataset_id=data.id,
            params={"batch_size": 8, "note": text},
        ).id
    for short, status in (("live", "running"), ("done", "succeeded")):
        run = add_run(session, workspace, name=PAYLOADS[0], status=status, attempt=1, checkpoint_id=model.id, dataset_id=data.id)
        run.tags, run.notes, run.resolved = [text[:50] for text in PAYLOADS[:20]], "\n".join(PAYLOADS), {text: text for text in PAYLOADS}
        fill(session, run, 20, 400, 3)
        run.started_at = time.time() - 30
        for number, text in enumerate(PAYLOADS):
            session.add(RunSample(run_id=run.id, step=0, number=number, prompt=text, text=text, expected=text, seq=1))
            session.add(RunLog(run_id=run.id, seq=1, number=number, at=time.time(), attempt=1, level="info", text=text))
            session.add(RunEvent(run_id=run.id, seq=1, number=number, attempt=1, kind="note", message=text, data={}))
        here.ids[short] = run.id
    _fill_others(session, here, model.id)
    for text in PAYLOADS[:40]:
        accounts.create_token(session, name=text[:100], role="viewer", user_id=here.admin_id, workspace_id=workspace)


def _fill_others(session: Session, here: Studio, model: str) -> None:
    """A conversation, an export, a webhook with messages, people, invites, audit."""
    workspace = here.workspace_id
    chat = Chat(workspace_id=workspace, title=PAYLOADS[0], checkpoints=[model, model], system=PAYLOADS[1], seq=1)
    session.add(chat)
    session.flush()
    for number, text in enumerate(PAYLOADS):
        session.add(Turn(chat_id=chat.id, number=number + 1, prompt=text))
        for place in range(2):
            answer = Answer(workspace_id=workspace, chat_id=chat.id, turn=number + 1, place=place, checkpoint_name=text, text=text, seq=1)
            answer.status, answer.reason = ("done", None) if number % 2 else ("failed", text)
            session.add(answer)
    export = Export(
        workspace_id=workspace, checkpoint_id=model, checkpoint_name=PAYLOADS[0], format="adapter", file_name=f"{PAYLOADS[0]}.zip"
    )
    export.status, export.reason, export.log = "failed", "\n".join(PAYLOADS), [[0.0, text] for text in PAYLOADS]
    session.add(export)
    hook = Webhook(workspace_id=workspace, url=f"https://example.org/{PAYLOADS[0]}", secret="whsec_x", disabled_reason=PAYLOADS[2])
    session.add(hook)
    session.flush()
    for text in PAYLOADS[:20]:
        session.add(Delivery(workspace_id=workspace, webhook_id=hook.id, event=text, body=text, status="failed", error=text))
        accounts.add_user(session, text[:100], "viewer", workspace_id=workspace)
    session.flush()
    here.ids |= {"chat": chat.id, "export": export.id}


def _rows() -> str:
    return "".join(json.dumps({"prompt": text, "completion": f"{text} ({number})"}) + "\n" for number, text in enumerate(PAYLOADS))


def _odd_rows() -> str:
    """Rows most of which are refused, so that the problems quote them."""
    return _rows().splitlines()[0] + "\n" + "".join(json.dumps({"prompt": text, "completion": {text: text}}) + "\n" for text in PAYLOADS)


def _upload(here: Studio, name: str, text: str) -> str:
    """Upload a file by REST and have a worker read it; the dataset's id."""
    from worker.tasks import drain

    with here.database.write() as session:
        _, token = accounts.create_token(session, name="upload", role="admin", user_id=here.admin_id, workspace_id=here.workspace_id)
    headers = {"Authorization": f"Bearer {token}"}
    made = httpx.post(f"{here.url}/api/v1/datasets", headers=headers, files={"file": (name, text.encode())}, data={"name": name[:40]})
    assert made.status_code == 201, made.text
    drain(here.database, here.settings, runs=False)
    return str(made.json()["id"])


SEEN: list[str] = []
"""What payloads have done, as far as the page noticed."""


@pytest.fixture(scope="module")
def wary(hostile: Studio, browser: Browser) -> Iterator[Page]:
    """A page that notices whatever a payload might do."""
    signed_in: Any = {"cookies": hostile.cookies(), "origins": []}
    context = browser.new_context(storage_state=signed_in, base_url=hostile.url, reduced_motion="reduce")
    page: Page = context.new_page()
    page.add_init_script(WATCH)
    found = SEEN

    def asked(dialog: Dialog) -> None:
        found.append(f"dialog {dialog.message}")
        dialog.dismiss()

    page.on("dialog", asked)
    page.on("pageerror", lambda error: found.append(f"error {error}"))
    page.on("request", lambda request: found.append(f"asked {request.url}") if CALL in request.url.partition("?")[0] else None)
    page.on("request", lambda request: found.append(f"left {request.url}") if not request.url.startswith((hostile.url, "data:")) else None)
    page.on("console", lambda said: found.append(said.text) if "Content Security Policy" in said.text else None)
    yield page
    context.close()


@pytest.fixture(autouse=True)
def nothing_happened() -> Iterator[None]:
    """Fail the test in which a payload did something."""
    SEEN.clear()
    yield
    assert not SEEN, SEEN[:5]


def harmless(page: Page, where: str) -> None:
    """Fail when a payload of the page has done something."""
    ran, broken, taken = page.evaluate("[window.ran, window.broken, document.body.innerText.trim() === 'taken']")
    assert not ran, f"a payload ran on {where} ({RUN})"
    assert not broken, f"the content policy was broken on {where}: {broken[:3]}"
    assert not taken, f"a payload took over {where}"
    names = ("hx-get", "hx-post", "data-hx-get", "hx-sse\\\\:connect", "src", "href", "action", "data", "poster", "background")
    marks = ", ".join(f"[{name}='{CALL}']" for name in names)
    foreign = page.evaluate(f"""[...document.querySelectorAll("{marks}")].map((each) => each.outerHTML.slice(0, 200))""")
    assert not foreign, f"{where} has elements made of a payload: {foreign[:3]}"


PAGES = [
    "/runs",
    "/runs?status=failed",
    "/runs?{query}",
    "/runs/{live}",
    *(f"/runs/{{done}}?tab={tab}" for tab in ("charts", "samples", "logs", "config", "checkpoints", "history")),
    "/runs/new?from={done}",
    "/palette?q=x",
    "/datasets",
    "/datasets/{rows}",
    "/datasets/{odd}",
    "/datasets/{columns}",
    "/datasets/new",
    "/models",
    "/models/import",
    "/runs/{done}?tab=system",
    "/runs/compare?runs={done},{live}",
    "/playground",
    "/playground/{chat}",
    "/exports",
    "/exports/new",
    "/exports/{export}",
    "/system",
    *(f"/settings/{part}" for part in ("", "tokens", "sessions", "people", "workspaces", "limits", "audit", "webhooks")),
]


@pytest.mark.parametrize("path", PAGES)
def test_page_is_inert(wary: Page, hostile: Studio, path: str) -> None:
    query = str(httpx.QueryParams({"q": PAYLOADS[0], "tag": PAYLOADS[1], "method": PAYLOADS[2]}))
    wary.goto(path.format(query=query, **hostile.ids))
    wary.wait_for_load_state("load")
    wary.mouse.move(300, 300)
    wary.keyboard.press("Tab")
    wary.wait_for_timeout(150)  # payloads that work do so within a moment
    harmless(wary, path)


def test_each_text_is_shown_as_it_is(wary: Page, hostile: Studio) -> None:
    wary.goto(f"/runs/{hostile.ids['done']}?tab=logs")
    shown = wary.locator("#main").inner_text()
    plain = [text for text in PAYLOADS if not set(text) & set("\r\n\t\u202e") and "  " not in text]
    assert [text for text in plain if text not in shown] == []


@pytest.mark.parametrize("number", range(0, len(PAYLOADS), 12))
def test_pages_of_things_with_such_names(wary: Page, hostile: Studio, number: int) -> None:
    for kind in ("runs", "datasets", "models"):
        wary.goto(f"/{kind}/{hostile.ids[f'{kind} {number}']}")
        wary.wait_for_timeout(100)
        harmless(wary, f"{kind}, {PAYLOADS[number]}")


def test_what_comes_by_the_stream_is_inert(wary: Page, hostile: Studio) -> None:
    trainer = Trainer(hostile.database, hostile.ids["live"])
    for tab in ("logs", "samples", "history"):
        wary.goto(f"/runs/{hostile.ids['live']}?tab={tab}")
        wary.wait_for_timeout(300)
        with hostile.database.write() as session:
            said = [f"{text} live-{tab}" for text in PAYLOADS]
            news = progress.Batch(
                logs=[(time.time(), "info", text) for text in said],
                samples=[
                    {"step": 10, "number": number, "prompt": text, "text": text, "expected": text} for number, text in enumerate(said[:30])
                ],
                events=[("note", text, {}) for text in said[:30]],
            )
            progress.record(session, trainer.claim, news)
        expect(wary.locator("#main")).to_contain_text(f"live-{tab}", timeout=20_000)
        wary.wait_for_timeout(300)
        harmless(wary, f"the stream on {tab}")


def test_the_palette_is_inert(wary: Page, hostile: Studio) -> None:
    wary.goto("/runs")
    wary.keyboard.press("Control+k")
    for text in PAYLOADS[::15]:
        wary.locator("#palette-q").fill(text[:100])
        wary.wait_for_timeout(250)
        harmless(wary, f"the palette, {text}")


def test_files_for_download_do_not_run(hostile: Studio, tmp_path: Path) -> None:
    cookies = {cookie["name"]: cookie["value"] for cookie in hostile.cookies()}
    for path in (f"/runs/{hostile.ids['done']}/logs.txt", f"/datasets/{hostile.ids['odd']}/problems.csv"):
        answer = httpx.get(hostile.url + path, cookies=cookies)
        assert answer.status_code == 200
        assert answer.headers["content-disposition"].startswith("attachment") and answer.headers["x-content-type-options"] == "nosniff"
        assert not answer.headers["content-type"].startswith("text/html")
