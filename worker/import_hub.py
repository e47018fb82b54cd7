"""Fetch a model from a hub at one pinned commit: only the files it needs, each checked by its hash, with retries."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from app.storage import sha256
from worker.import_folder import (
    INDEX,
    KEPT_SUFFIXES,
    PICKLE_SUFFIXES,
    VOCABULARIES,
    WEIGHTS,
    check_config,
    check_names,
    check_room,
    check_settings,
    read_json,
)
from worker.reporting import Failed

log = logging.getLogger(__name__)

TRIES = 5
TIMEOUT_SECONDS = 20.0
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
COMMIT = re.compile(r"[0-9a-f]{40}")
T = TypeVar("T")


class HashMismatch(Exception):
    """A file came with another content than the hub says it has."""


@dataclass(frozen=True)
class Hub:
    """One repository of a hub, and how long to wait before trying again."""

    url: str
    repository: str
    pause_seconds: float = 1.0

    def _words(self, error: Exception) -> str:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else 'no words'}"

    def _refusal(self, error: Exception, what: str) -> str | None:
        """In words, why asking again is of no use; None when it may be."""
        from huggingface_hub import errors

        if isinstance(error, errors.HFValidationError):
            return f"“{self.repository}” is not a hub id. It has the form owner/name, such as HuggingFaceTB/SmolLM2-135M."
        if isinstance(error, errors.GatedRepoError):
            return f"“{self.repository}” asks for an agreement first. Accept it on the hub and give the worker an access token (HF_TOKEN)."
        if isinstance(error, errors.RevisionNotFoundError):
            return f"“{self.repository}” has no such revision. Give a branch, a tag, or a commit of 40 hex digits."
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                f"{self.url} has no model “{self.repository}”, or it is private. Check the id; a private one needs HF_TOKEN on the worker."
            )
        if isinstance(error, errors.RemoteEntryNotFoundError):
            return f"“{self.repository}” has not got {what}."
        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
        return None if status in PASSING else f"{self.url} refused {what} with status {status}."

    def patiently(self, what: str, action: Callable[[], T]) -> T:
        """Do something over the network, up to five times with growing pauses; refusals of the hub are not asked again.

        Raises:
            Failed: the hub refused, or did not answer five times.
        """
        from huggingface_hub import errors

        for attempt in range(1, TRIES + 1):
            try:
                return action()
            except (errors.HFValidationError, errors.RemoteEntryNotFoundError, errors.HfHubHTTPError) as error:
                refusal = self._refusal(error, what)
                if refusal:
                    raise Failed(refusal, "hub") from None
                last: Exception = error
            except (HashMismatch, errors.FileMetadataError) as error:
                last = error
            except Exception as error:  # boundary: connection errors come as several unrelated classes
                if isinstance(error, OSError) and error.errno is not None and not isinstance(error, (ConnectionError, TimeoutError)):
                    raise  # the disk, not the network
                last = error
            log.warning("Try %d of %d for %s: %s", attempt, TRIES, what, self._words(last))
            if attempt < TRIES:
                time.sleep(self.pause_seconds * 2.0 ** (attempt - 1))
        if isinstance(last, HashMismatch):
            raise Failed(f"{last} Tried {TRIES} times. Nothing of it was kept; try again later, or another revision.", "hash")
        raise Failed(
            f"{self.url} did not give {what} in {TRIES} tries ({self._words(last)}). Nothing was kept; try again later.",
            "network",
        )

    def info(self, revision: str | None) -> Any:
        """What the hub knows of the repository at a revision: commit, files with sizes and hashes.

        Raises:
            Failed: as `patiently`, or the answer names no commit.
        """
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.url)
        found = self.patiently(
            "the list of files", lambda: api.model_info(self.repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
        )
        if not found.sha or not COMMIT.fullmatch(found.sha):
            raise Failed(
                f"{self.url} did not say which commit “{self.repository}” is at, so the import could not be repeated. Nothing was taken.",
                "hub",
            )
        if revision and COMMIT.fullmatch(revision) and found.sha != revision:
            raise Failed(f"{self.url} answered with commit {found.sha} in place of {revision}. Nothing was taken.", "hub")
        return found

    def fetch(self, sibling: Any, commit: str, folder: Path) -> None:
        """Download one file into a folder and compare its hash with the one the hub names.

        Raises:
            Failed: as `patiently`.
        """
        from huggingface_hub import hf_hub_download

        name = str(sibling.rfilename)

        def download() -> None:
            hf_hub_download(self.repository, name, revision=commit, local_dir=folder, endpoint=self.url, etag_timeout=TIMEOUT_SECONDS)
            try:
                check_hash(folder / name, sibling)
            except HashMismatch:
                (folder / name).unlink()
                shutil.rmtree(folder / ".cache", ignore_errors=True)
                raise

        self.patiently(f"the file {name}", download)


def check_hash(file: Path, sibling: Any) -> None:
    """Compare a file with what the hub says of it: SHA-256 for large files, git's blob hash for small ones.

    Raises:
        HashMismatch: they differ.
    """
    if sibling.lfs is not None:
        same = sha256(file) == sibling.lfs.sha256
    elif sibling.blob_id:
        content = file.read_bytes()
        same = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == sibling.blob_id
    else:
        same = sibling.size is None or file.stat().st_size == sibling.size
    if not same:
        raise HashMismatch(f"The file {file.name} came with another content than the hub says it has.")


def download(hub: Hub, revision: str | None, folder: Path, moved: Callable[[str, int, int], None]) -> str:
    """Fetch what a model needs into `folder` and return the commit it is of. Settings are checked before the weights are fetched.

    Args:
        moved: called with (file, bytes done, bytes in all) after each file.

    Raises:
        Failed: the hub refused or stayed away, a hash differs, or the model may not be imported.
    """
    found = hub.info(revision)
    check_names([sibling.rfilename for sibling in found.siblings or []])
    files = {sibling.rfilename: sibling for sibling in found.siblings or [] if "/" not in sibling.rfilename}
    if "config.json" not in files:
        raise Failed(f"“{hub.repository}” has no config.json, so it is not a model that transformers loads.", "model")
    if INDEX not in files and WEIGHTS not in files:
        pickles = [name for name in sorted(files) if Path(name).suffix.lower() in PICKLE_SUFFIXES]
        also = f" It has “{pickles[0]}”, a pickle file, which can run any program when it is opened." if pickles else ""
        raise Failed(
            f"“{hub.repository}” has no weights in safetensors.{also} Choose a model, or a revision of it, with safetensors.",
            "pickle" if pickles else "model",
        )
    small = sorted(name for name in files if Path(name).suffix.lower() in KEPT_SUFFIXES)
    for name in small:
        hub.fetch(files[name], found.sha, folder)
        if name.endswith(".json") and name not in VOCABULARIES:
            check_settings(name, read_json(folder / name))
    check_config(read_json(folder / "config.json"))
    weights = [WEIGHTS]
    if INDEX in files:
        index = read_json(folder / INDEX)
        named = index.get("weight_map") if isinstance(index, dict) else None
        weights = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
        check_names(weights)
        for name in weights:
            if name not in files or not name.endswith(".safetensors"):
                raise Failed(f"{INDEX} names “{name[:100]}”, which is not a safetensors file of “{hub.repository}”.", "model")
    total = sum(files[name].size or 0 for name in weights)
    check_room(folder, total)
    done = 0
    for name in weights:
        moved(name, done, total)
        hub.fetch(files[name], found.sha, folder)
        done += files[name].size or 0
    moved(weights[-1] if weights else "", done, total)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return str(found.sha)
