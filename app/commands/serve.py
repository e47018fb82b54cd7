"""The web server of one process and the entry of a worker: takes the socket, runs uvicorn. Restarts nothing (`supervise` does).

`python -m app.commands.serve` is the web server as a child of `luthier up`: it gets the listening socket and one end of a pipe.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time

from app.errors import ConfigError, StudioError
from app.settings import CHECKOUT, Settings, get_settings

SOCKET = "LUTHIER_LISTEN_FD"
"""Descriptor of the listening socket, in the environment of a child."""
PARENT = "LUTHIER_PARENT_FD"
"""Descriptor of a pipe whose end means that the parent is gone."""
WRONG_SETTING = 78
"""Exit code of a child for which starting it again would change nothing (EX_CONFIG)."""
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def listen(settings: Settings, patience: float = 0.0) -> socket.socket:
    """The listening socket of the web server; tries for `patience` seconds when a program that is about to end has the port.

    Raises:
        ConfigError: the port is taken or HOST cannot be listened on; the message names the setting.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            f"LUTHIER_HOST is “{settings.host}”, which is no address of this machine ({error.strerror}).", field="host"
        ) from None
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    until = time.monotonic() + patience
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
            return listener
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE and time.monotonic() < until:
                time.sleep(0.2)
                continue
            raise _refused(settings, error) from None


def _refused(settings: Settings, error: OSError) -> ConfigError:
    place = f"Port {settings.port} of {settings.host}"
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"{place} is in use by another program. Stop that one, or choose another port, such as LUTHIER_PORT={_other(settings.port)}.",
            field="port",
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"{place} is reserved for the administrator. Choose one above 1023 with LUTHIER_PORT.", field="port")
    return ConfigError(f"{place} cannot be listened on: {error.strerror}. Check LUTHIER_HOST and LUTHIER_PORT.", field="host")


def _other(port: int) -> int:
    return port + 1 if port < 65535 else port - 1


def run(listener: socket.socket) -> None:
    """Serve until told to stop; open streams end within a second."""
    gc.disable()  # all that a start makes stays; looking through it for garbage takes a tenth of the time
    from app.main import create_app
    from app.server import Server

    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    for noisy in ("uvicorn", "uvicorn.error", "httpx", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    server = Server(create_app())
    gc.freeze()
    gc.enable()
    server.run(sockets=[listener])


def web() -> None:
    """`luthier web`: serve alone, in the foreground.

    Raises:
        ConfigError: the port is taken, assets are missing, or the database is not there or not migrated.
    """
    from app import migrations

    settings = get_settings()
    listener = listen(settings)
    migrations.check(settings)
    _check_assets()
    print(f"Luthier answers at {settings.address}. Sign in with a link from `luthier user link`.", file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        run(listener)


def worker() -> None:
    """`luthier worker`: become a worker process; the app itself never imports one."""
    os.execve(sys.executable, worker_command(), child_environment())


def web_command() -> list[str]:
    """Command line of the web server as a child."""
    # -P: the folder somebody happens to be in must not lend us its modules.
    return [sys.executable, "-P", "-m", "app.commands.serve"]


def worker_command() -> list[str]:
    """Command line of a worker."""
    return [sys.executable, "-P", "-m", "worker"]


def child_environment() -> dict[str, str]:
    """Environment of web server and worker: ours, and a path to this code where it is a checkout."""
    paths = [str(CHECKOUT)] if CHECKOUT else []
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in paths]
    return {**os.environ, "PYTHONUNBUFFERED": "1", **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}


def _check_assets() -> None:
    from app.main import check_assets

    check_assets()


def _follow_parent(descriptor: int) -> None:
    """End when the process that holds the other end of the pipe is gone."""

    def _wait() -> None:
        os.read(descriptor, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        os._exit(70)

    threading.Thread(target=_wait, name="parent", daemon=True).start()


def main() -> int:
    """The web server as a child of `luthier up`."""
    try:
        _follow_parent(int(os.environ.pop(PARENT)))
        listener = socket.socket(fileno=int(os.environ.pop(SOCKET)))
        _check_assets()
        run(listener)
    except StudioError as error:
        print(error.message, file=sys.stderr)
        return WRONG_SETTING
    return 0


if __name__ == "__main__":
    sys.exit(main())
