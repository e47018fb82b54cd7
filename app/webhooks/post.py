"""Send one signed message to a webhook: to the very address that was checked, without redirects, within time and size. Keeps no state."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import secrets
import socket
import ssl
import threading
import time
from dataclasses import dataclass

from app import __version__
from app.errors import Invalid
from app.settings import Settings
from app.webhooks import targets
from app.webhooks.targets import Address, Refused, Target

CONNECT_SECONDS = 5.0
ADDRESSES = 4
"""So many addresses of a name are tried."""
TOTAL_SECONDS = 15.0
READ_BYTES = 2_000
PREFIX = "whsec_"


@dataclass(frozen=True)
class Answer:
    """What a webhook answered."""

    status: int
    text: str


def new_secret() -> str:
    """A fresh secret in the form of Standard Webhooks."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: str) -> str:
    """The header `webhook-signature` of a message, after Standard Webhooks."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    mac = hmac.new(key, f"{message_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(mac).decode()}"


def send(settings: Settings, *, url: str, secret: str, message_id: str, body: str) -> Answer:
    """Post a message once.

    Raises:
        Refused: the URL or its address is none that may be sent to.
        OSError: no answer, or not within the time.
        http.client.HTTPException: what answered does not speak HTTP.
    """
    target = targets.parse(url, settings)
    addresses = targets.resolve(target, settings)
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"Luthier/{__version__}",
        "Connection": "close",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, message_id, timestamp, body),
    }
    connection = _Pinned(target, addresses)
    late = threading.Timer(TOTAL_SECONDS, connection.give_up)
    late.daemon = True
    late.start()
    try:
        connection.request("POST", target.path, body.encode(), headers)
        answer = connection.getresponse()
        text = answer.read(READ_BYTES).decode("utf-8", errors="replace")
        connection.check()  # a connection that was ended reads like a short answer
        return Answer(answer.status, text)
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.check()
        if isinstance(error, ValueError):  # a socket that was closed under its reader
            raise ConnectionError(str(error)) from None
        raise
    finally:
        late.cancel()
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to addresses found and checked before; the name is only sent, never looked up again."""

    def __init__(self, target: Target, addresses: list[Address]) -> None:
        super().__init__(target.host, target.port, timeout=TOTAL_SECONDS)
        self._target, self._addresses = target, addresses[:ADDRESSES]
        self._ends = time.monotonic() + TOTAL_SECONDS
        self.given_up = False

    def connect(self) -> None:
        """Connect to the first address that takes the connection, within the time of the whole exchange."""
        problem: OSError = OSError("There is no address.")
        for address in self._addresses:
            self.check()
            try:
                seconds = max(0.01, min(CONNECT_SECONDS, self._ends - time.monotonic()))
                self.sock = socket.create_connection((str(address), self._target.port), seconds)
                break
            except OSError as error:
                problem = error
        else:
            raise problem
        self.sock.settimeout(TOTAL_SECONDS)
        if self._target.https:  # the handshake afterwards: only a socket that is kept already can be ended while it goes on
            context = ssl.create_default_context()
            self.sock = secured = context.wrap_socket(self.sock, server_hostname=self._target.host, do_handshake_on_connect=False)
            self.check()
            secured.do_handshake()
        self.check()

    def check(self) -> None:
        """See that the exchange was not ended for taking too long.

        Raises:
            TimeoutError: it was.
        """
        if self.given_up:
            raise TimeoutError(f"There was no whole answer within {TOTAL_SECONDS:.0f} seconds.")

    def give_up(self) -> None:
        """End the exchange, wherever it is."""
        self.given_up = True
        if self.sock is not None:
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                self.sock.close()


__all__ = ["Answer", "Invalid", "Refused", "new_secret", "send", "sign"]
