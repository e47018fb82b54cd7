"""The speaker: a long-lived child that keeps one or two models loaded and answers what it is asked. Reads no database."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import traceback
from collections import OrderedDict
from pathlib import Path
from typing import Any

from worker.chat_stream import say
from worker.generate import Speaker, load, stored_dtype
from worker.libraries import out_of_memory, quiet
from worker.loading import precision
from worker.reporting import Failed, Report

log = logging.getLogger(__name__)

STEPS = ("Starting the program", "Reading the weights", "Answering")


class Orders:
    """Questions of the supervisor, one JSON object a line; a request to stop is heard at once, also in the midst of an answer."""

    def __init__(self, descriptor: int) -> None:
        self._waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._stopped: set[str] = set()
        self._stream = os.fdopen(descriptor, encoding="utf-8")
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def _read(self) -> None:
        for line in self._stream:
            order = json.loads(line)
            if "stop" in order:
                self._stopped.add(order["stop"])
            else:
                self._waiting.put(order)
        self._waiting.put(None)

    def next(self) -> dict[str, Any] | None:
        """The next question; None when there will be no more."""
        return self._waiting.get()

    def is_stopped(self, answer: str) -> bool:
        """Whether an answer is no longer wanted."""
        return answer in self._stopped


def main(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Answer until the supervisor closes the pipe."""
    orders = Orders(spec["orders"])
    loaded: OrderedDict[str, Speaker] = OrderedDict()
    with quiet():
        while (order := orders.next()) is not None:
            if order["threads"]:
                import torch

                torch.set_num_threads(order["threads"])
            try:
                _answer(order, orders, loaded, spec, report)
            except Failed as failure:
                report.send("refused", answer=order["answer"], code=failure.code, reason=failure.reason, keys=list(loaded))
            except Exception as error:  # boundary: one answer must not end the speaker
                _refuse(order, error, loaded, report)
    return {}


def _refuse(order: dict[str, Any], error: Exception, loaded: OrderedDict[str, Speaker], report: Report) -> None:
    if out_of_memory(error):
        loaded.clear()
        _free()
        reason = "The model and this conversation did not fit into the memory of the device. Ask for fewer tokens, or take a smaller model."
        report.send("refused", answer=order["answer"], code="oom", reason=reason, keys=[])
        return
    traceback.print_exc()
    reason = f"The model could not answer: {type(error).__name__}: {str(error)[:300]}. The log of the worker says where."
    report.send("refused", answer=order["answer"], code="crash", reason=reason, keys=list(loaded))


def _answer(order: dict[str, Any], orders: Orders, loaded: OrderedDict[str, Speaker], spec: dict[str, Any], report: Report) -> None:
    answer = order["answer"]
    speaker = loaded.get(order["key"])
    if speaker is None:
        while len(loaded) >= spec["keep"]:
            loaded.popitem(last=False)
            _free()
        report.send("loading", answer=answer, done=1, total=len(STEPS), text=STEPS[1])
        speaker = loaded[order["key"]] = _load(order["model"], spec["device"])
        report.send("loaded", answer=answer, keys=list(loaded))
        report.send("loading", answer=answer, done=2, total=len(STEPS), text=STEPS[2])
    loaded.move_to_end(order["key"])
    said = say(
        speaker,
        order["messages"],
        order["sampling"],
        heard=lambda text, tokens: report.send("token", answer=answer, text=text, tokens=tokens),
        stop=lambda: orders.is_stopped(answer),
    )
    report.send("said", answer=answer, said=said.as_dict())


def _load(model: dict[str, Any], device: str) -> Speaker:
    path = Path(model["path"])
    dtype = stored_dtype(path)
    if device == "cpu" and dtype != "float32":
        dtype = precision("auto", "adapter", "cpu").loaded
    return load(path, adapter=Path(model["adapter"]) if model["adapter"] else None, device=device, dtype=dtype)


def _free() -> None:
    """Give back the memory of models that were let go."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
