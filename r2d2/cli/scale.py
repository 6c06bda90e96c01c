"""How an experiment scales."""

from pathlib import Path
from typing import Annotated

import typer

from r2d2.cli.common import Json, Overrides, answer, app
from r2d2.errors import InputError


@app.command()
def scale(
    file: Annotated[Path | None, typer.Argument(help="An experiment file.", show_default=False)] = None,
    overrides: Overrides = None,
    workers: Annotated[str, typer.Option(metavar="1,2,4", help="Numbers of real workers: timed and scored.")] = "",
    virtual: Annotated[str, typer.Option(metavar="6,12,18", help="Numbers of virtual workers: scored.")] = "",
    rules: Annotated[
        str, typer.Option(metavar="linear,sqrt+warm-up,lars:0.5", help="Rules for the rate (the file's recipe).")
    ] = "",
    repeats: Annotated[int, typer.Option(min=1, help="Seeds, from the file's on.")] = 1,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a study that did not finish.")] = None,
    as_json: Json = False,
) -> None:
    """Train an experiment at several numbers of workers; time, efficiency and scores against workers."""
    from r2d2 import config
    from r2d2.engine.scale import scale as run

    if file and "=" in file.name and not file.exists():
        raise InputError(f"{file}: a setting is changed after the experiment file: scale FILE KEY=VALUE")
    study = None
    if file:
        counts = _counts("--workers", workers), _counts("--virtual", virtual)
        if not any(counts):
            raise InputError("scale: give --workers 1,2,4 or --virtual 6,12,18")
        study = config.study(config.load(file, overrides or []), *counts, _words(rules), repeats)
    elif workers or virtual or rules:
        raise InputError("scale: --workers, --virtual and --rules go with an experiment file, not with --resume alone")
    result = run(study, resume)
    if as_json:
        answer(result)
        return
    print((result.report / "table.md").read_text(encoding="utf-8"))
    if result.failed:
        print(f"{result.failed} runs did not come to their end; points.csv says why")
    print(f"Study {result.run_id}: scaling.json, tables and pictures in {result.report}")


def _counts(option: str, text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError:
        raise InputError(f"{option} {text}: whole numbers with commas between them, e.g. 1,2,4") from None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
