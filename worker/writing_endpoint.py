"""Answers from an OpenAI-compatible endpoint: one address and no other, repeated while it is busy, its key never told. Keeps nothing."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx

from app.recipes.base import Answer, Choice, Messages
from worker.reporting import Failed

AT_ONCE = 4
"""Requests on their way at the same time."""
TRIES = 8
"""So often a request is sent that is answered by 429, by 5xx or not at all: with the waits between, some three minutes."""
LONGEST_WAIT = 60.0
CONNECT_SECONDS, TOTAL_SECONDS = 10.0, 300.0
READ_BYTES = 8 * 1024**2
SHOWN = 20
"""Likeliest tokens that are asked for; no endpoint gives more."""
LEAST_LOG = -1000.0

logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every address


class _Busy(Exception):
    """Worth another try; the text says what happened, `wait` how long the endpoint asks to wait."""

    def __init__(self, words: str, wait: float | None = None) -> None:
        super().__init__(words)
        self.wait = wait


class Endpoint:
    """An endpoint that is asked for chat completions.

    Args:
        url: of the API, such as `https://api.example.org/v1`; requests go to `/chat/completions` below it.
        key: sent as a bearer token; empty for an endpoint that wants none.
        retried: told of each request that is repeated.
    """

    def __init__(
        self, url: str, key: str, model: str, *, retried: Callable[[], None] = lambda: None, sleep: Callable[[float], Any] | None = None
    ) -> None:
        parts = urlsplit(url.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
            raise Failed("LUTHIER_WRITER_URL cannot be used. It has the form https://host/v1, without user, password, ? and #.", "endpoint")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise Failed("LUTHIER_WRITER_KEY holds a blank or a character that a key cannot have. Copy it anew.", "endpoint")
        self.model = model
        self._url, self._key, self._retried = url.strip().rstrip("/") + "/chat/completions", key, retried
        self._limit_name, self._tells_logs, self._answered = "max_tokens", True, False
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        # Neither redirects nor proxies of the environment: what is sent goes to this one address.
        self._client = httpx.Client(
            timeout=httpx.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS),
            follow_redirects=False,
            trust_env=False,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=AT_ONCE),
        )

    def write(self, asked: Sequence[tuple[Messages, int]], *, temperature: float, max_tokens: int) -> Iterator[tuple[int, Answer]]:
        """Answers as they come, each with the number of what it answers.

        Args:
            asked: conversations, and the seed of each answer.

        Raises:
            Failed: the endpoint refuses the key or the request, or stays busy.
        """

        def one(messages: Messages, seed: int) -> Answer:
            try:
                choice = self._ask({"messages": messages, "temperature": temperature, "seed": seed}, max_tokens)
            except _Refused as error:
                return Answer(str(error), "error")
            message = choice.get("message") or {}
            text, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason")
            if (isinstance(refusal, str) and refusal and not text) or finish == "content_filter":
                return Answer(str(refusal or text or ""), "refused")
            return Answer(text if isinstance(text, str) else "", "length" if finish == "length" else "stop")

        yield from self._all([partial(one, *each) for each in asked])

    def choose(self, asked: Sequence[Messages], letters: Sequence[str]) -> Iterator[tuple[int, Choice]]:
        """Which letter is answered, as it comes; with probabilities where the endpoint tells them.

        Raises:
            Failed: as for `write`.
        """

        def one(messages: Messages) -> Choice:
            wants = {"messages": messages, "temperature": 0, "seed": 0}
            try:
                choice = self._ask({**wants, "logprobs": True, "top_logprobs": SHOWN} if self._tells_logs else wants, 8)
            except _Refused:
                if not self._tells_logs:
                    return Choice(None, None)
                try:
                    choice = self._ask(wants, 8)
                except _Refused:
                    return Choice(None, None)
                self._tells_logs = False  # it refused nothing but the probabilities
            text = (choice.get("message") or {}).get("content")
            logs = _logs(choice, letters)
            picked = max(range(len(letters)), key=lambda number: logs[number]) if logs else _named(str(text or ""), letters)
            return Choice(logs, picked)

        yield from self._all([partial(one, each) for each in asked])

    def _all(self, calls: Sequence[Callable[[], Any]]) -> Iterator[tuple[int, Any]]:
        pool = ThreadPoolExecutor(AT_ONCE)
        numbers = {pool.submit(call): number for number, call in enumerate(calls)}
        try:
            for done in as_completed(numbers):
                yield numbers[done], done.result()
        except BaseException:
            self._closed.set()  # those that wait for another try give up
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, body: dict[str, Any], max_tokens: int) -> dict[str, Any]:
        """The first choice of an answer.

        Raises:
            _Refused: the endpoint cannot answer this one.
            Failed: it can answer none.
        """
        for attempt in range(1, TRIES + 1):
            try:
                return self._once({"model": self.model, **body, self._limit_name: max_tokens})
            except _OtherLimit:
                self._limit_name = "max_completion_tokens"
            except _Busy as busy:
                if attempt == TRIES:
                    raise Failed(
                        f"The endpoint {busy}, {TRIES} times in a row. What it had answered is kept: start the recipe again under the same "
                        "name with the same settings when it is well.",
                        "endpoint",
                    ) from None
                if self._closed.is_set():
                    raise Failed("Another request failed.", "endpoint") from None
                self._retried()
                self._sleep(min(LONGEST_WAIT, busy.wait if busy.wait is not None else 2.0 ** (attempt - 1)))
        raise Failed("The endpoint asks for another name of the limit each time.", "endpoint")

    def _once(self, body: dict[str, Any]) -> dict[str, Any]:
        ends = time.monotonic() + TOTAL_SECONDS
        try:
            with self._client.stream("POST", self._url, json=body) as answer:
                parts, size = [], 0
                for part in answer.iter_bytes():
                    parts.append(part)
                    size += len(part)
                    if size > READ_BYTES:
                        raise Failed(f"The endpoint sent an answer of more than {READ_BYTES // 1024**2} MB.", "endpoint")
                    if time.monotonic() > ends:
                        raise _Busy(f"gave no whole answer within {TOTAL_SECONDS:.0f} seconds")
                status, text, wait = (
                    answer.status_code,
                    b"".join(parts).decode("utf-8", errors="replace"),
                    answer.headers.get("retry-after"),
                )
        except httpx.TimeoutException:
            raise _Busy("did not answer in time") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _Busy(f"could not be reached ({type(error).__name__})") from None
        if status == 429 or status >= 500 or status == 408:
            raise _Busy(f"answered {status}{self._why(text)}", _seconds(wait))
        if status != 200:
            self._refused(status, text, body)
        try:
            choice = json.loads(text)["choices"][0]
            if not isinstance(choice, dict):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise Failed(
                "The endpoint answers something that is no chat completion. Does LUTHIER_WRITER_URL end with /v1?", "endpoint"
            ) from None
        self._answered = True
        return choice

    def _refused(self, status: int, text: str, body: dict[str, Any]) -> None:
        why = self._why(text)
        if status == 400 and self._limit_name == "max_tokens" and "max_completion_tokens" in text and "max_tokens" in body:
            raise _OtherLimit
        if status in (401, 403):
            raise Failed(
                f"The endpoint does not accept the key ({status}). An admin has to set LUTHIER_WRITER_KEY anew; what was answered is kept: "
                "then start the recipe again under the same name with the same settings.",
                "endpoint",
            )
        if 300 <= status < 400:
            raise Failed(
                f"The endpoint points to another address ({status}), and nothing is sent there. Set LUTHIER_WRITER_URL to it.", "endpoint"
            )
        if status == 404:
            raise Failed(
                f"The endpoint knows no model “{self.model}”, or LUTHIER_WRITER_URL is wrong (404{why}). It usually ends with /v1.",
                "endpoint",
            )
        if self._answered or "logprobs" in body:  # it does answer others
            raise _Refused(f"The endpoint refuses this one ({status}{why})")
        raise Failed(f"The endpoint refuses the request ({status}{why}).", "endpoint")

    def _why(self, text: str) -> str:
        """What an error says, short, and without the key."""
        try:
            found = json.loads(text)
            error = found.get("error", found) if isinstance(found, dict) else {}
            words = error.get("message") if isinstance(error, dict) else error
        except (ValueError, RecursionError):
            return ""
        words = " ".join(str(words or "").split())
        if self._key:
            words = words.replace(self._key, "***")
        return f": {words[:200]}" if words else ""


class _OtherLimit(Exception):
    """The endpoint wants the limit under its newer name."""


class _Refused(Exception):
    """The endpoint does not answer this question; it may answer others."""


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:  # a date
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _named(text: str, letters: Sequence[str]) -> int | None:
    """Which letter an answer names: it alone, or first, such as “A” or “A.”."""
    first = text.strip().lstrip("*([\"'“").split(maxsplit=1)[:1]
    plain = first[0].rstrip("*)].:,;\"'”") if first else ""
    return next((number for number, letter in enumerate(letters) if plain == letter), None)


def _logs(choice: dict[str, Any], letters: Sequence[str]) -> list[float] | None:
    """Logarithm of the probability of each letter as the first token; None where none of them is told."""
    content = (choice.get("logprobs") or {}).get("content") if isinstance(choice.get("logprobs"), dict) else None
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return None
    shares = [0.0] * len(letters)
    for each in content[0].get("top_logprobs") or [content[0]]:
        token, log = str(each.get("token", "")).strip(), each.get("logprob")
        if token in letters and isinstance(log, int | float):
            shares[letters.index(token)] += math.exp(min(0.0, float(log)))
    return [math.log(share) if share > 0 else LEAST_LOG for share in shares] if any(shares) else None
