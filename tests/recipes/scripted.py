"""An OpenAI-compatible endpoint on this machine whose answers a test knows, and which remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

from app import recipes
from app.recipes.base import WrittenRecipe
from worker.writing import Writing
from worker.writing_endpoint import Endpoint
from worker.writing_journal import Journal

KEY = "sk-known-only-to-the-admin"


@dataclass
class Reply:
    """What the endpoint answers."""

    text: str | None = ""
    finish: str = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "no"
    logs: dict[str, float] | None = None
    """Logarithm of the probability of some first tokens."""
    refusal: str | None = None
    raw: bytes | None = None

    def body(self) -> bytes:
        """As it is sent."""
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"error": {"message": self.message}}).encode()
        choice: dict[str, Any] = {"finish_reason": self.finish, "message": {"role": "assistant", "content": self.text}}
        if self.refusal:
            choice["message"]["refusal"] = self.refusal
        if self.logs is not None:
            top = [{"token": token, "logprob": log} for token, log in self.logs.items()]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return json.dumps({"choices": [choice]}).encode()


class Scripted:
    """The endpoint: `answer` gets the body of each request and says what it is told."""

    def __init__(self, answer: Callable[[dict[str, Any]], Reply | str]) -> None:
        self.answer, self.asked, self.headers, self.paths = answer, [], [], []  # type: ignore[var-annotated]
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
                with lock:
                    self.asked.append(body)
                    self.headers.append(dict(handler.headers))
                    self.paths.append(handler.path)
                    told = self.answer(body)
                reply = told if isinstance(told, Reply) else Reply(told)
                content = reply.body()
                handler.send_response(reply.status)
                for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @contextmanager
    def up(self) -> Iterator[Scripted]:
        """While it answers."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(5)


class Told:
    """Stands for the pipe to the supervisor."""

    def __init__(self) -> None:
        self.progressed: list[tuple[float, float | None, str]] = []

    def progress(self, done: float, total: float | None, text: str = "") -> None:
        self.progressed.append((done, total, text))


def last(body: dict[str, Any]) -> str:
    """The last message of a request."""
    return str(body["messages"][-1]["content"])


@dataclass
class Made:
    """What a recipe made."""

    rows: dict[str, list[dict[str, Any]]]
    report: dict[str, Any]
    told: Told
    waits: list[float]


def run(
    folder: Path,
    recipe: str,
    params: dict[str, Any],
    data: dict[str, list[dict[str, Any]]],
    *,
    endpoint: Scripted | None = None,
    checkpoints: dict[str, dict[str, Any]] | None = None,
    shapes: dict[str, str] | None = None,
) -> Made:
    """Run a recipe here, in this process, as the child does; a second time in the same folder goes on with its journal."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {}
    for name, rows in data.items():
        file = folder / f"{name}.jsonl"
        file.write_bytes(b"".join(orjson.dumps({"line": 1, "split": "train", "row": row, "source": {}}) + b"\n" for row in rows))
        named[name] = {"file": str(file), "shape": (shapes or {}).get(name, "prompt"), "name": name}
    kind, checked = recipes.check(recipe, params)
    assert isinstance(kind, WrittenRecipe)
    told, journal, waits = Told(), Journal(folder / "answered.jsonl"), []  # type: ignore[var-annotated]
    maker = Writing({"checkpoints": checkpoints or {}, "datasets": named, "endpoint": None}, journal, told)  # type: ignore[arg-type]
    if endpoint is not None:
        maker._endpoint = Endpoint(endpoint.url, KEY, "known", retried=lambda: maker.count("retries"), sleep=waits.append)
    made: dict[str, list[dict[str, Any]]] = {part: [] for part in kind.parts(checked)}
    try:
        for part, row in kind.make(checked, maker):
            made[part].append(orjson.loads(orjson.dumps(row)))
    finally:
        journal.close()
    return Made(made, maker.report(), told, waits)


def prompts(*texts: str) -> list[dict[str, Any]]:
    """Rows of prompts."""
    return [{"prompt": text} for text in texts]
