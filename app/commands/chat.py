"""`luthier chat`: ask a checkpoint of a studio and see its answer as it comes, over REST."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from app.commands import output
from app.errors import Invalid, StudioError


def command(
    checkpoint: Annotated[str, typer.Argument(help="Name of the checkpoint, its id, or the beginning of that.")],
    question: Annotated[str, typer.Argument(help="What to ask; `-` reads it from standard input.")],
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.", min=0.0, max=2.0)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Where the answer is cut off.", min=1, max=8192)] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.", min=0)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask a checkpoint one question."""
    from app.commands.client import Studio

    asked = sys.stdin.read() if question == "-" else question
    if not asked.strip():
        raise Invalid("There is no question.", field="question")
    studio = Studio()
    found = studio.find("checkpoints", checkpoint)
    messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": asked}]
    sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
    body: dict[str, Any] = {
        "checkpoints": [found["id"]],
        "messages": messages,
        "sampling": {name: value for name, value in sampling.items() if value is not None},
        "stream": False,
    }
    chat = studio.post("/chats", body, timeout=None)
    if as_json:
        output.as_json(chat)
    (answer,) = chat["turns"][-1]["answers"]
    if answer["status"] == "failed":
        raise StudioError(f"There is no answer: {answer['reason'] or 'the reason is not known'}")
    if not as_json:
        print("".join(character if character.isprintable() or character in "\n\t" else "�" for character in answer["text"] or ""))
