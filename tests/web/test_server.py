"""The application in a real server: signing in over a connection, live streams, and a shutdown that waits for no reader."""

from __future__ import annotations

import time

import httpx2

from tests.conftest import Server


def test_a_real_server_signs_in_streams_and_stops(server: Server) -> None:
    with httpx2.Client(base_url=server.url, timeout=10) as person:
        assert person.get("/readyz").json() == {"status": "ok"}
        assert person.get("/events?topics=queue").status_code == 401
        answer = person.get(server.link())
        assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
        with person.stream("GET", "/events?topics=queue") as stream:
            assert stream.status_code == 200
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert "content-encoding" not in stream.headers
            assert "content-security-policy" in stream.headers
            start = time.monotonic()
            server.stop()
            for _ in stream.iter_bytes():
                pass
            assert time.monotonic() - start < 4


def test_a_stopped_server_is_gone(server: Server) -> None:
    server.stop()
    with httpx2.Client(timeout=2) as person:
        try:
            person.get(f"{server.url}/healthz")
        except httpx2.ConnectError:
            return
    raise AssertionError("the server still answers")
