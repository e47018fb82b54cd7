"""Where a webhook may send: reads its URL and checks the address it leads to, so that nobody reaches into this network through it."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from app.errors import Invalid
from app.settings import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_LENGTH = 2_000
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,62}[a-z0-9_])?)*\.?")
_NUMERIC_END = re.compile(r"(^|\.)(0x[0-9a-f]*|[0-9]+)\.?$")
_EMBEDDED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))
"""IPv6 networks whose addresses carry an IPv4 one in their last 32 bits."""


class Refused(Exception):
    """The address is none that may be sent to; the text says why."""


@dataclass(frozen=True)
class Target:
    """A webhook's URL, taken apart."""

    https: bool
    host: str
    """Name or plain address, in ASCII."""
    port: int
    path: str
    """Path and query, as sent."""


def parse(url: str, settings: Settings) -> Target:
    """Read a webhook's URL.

    Raises:
        Invalid: it cannot be used; the message says why.
    """

    def refuse(why: str) -> Invalid:
        return Invalid(f"{why} An address has the form https://example.org/path.", field="url")

    if not url or len(url) > MAX_LENGTH:
        raise refuse(f"Give an address of at most {MAX_LENGTH} characters.")
    if re.search(r"[^\x21-\x7e]|\\", url):
        raise refuse("The address holds blanks, backslashes, control characters or letters that need encoding.")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise refuse("The address cannot be read.") from None
    schemes = ("https", "http") if settings.webhook_http else ("https",)
    if parts.scheme not in schemes:
        raise refuse(
            "Webhooks are sent by https only."
            if parts.scheme == "http"
            else f"The address starts with neither {' nor '.join(f'{scheme}://' for scheme in schemes)}."
        )
    if "@" in parts.netloc:
        raise refuse("The address must not hold a user or a password: the signature says who sends.")
    if parts.fragment:
        raise refuse("The address must not hold a part after #: it is never sent.")
    if not host or port == 0:
        raise refuse("The address names no host." if not host else "There is no port 0.")
    literal = as_address(host)
    if literal is None and (_NUMERIC_END.search(host) or not _NAME.fullmatch(host) or len(host) > 253):
        raise refuse(f"“{host[:100]}” is neither a host name nor a plain IP address.")
    if literal is not None:
        try:
            check(literal, settings)
        except Refused as error:
            raise Invalid(str(error), field="url") from None
    https = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(https, host, port or (443 if https else 80), path)


def as_address(host: str) -> Address | None:
    """The address a host is written as, in its plain form only; None for names."""
    if "%" in host:  # an interface's scope
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def resolve(target: Target, settings: Settings) -> list[Address]:
    """The addresses a target leads to now, all of them checked.

    Raises:
        Refused: the name is not known, or one of its addresses may not be sent to.
    """
    literal = as_address(target.host)
    if literal is not None:
        found = [literal]
    else:
        try:
            answers = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise Refused(f"There is no host “{target.host}”, or its name cannot be looked up just now.") from None
        found = list(dict.fromkeys(ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers))
    if not found:
        raise Refused(f"“{target.host}” has no address.")
    for address in found:
        check(address, settings)
    return found


def check(address: Address, settings: Settings) -> None:
    """See that an address may be sent to.

    Raises:
        Refused: it is not one of the public internet, and no setting allows it.
    """
    inner = _inside(address)
    if any(inner in network or address in network for network in settings.webhook_allowed):
        return
    for each in (address, inner):
        local = isinstance(each, ipaddress.IPv6Address) and each.is_site_local  # fec0::/10, which counts as global still
        if not each.is_global or each.is_multicast or each.is_reserved or each.is_unspecified or local:
            raise Refused(
                f"{address} is not an address of the public internet, so nothing is sent there. "
                "An admin can allow its network with LUTHIER_WEBHOOK_NETWORKS."
            )


def _inside(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _EMBEDDED) and int(address) > 1:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
