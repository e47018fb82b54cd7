"""`luthier settings`: every setting, its value in use and where that comes from. Changes none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.commands import output
from app.settings import Settings, get_settings


def show(*, as_json: bool) -> None:
    """Print the settings in use; secrets are masked."""
    found = entries(get_settings())
    if as_json:
        output.as_json(found)
    else:
        output.table(
            ["setting", "value", "source"], [[each["name"], each["value"], each["source"]] for each in found], "There are no settings."
        )


def entries(settings: Settings) -> list[dict[str, Any]]:
    """Name, value in use, source (`environment` or `default`) and help of each setting."""
    in_use: dict[str, Any] = {
        "database_url": without_password(settings.database),
        "broker_url": without_password(settings.broker),
        "storage_url": str(settings.storage),
        "secret_key_file": str(settings.secret_key_path),
        "public_url": settings.address,
        "allowed_hosts": ",".join(settings.hosts),
        "token": masked(settings.token),
        "url": without_password(settings.url),
        "smtp_url": without_password(settings.smtp_url),
        "writer_key": masked(settings.writer_key),
    }
    found = []
    for name, field in Settings.model_fields.items():
        value = in_use.get(name, getattr(settings, name))
        variable = f"LUTHIER_{name.upper()}"
        # Names of variables are matched without regard to case, and an empty one counts as not set.
        given = any(each.upper() == variable and text for each, text in os.environ.items())
        shown = str(value) if isinstance(value, Path) else value
        found.append({"name": variable, "value": shown, "source": "environment" if given else "default", "help": field.description or ""})
    return found


def without_password(url: str) -> str:
    """A URL with its password hidden, in the authority and in the query."""
    parts = urlsplit(url)
    if not parts.scheme:
        return url
    user, at, host = parts.netloc.rpartition("@")
    if at and ":" in user:
        parts = parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}")
    if "password=" in parts.query:
        kept = [part if not part.startswith("password=") else "password=***" for part in parts.query.split("&")]
        parts = parts._replace(query="&".join(kept))
    return parts.geturl() if parts != urlsplit(url) else url


def masked(secret: str) -> str:
    """A secret, shortened to what tells it from others: an API token keeps its id, which is no secret."""
    if not secret:
        return ""
    head, _, _ = secret.rpartition("_")
    return f"{head}_***" if secret.startswith("lt_") and head else "***"
