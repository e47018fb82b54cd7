"""Process that runs a reward written by somebody: alone, with nothing of the worker's. Imports Python's own library only.

Reads lines of JSON: first the code as text, then for each batch a list of [prompt, answer, expected]. Answers each with a line: `{}` or
`{"scores": […]}`, or `{"error": …, "line": …}`.
"""  # fmt: skip

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import traceback

MEMORY = 2**30
OPEN_FILES = 32
NOBODY = 65534
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET
_DEATH_SIGNAL, _NO_NEW_RIGHTS = 1, 38  # PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS
CODE = "<reward>"
USUAL = (
    *("ast", "collections", "datetime", "decimal", "difflib", "fractions", "functools", "hashlib", "html", "itertools", "math"),
    *("operator", "random", "re", "statistics", "string", "textwrap", "unicodedata"),
)
"""What functions import most, read beforehand: `nobody` may not be able to read the folder Python is in."""


def shut_in() -> None:
    """Give up what a function needs not: network, rights, files to write, further processes. What the system refuses is left as it is."""
    library = ctypes.CDLL(None, use_errno=True)
    root = os.geteuid() == 0
    with contextlib.suppress(AttributeError):  # not on this system
        library.unshare(_NEW_NETWORK if root else _NEW_USER | _NEW_NETWORK)
    if root:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    with contextlib.suppress(AttributeError):
        library.prctl(_NO_NEW_RIGHTS, 1, 0, 0, 0)
        library.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    for what, most in (("AS", MEMORY), ("FSIZE", 0), ("NPROC", 0), ("CORE", 0), ("NOFILE", OPEN_FILES)):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{what}"), (most, most))


def wrong(error: BaseException) -> dict[str, object]:
    """What went wrong, and in which line of the code."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == CODE]
    return {"error": f"{type(error).__name__}: {error}"[:300], "line": lines[-1] if lines else getattr(error, "lineno", None)}


def main() -> None:
    """Read, score, answer."""
    answers = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    questions = os.fdopen(os.dup(0), "r")
    for descriptor in (0, 1, 2):  # what the code prints goes nowhere
        os.dup2(nothing, descriptor)
    os.chdir(tempfile.gettempdir())
    for name in USUAL:
        importlib.import_module(name)
    shut_in()
    names: dict[str, object] = {"__name__": "reward"}
    score = None
    for line in questions:
        asked = json.loads(line)
        answer: dict[str, object]
        try:
            if score is None:
                exec(compile(asked, CODE, "exec"), names)
                score = names["score"]
                answer = {}
            else:
                answer = {"scores": [float(score(*each)) for each in asked]}  # type: ignore[operator]
        except BaseException as error:  # boundary: whatever somebody's code raises, SystemExit too
            answer = wrong(error)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
