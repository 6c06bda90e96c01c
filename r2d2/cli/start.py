"""First steps: the version, the demo, the doctor."""

from pathlib import Path
from typing import Annotated

import typer

from r2d2 import __version__
from r2d2.cli.common import Json, answer, app


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())
    else:
        return
    raise typer.Exit


@app.command()
def demo(
    folder: Annotated[Path | None, typer.Option(help="Where pictures and masks go (R2D2_HOME/demo).")] = None,
    workers: Annotated[int, typer.Option(help="Workers in the ring.")] = 2,
    as_json: Json = False,
) -> None:
    """The whole street on real anatomy, on this machine, in about two minutes."""
    from r2d2.engine.demo import demo as run

    result = run(folder, workers)
    answer(result) if as_json else print(result.text)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is installed, built and reachable, and what to do about the rest."""
    from r2d2.engine.doctor import doctor as run

    checks = run()
    if as_json:
        answer(checks)
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = "ok  " if check.ok else "MISS" if check.required else "-   "
            print(f"{mark}  {check.name:<{width}}  {check.found}")
            if check.remedy:
                print(f"      {'':<{width}}  -> {check.remedy}")
    if not all(check.ok or not check.required for check in checks):
        raise typer.Exit(1)
