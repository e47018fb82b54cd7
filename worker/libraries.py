"""What the training libraries print and raise, turned into log lines and into words. Trains nothing."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.reporting import Failed


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings and messages of the libraries go to the log, a line each; no progress bars."""
    for name in ("httpx", "filelock", "fsspec", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        # The libraries call each other's names that are to go; nobody who reads the log of a run can do anything about that.
        warnings.filterwarnings("ignore", message=".*(deprecated|will be removed)", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*deprecated", category=DeprecationWarning)
        logging.captureWarnings(True)
        plain, warnings.formatwarning = warnings.formatwarning, _on_one_line
        try:
            _hush_libraries()
            yield
        finally:
            warnings.formatwarning = plain
            logging.captureWarnings(False)


def bitsandbytes() -> None:
    """Have the library that quantises at hand, also where the child's start has hidden it: an adapter may turn out to need it.

    Raises:
        Failed: it is not installed.
    """
    if sys.modules.get("bitsandbytes", sys) is None:
        from transformers.utils import is_bitsandbytes_available

        del sys.modules["bitsandbytes"]
        is_bitsandbytes_available.cache_clear()
    if importlib.util.find_spec("bitsandbytes") is None:
        raise Failed("This worker has no bitsandbytes, so it cannot quantise. Run `pip install bitsandbytes` there.", "config")


def _on_one_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    return f"{category.__name__}: {' '.join(str(message).split())}"


def _hush_libraries() -> None:
    try:
        import datasets
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_warning()
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()


def as_failed(error: Exception, work: Path) -> Failed | None:
    """Code and words for what a library raised; None when it is nothing known."""
    text = str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left" in text or ("PytorchStreamWriter" in text and shutil.disk_usage(work).free < 1024**2):
        return Failed(
            "The disk is full, so the checkpoint could not be written; the last one is unharmed. Free some space, then resume the run.",
            "disk_full",
        )
    if out_of_memory(error):
        return Failed("The model, its gradients and activations did not fit into memory.", "oom")
    if isinstance(error, ValueError) and "target modules" in text.lower():
        return Failed(
            f"The tuner does not fit this model: {text.splitlines()[0][:300]} Name layers that the model has, or all-linear.", "config"
        )
    if isinstance(error, ValueError):
        first = text.strip().splitlines()[0][:400].rstrip(".") if text.strip() else type(error).__name__
        return Failed(f"Method, settings and model do not go together: {first}.", "config")
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the GPU or the machine has no memory left for a tensor."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("out of memory", "can't allocate memory", "not enough memory", "ENOMEM")
    )
