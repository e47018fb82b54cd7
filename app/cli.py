"""The command `luthier`: names every command and turns a refusal into one sentence. Does none of the work itself."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from app.commands import chains, chat, checkpoints, completion, datasets, doctor, login, orders, people
from app.errors import ConfigError, Conflict, Forbidden, Invalid, NotFound, StudioError, Unauthorized, Unavailable

app = typer.Typer(
    name="luthier",
    help="A self-hosted fine-tuning studio: bring data, pick a model and a method, watch the curve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(orders.commands, name="run")  # those of `runs`, and its own
app.add_typer(chains.commands, name="chain")
app.add_typer(datasets.commands, name="dataset")
app.add_typer(checkpoints.commands, name="checkpoint")
app.add_typer(people.tokens, name="token")
app.add_typer(people.users, name="user")
app.command("login")(login.login)
app.command("logout")(login.logout)
app.command("studios")(login.list_studios)
app.command("chat")(chat.command)
app.command("completion")(completion.command)
app.command("doctor")(doctor.command)

OK, FAILED, USAGE, AWAY, REFUSED = range(5)
"""Exit codes: done; what was asked for failed; a mistake in the command or a setting; no studio there; the studio says no."""


def _version(asked: bool) -> None:
    if asked:
        from app import __version__

        print(f"luthier {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    studio: Annotated[
        str | None, typer.Option("--studio", metavar="NAME", help="Studio to speak to, as named by `luthier login`; may stand anywhere.")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False,
) -> None:
    if studio is not None:
        os.environ["LUTHIER_STUDIO"] = studio


@app.command()
def up() -> None:
    """Start web server and worker on this machine, until Ctrl-C."""
    from app.commands import supervise

    raise typer.Exit(supervise.up(sample=False))


@app.command()
def demo() -> None:
    """The same, and fine-tune a small model once as a sample."""
    from app.commands import supervise

    raise typer.Exit(supervise.up(sample=True))


@app.command()
def web() -> None:
    """Run the web server alone."""
    from app.commands import serve

    serve.web()


@app.command()
def worker() -> None:
    """Run one worker: it imports, counts and trains."""
    from app.commands import serve

    serve.worker()


@app.command()
def migrate(
    down: Annotated[str | None, typer.Option(metavar="REVISION", help="Go back to this revision; `base` empties the database.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the database is up to date; exit code 1 when it is not.")
    ] = False,
) -> None:
    """Bring the database to this version's tables."""
    from app import migrations
    from app.settings import get_settings

    if down is not None and check:
        raise ConfigError("Give either --down or --check.")
    settings = get_settings()
    if check:
        try:
            migrations.check(settings)
        except ConfigError as error:
            print(error.message, file=sys.stderr)
            raise typer.Exit(FAILED) from None
    elif down is not None:
        migrations.downgrade(settings, down)
    else:
        migrations.upgrade(settings)
    print(f"The database is at revision {migrations.current(settings) or 'base (empty)'}.")


@app.command()
def settings(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print every setting, its value and its source."""
    from app.commands import configuration

    configuration.show(as_json=as_json)


def _refusal(error: Exception) -> str | None:
    """What an error means to the user, in one sentence; None when it is a fault of ours."""
    if isinstance(error, StudioError):
        return error.message
    if "sqlalchemy" in sys.modules:
        from sqlalchemy.exc import DBAPIError

        if isinstance(error, DBAPIError):
            from app.answers import as_studio_error

            known = as_studio_error(error)
            reason = (str(error.orig).strip() or "no answer").splitlines()[0]
            return known.message if known else f"The database cannot be used: {reason}. Check LUTHIER_DATABASE_URL."
    if isinstance(error, OSError) and error.filename is not None:
        why = (error.strerror or str(error)).lower()
        return f"{error.filename} cannot be used: {why}. Check LUTHIER_HOME, the permissions and the room on the disk."
    return None


def _code(error: Exception) -> int:
    """Exit code for an error that is not a fault of ours."""
    if isinstance(error, Unavailable) or getattr(error, "status", 0) in (502, 503, 504):
        return AWAY
    if "app.commands.client" in sys.modules:
        from app.commands.client import Refused

        if isinstance(error, Refused):
            return REFUSED
    if isinstance(error, Invalid | ConfigError):
        return USAGE
    return REFUSED if isinstance(error, NotFound | Conflict | Forbidden | Unauthorized) else FAILED


def _studio_first(arguments: list[str]) -> list[str]:
    """The arguments with `--studio NAME`, wherever it stands, before the command."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for place in range(end):
        if arguments[place] == "--studio" and place + 1 < end:
            return [*arguments[place : place + 2], *arguments[:place], *arguments[place + 2 :]]
        if arguments[place].startswith("--studio="):
            return [arguments[place], *arguments[:place], *arguments[place + 1 :]]
    return arguments


def main() -> None:
    """Run a command. One sentence and an exit code when it is refused, 130 after Ctrl-C."""
    sys.argv[1:] = _studio_first(sys.argv[1:])
    if completion.VARIABLE in os.environ:
        completion.prepare()
    try:
        app(prog_name="luthier")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(FAILED)
    except Exception as error:
        words = _refusal(error)
        if words is None:
            raise
        print(words, file=sys.stderr)
        sys.exit(_code(error))


if __name__ == "__main__":
    main()
