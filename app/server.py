"""The web server itself: uvicorn, ending live streams first when it is told to stop. Takes no socket."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Serves one application until told to stop."""

    def __init__(self, app: FastAPI, **options: Any) -> None:
        self.application = app
        super().__init__(
            uvicorn.Config(
                app,
                timeout_graceful_shutdown=1,
                access_log=False,
                log_config=None,
                server_header=False,
                lifespan="on",
                forwarded_allow_ips=app.state.settings.trusted_proxies,
                **options,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: a live stream never ends by itself, so uvicorn would wait for it, then cut it off with a stack trace in the log."""
        hub = getattr(self.application.state, "hub", None)
        if hub is not None:
            hub.stop()
        await super().shutdown(sockets)
