"""REST of chains: start, look at, steer, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from sqlalchemy.orm import Session

from app.chains import service
from app.chains.schemas import ChainContinue, ChainCreate, ChainOut
from app.chains.tables import Chain
from app.web import After, Limit, Page, Reader, ReadSession, Writer, WriteSession, api_router, idempotent, paged

router = api_router("chains")


def _told(session: Session, chain: Chain) -> dict[str, Any]:
    session.flush()
    return service.told(session, [chain])[0]


@router.post("/chains", status_code=201, response_model=ChainOut)
def create_chain(who: Writer, session: WriteSession, request: Request, body: ChainCreate) -> Any:
    """Start runs one after the other, such as SFT → reward → PPO. All steps are checked at once: what cannot be run is refused before the
    first has begun. With an `Idempotency-Key` the same key answers the first result."""

    def create() -> dict[str, Any]:
        return _told(session, service.create(session, who.workspace_id, who.user_id, body))

    return idempotent(request, session, who, body.model_dump_json(), create)


@router.get("/chains", response_model=Page[ChainOut])
def list_chains(
    who: Reader,
    session: ReadSession,
    limit: Limit = 50,
    after: After = None,
    q: Annotated[str | None, Query(max_length=200, description="Only those with this in their name.")] = None,
) -> Any:
    """Chains of the workspace, newest first."""
    found = service.list_chains(session, who.workspace_id, limit=limit + 1, after=after, q=q)
    return paged(service.told(session, found), limit, lambda item: str(item["id"]))


@router.get("/chains/{chain_id}", response_model=ChainOut)
def get_chain(who: Reader, session: ReadSession, chain_id: str) -> Any:
    """One chain with its steps, as it stands now."""
    return _told(session, service.get(session, who.workspace_id, chain_id))


@router.delete("/chains/{chain_id}", status_code=204)
def delete_chain(who: Writer, session: WriteSession, chain_id: str) -> Response:
    """Remove a chain that is over; its runs and what they made stay."""
    service.delete(session, who.workspace_id, chain_id)
    return Response(status_code=204)


@router.post("/chains/{chain_id}/cancel", response_model=ChainOut)
def cancel_chain(who: Writer, session: WriteSession, chain_id: str) -> Any:
    """Stop a chain for good, and the run it is at."""
    return _told(session, service.cancel(session, who.workspace_id, chain_id))


@router.post("/chains/{chain_id}/continue", response_model=ChainOut)
def continue_chain(who: Writer, session: WriteSession, chain_id: str, body: ChainContinue | None = None) -> Any:
    """Have a paused chain go on: resume the run it stopped at, or try again to start the next. With `step`, start the step it stopped at
    anew, with other settings."""
    return _told(session, service.go_on(session, who.workspace_id, who.user_id, chain_id, body.step if body else None))
