"""Candidates that answer prompts: ask for it, look how it stands, end it, go on with it. What the job does is in `generation_job`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.checkpoints import heads
from app.checkpoints import service as checkpoints
from app.checkpoints.tables import Checkpoint
from app.database import after_commit
from app.datasets import service as datasets
from app.datasets.tables import Dataset
from app.errors import Conflict, Invalid, NotFound
from app.feedback import chunked_jobs, projects
from app.feedback.schemas import Candidate
from app.feedback.tables import Project
from app.jobs import service as jobs
from app.jobs.tables import Job

KIND = "feedback.generate"
ANSWERING = ("base", "full", "adapter")
"""Kinds of checkpoints that can answer."""
CHUNK = 32
"""Answers that each candidate gives before they are kept: what a worker that is killed loses at most."""
MAX_CHARACTERS = 5_000_000
"""Of all typed prompts together; longer lists are a dataset."""
PROJECT_GONE = "The project was deleted, so nothing is generated for it any more."


class Sampling(BaseModel):
    """How a candidate chooses its next token."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False)
    """0 always takes the likeliest token (greedy)."""
    top_p: float = Field(0.95, gt=0, le=1, allow_inf_nan=False)
    """Only the likeliest tokens that together have this probability are drawn from."""
    top_k: int = Field(0, ge=0, le=1_000_000)
    """Only so many of the likeliest tokens are drawn from. 0: any number."""
    max_tokens: int = Field(128, ge=1, le=8192, validation_alias=AliasChoices("max_tokens", "max_new_tokens"))
    """Where an answer is cut off; items with a cut answer are filtered."""
    seed: int | None = Field(None, ge=0, lt=2**31)
    """None: the seed of the job. Each answer has its own, made of this, the prompt and the candidate."""

    @property
    def is_greedy(self) -> bool:
        """Whether the same prompt always gets the same answer."""
        return self.temperature == 0 or self.top_k == 1


# --- asking ---------------------------------------------------------------------------------------------------------------


def start(
    session: Session,
    project: Project,
    *,
    dataset: str | None = None,
    prompt_texts: Sequence[str] | None = None,
    prompts: Sequence[list[dict[str, str]]] | None = None,
    candidates: Sequence[Candidate],
    limit: int = 200,
    seed: int | None = None,
    created_by: str | None = None,
    pairs: str = "one",
) -> Job:
    """Queue the generation of items; the candidates are stored on the project.

    What becomes an item follows the kind of the project. Pair: two candidates answer each prompt; of more than two, `pairs` says whether
    each prompt gets one pair (`one`: drawn, all pairs equally often; `first`: only pairs with the first candidate) or `all`; a single
    candidate answers twice. Single: each answer of each candidate. Rank: the answers of all candidates.

    Args:
        dataset: id or name of the dataset whose prompts are answered; its shape does not matter.
        prompt_texts: prompts as typed, instead of a dataset.
        prompts: conversations, instead of either.
        limit: how many different prompts, drawn with the seed, at most.
        seed: None: that of the project.

    Raises:
        NotFound: there is no such dataset or checkpoint.
        Conflict: it is not ready, or a generation for this project is going on.
        Invalid: the candidates do not fit the kind of project, or there is no prompt.
    """
    if pairs not in ("one", "first", "all"):
        raise Invalid("“pairs” is one (a drawn pair for each prompt), first (drawn, with the first candidate) or all.", field="pairs")
    if not 1 <= limit <= 100_000:
        raise Invalid("The limit is a number of prompts from 1 to 100,000.", field="limit")
    project = projects.lock(session, project)  # of two that press the button at once, the second sees the job of the first
    if active(session, project) is not None:
        raise Conflict("Answers are being generated for this project already. Wait until that is done, or cancel it.")
    asked = [_candidate(session, project.workspace_id, number, each) for number, each in enumerate(candidates)]
    _fits(project.kind, asked)
    source: dict[str, Any] = {"dataset_id": None, "texts": list(prompts or ())}
    if not prompts:
        source = _prompts(session, project.workspace_id, dataset, prompt_texts)
    if source["dataset_id"]:
        project.prompts_dataset_id = source["dataset_id"]
    project.candidates = [*project.candidates, *(each for each in asked if each not in project.candidates)]
    job = jobs.enqueue(
        session,
        workspace_id=project.workspace_id,
        kind=KIND,
        subject_id=project.id,
        payload={
            "candidates": asked,
            **source,
            "limit": limit,
            "seed": project.seed if seed is None else seed,
            "project_kind": project.kind,
            "pairs": pairs,
            "chunk": CHUNK if project.kind != "pair" or pairs != "one" else CHUNK * max(2, len(asked)) // 2,
        },
        created_by=created_by,
        lane="device",
    )
    job.progress = dict(chunked_jobs.STARTING)
    projects.count(session, project)
    session.flush()
    chunked_jobs.sweep(session, folder_of(project.id), job.id)
    return job


def named(session: Session, workspace_id: str, asked: str, field: str) -> Checkpoint:
    """A checkpoint by its id or its name; of several with one name the newest that is ready.

    Raises:
        NotFound: there is none.
    """
    there = select(Checkpoint).where(Checkpoint.workspace_id == workspace_id)
    newest = (Checkpoint.status == "ready").desc(), Checkpoint.id.desc()
    found = session.scalars(there.where(Checkpoint.id == asked)).first()
    found = found or session.scalars(there.where(Checkpoint.name == asked).order_by(*newest).limit(1)).first()
    if found is None:
        raise NotFound(f"There is no checkpoint “{asked[:100]}”. Give its id or its name, as the list of models shows.", field=field)
    return found


def must_be_there(session: Session, checkpoint: Checkpoint, field: str) -> None:
    """See that a checkpoint's files can be read.

    Raises:
        Conflict: they cannot, or not yet.
    """
    try:
        checkpoints.training_paths(session, checkpoint)
    except Conflict as error:
        raise Conflict(error.message, field=field) from None


def _candidate(session: Session, workspace_id: str, number: int, asked: Candidate) -> dict[str, Any]:
    field = f"candidates.{number}.checkpoint"
    checkpoint = named(session, workspace_id, asked.checkpoint, field)
    if checkpoint.kind not in ANSWERING:
        raise Invalid(f"“{checkpoint.name}” is a {checkpoint.kind} checkpoint, which gives no answers. Take a language model.", field=field)
    heads.must_write(checkpoint, field)
    must_be_there(session, checkpoint, field)
    try:
        sampling = Sampling.model_validate(asked.sampling)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise Invalid(
            f"Sampling of “{checkpoint.name}”: {name}: {first['msg']}. It takes {', '.join(Sampling.model_fields)}.",
            field=f"candidates.{number}.sampling.{name}",
        ) from None
    return {"checkpoint_id": checkpoint.id, "name": checkpoint.name, "sampling": sampling.model_dump(exclude_none=True)}


def _fits(kind: str, asked: list[dict[str, Any]]) -> None:
    """Check that these candidates can make items of a kind."""
    if not asked:
        raise Invalid("Choose at least one checkpoint that answers the prompts.", field="candidates")
    if len(asked) > 9:
        raise Invalid("At most nine candidates answer the same prompts.", field="candidates")
    if kind == "rank" and len(asked) < 2:
        raise Invalid("A ranking needs at least two candidates. Add one, or make a project of kind single.", field="candidates")
    if kind == "pair" and len(asked) == 1 and Sampling.model_validate(asked[0]["sampling"]).is_greedy:
        raise Invalid(
            f"“{asked[0]['name']}” alone would give the same answer twice at temperature 0. Set a temperature such as 0.8, "
            "or add a second candidate.",
            field="candidates.0.sampling.temperature",
        )
    for number, each in enumerate(asked):
        if kind != "single" and each in asked[:number] and Sampling.model_validate(each["sampling"]).is_greedy:
            raise Invalid(
                f"“{each['name']}” is there twice at temperature 0 and would give the same answers. Take another checkpoint, or another "
                "temperature.",
                field=f"candidates.{number}",
            )


def _prompts(session: Session, workspace_id: str, dataset: str | None, texts: Sequence[str] | None) -> dict[str, Any]:
    """Where the prompts come from, as the job keeps it."""
    # Without what a database or a JSON line cannot hold.
    clean = (text.replace("\x00", "").encode("utf-8", "replace").decode().strip() for text in texts or [])
    typed = list(dict.fromkeys(text for text in clean if text))
    if bool(dataset) == bool(typed):
        words = "Give either a dataset or typed prompts, not both." if dataset else "There is no prompt. Choose a dataset, or type some."
        raise Invalid(words, field="prompts")
    if not dataset:
        if sum(map(len, typed)) > MAX_CHARACTERS:
            raise Invalid(
                f"The prompts have more than {MAX_CHARACTERS:,} characters together. Import them as a dataset.", field="prompt_texts"
            )
        return {"dataset_id": None, "texts": typed}
    try:
        found = datasets.get(session, workspace_id, dataset)
    except NotFound:
        named = select(Dataset).where(Dataset.workspace_id == workspace_id, Dataset.name == dataset)
        other = session.scalars(named.order_by((Dataset.status == "ready").desc(), Dataset.version.desc()).limit(1)).first()
        if other is None:
            raise NotFound("There is no such dataset. Give its id or its name, as the list of datasets shows.", field="prompts") from None
        found = other
    if found.status != "ready":
        raise Conflict(f"The dataset “{found.name}” is {found.status}. Take one that is ready.", field="prompts")
    if not found.rows:
        raise Invalid(f"The dataset “{found.name}” has no rows, so there is nothing to answer.", field="prompts")
    datasets.rows_file(found)
    return {"dataset_id": found.id, "texts": None}


# --- looking and ending ---------------------------------------------------------------------------------------------------


def active(session: Session, project: Project) -> Job | None:
    """The generation of a project that waits or goes on."""
    return chunked_jobs.active(session, KIND, project.id)


def progress(session: Session, project: Project) -> dict[str, Any] | None:
    """How the newest generation stands: `{job, status, reason, done, total, text}`; None where there was none."""
    return chunked_jobs.shown(chunked_jobs.latest(session, KIND, project.id))


def cancel(session: Session, project: Project) -> bool:
    """Stop what is generated for a project; complete items stay. False when nothing was going on."""
    words = "Cancelled. Items that were complete stay; “Go on” generates the others."
    if not chunked_jobs.cancel(session, active(session, project), words):
        return False
    projects.count(session, project)
    return True


def go_on(session: Session, project: Project) -> Job:
    """Queue a generation again that failed or was cancelled; it goes on where it stopped.

    Raises:
        Conflict: there is none, or it is not over, or it was done.
    """
    job = chunked_jobs.again(session, chunked_jobs.latest(session, KIND, project.id))
    if job is None:
        raise Conflict("There is no generation that was stopped, so there is nothing to go on with.")
    projects.count(session, project)
    return job


def forget(session: Session, project: Project) -> None:
    """The project is being deleted: stop its generation and, after the commit, remove the raw answers."""
    chunked_jobs.cancel(session, active(session, project), PROJECT_GONE)
    path = folder_of(project.id)
    session.flush()
    after_commit(session, lambda: storage.remove(path))


def folder_of(project_id: str, job_id: str = "") -> str:
    """Where raw answers lie, below the storage root."""
    return f"feedback/{project_id}/{job_id}".rstrip("/")
