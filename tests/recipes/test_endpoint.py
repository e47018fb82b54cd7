"""The admin's endpoint: what is sent, what is repeated, what ends a job, and that its key goes nowhere else."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from app.commands.configuration import entries
from app.errors import ConfigError
from app.recipes.base import Answer
from app.settings import Settings, get_settings
from tests.recipes.scripted import KEY, Reply, Scripted, last
from tests.servers import free_port
from worker.reporting import Failed
from worker.writing_endpoint import TRIES, Endpoint

ASKED = [([{"role": "user", "content": f"question {number}"}], number) for number in range(6)]


def write(endpoint: Endpoint, asked: Any = ASKED, **sampling: Any) -> list[Answer]:
    found = dict(endpoint.write(asked, temperature=sampling.get("temperature", 0.5), max_tokens=20))
    return [found[number] for number in range(len(asked))]


def test_what_is_sent_and_answered() -> None:
    with Scripted(lambda body: f"answer to {last(body)}").up() as server:
        found = write(Endpoint(server.url + "/", KEY, "known"))
    assert [each.text for each in found] == [f"answer to question {number}" for number in range(6)]
    assert {each.finish for each in found} == {"stop"} and set(server.paths) == {"/v1/chat/completions"}
    sent = sorted(server.asked, key=lambda body: body["seed"])
    assert sent == [
        {"model": "known", "messages": messages, "temperature": 0.5, "seed": seed, "max_tokens": 20} for messages, seed in ASKED
    ]
    assert {each["Authorization"] for each in server.headers} == {f"Bearer {KEY}"}


def test_no_key_sends_no_header() -> None:
    with Scripted(lambda _: "yes").up() as server:
        write(Endpoint(server.url, "", "known"), ASKED[:1])
    assert "Authorization" not in server.headers[0]


def test_busy_is_asked_again_with_longer_and_longer_waits() -> None:
    replies = [Reply(status=429, headers={"Retry-After": "7"}), Reply(status=503), Reply(status=500), Reply("at last")]
    waits: list[float] = []
    retries: list[int] = []
    with Scripted(lambda _: replies.pop(0)).up() as server:
        [answer] = write(Endpoint(server.url, KEY, "known", retried=lambda: retries.append(1), sleep=waits.append), ASKED[:1])
    assert (answer.text, waits, len(retries), len(server.asked)) == ("at last", [7.0, 2.0, 4.0], 3, 4)


def test_busy_for_good_ends_the_job() -> None:
    waits: list[float] = []
    with (
        Scripted(lambda _: Reply(status=503, message="overloaded")).up() as server,
        pytest.raises(Failed, match="503: overloaded, 8 times") as found,
    ):
        write(Endpoint(server.url, KEY, "known", sleep=waits.append), ASKED[:1])
    assert found.value.code == "endpoint" and len(server.asked) == TRIES and waits == [1, 2, 4, 8, 16, 32, 60]


def test_nobody_there() -> None:
    waits: list[float] = []
    with pytest.raises(Failed, match="could not be reached"):
        write(Endpoint(f"http://127.0.0.1:{free_port()}/v1", KEY, "known", sleep=waits.append), ASKED[:1])
    assert len(waits) == TRIES - 1


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(status=401, message=f"wrong key {KEY}"), "does not accept the key"),
        (Reply(status=403), "does not accept the key"),
        (Reply(status=404, message="no such model"), "knows no model “known”.*no such model"),
        (Reply(status=400, message=f"bad {KEY}"), r"refuses the request \(400: bad \*\*\*\)"),
        (Reply(status=302, headers={"Location": "http://127.0.0.1:9/elsewhere"}), "points to another address"),
        (Reply(raw=b"<html>"), "no chat completion"),
        (Reply(raw=b'{"choices": []}'), "no chat completion"),
    ],
)
def test_what_ends_the_job_at_once(reply: Reply, words: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Scripted(lambda _: reply).up() as server, pytest.raises(Failed, match=words) as found:
        write(Endpoint(server.url, KEY, "known"), ASKED[:1])
    assert len(server.asked) == 1 and KEY not in found.value.reason and KEY not in caplog.text


def test_one_question_that_is_refused_ends_nothing() -> None:
    def answer(body: dict[str, Any]) -> Reply:
        return Reply(status=400, message="too long") if last(body) == "long" else Reply("fine")

    with Scripted(answer).up() as server:
        endpoint = Endpoint(server.url, KEY, "known")
        assert write(endpoint, ASKED[:1])[0].text == "fine"
        [found] = write(endpoint, [([{"role": "user", "content": "long"}], 1)])
    assert (found.finish, "too long" in found.text) == ("error", True)


def test_how_answers_end() -> None:
    replies = {
        "question 0": Reply("half an", finish="length"),
        "question 1": Reply(None, refusal="I will not."),
        "question 2": Reply("", finish="content_filter"),
        "question 3": Reply(None),
    }
    with Scripted(lambda body: replies[last(body)]).up() as server:
        found = write(Endpoint(server.url, KEY, "known"), ASKED[:4])
    assert [(each.text, each.finish) for each in found] == [
        ("half an", "length"),
        ("I will not.", "refused"),
        ("", "refused"),
        ("", "stop"),
    ]


def test_the_newer_name_of_the_limit() -> None:
    def answer(body: dict[str, Any]) -> Reply:
        if "max_tokens" in body:
            return Reply(status=400, message="Use 'max_completion_tokens' instead of max_tokens.")
        return Reply(str(body["max_completion_tokens"]))

    with Scripted(answer).up() as server:
        endpoint = Endpoint(server.url, KEY, "known")
        assert [write(endpoint, ASKED[:1])[0].text, write(endpoint, ASKED[1:2])[0].text] == ["20", "20"]
    assert len(server.asked) == 3


def test_letters_with_and_without_probabilities() -> None:
    asked = [[{"role": "user", "content": text}] for text in ("told", "blank before", "said", "neither")]
    replies = {
        "told": Reply("A", logs={"A": -0.2, "B": -1.8, "C": -9.0}),
        "blank before": Reply("B", logs={" B": -0.7, "B": -1.2, "A": -3.0}),
        "said": Reply("**B**. Since it is kinder"),
        "neither": Reply("Both are fine"),
    }
    with Scripted(lambda body: replies[last(body)]).up() as server:
        found = dict(Endpoint(server.url, KEY, "known").choose(asked, ("A", "B")))
    assert found[0].logs == pytest.approx([-0.2, -1.8]) and found[0].picked == 0
    assert found[1].logs == pytest.approx([-3.0, -0.2259230]) and found[1].picked == 1  # ln(e^-0.7 + e^-1.2)
    assert (found[2].logs, found[2].picked) == (None, 1) and (found[3].logs, found[3].picked) == (None, None)
    assert all(body["logprobs"] is True and body["temperature"] == 0 for body in server.asked)


def test_an_endpoint_that_refuses_to_tell_probabilities_is_asked_without() -> None:
    with Scripted(lambda body: Reply(status=400, message="logprobs unsupported") if "logprobs" in body else Reply("A")).up() as server:
        endpoint = Endpoint(server.url, KEY, "known")
        first = dict(endpoint.choose([ASKED[0][0]], ("A", "B")))
        second = dict(endpoint.choose([ASKED[1][0]], ("A", "B")))
    assert (first[0].picked, first[0].logs, second[0].picked) == (0, None, 0)
    assert ["logprobs" in body for body in server.asked] == [True, False, False]


@pytest.mark.parametrize("url", ["ftp://host/v1", "https://user:secret@host/v1", "https://host/v1?key=1", "host/v1", "https:///v1"])
def test_addresses_that_cannot_be_used(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match="LUTHIER_WRITER_URL cannot be used"):
        Endpoint(url, "", "known")
    monkeypatch.setenv("LUTHIER_WRITER_URL", url)
    get_settings.cache_clear()
    try:
        with pytest.raises(ConfigError, match="LUTHIER_WRITER_URL cannot be used"):
            get_settings()
    finally:
        get_settings.cache_clear()


@pytest.mark.parametrize("key", ["two parts", "line\nbreak", "clé"])
def test_a_key_that_cannot_be_sent_is_not_told(key: str) -> None:
    with pytest.raises(Failed, match="LUTHIER_WRITER_KEY") as found:
        Endpoint("https://host/v1", key, "known")
    assert key not in found.value.reason


def test_settings_do_not_show_the_key() -> None:
    shown = entries(Settings(writer_url="https://host/v1", writer_key=KEY, writer_model="known"))
    told = {each["name"]: each["value"] for each in shown}
    assert told["LUTHIER_WRITER_KEY"] == "***" and told["LUTHIER_WRITER_MODEL"] == "known" and KEY not in str(shown)
