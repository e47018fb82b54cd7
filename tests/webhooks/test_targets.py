"""Where webhooks may send: nothing reaches into this network, however its address is written."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid
from app.settings import Settings
from app.webhooks import post, targets
from app.webhooks.targets import Refused
from tests.webhooks.receiver import Receiver


def settings(tmp_path: Path, **more: Any) -> Settings:
    return Settings(home=tmp_path, **more)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x",
        "ftp://example.org/",
        "//example.org/",
        "example.org",
        "https://",
        "https://a@b/",
        "http://a@b",
        "https://user:password@example.org/",
        "https://example.org/#part",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://exa mple.org/",
        "https://example.org\\@127.0.0.1/",
        "https://example.org/\r\nHost: x",
        "https://ex\u00e4mple.org/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://127.1/",
        "https://0177.0.0.1/",
        "https://127.0.0.1/",
        "https://127.0.0.1./",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://255.255.255.255/",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fe80::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fd00::1]/",
        "https://[fec0::1]/",
        "https://" + "a" * 2_000 + ".org/",
        "",
    ],
)
def test_an_address_that_may_not_be_used_is_refused_in_words(tmp_path: Path, url: str) -> None:
    with pytest.raises(Invalid) as caught:
        targets.parse(url, settings(tmp_path))
    assert caught.value.field == "url" and caught.value.message.endswith((".", "]"))


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("https://example.org", "example.org", 443, "/"),
        ("https://Hooks.Example.org:8443/a/b?c=d", "hooks.example.org", 8443, "/a/b?c=d"),
        ("https://8.8.8.8/x", "8.8.8.8", 443, "/x"),
        ("https://[2606:4700::1111]/x", "2606:4700::1111", 443, "/x"),
    ],
)
def test_an_ordinary_address_is_taken_apart(tmp_path: Path, url: str, host: str, port: int, path: str) -> None:
    found = targets.parse(url, settings(tmp_path))
    assert (found.https, found.host, found.port, found.path) == (True, host, port, path)


def test_http_and_networks_of_ones_own_are_allowed_by_setting(tmp_path: Path) -> None:
    assert not targets.parse("http://8.8.8.8/", settings(tmp_path, webhook_http=True)).https
    own = settings(tmp_path, webhook_networks="10.2.0.0/16, fd00::/8")
    assert targets.parse("https://10.2.3.4/", own).host == "10.2.3.4"
    targets.check(ipaddress.ip_address("fd00::5"), own)
    with pytest.raises(Invalid):
        targets.parse("https://10.3.3.4/", own)
    with pytest.raises(ValueError, match="does not appear to be"):
        settings(tmp_path, webhook_networks="ten")


def answers(*addresses: str) -> Any:
    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return look_up


def test_a_name_is_refused_when_any_of_its_addresses_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = targets.parse("https://example.org/", settings(tmp_path))
    monkeypatch.setattr(targets.socket, "getaddrinfo", answers("93.184.215.14"))
    assert [str(each) for each in targets.resolve(target, settings(tmp_path))] == ["93.184.215.14"]
    for inside in ("127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fe80::1%eth0"):
        monkeypatch.setattr(targets.socket, "getaddrinfo", answers("93.184.215.14", inside))
        with pytest.raises(Refused, match="not an address of the public internet"):
            targets.resolve(target, settings(tmp_path))


# --- what is really connected to ------------------------------------------------------------------------------------------


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


def send(settings_: Settings, url: str) -> post.Answer:
    return post.send(settings_, url=url, secret=post.new_secret(), message_id="msg_1", body='{"type":"test"}')


def test_the_name_is_looked_up_once_and_that_address_is_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    asked = []

    def flips(host: str, port: int, **more: Any) -> list[Any]:
        asked.append(host)  # the second answer would lead elsewhere
        return answers("127.0.0.1" if len(asked) == 1 else "127.0.0.99")(host, port)

    monkeypatch.setattr(targets.socket, "getaddrinfo", flips)
    own = settings(tmp_path, webhook_http=True, webhook_networks="127.0.0.1/32")
    connected = []
    real = socket.create_connection

    def connect(address: tuple[str, int], *more: Any, **other: Any) -> Any:
        connected.append(address)
        monkeypatch.undo()  # only the plain address is left to connect to
        return real(address, *more, **other)

    monkeypatch.setattr(post.socket, "create_connection", connect)
    assert send(own, f"http://flip.example:{receiver.server_port}/hook").status == 204
    assert asked == ["flip.example"] and connected == [("127.0.0.1", receiver.server_port)]
    path, headers, _ = receiver.got[0]
    assert path == "/hook" and headers["host"] == f"flip.example:{receiver.server_port}"


def test_a_name_that_turns_inward_after_the_webhook_was_made_reaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    targets.parse("https://flip.example/", settings(tmp_path))
    monkeypatch.setattr(targets.socket, "getaddrinfo", answers("127.0.0.1"))
    with pytest.raises(Refused):
        send(settings(tmp_path, webhook_http=True), f"http://flip.example:{receiver.server_port}/")
    assert receiver.got == []


def test_redirects_are_not_followed_and_long_answers_are_cut(tmp_path: Path, receiver: Receiver) -> None:
    own = settings(tmp_path, webhook_http=True, webhook_networks="127.0.0.0/8")
    url = f"http://127.0.0.1:{receiver.server_port}/"
    receiver.status, receiver.headers = 302, {"Location": f"{url}secret"}
    assert send(own, url).status == 302
    assert [path for path, _, _ in receiver.got] == ["/"]
    receiver.status, receiver.headers, receiver.body = 200, {}, b"x" * 1_000_000
    assert len(send(own, url).text) == post.READ_BYTES


def test_an_answer_that_drips_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "TOTAL_SECONDS", 0.5)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.1):
                    try:
                        connection.sendall(b"X: y\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        own = settings(tmp_path, webhook_http=True, webhook_networks="127.0.0.0/8")
        with pytest.raises(TimeoutError):
            send(own, f"http://127.0.0.1:{server.getsockname()[1]}/")
        stop.set()
        thread.join(5)
        assert not thread.is_alive()


def test_a_certificate_nobody_vouches_for_is_not_trusted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def plain() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        threading.Thread(target=plain, daemon=True).start()
        with pytest.raises(OSError):
            send(settings(tmp_path, webhook_networks="127.0.0.0/8"), f"https://127.0.0.1:{server.getsockname()[1]}/")


def test_connecting_takes_no_longer_than_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "TOTAL_SECONDS", 0.5)
    monkeypatch.setattr(post, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(targets.socket, "getaddrinfo", answers(*(f"93.184.215.{number}" for number in range(1, 30))))
    tried: list[float] = []

    def silent(address: tuple[str, int], timeout: float) -> Any:
        tried.append(timeout)
        time.sleep(timeout)
        raise TimeoutError

    monkeypatch.setattr(post.socket, "create_connection", silent)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        send(settings(tmp_path), "https://example.org/")
    assert time.monotonic() - started < 1 and sum(tried) < 0.6

    def refuses(address: tuple[str, int], timeout: float) -> Any:
        tried.append(timeout)
        raise ConnectionRefusedError

    tried.clear()
    monkeypatch.setattr(post.socket, "create_connection", refuses)
    with pytest.raises(ConnectionRefusedError):
        send(settings(tmp_path), "https://example.org/")
    assert len(tried) == post.ADDRESSES == 4


def test_a_handshake_that_drips_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "TOTAL_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"\x16\x03\x03\x40\x00")
                for _ in range(30):
                    time.sleep(0.1)
                    try:
                        connection.sendall(b"\x00")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            send(settings(tmp_path, webhook_networks="127.0.0.0/8"), f"https://127.0.0.1:{server.getsockname()[1]}/")
        assert time.monotonic() - started < 2
        thread.join(5)
