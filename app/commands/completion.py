"""`luthier completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

from typing import Annotated

import typer

from app.errors import Invalid

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_LUTHIER_COMPLETE"


def prepare() -> None:
    """Have this process answer what a shell asks while somebody presses Tab."""
    from typer._completion_classes import completion_init

    completion_init()


def command(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print a completion script: eval "$(luthier completion bash)"."""
    if shell not in SHELLS:
        raise Invalid(f"There is no completion for “{shell}”; there is for {', '.join(SHELLS)}.", field="shell")
    from typer._completion_shared import get_completion_script

    print(get_completion_script(prog_name="luthier", complete_var=VARIABLE, shell=shell))
