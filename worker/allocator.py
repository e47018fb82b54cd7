"""Which memory allocator a trainer gets: the biggest single switch for speed on a CPU. Sets nothing itself."""

from __future__ import annotations

import ctypes.util
import sys
from importlib.util import find_spec
from pathlib import Path


def preload_env() -> dict[str, str]:
    """Environment that puts a tuned allocator under a child process: jemalloc where the system has it, else mimalloc from the wheel
    cmeel-mimalloc.

    glibc hands every big tensor back to the kernel and faults its pages in again at the next step; these two keep them, in huge pages, for
    as long as some steps take. They do not keep them for good: batches of changing shapes would make the process grow without end.
    """
    if not sys.platform.startswith("linux"):
        return {}
    jemalloc = ctypes.util.find_library("jemalloc")
    if jemalloc:
        return {"LD_PRELOAD": jemalloc, "MALLOC_CONF": "thp:always,metadata_thp:auto,dirty_decay_ms:20000,muzzy_decay_ms:20000"}
    mimalloc = _mimalloc()
    if mimalloc:
        return {"LD_PRELOAD": str(mimalloc), "MIMALLOC_PURGE_DELAY": "20000", "MIMALLOC_ALLOW_LARGE_OS_PAGES": "1"}
    return {}


def _mimalloc() -> Path | None:
    spec = find_spec("cmeel")
    for place in spec.submodule_search_locations or [] if spec else []:
        library = Path(place).parent / "cmeel.prefix" / "lib" / "libmimalloc.so"
        if library.is_file() and " " not in str(library) and ":" not in str(library):  # LD_PRELOAD is a list separated by both
            return library.resolve()
    return None
