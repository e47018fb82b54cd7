"""kombu's broker in a folder, with messages that come whole. Imported only where celery is; `app.queue` says when."""

from __future__ import annotations

import uuid
from pathlib import Path
from time import monotonic_ns
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):  # type: ignore[misc]  # kombu has no types
    """A message is written beside the queue and renamed into it.

    kombu opens the file under its final name and writes then. A reader that comes in between, as on a machine with much to do, finds it
    empty and fails with an error that ends the whole worker.
    """

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:
        name = f"{monotonic_ns() // 1_000_000}_{uuid.uuid4()}.{queue}"
        beside = Path(self.data_folder_out, f"{name}.part")
        try:
            beside.write_text(dumps(payload), encoding="utf-8")
            beside.rename(beside.with_name(f"{name}.msg"))
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise filesystem.ChannelError(f"Cannot add {name} to the queue: {error.strerror}.") from error


class Transport(filesystem.Transport):  # type: ignore[misc]  # as above
    """The broker that `filesystem://` names here."""

    Channel = Channel
