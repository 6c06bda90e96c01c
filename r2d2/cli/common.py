"""What the commands share: the programs they belong to, options that many have, answers for people and programs."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="From raw scans to an evaluated, registered segmentation model.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Datasets: fetch, check, prepare, make virtual ones.")
jobs_app = typer.Typer(help="Jobs of a Ray cluster.")
runs_app = typer.Typer(help="Training runs.")
zoo_app = typer.Typer(help="The model zoo.")
app.add_typer(data_app, name="data")
app.add_typer(jobs_app, name="jobs")
app.add_typer(runs_app, name="runs")
app.add_typer(zoo_app, name="zoo")

Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON document on standard output.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")]


def answer(value: Any) -> None:
    """Whatever the engine returns, as one JSON document on standard output."""
    print(json.dumps(_plain(value), indent=1))


def _plain(value: Any) -> Any:
    """Whatever the engine returns, in JSON's terms."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
