"""`luthier login`, `logout`, `studios`: which studio the other commands speak to, and as whom."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from app.commands import output, studios
from app.errors import ConfigError, Invalid

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def login(
    url: Annotated[str, typer.Argument(help="Address of the studio, such as https://luthier.example.org.")],
    token: Annotated[
        str | None,
        typer.Option(
            help="API token, which others may then see in the list of processes; asked for unless given, `-` reads it from stdin."
        ),
    ] = None,
    allow_http: Annotated[bool, typer.Option("--allow-http", help="Send the token unencrypted over the network.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sign in to a studio; later commands speak to it. `--studio NAME` gives it a name."""
    from app.commands.client import Studio, is_loopback
    from app.settings import get_settings

    address = _address(url)
    if urlsplit(address).scheme == "http" and not is_loopback(address) and not allow_http:
        raise Invalid("Over http:// anybody on the way could read the token. Use https://, or accept that with --allow-http.", field="url")
    name = get_settings().studio or studios.name_for(address)
    if name == studios.HERE:
        raise Invalid(f"“{studios.HERE}” is the name of this machine's own studio. Give another with --studio.", field="studio")
    secret = _secret(token, address)
    known = studios.Known(name, address, secret)
    studio = Studio(known=known)
    try:
        me = studio.get("/me")
    finally:
        studio.close()
    studios.keep(known)
    if as_json:
        output.as_json({"name": name, "url": address, "user": me["name"], "role": me["role"], "workspace": me["workspace"]})
    else:
        words = f"Signed in to {address} (“{name}”) as {me['name']}, {me['role']} in the workspace “{me['workspace']}”."
        output.note(output.plain(words))


def _address(url: str) -> str:
    address = (url if "://" in url else f"https://{url}").rstrip("/")
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and not parts.query
        usable = usable and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise Invalid(f"“{url}” is no address of a studio; one has the form https://luthier.example.org.", field="url")
    return address


def _secret(token: str | None, address: str) -> str:
    """The token: from the option, the environment, standard input, or asked for without showing it."""
    if token == "-" or (token is None and not os.environ.get("LUTHIER_TOKEN") and not sys.stdin.isatty()):
        secret = sys.stdin.readline()
    elif token is None and not os.environ.get("LUTHIER_TOKEN"):
        import getpass

        output.note(f"Make an API token under {address}/settings, or there with `luthier token create --name NAME`.")
        secret = getpass.getpass("Token: ")
    else:
        secret = token or os.environ["LUTHIER_TOKEN"]
    secret = secret.strip()
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise Invalid("That is no API token; one has the form lt_….", field="token")
    return secret


def logout() -> None:
    """Forget a studio's token here; `--studio NAME` says which. It works on until it is revoked there."""
    from app.settings import get_settings

    gone = studios.forget(get_settings().studio)
    output.note(f"Signed out of {gone.url} (“{gone.name}”). The token itself works until it is revoked there, under {gone.url}/settings.")


def list_studios(as_json: AsJson = False) -> None:
    """List the studios you are signed in to."""
    from app.commands.client import local_address
    from app.commands.configuration import masked
    from app.settings import get_settings

    settings = get_settings()
    known, default = studios.read()
    if settings.studio and settings.studio != studios.HERE and settings.studio not in [each.name for each in known]:
        raise ConfigError(f"There is no login for the studio “{settings.studio}”.", field="studio")
    meant = "" if settings.url else settings.studio or default or studios.HERE
    rows: list[dict[str, Any]] = [{"name": each.name, "url": each.url, "token": masked(each.token)} for each in known]
    rows.append({"name": studios.HERE, "url": local_address(settings), "token": ""})
    for row in rows:
        row["used"] = row["name"] == meant
    if as_json:
        output.as_json(rows)
    else:
        output.table(["", "name", "address"], [["*" if row["used"] else "", row["name"], row["url"]] for row in rows], "")
