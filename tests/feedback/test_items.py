"""Items: what is taken in, what is filtered and why, looked at and taken out."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from app.errors import Invalid, NotFound
from app.feedback import filters, service
from app.feedback.schemas import ItemIn, ResponseIn
from app.feedback.tables import Item, Response, Slot
from tests.conftest import Stack
from tests.feedback.factories import add_project, add_rater, claim, pair


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ({"text": "The same  text."}, {"text": "The same text."}, "identical"),
        ({"text": "One."}, {"text": " "}, "empty"),
        ({"text": "One.", "finish": "length"}, {"text": "Two."}, "cut"),
        ({"text": "One and ▌"}, {"text": "Two."}, "cut"),
        ({"text": "One.", "finish": "error"}, {"text": "Two."}, "error"),
        ({"text": "Internal Server Error"}, {"text": "Two."}, "error"),
        ({"text": "As a large language model trained by OpenAI, no."}, {"text": "Two."}, "leak"),
        ({"text": "I am Claude, made by Anthropic."}, {"text": "Two."}, "leak"),
        ({"text": "Ask smol-135m about it.", "source": "smol-135m"}, {"text": "Two."}, "leak"),
        ({"text": "Claude Monet painted it."}, {"text": "A llama lives in the Andes."}, None),
        ({"text": "I am sure."}, {"text": "Error bars are shown."}, None),
        ({"text": "A human did it.", "source": "human"}, {"text": "Two."}, None),
    ],
)
def test_items_nobody_should_rate_are_filtered(first: dict[str, Any], second: dict[str, Any], why: str | None) -> None:
    assert filters.reason_against("Why?", [ResponseIn.model_validate(first), ResponseIn.model_validate(second)]) == why


def test_filtered_items_are_kept_and_counted_and_not_asked_about(stack: Stack) -> None:
    same = ItemIn.model_validate({"prompt": "p", "responses": [{"text": "x"}, {"text": "x"}]})
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 0)
        added = service.add_items(session, project, iter([pair(1), same, pair(2, gold={"preference": 1})]))
        assert (added.count, added.filtered) == (3, {"identical": 1})
        assert (project.items, project.filtered, project.slots) == (1, 1, 1)
        service.recount(session, project)
        assert (project.items, project.filtered, project.slots) == (1, 1, 1)
        assert [item.reason for item in service.page_items(session, project, status="filtered")] == ["identical"]
        filtered = service.page_items(session, project, status="filtered")[0]
        service.reopen_item(session, project, filtered.id, 1)
        assert (project.items, project.filtered, project.slots) == (2, 0, 2)


@pytest.mark.parametrize(
    ("kind", "item", "field"),
    [
        ("pair", {"prompt": "p", "responses": [{"text": "a"}]}, "items.1.responses"),
        ("single", {"prompt": "p", "responses": [{"text": "a"}, {"text": "b"}]}, "items.1.responses"),
        ("rank", {"prompt": "p", "responses": [{"text": "a"}]}, "items.1.responses"),
        ("pair", {"prompt": " ", "responses": [{"text": "a"}, {"text": "b"}]}, "items.1.prompt"),
        ("pair", {"prompt": [], "responses": [{"text": "a"}, {"text": "b"}]}, "items.1.prompt"),
        ("pair", {"prompt": [{"role": "king", "content": "x"}], "responses": [{"text": "a"}, {"text": "b"}]}, "items.1.prompt[0].role"),
        ("pair", {"prompt": [{"role": "assistant", "content": "x"}], "responses": [{"text": "a"}, {"text": "b"}]}, "items.1.prompt"),
        ("pair", {"prompt": "p", "responses": [{"text": "a"}, {"text": "b"}], "gold": {"score": 1}}, "items.1.gold.preference"),
        ("pair", {"prompt": "p", "responses": [{"text": "a"}, {"text": "b"}], "practice": True}, "items.1.gold"),
        ("rank", {"prompt": "p", "responses": [{"text": "a"}, {"text": "b"}], "gold": {"best": 2}}, "items.1.gold.best"),
        ("pair", {"prompt": "p", "responses": [{"text": "a", "checkpoint": "ckp_none"}, {"text": "b"}]}, "items.1.responses.0.checkpoint"),
    ],
)
def test_bad_items_name_their_field_and_leave_nothing(stack: Stack, kind: str, item: dict[str, Any], field: str) -> None:
    good = {"pair": 2, "single": 1, "rank": 3}[kind]
    first = ItemIn.model_validate({"prompt": "ok", "responses": [{"text": f"a{number}"} for number in range(good)]})
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 0, kind=kind)
    with pytest.raises(Invalid) as raised, stack.database.write() as session:
        service.add_items(session, session.merge(project), [first, ItemIn.model_validate(item)])
    assert raised.value.field == field
    with stack.database.read() as session:
        assert [session.scalar(select(func.count()).select_from(table)) for table in (Item, Response, Slot)] == [0, 0, 0]


@pytest.mark.parametrize(
    "text", ["مرحبا بالعالم", "🎉👩‍👩‍👧", "a\x00b\ud800c", "| a | b |\n|---|---|", "<script>alert(1)</script>", "x" * 1_000_000]
)
def test_any_text_is_kept(stack: Stack, text: str) -> None:
    item = ItemIn.model_construct(
        prompt=text, responses=[ResponseIn.model_construct(**{**ResponseIn(text="").__dict__, "text": text + end}) for end in ("1", "2")],
        gold=None, practice=False, preference=None,
    )  # fmt: skip
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, [item])
        task = claim(session, project, add_rater(session, project))
        assert sorted(response.text[-1] for response in task.responses) == ["1", "2"]
        assert task.prompt[0]["content"] == text.replace("\x00", "").replace("\ud800", "?")


def test_items_are_listed_in_pieces_and_found_by_their_prompt(stack: Stack) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, [*(pair(number) for number in range(7)), pair(8, prompt="Größe 100 %_?")])
        found, after = [], None
        while piece := service.page_items(session, project, after, 3):
            found += piece
            after = piece[-1].id
        assert [item.prompt[0]["content"] for item in found] == [*(f"Question {number}?" for number in range(7)), "Größe 100 %_?"]
        assert [item.prompt[0]["content"] for item in service.page_items(session, project, q="größe 100 %_")] == ["Größe 100 %_?"]
        assert service.page_items(session, project, q="question 1%") == []
        assert len(service.page_items(session, project, q="QUESTION")) == 7
        with pytest.raises(NotFound):
            service.get_item(session, project, "itm_none")


def test_no_id_tells_gold_from_the_rest_nor_the_first_answer_from_the_second(stack: Stack) -> None:
    """Gold that is added later would stand out by ids that are counted up, or begin with the time."""
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 300)
    with stack.database.write() as session:
        service.add_items(session, session.merge(project), [pair(1000 + number, gold={"preference": 1}) for number in range(30)])
        golden = set(session.scalars(select(Item.id).where(Item.role == "gold")))
        rows = session.execute(select(Response.item_id, Response.id, Response.place)).all()
    items = sorted({row.item_id for row in rows})
    answers = [row.item_id for row in sorted(rows, key=lambda row: row.id)]
    for ids, many in ((items, 30), (answers, 60)):
        places = [place for place, item_id in enumerate(ids) if item_id in golden]
        spread = ((len(ids) - many) * (len(ids) + 1) / 12 / many) ** 0.5
        assert len(places) == many and abs(sum(places) / many - (len(ids) - 1) / 2) < 5 * spread, (
            "chance gives more once in a million times"
        )
    firsts = {row.item_id: row.id for row in rows if row.place == 0}
    sooner = sum(firsts[row.item_id] < row.id for row in rows if row.place == 1)
    assert abs(sooner - 165) < 5 * (330 / 4) ** 0.5
