"""Following a run when the studio gives no stream, comes and goes, or ends it badly: against a server that plays such a studio."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from app.commands.client import Event, parse_events
from app.commands.follow import describe, time_left
from tests.cli.studio import environment, luthier

RUN: dict[str, Any] = {
    "id": "run_x",
    "name": "a run",
    "status": "running",
    "reason": None,
    "queue_place": None,
    "phase": None,
    "step": 1,
    "total_steps": 3,
    "metrics": {"loss": 2.0, "elapsed_seconds": 4.0},
    "nonfinite": {},
    "seq": 1,
}


@contextmanager
def studio(answers: list[dict[str, Any] | int], stream: list[bytes] | None = None) -> Iterator[str]:
    """A studio that answers a run's state in this order (a number is an error status) and has a stream only once, or none."""
    left, streams = list(answers), list([stream] if stream else [])

    class Studio(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "/events" in self.path:
                status, body = (
                    (200, b"".join(streams.pop())) if streams else (503, b'{"error": {"code": "unavailable", "message": "No stream."}}')
                )
            else:
                answer = left.pop(0) if len(left) > 1 else left[0]
                status = answer if isinstance(answer, int) else 200
                body = json.dumps(
                    {"error": {"code": "x", "message": "Not now."}} if isinstance(answer, int) else {**RUN, **answer}
                ).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Studio)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def follow(home: Path, url: str, *more: str) -> tuple[int, str, str]:
    done = luthier("run", "follow", "run_x", *more, env=environment(home, URL=url, TOKEN="lt_a_b"))
    return done.returncode, done.stdout, done.stderr


def test_without_a_stream_it_asks_until_the_run_ends(tmp_path: Path) -> None:
    with studio([{}, {"status": "queued", "queue_place": 2}, 503, {}, {"status": "succeeded", "step": 3}]) as url:
        code, out, said = follow(tmp_path, url)
    assert code == 0 and out == "run_x\n"
    assert said.splitlines() == ["queued, 2 in line", "running", "succeeded", "Succeeded after 3 steps with a loss of 2."]


def test_a_failure_ends_with_1_and_its_reason(tmp_path: Path) -> None:
    failed = {"status": "failed", "reason": "The loss is not a number.\x1b[31m", "metrics": {"loss": None}, "nonfinite": {"loss": "nan"}}
    with studio([failed]) as url:
        code, _, said = follow(tmp_path, url)
        as_json = follow(tmp_path, url, "--json")
    assert code == 1 and "Failed at step 1: The loss is not a number." in said and "\x1b" not in said
    assert as_json[0] == 1 and json.loads(as_json[1])["nonfinite"] == {"loss": "nan"}


def test_the_stream_shows_points_and_ends_with_the_run(tmp_path: Path) -> None:
    def event(kind: str, data: dict[str, Any]) -> bytes:
        return f"id: run:run_x=5\nevent: {kind}\ndata: {json.dumps({'topic': 'run:run_x', **data})}\n\n".encode()

    stream = [
        b": connected\nretry: 1000\n\n",
        event("metrics", {"points": [["loss", 2, 1.5], ["elapsed_seconds", 2, 4.0], ["loss", 3, None, "nan"]]}),
        event("checkpoint", {"kind": "checkpoint", "message": "Checkpoint at step 3 committed."}),
        b"data: <hx-partial>\n\n",
        event("status", {"run": {**RUN, "status": "succeeded", "step": 3}}),
    ]
    with studio([{}], stream) as url:
        code, _, said = follow(tmp_path, url)
    assert code == 0
    assert said.splitlines()[1:4] == ["step 2/3  loss 1.5  2 s left", "step 3/3  loss nan", "Checkpoint at step 3 committed."]


def test_a_run_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with studio([404]) as url:
        code, _, said = follow(tmp_path, url)
    assert code == 4 and said == "Not now.\n"


@pytest.mark.parametrize(
    ("step", "total", "elapsed", "left"),
    [(10, 20, 5.0, 5.0), (0, 20, 0.0, None), (20, 20, 5.0, None), (5, None, 5.0, None), (5, 9, "nan", None)],
)
def test_the_time_left_is_reckoned_from_the_training_time(step: int, total: int | None, elapsed: float | str, left: float | None) -> None:
    assert time_left(step, total, elapsed) == left


def test_what_a_run_does_is_said_in_words() -> None:
    assert describe({**RUN, "status": "preparing", "phase": "Loading the model"}) == "preparing: Loading the model"
    assert describe({**RUN, "status": "queued", "reason": "No worker is there."}) == "queued: No worker is there."


def test_events_are_read_from_their_lines() -> None:
    lines = [": ping", "", "event: a", 'data: {"x":', "data: 1}", "id: run:x=1", "", "data: <p>", "", "event: b", "data: {}"]
    assert list(parse_events(iter(lines))) == [Event("a", {"x": 1})]
