"""`luthier up`: web server and worker as children that are started again when they die and end with their parent. Serves nothing itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

from app.commands import client, serve
from app.errors import Conflict
from app.settings import Settings, get_settings

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
STEADY_SECONDS = 60.0
"""A child that lived this long starts its back-off anew."""
GRACE_SECONDS = 12.0
"""Between asking the children to end and killing them; all is over within 15 s of the order."""
STALE_PORT_SECONDS = 10.0
MAX_LINE = 8192


class Log:
    """Lines of all processes on standard error, each with the name of its process; a terminal that is gone is no error."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._colours = stream is not None and stream.isatty() and "NO_COLOR" not in os.environ

    def say(self, name: str, text: str) -> None:
        """Write one line."""
        head = f"{name:<7}|"
        line = f"\x1b[2m{head}\x1b[0m {text}\n" if self._colours else f"{head} {text}\n"
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.write(line)
                self._stream.flush()


class Child:
    """One supervised process in a session of its own, so that Ctrl-C on the terminal reaches the supervisor alone."""

    def __init__(self, name: str, command: list[str], descriptors: dict[str, int], log: Log) -> None:
        self.name, self.command, self.descriptors, self.log = name, command, descriptors, log
        self.process: subprocess.Popen[bytes] | None = None
        self.delay = FIRST_DELAY
        self.started = 0.0
        self.due = 0.0
        """When to start it, if it is not running (monotonic)."""

    def start(self) -> None:
        """Start the process and pass its lines on."""
        environment = serve.child_environment() | {name: str(descriptor) for name, descriptor in self.descriptors.items()}
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(self.descriptors.values()),
            start_new_session=True,
            env=environment,
        )
        self.started = time.monotonic()
        threading.Thread(target=self._pass_on, args=(self.process.stdout,), name=f"{self.name} log", daemon=True).start()

    def _pass_on(self, stream: IO[bytes]) -> None:
        with stream:
            while line := stream.readline(MAX_LINE):
                text = line.decode("utf-8", errors="replace").rstrip()
                if text:
                    self.log.say(self.name, text)

    def look(self) -> int | None:
        """Start the process when it is due; the exit code, once, when it has ended."""
        if self.process is None:
            if time.monotonic() >= self.due:
                self.start()
            return None
        code = self.process.poll()
        if code is None:
            return None
        self.process = None
        if time.monotonic() - self.started >= STEADY_SECONDS:
            self.delay = FIRST_DELAY
        self.due = time.monotonic() + self.delay
        self.log.say("luthier", f"{self.name} ended ({_how(code)}); starting it again in {self.delay:.0f} s.")
        self.delay = min(LONGEST_DELAY, self.delay * 2)
        return code

    def order(self, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def _how(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def end(children: list[Child], at_once: threading.Event) -> None:
    """Ask the children to end, and kill them with all they started when they have not after the grace (or when told to hurry)."""
    for child in children:
        child.order(signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    running = [child.process for child in children if child.process is not None]
    while any(process.poll() is None for process in running) and time.monotonic() < until and not at_once.is_set():
        time.sleep(0.05)
    left = [process for process in running if process.poll() is None]
    if left:
        import psutil

        # A trainer has a session of its own and ends by itself when its worker is gone; it may take a moment that we do not have.
        whole = []
        for process in left:
            with contextlib.suppress(psutil.Error):
                whole += psutil.Process(process.pid).children(recursive=True)
            process.kill()
        for descendant in whole:
            with contextlib.suppress(psutil.Error):
                descendant.kill()
        for process in left:
            process.wait()


@contextlib.contextmanager
def only_one(settings: Settings) -> Iterator[bool]:
    """Hold HOME for this process; the value says whether the one before it ended without tidying up.

    Raises:
        Conflict: another `luthier up` runs on the same HOME.
    """
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(settings.home / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            whose = f" (process {other})" if other else ""
            raise Conflict(
                f"Luthier already runs on {settings.home}{whose}. Open {settings.address}, and sign in with a link "
                "from `luthier user link`; or stop it first, or name another folder with LUTHIER_HOME."
            ) from None
        untidy = bool(os.pread(descriptor, 20, 0).strip())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield untidy
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def prepare(settings: Settings) -> None:
    """Bring the database up to date and see that the first user, the demo model and the local user's token are there.

    Raises:
        ConfigError: the database cannot be reached or used.
    """
    from app import migrations
    from app.accounts import service as accounts
    from app.checkpoints import service as checkpoints
    from app.database import get_database

    migrations.upgrade(settings)
    with get_database().write() as session:
        accounts.ensure_first(session)
    with get_database().write() as session:
        checkpoints.ensure_demo_model(session, accounts.first_workspace(session).id, accounts.first_admin(session).id)
    leave_token(settings)


def leave_token(settings: Settings) -> None:
    """Write an API token for the local user into HOME, readable by its owner only; one that still works stays."""
    from app.accounts import service as accounts
    from app.database import get_database

    file = settings.home / client.TOKEN_FILE
    with get_database().write() as session:
        with contextlib.suppress(OSError):
            if accounts.token_principal(session, file.read_text().strip()) is not None:
                file.chmod(0o600)
                return
        user, workspace = accounts.first_admin(session), accounts.first_workspace(session)
        _, secret = accounts.create_token(
            session, name="command line of this machine", role=user.role, user_id=user.id, workspace_id=workspace.id
        )
        fresh = file.with_name(f".{file.name}-{os.getpid()}")
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secret + "\n")
    fresh.replace(file)  # only once the token is committed


def up(*, sample: bool) -> int:
    """Run the studio on this machine until told to stop; the exit code.

    Args:
        sample: make the sample data and queue the sample run, the first time.

    Raises:
        ConfigError: a setting cannot be used; nothing was started.
        Conflict: Luthier already runs on this HOME.
    """
    _open_standard_streams()
    settings = get_settings()
    with contextlib.ExitStack() as held:
        embedded = not settings.database_url or settings.database_url.startswith("sqlite")
        untidy = held.enter_context(only_one(settings)) if embedded else False
        # The socket is ours before anything starts, and stays open while a web server that died is started again: browsers wait.
        listener = held.enter_context(serve.listen(settings, STALE_PORT_SECONDS if untidy else 0.0))
        prepare(settings)
        log = Log(sys.stderr)
        parent, ours = os.pipe()
        held.callback(os.close, ours)
        held.callback(os.close, parent)
        children = [
            Child("web", serve.web_command(), {serve.SOCKET: listener.fileno(), serve.PARENT: parent}, log),
            Child("worker", serve.worker_command(), {serve.PARENT: parent}, log),
        ]
        stop, at_once = _on_signals()
        _aside("announce", log, lambda: announce(settings, stop))
        if sample:
            from app.commands.demo import Sample

            _aside("sample", log, lambda: Sample(settings, log.say).run(stop))
        code = _watch(children, stop)
        log.say("luthier", "Stopping.")
        end(children, at_once)
        return code


def _watch(children: list[Child], stop: threading.Event) -> int:
    never_ready = True
    while not stop.is_set():
        for child in children:
            code = child.look()
            if code == serve.WRONG_SETTING and never_ready:
                return 1  # the child has said in words what is wrong, and would only say it again
        never_ready = never_ready and time.monotonic() - children[0].started < STEADY_SECONDS
        stop.wait(0.2)
    return 0


def _on_signals() -> tuple[threading.Event, threading.Event]:
    """Events of the first order to stop, and of the second, which hurries."""
    stop, at_once = threading.Event(), threading.Event()

    def _ordered(number: int, frame: Any) -> None:
        (at_once if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # `nohup` has this signal ignored, and means it.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _ordered)
    return stop, at_once


def _aside(name: str, log: Log, action: Callable[[], None]) -> None:
    def _run() -> None:
        try:
            action()
        except Exception as error:  # boundary: what happens beside must not end the studio
            log.say("luthier", f"{name}: {error}")

    threading.Thread(target=_run, name=name, daemon=True).start()


def announce(settings: Settings, stop: threading.Event) -> None:
    """Print the sign-in link once the web server answers; open it where somebody sits at a desktop."""
    while not client.answers(settings):
        if stop.wait(0.1):
            return
    from app.accounts import service as accounts
    from app.database import get_database

    with get_database().write() as session:
        link = accounts.link_for(session, settings, accounts.first_admin(session).id)
    with contextlib.suppress(OSError, ValueError):
        print(f"Open {link}", flush=True)
    opener = shutil.which("open" if sys.platform == "darwin" else "xdg-open")
    if opener and sys.stdout is not None and sys.stdout.isatty() and has_desktop():
        quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        subprocess.Popen([opener, link], start_new_session=True, **quiet)


def has_desktop() -> bool:
    """Whether a browser window could be seen by whoever typed the command."""
    if "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open_standard_streams() -> None:
    """Fill closed standard descriptors, so that no pipe or socket of ours takes their numbers."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
