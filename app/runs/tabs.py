"""The tabs of a run's page: charts, samples, logs, config, checkpoints, system, history. Each gives the context of its template."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app import methods, storage, tuners
from app.checkpoints import confusion, lineage
from app.checkpoints.tables import Checkpoint
from app.rendering import NOTHING, number
from app.runs import compare, listing, service, written
from app.runs.tables import Run, RunSample
from app.settings import get_settings

TABS = {
    "charts": "Charts",
    "samples": "Samples",
    "logs": "Logs",
    "config": "Config",
    "checkpoints": "Checkpoints",
    "system": "System",
    "history": "History",
}
LEVELS = ("debug", "info", "warning", "error")
LINES = 1_000
OTHERS = 20


@dataclass(frozen=True)
class Setting:
    """One line of the resolved config."""

    name: str
    title: str
    value: str
    default: str
    changed: bool


def context(session: Session, run: Run, tab: str, query: dict[str, str]) -> dict[str, Any]:
    """What the template of a tab needs."""
    make: dict[str, Callable[[Session, Run, dict[str, str]], dict[str, Any]]] = {
        "charts": charts,
        "samples": samples,
        "logs": logs,
        "config": config,
        "checkpoints": checkpoints,
        "system": system,
        "history": history,
    }
    return make[tab](session, run, query)


def charts(session: Session, run: Run, query: dict[str, str]) -> dict[str, Any]:
    """Checkpoints to mark, runs that may be laid over, and when the first point is to be expected."""
    others = [each for each in service.list_runs(session, run.workspace_id, limit=OTHERS * 3) if each.id != run.id and each.step][:OTHERS]
    return {
        "marks": sorted(
            checkpoint.step for checkpoint in service.checkpoints_of(session, run.workspace_id, run.id) if checkpoint.step is not None
        ),
        "others": others,
        "over": [each for each in query.get("with", "").split(",") if each],
        "first_point": run.params.get("logging_steps") or 1,
    }


def samples(session: Session, run: Run, query: dict[str, str]) -> dict[str, Any]:
    """Answers at one step beside those at another (before training, unless asked for)."""
    found = service.samples(session, run.workspace_id, run.id)
    by_step: dict[int, dict[int, RunSample]] = {}
    for sample in found:
        by_step.setdefault(sample.step, {})[sample.number] = sample
    steps = sorted(by_step)
    step = _chosen(query.get("step"), steps, steps[-1] if steps else 0)
    against = _chosen(query.get("against"), steps, steps[0] if steps else 0)
    numbers = sorted(by_step.get(step, {}))
    return {
        "steps": steps,
        "step": step,
        "against": against,
        "pairs": [(by_step[step][each], by_step.get(against, {}).get(each)) for each in numbers],
        "follows": not query.get("step"),
    }


def _chosen(asked: str | None, steps: list[int], otherwise: int) -> int:
    return int(asked) if asked and asked.isdigit() and int(asked) in steps else otherwise


def logs(session: Session, run: Run, query: dict[str, str]) -> dict[str, Any]:
    """The newest lines, those around the line `at`, or those that hold the text `q`; the download has all."""
    level, q, at = query.get("level", "info"), query.get("q", "").strip()[:200], query.get("at", "")
    lines = service.logs(session, run.workspace_id, run.id, q=q or None, limit=LINES, newest=not at, up_to=at or None)
    if at:
        lines += service.logs(session, run.workspace_id, run.id, q=q or None, after=at, limit=LINES // 2)
    return {
        "lines": lines,
        "levels": LEVELS,
        "level": level if level in LEVELS else "info",
        "is_cut": len(lines) >= LINES,
        "q": q,
        "at": at,
    }


def checkpoints(session: Session, run: Run, query: dict[str, str]) -> dict[str, Any]:
    """Committed checkpoints, newest first, the best by evaluation loss marked."""
    found = service.checkpoints_of(session, run.workspace_id, run.id)
    scored = [(value, each.id) for each in found if isinstance(value := (each.metrics or {}).get("eval_loss"), int | float)]
    best = min(scored)[1] if scored else None
    shown = next((each for each in found if each.id == best), found[0] if found else None)
    start = session.get(Checkpoint, run.checkpoint_id)
    return {
        "checkpoints": found,
        "best": best,
        "confusion": confusion.of(shown) if shown else None,
        "root": lineage.tree_of_run(session, start, (run.id, run.name, run.status)) if start else None,
        "paths": {each.id: str(storage.path(each.path)) for each in found if each.path},
        "metric_names": [
            name
            for name in ("loss", "eval_loss", "exact_match", "rewards/accuracies")
            if any(name in (each.metrics or {}) for each in found)
        ],
    }


def history(session: Session, run: Run, query: dict[str, str]) -> dict[str, Any]:
    """What happened, newest first."""
    return {"events": service.events(session, run.workspace_id, run.id)[::-1]}


def config(session: Session, run: Run, query: dict[str, str]) -> dict[str, Any]:
    """Settings as they are, against the defaults or against another run; as resolved; and the request that makes the run again."""
    method, tuner = methods.registry().get(run.method), tuners.registry().get(run.tuner)
    groups = {
        method.title if method else run.method: settings(run.params, method.params if method else None),
        tuner.title if tuner else run.tuner: settings(run.tuner_params, tuner.params if tuner else None),
    }
    request = written.request_of(service.as_request(run))
    request.pop("parent_run", None)
    other = listing.existing(session, run.workspace_id, [query["against"]]) if query.get("against") else []
    return {
        "groups": {title: listed for title, listed in groups.items() if listed},
        "only_changed": bool(query.get("changed")),
        "resolved": flat({**(run.resolved or {}), **({"adjustments": run.adjustments} if run.adjustments else {})}),
        "starts": {
            "YAML": written.as_yaml(request),
            "Command": written.as_command(request),
            "curl": written.as_curl(request, get_settings().address),
        },
        "against": other[0] if other else None,
        "against_gone": bool(query.get("against")) and not other,
        "others": [each for each in service.list_runs(session, run.workspace_id, limit=OTHERS + 1) if each.id != run.id],
        "differing": [row for row in compare.config(session, [run, *other]) if row.differs] if other else [],
        "shown": shown,
        "seed": run.seed,
    }


def system(session: Session, run: Run, query: dict[str, str]) -> dict[str, Any]:
    """What the run was made on, and what it used of it."""
    resolved = run.resolved or {}
    begun = next((event for event in reversed(service.events(session, run.workspace_id, run.id)) if "worker" in event.data), None)
    where = begun.data if begun else {}
    facts = {
        "Host": where.get("host"),
        "Worker": where.get("worker"),
        "Device": resolved.get("device_name") or resolved.get("device"),
        "Threads": resolved.get("threads"),
        "Precision": _precision(resolved),
        "Allocator": resolved.get("allocator"),
        "Attempts": run.attempt or None,
    }
    used = {name.removeprefix("system/"): value for name, value in run.latest.items() if name.startswith("system/")}
    return {
        "facts": {name: shown(value) for name, value in facts.items() if value is not None},
        "versions": {name: str(value) for name, value in (resolved.get("versions") or {}).items()},
        "used": used,
        "peak": run.latest.get("memory_bytes"),
    }


def _precision(resolved: dict[str, Any]) -> str | None:
    parts = [resolved.get("weights"), resolved.get("autocast") and f"autocast {resolved['autocast']}"]
    return ", ".join(str(part) for part in parts if part) or resolved.get("dtype")


def settings(values: dict[str, Any], model: type[BaseModel] | None) -> list[Setting]:
    """Settings with their titles and defaults; those that differ are marked."""
    fields = model.model_fields if model else {}
    listed = []
    for name, value in values.items():
        info = fields.get(name)
        default = None if info is None or info.is_required() else info.get_default(call_default_factory=True, validated_data={})
        differs = info is not None and default is not None and default != value
        listed.append(
            Setting(name, (info.title if info else None) or name.replace("_", " ").capitalize(), shown(value), shown(default), differs)
        )
    return listed


def shown(value: Any) -> str:
    """A setting's value for people."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return number(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as `a.b` lines."""
    listed = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            listed += flat(value, f"{prefix}{name}.")
        else:
            listed.append((prefix + name, shown(value)))
    return listed
