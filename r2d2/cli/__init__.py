"""The command line: one short handler a command, heavy imports inside the engine's functions."""

import sys

import typer

from r2d2.cli import data, jobs, models, runs, scale, services, start, zoo  # noqa: F401  (they add their commands to the app)
from r2d2.cli.common import app
from r2d2.errors import InputError, WorkFailed
from r2d2.job import check_client
from r2d2.lean import import_keras_alone

__all__ = ["app", "main"]


def main() -> None:
    """The console script: errors meant for people are one line, exit code 2; failed work is exit code 1."""
    import_keras_alone()
    try:
        check_client()
        code = app(standalone_mode=False)
    except typer.TyperException as error:  # a wrong option or argument
        context = getattr(error, "ctx", None)
        told = " ".join(error.format_message().split())
        _fail(f"{told} ({context.command_path if context else 'r2d2'} --help says more)", 2)
    except InputError as error:
        _fail(error, 2)
    except WorkFailed as error:
        _fail(error, 1)
    if code == 130:  # Ctrl-C, as Typer tells it
        _fail("stopped", 130)
    sys.exit(code)


def _fail(error: object, code: int) -> None:
    print(f"r2d2: {error}", file=sys.stderr)
    sys.exit(code)
