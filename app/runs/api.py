"""REST of runs and the live event stream."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from app import trackers
from app.checkpoints import schemas as checkpoint_schemas
from app.errors import Invalid
from app.events import MAX_TOPICS, Hub, parse_cursors
from app.metrics import service as metrics
from app.runs import compare, graded, service
from app.runs.schemas import Comparison, RunCreate, RunDetail, RunOut, RunUpdate, event_out, log_out, run_detail, run_out, sample_out
from app.web import Reader, ReadSession, Writer, WriteSession, api_router, download, idempotent, pages_router

api = api_router("runs")
stream = pages_router()


@api.post("/runs", status_code=201, response_model=RunDetail)
def create_run(who: Writer, session: WriteSession, request: Request, body: RunCreate) -> Any:
    """Queue a run. With an `Idempotency-Key` the same key answers the first result."""

    def _create() -> dict[str, Any]:
        run = service.create(session, who.workspace_id, who.user_id, body)
        return run_detail(run, service.queue_place(session, run))

    return idempotent(request, session, who, body.model_dump_json(), _create)


@api.get("/runs")
def list_runs(
    who: Reader,
    session: ReadSession,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: str | None = None,
    status: str | None = None,
    q: str | None = None,
    method: str | None = None,
    tuner: str | None = None,
    model: str | None = None,
    dataset: str | None = None,
    tag: str | None = None,
) -> dict[str, Any]:
    """Runs of the workspace, newest first; `model` and `dataset` take a name or an id."""
    asked = {"q": q, "method": method, "tuner": tuner, "model": model, "dataset": dataset, "tag": tag}
    runs = service.list_runs(session, who.workspace_id, limit=limit + 1, after=after, status=status, **asked)
    places = service.queue_places(session) if any(run.status == "queued" for run in runs) else {}
    more = len(runs) > limit
    return {
        "data": [run_out(run, places.get(run.id)) for run in runs[:limit]],
        "has_more": more,
        "next": runs[limit - 1].id if more else None,
    }


@api.get("/runs/compare", response_model=Comparison)
def compare_runs(who: Reader, session: ReadSession, runs: Annotated[str, Query(max_length=2000)]) -> Any:
    """Two to eight runs side by side, their ids separated by commas: settings, last values of the metrics, and which run is best."""
    return compare.facts(session, who.workspace_id, runs)


@api.get("/runs/{run_id}", response_model=RunDetail)
def get_run(who: Reader, session: ReadSession, run_id: str) -> Any:
    """One run with everything as it was really used."""
    run = service.get(session, who.workspace_id, run_id)
    return run_detail(run, service.queue_place(session, run))


@api.patch("/runs/{run_id}", response_model=RunOut)
def update_run(who: Writer, session: WriteSession, run_id: str, body: RunUpdate) -> Any:
    """Edit name, tags, notes or priority; 409 when `version` is stale."""
    return run_out(service.update(session, who.workspace_id, run_id, body))


@api.delete("/runs/{run_id}", status_code=204)
def delete_run(who: Writer, session: WriteSession, run_id: str) -> Response:
    """Remove a run that no worker holds, with all it left behind."""
    service.delete(session, who.workspace_id, run_id)
    return Response(status_code=204)


@api.post("/runs/{run_id}/cancel", response_model=RunOut)
def cancel_run(who: Writer, session: WriteSession, run_id: str) -> Any:
    """Stop a run for good; committed checkpoints stay."""
    return run_out(service.cancel(session, who.workspace_id, run_id))


@api.post("/runs/{run_id}/pause", response_model=RunOut)
def pause_run(who: Writer, session: WriteSession, run_id: str) -> Any:
    """Write a checkpoint and let go of the device."""
    return run_out(service.pause(session, who.workspace_id, run_id))


@api.post("/runs/{run_id}/resume", response_model=RunOut)
def resume_run(who: Writer, session: WriteSession, run_id: str) -> Any:
    """Go on from the last committed checkpoint."""
    run = service.resume(session, who.workspace_id, run_id)
    session.flush()
    return run_out(run, service.queue_place(session, run))


@api.post("/runs/{run_id}/duplicate", status_code=201, response_model=RunDetail)
def duplicate_run(who: Writer, session: WriteSession, request: Request, run_id: str) -> Any:
    """Queue a new run with the same settings."""

    def _duplicate() -> dict[str, Any]:
        run = service.duplicate(session, who.workspace_id, who.user_id, run_id)
        return run_detail(run, service.queue_place(session, run))

    return idempotent(request, session, who, run_id, _duplicate)


@api.get("/runs/{run_id}/metrics")
def run_metrics(
    who: Reader,
    session: ReadSession,
    run_id: str,
    names: str | None = None,
    after_step: int | None = None,
    points: Annotated[int, Query(ge=3, le=100_000)] = 2_000,
    digits: Annotated[int | None, Query(ge=1, le=17, description="Significant digits of the values; all of them by default.")] = None,
) -> dict[str, Any]:
    """Points of a run's metrics, each thinned to about `points`.

    `names` are separated by commas; `eval_*` stands for all that begin so, and `-epoch` leaves one out.
    """
    run = service.get(session, who.workspace_id, run_id)
    wanted = [name for name in names.split(",") if name] if names else None
    return {**metrics.as_json(metrics.series(session, run_id, wanted, after_step, points), digits), "seq": run.seq}


@api.get("/runs/{run_id}/logs")
def run_logs(
    who: Reader,
    session: ReadSession,
    run_id: str,
    after: str | None = None,
    level: str | None = None,
    q: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=5_000)] = 500,
) -> dict[str, Any]:
    """Log lines in order; `after` is the cursor of the last one seen, `q` a text they hold."""
    lines = service.logs(session, who.workspace_id, run_id, after=after, level=level, q=q, limit=limit + 1)
    shown = [log_out(line) for line in lines[:limit]]
    return {"data": shown, "has_more": len(lines) > limit, "next": shown[-1]["cursor"] if len(lines) > limit else None}


@api.get("/runs/{run_id}/samples")
def run_samples(who: Reader, session: ReadSession, run_id: str) -> dict[str, Any]:
    """Answers to the fixed prompts, by step; step 0 is before training."""
    return {"data": [sample_out(sample) for sample in service.samples(session, who.workspace_id, run_id)], "has_more": False, "next": None}


@api.get("/runs/{run_id}/held-out")
def run_held_out(who: Reader, session: ReadSession, run_id: str) -> dict[str, Any]:
    """How often the run put the chosen answer of held-out pairs first, by the grade people gave and by step, with 95 % Wilson intervals.

    `people` is how often a person takes the side of most others, by grade. Empty unless the pairs are ratings of a project.
    """
    run = service.get(session, who.workspace_id, run_id)
    return graded.graded_out(run, graded.of_run(session, run))


@api.get("/runs/{run_id}/checkpoints")
def run_checkpoints(who: Reader, session: ReadSession, run_id: str) -> dict[str, Any]:
    """Committed checkpoints, newest first."""
    found = service.checkpoints_of(session, who.workspace_id, run_id)
    return {"data": [checkpoint_schemas.checkpoint_out(checkpoint) for checkpoint in found], "has_more": False, "next": None}


@api.get("/runs/{run_id}/tensorboard", response_class=StreamingResponse)
def run_tensorboard(who: Reader, session: ReadSession, run_id: str) -> StreamingResponse:
    """The TensorBoard files of a run as a zip archive: every point up to its last checkpoint, or all once it has ended."""
    run = service.get(session, who.workspace_id, run_id)
    return download(trackers.zipped(run.id), f"{run.id}-tensorboard.zip", "application/zip")


@api.get("/runs/{run_id}/events")
def run_events(who: Reader, session: ReadSession, run_id: str) -> dict[str, Any]:
    """History of a run, oldest first."""
    return {"data": [event_out(event) for event in service.events(session, who.workspace_id, run_id)], "has_more": False, "next": None}


def _topics(hub: Hub, session: Any, workspace_id: str, topics: str) -> list[str]:
    asked = list(dict.fromkeys(topic.strip() for topic in topics.split(",") if topic.strip()))
    if not asked or len(asked) > MAX_TOPICS:
        raise Invalid(f"Name 1 to {MAX_TOPICS} topics, such as run:ID or queue.", field="topics")
    found = []
    for topic in asked:
        if topic == "queue":
            found.append(f"queue:{workspace_id}")
        elif topic.startswith("run:"):
            service.get(session, workspace_id, topic.removeprefix("run:"))
            found.append(topic)
        else:
            found.append(hub.admit(session, workspace_id, topic))
    return found


@api.get("/events", response_class=StreamingResponse)
@stream.get("/events", response_class=StreamingResponse)
def events(
    who: Reader,
    session: ReadSession,
    request: Request,
    topics: str,
    html: bool = False,
    after: str | None = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """Server-sent events of some topics. `Last-Event-ID` (or `after`) holds the cursor vector to go on from."""
    hub: Hub = request.app.state.hub
    wanted = _topics(hub, session, who.workspace_id, topics)
    parts = hub.stream(wanted, parse_cursors(last_event_id or after), html=html)
    return StreamingResponse(parts, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


router = APIRouter()
router.include_router(api)
router.include_router(stream)
