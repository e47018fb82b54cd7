"""The command `luthier`: names every command and turns a refusal into one sentence. Does none of the work itself."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from app.commands import checkpoints, datasets, doctor, people, runs
from app.errors import ConfigError, StudioError

app = typer.Typer(
    name="luthier",
    help="A self-hosted fine-tuning studio: bring data, pick a model and a method, watch the curve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(runs.commands, name="run")
app.add_typer(datasets.commands, name="dataset")
app.add_typer(checkpoints.commands, name="checkpoint")
app.add_typer(people.tokens, name="token")
app.add_typer(people.users, name="user")
app.command("doctor")(doctor.command)


def _version(asked: bool) -> None:
    if asked:
        from app import __version__

        print(f"luthier {__version__}")
        raise typer.Exit()


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False) -> None:
    pass


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
        migrations.check(settings)
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


def main() -> None:
    """Run a command. Exit code 1 and one sentence when it is refused, 130 after Ctrl-C."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        words = _refusal(error)
        if words is None:
            raise
        print(words, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
