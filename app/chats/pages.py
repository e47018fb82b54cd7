"""The playground: conversations with one to three checkpoints, streamed; and the forms that steer them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Form, Query, Request, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.chats import keep, service, views
from app.chats.schemas import ChatCreate, Sampling
from app.chats.tables import Chat
from app.errors import Invalid, StudioError
from app.web import Reader, ReadSession, Writer, WriteSession, hx_redirect, is_partial, page, pages_router, see_other, templates
from app.words import plain_words

router = pages_router()

LISTED = 30
Id = Annotated[str, Query(max_length=60)]


def _settings(
    checkpoint: Annotated[str, Form(max_length=60)] = "",
    other: Annotated[str, Form(alias="with", max_length=60)] = "",
    also: Annotated[str, Form(max_length=60)] = "",
    system: Annotated[str, Form(max_length=40_000)] = "",
    temperature: Annotated[str, Form(max_length=40)] = "",
    top_p: Annotated[str, Form(max_length=40)] = "",
    max_new_tokens: Annotated[str, Form(max_length=40)] = "",
    seed: Annotated[str, Form(max_length=40)] = "",
) -> dict[str, Any]:
    return views.read_settings(
        {
            "checkpoint": checkpoint,
            "with": other,
            "also": also,
            "system": system,
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
        }
    )


Chosen = Annotated[dict[str, Any], Depends(_settings, scope="function")]
Said = Annotated[str, Form(max_length=200_000)]


# --- pages ----------------------------------------------------------------------------------------------------------------


@router.get("/playground")
def new_chat(
    request: Request, who: Reader, session: ReadSession, checkpoint: Id = "", other: Annotated[Id, Query(alias="with")] = "", also: Id = ""
) -> Response:
    """An empty conversation; `?checkpoint=`, `?with=` and `?also=` choose whom to ask."""
    return _show(request, who, session, None, [checkpoint, other, also])


@router.get("/playground/{chat_id}")
def show_chat(
    request: Request,
    who: Reader,
    session: ReadSession,
    chat_id: str,
    checkpoint: Id = "",
    other: Annotated[Id, Query(alias="with")] = "",
    also: Id = "",
) -> Response:
    """A conversation, live."""
    chat = service.get(session, who.workspace_id, chat_id)
    asked = [checkpoint, other, also] if checkpoint or not chat.checkpoints else [*chat.checkpoints, "", ""][:3]
    return _show(request, who, session, chat, asked)


def _show(request: Request, who: Principal, session: Session, chat: Chat | None, chosen: list[str]) -> Response:
    found = service.askable(session, who.workspace_id)
    known = {each.id: each for each in found}
    for asked in chosen:  # one beyond the newest, or one that cannot be used, which the page then says
        if asked and asked not in known:
            try:
                known[asked] = service.pick(session, who.workspace_id, [asked])[0]
                found.append(known[asked])
            except StudioError:
                continue
    sampling = Sampling.model_validate(chat.sampling) if chat and chat.sampling else Sampling()
    dataset, starters = views.starters(session, who.workspace_id) if chat is None and found else ("", [])
    mine = service.list_chats(session, who.workspace_id, limit=LISTED, user_id=who.user_id, source="playground")
    turns = views.turns(session, chat) if chat else []
    return page(
        request,
        "chats/playground.html",
        who,
        chat=chat,
        turns=turns,
        choices=views.choices(found),
        chosen=chosen[0] if chosen[0] in known else (found[0].id if found and not chosen[0] else ""),
        other=chosen[1] if chosen[1] in known else "",
        also=chosen[2] if chosen[2] in known else "",
        missing=next((each for each in chosen if each and each not in known), None),
        sampling=sampling,
        starters=starters,
        dataset=dataset,
        chats=mine,
        problem=service.no_worker(session) if found else None,
        may_write=who.role in ("admin", "engineer"),
        **_targets(session, who.workspace_id, turns),
    )


def _targets(session: Session, workspace_id: str, turns: list[views.TurnView]) -> dict[str, Any]:
    pairs = any(len(turn.answers) == 2 for turn in turns)
    return {
        "examples": keep.targets(session, workspace_id, keep.EXAMPLE) if turns else [],
        "pairs": keep.targets(session, workspace_id, keep.PAIR) if pairs else [],
    }


# --- what is sent ---------------------------------------------------------------------------------------------------------


@router.post("/playground")
def begin(request: Request, who: Writer, session: WriteSession, chosen: Chosen, text: Said = "") -> Response:
    """Start a conversation with its first message."""
    text = text.replace("\r\n", "\n").replace("\x00", "").strip()
    if not text:
        raise Invalid("Write a message first.", field="text")
    messages = [{"role": "system", "content": chosen["system"]}] if chosen["system"] else []
    try:
        asked = ChatCreate(
            checkpoints=chosen["checkpoints"], messages=[*messages, {"role": "user", "content": text}], sampling=chosen["sampling"]
        )
    except ValidationError as error:
        raise Invalid(plain_words(error.errors()[0]), field="text") from None
    chat = service.create(session, who.workspace_id, who.user_id, asked, source="playground")
    return hx_redirect(request, f"/playground/{chat.id}")


@router.post("/playground/{chat_id}/messages")
def send(request: Request, who: Writer, session: WriteSession, chat_id: str, chosen: Chosen, text: Said = "") -> Response:
    """Write on."""
    return _steer(request, who, session, chat_id, lambda chat: service.go_on(session, chat, who.user_id, text, chosen))


@router.post("/playground/{chat_id}/retry")
def retry(request: Request, who: Writer, session: WriteSession, chat_id: str, chosen: Chosen) -> Response:
    """Have the last message answered anew, with the settings as they are now."""
    return _steer(request, who, session, chat_id, lambda chat: service.ask_again(session, chat, who.user_id, chosen))


@router.post("/playground/{chat_id}/edit")
def edit(request: Request, who: Writer, session: WriteSession, chat_id: str, chosen: Chosen, said: Said = "") -> Response:
    """Change the last message and have it answered anew."""
    return _steer(request, who, session, chat_id, lambda chat: service.ask_again(session, chat, who.user_id, chosen, said))


@router.post("/playground/{chat_id}/stop")
def stop(request: Request, who: Writer, session: WriteSession, chat_id: str) -> Response:
    """Stop the answers that are being given."""
    return _steer(request, who, session, chat_id, lambda chat: service.stop(session, who.workspace_id, chat.id))


@router.post("/playground/{chat_id}/delete")
def delete(request: Request, who: Writer, session: WriteSession, chat_id: str) -> Response:
    """Delete the conversation."""
    service.delete(session, who.workspace_id, chat_id)
    return hx_redirect(request, "/playground")


@router.post("/playground/{chat_id}/keep")
def keep_answer(
    request: Request,
    who: Writer,
    session: WriteSession,
    chat_id: str,
    better: Annotated[str, Form(max_length=60)],
    worse: Annotated[str, Form(max_length=60)] = "",
    dataset: Annotated[str, Form(max_length=60)] = "",
    name: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Add an answer to a dataset: as an example, or as the better one of a pair."""
    chat = service.get(session, who.workspace_id, chat_id)
    made = keep.keep(session, who.workspace_id, who.user_id, chat.id, better=better, worse=worse or None, dataset_id=dataset, name=name)
    if is_partial(request):
        return page(request, "chats/_kept.html", who, made=made)
    return see_other(f"/datasets/{made.id}")


def _steer(request: Request, who: Principal, session: Session, chat_id: str, change: Callable[[Chat], Any]) -> Response:
    chat = service.get(session, who.workspace_id, chat_id)
    change(chat)
    session.flush()
    if not is_partial(request):
        return see_other(f"/playground/{chat.id}")
    turns = views.turns(session, chat)
    return page(request, "chats/_answered.html", who, chat=chat, turns=turns, may_write=True, **_targets(session, who.workspace_id, turns))


def live_fragment(session: Session, chat_id: str, whole: bool = False) -> str:
    """The turn that is going on, or the whole conversation, for whoever watches the chat."""
    chat = session.get(Chat, chat_id)
    if chat is None:
        return ""
    turns = views.turns(session, chat)
    return (
        templates()
        .get_template("chats/_live.html")
        .render(chat=chat, turns=turns, whole=whole, **_targets(session, chat.workspace_id, turns))
    )
