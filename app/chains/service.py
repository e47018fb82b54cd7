"""Chains as people see and steer them, and what starts their steps: the state of a chain is read off its runs, never told by them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.chains import check
from app.chains.schemas import OVER, ChainCreate, chain_out, kept, requests
from app.chains.tables import Chain, ChainStep
from app.checkpoints import service as checkpoints
from app.database import Database, now
from app.errors import Conflict, Invalid, NotFound, StudioError
from app.runs import service as runs
from app.runs.schemas import ENDED, RunCreate
from app.runs.tables import Run
from app.words import clean_name

log = logging.getLogger(__name__)

HELD = ("refused", "error")
"""Codes of chains whose next step could not be started: nothing is tried again before a person asks."""
FAILED = "The next step could not be started: something failed in the studio. The log of the worker says more."
AT_ONCE = 100
"""Chains that one sweep looks after at most; the next one goes on."""


@dataclass(frozen=True)
class Standing:
    """How a chain stands now."""

    status: str
    reason: str | None = None
    code: str | None = None
    is_due: bool = False
    """Whether its next step is to be started."""


def standing(chain: Chain, started: list[Run | None]) -> Standing:
    """How a chain stands, from the runs of the steps that have been started; None is one that was deleted."""
    if chain.status in OVER:
        return Standing(chain.status)
    number, run = len(started), started[-1] if started else None
    if run is None:
        return Standing("paused", f"The run of step {number} was deleted. Continue to start it anew, or cancel the chain.", "run_deleted")
    said = f" {run.reason}" if run.reason else ""
    match run.status:
        case "succeeded":
            if number == len(chain.steps):
                return Standing("succeeded")
            if chain.reason_code in HELD:
                return Standing("paused", chain.reason, chain.reason_code)
            return Standing("running", is_due=True)
        case "failed":
            return Standing("paused", f"Step {number} failed:{said or ' see its log.'}", "run_failed")
        case "cancelled":
            return Standing(
                "paused", f"The run of step {number} was cancelled. Continue to go on with it, or cancel the chain.", "run_cancelled"
            )
        case "paused":
            return Standing("paused", f"Step {number} is paused.{said}", "run_paused")
    return Standing("running")


# --- what people do -------------------------------------------------------------------------------------------------------


def create(session: Session, workspace_id: str, user_id: str | None, asked: ChainCreate) -> Chain:
    """Start a chain: all steps are checked, and the first is queued.

    Raises:
        StudioError: a step cannot be run; `field` is such as `steps.1.params.beta`.
    """
    check.rehearse(session, workspace_id, user_id, asked.steps)
    name = clean_name("chain", asked.name) if asked.name else " → ".join(step.method for step in asked.steps)
    chain = Chain(
        workspace_id=workspace_id, name=name[:200], steps=[kept(step) for step in asked.steps], created_by=user_id, status="running"
    )
    session.add(chain)
    session.flush()
    try:
        _start(session, chain, 1, asked.steps[0], user_id)
    except StudioError:  # somebody was faster, and deleted what it needs
        session.delete(chain)
        session.flush()
        raise
    session.refresh(chain)
    return chain


def get(session: Session, workspace_id: str, chain_id: str, *, lock: bool = False) -> Chain:
    """A chain of the workspace.

    Raises:
        NotFound: there is none with that id.
    """
    query = select(Chain).where(Chain.id == chain_id, Chain.workspace_id == workspace_id)
    found = session.scalars(query.with_for_update() if lock else query).first()
    if found is None:
        raise NotFound("There is no such chain; it may have been deleted. The list of chains shows those there are.")
    return found


def list_chains(session: Session, workspace_id: str, *, limit: int = 50, after: str | None = None, q: str | None = None) -> list[Chain]:
    """Chains of the workspace, newest first; with `q` those that have it in their name."""
    query = select(Chain).where(Chain.workspace_id == workspace_id)
    if q:
        query = query.where(Chain.name.icontains(q, autoescape=True))
    if after:
        query = query.where(Chain.id < after)
    return list(session.scalars(query.order_by(Chain.id.desc()).limit(limit)))


def started(session: Session, chains: Iterable[Chain]) -> dict[str, list[Run | None]]:
    """The runs of the steps that have been started, in order, by chain; None for one that was deleted."""
    found: dict[str, list[Run | None]] = {chain.id: [] for chain in chains}
    query = select(ChainStep.chain_id, Run).outerjoin(Run, Run.id == ChainStep.run_id).where(ChainStep.chain_id.in_(found))
    for chain_id, run in session.execute(query.order_by(ChainStep.chain_id, ChainStep.number)):
        found[chain_id].append(run)
    return found


def told(session: Session, chains: list[Chain]) -> list[dict[str, Any]]:
    """Chains as REST shows them, as they stand now."""
    of_chain = started(session, chains)
    answers = []
    for chain in chains:
        now_is = standing(chain, of_chain[chain.id])
        answers.append(chain_out(chain, of_chain[chain.id], now_is.status, now_is.reason, now_is.code))
    return answers


def cancel(session: Session, workspace_id: str, chain_id: str) -> Chain:
    """Stop a chain for good, and the run it is at; what its runs have made stays. Asking twice changes nothing.

    Raises:
        Conflict: it has succeeded already.
    """
    chain = get(session, workspace_id, chain_id, lock=True)
    if chain.status == "cancelled":
        return chain
    there = started(session, [chain])[chain.id]
    if standing(chain, there).status == "succeeded":
        raise Conflict("The chain has already succeeded; there is nothing to cancel.")
    run = there[-1] if there else None
    if run is not None and runs.get(session, workspace_id, run.id, lock=True).status not in ENDED:
        runs.cancel(session, workspace_id, run.id)
    _settle(chain, "cancelled")
    session.flush()
    return chain


def go_on(session: Session, workspace_id: str, user_id: str | None, chain_id: str, step: RunCreate | None = None) -> Chain:
    """Have a paused chain go on: resume the run it stopped at, start that step anew with other settings, or try again to start the next.

    A chain that is not paused stays as it is.

    Raises:
        Conflict: it is over, or a step that is going on was given other settings.
        StudioError: the step cannot be run; `field` is such as `steps.1.dataset`.
    """
    chain = get(session, workspace_id, chain_id, lock=True)
    there = started(session, [chain])[chain.id]
    now_is = standing(chain, there)
    if now_is.status in OVER:
        raise Conflict(f"The chain has {now_is.status} and does not go on. Start a new one.")
    if now_is.status != "paused":
        if step is not None:
            raise Conflict("The chain is running; settings can only be changed where it has stopped. Cancel the run first.", field="step")
        return chain
    last = there[-1]
    number = len(there) + (last is not None and last.status == "succeeded")
    asked = requests(chain)
    if step is not None:
        asked[number - 1] = step
        check.rehearse(session, workspace_id, user_id, asked, lambda each: _made(session, there, each) if each < number else None)
    if step is None and last is not None and last.status != "succeeded":
        runs.resume(session, workspace_id, last.id)
    else:
        _start(session, chain, number, asked[number - 1], user_id)
        if last is not None and last.status == "paused":
            runs.cancel(session, workspace_id, last.id)
    chain.steps = [kept(each) for each in asked]
    _settle(chain, "running")
    session.flush()
    return chain


def delete(session: Session, workspace_id: str, chain_id: str) -> None:
    """Remove a chain that is over; its runs and what they made stay.

    Raises:
        Conflict: it is not over.
    """
    chain = get(session, workspace_id, chain_id, lock=True)
    now_is = standing(chain, started(session, [chain])[chain.id])
    if now_is.status not in OVER:
        raise Conflict(f"The chain is {now_is.status}. Cancel it first, then delete it.")
    session.delete(chain)
    session.flush()


# --- what workers do ------------------------------------------------------------------------------------------------------


def advance(database: Database) -> int:
    """Start the next steps of chains whose run has succeeded, and note how the others stand; returns how many changed.

    Each chain has a transaction of its own, and a row that another worker holds is left to it. What was lost is found by the next sweep.
    """
    try:
        with database.read() as session:
            waiting = _due(session)
    except DBAPIError as error:
        log.warning("Chains wait for the next sweep: %s", str(error.orig).splitlines()[0])
        return 0
    changed = 0
    for chain_id in waiting:
        try:
            with database.write() as session:
                changed += advance_one(session, chain_id)
        except DBAPIError as error:
            log.warning("The chain %s waits for the next sweep: %s", chain_id, str(error.orig).splitlines()[0])
        except Exception:  # boundary: one chain must not hold up the others
            log.exception("The chain %s could not go on.", chain_id)
            with database.write() as session:
                chain = session.get(Chain, chain_id, with_for_update=True)
                if chain is not None:
                    _settle(chain, "paused", FAILED, "error")
    return changed


def _due(session: Session) -> list[str]:
    """Chains that no longer stand as their row says."""
    last = select(func.max(ChainStep.number)).where(ChainStep.chain_id == Chain.id).correlate(Chain).scalar_subquery()
    query = (
        select(Chain.id)
        .join(ChainStep, and_(ChainStep.chain_id == Chain.id, ChainStep.number == last))
        .outerjoin(Run, Run.id == ChainStep.run_id)
        .where(
            Chain.status.in_(("running", "paused")),
            or_(
                and_(Run.status == "succeeded", or_(Chain.reason_code.is_(None), Chain.reason_code.not_in(HELD))),
                and_(Chain.status == "running", or_(Run.id.is_(None), Run.status.in_(("failed", "cancelled", "paused")))),
                and_(Chain.status == "paused", Run.status.not_in(("succeeded", "failed", "cancelled", "paused"))),
            ),
        )
    )
    return list(session.scalars(query.order_by(Chain.id).limit(AT_ONCE)))


def advance_one(session: Session, chain_id: str) -> bool:
    """Bring one chain to where its runs are, starting its next step where that is due; False where nothing is to be done."""
    chain = session.scalars(select(Chain).where(Chain.id == chain_id).with_for_update(skip_locked=True)).first()
    if chain is None or chain.status in OVER:
        return False
    there = started(session, [chain])[chain.id]
    now_is = standing(chain, there)
    if not now_is.is_due:
        before = (chain.status, chain.reason, chain.reason_code)
        _settle(chain, now_is.status, now_is.reason, now_is.code)
        return before != (chain.status, chain.reason, chain.reason_code)
    _settle(chain, "running")
    number = len(there) + 1
    try:
        _start(session, chain, number, requests(chain)[number - 1], chain.created_by)
    except StudioError as error:  # every check of a run comes before its first write, so there is nothing to undo
        words = f"{error.message} Mend that and continue, or give the step other settings."
        _settle(chain, "paused", words, "refused")
    return True


def _start(session: Session, chain: Chain, number: int, asked: RunCreate, user_id: str | None) -> Run:
    """Create the run of a step and note that it was started.

    Raises:
        StudioError: the run is refused; nothing was written.
    """
    there = started(session, [chain])[chain.id]
    try:
        request = check.resolved(asked, number, lambda named, field: _must_have_made(session, there, named, field))
        parent = check.parent_of(asked)
        come_from = there[parent - 1] if parent else None
        changes: dict[str, Any] = {"name": asked.name or f"{chain.name[:180]}: {number} {asked.method}"}
        if come_from is not None and not asked.parent_run:
            changes["parent_run"] = come_from.id
        run = runs.create(session, chain.workspace_id, user_id, request.model_copy(update=changes))
    except StudioError as error:
        raise check.at_step(error, number) from error
    runs.add_event(session, run, "chain", f"Step {number} of {len(chain.steps)} of the chain “{chain.name}”.", chain=chain.id, step=number)
    step = session.get(ChainStep, (chain.id, number))
    if step is None:
        session.add(ChainStep(chain_id=chain.id, number=number, run_id=run.id))
    else:
        step.run_id = run.id
    session.flush()
    return run


def _made(session: Session, there: list[Run | None], number: int) -> str | None:
    """The last checkpoint of a step that has been started; None where there is none."""
    run = there[number - 1]
    found = checkpoints.of_run(session, run.id) if run is not None else []
    return found[0].id if found else None


def _must_have_made(session: Session, there: list[Run | None], number: int, field: str) -> str:
    found = _made(session, there, number)
    if found is None:
        raise Invalid(f"Step {number} has no checkpoint any more: it, or its run, was deleted.", field=field)
    return found


def _settle(chain: Chain, status: str, reason: str | None = None, code: str | None = None) -> None:
    chain.status, chain.reason, chain.reason_code = status, reason, code
    if status in OVER:
        chain.finished_at = now()
