"""The model zoo."""

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from r2d2.cli.common import Json, answer, zoo_app
from r2d2.console import command
from r2d2.errors import InputError

Model = Annotated[str, typer.Argument(help="name@alias or name/version.")]
Alias = Annotated[str, typer.Option("--to", help="The alias.")]
Data = Annotated[Path | None, typer.Option("--data", help="A folder of annotated scans (the first model's own data).")]


@zoo_app.command("list")
def zoo_list(as_json: Json = False) -> None:
    """Every version of every registered model."""
    from r2d2.tracking import queries

    versions = queries.list_models()
    if as_json:
        answer(versions)
        return
    if not versions:
        print(f"No models yet. Next: {command()} demo")
        return
    lines: list[tuple[str, ...]] = [("model", "aliases", "Dice (95 % interval)", "task", "modality", "classes")]
    for version in versions:
        dice = "not tested"
        if version.dice is not None:
            known = version.dice_low is not None and version.dice_high is not None
            dice = f"{version.dice:.3f}" + (f" ({version.dice_low:.3f} to {version.dice_high:.3f})" if known else "")
        aliases = " ".join(f"@{alias}" for alias in version.aliases)
        about = (textwrap.shorten(text, 32) for text in (version.task, version.modality, version.classes))
        lines.append((version.reference, aliases, dice, *about))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


@zoo_app.command()
def show(model: Model, as_json: Json = False) -> None:
    """A model's card, and who was promoted and why."""
    from r2d2.engine.zoo import show as run

    found = run(model)
    if as_json:
        answer(found)
        return
    if found.changed:
        print(f"Warning: {found.changed}\n")
    print(found.text)
    print(f"{found.model}: {' '.join(f'@{alias}' for alias in found.aliases) or 'no alias'}")
    for alias, events in found.history.items():
        for event in events:
            reason = f" ({event['reason']})" if event["reason"] else ""
            print(f"@{alias}: {event['did']}, now version {event['version']}, {event['at']} {event['by']}{reason}")
    for alias, judged in found.judgements.items():
        print(f"Last judgement for @{alias}: {judged['verdict']}", *judged["reasons"], sep="\n  ")


@zoo_app.command()
def publish(
    source: Annotated[str, typer.Argument(help="A run, or a .keras file with --experiment.")],
    experiment: Annotated[Path | None, typer.Option(help="The experiment that a .keras file was made from.")] = None,
    name: Annotated[str | None, typer.Option(help="In the registry (the experiment's).")] = None,
    as_json: Json = False,
) -> None:
    """Register a run's model, or a .keras file, which is tested first."""
    from r2d2 import config
    from r2d2.engine.zoo import publish as run

    if experiment is not None and not source.endswith(".keras"):
        raise InputError("--experiment is for a .keras file; a run has its own")
    registered = run(source, config.load(experiment) if experiment else None, name)
    _registered(registered, as_json)


@zoo_app.command()
def push(
    package: Annotated[Path, typer.Argument(help="A folder or a zip that `zoo pull` made.")],
    name: Annotated[str | None, typer.Option(help="In the registry (the one on its card).")] = None,
    as_json: Json = False,
) -> None:
    """Register a package from this zoo or another; one whose files were changed is refused."""
    from r2d2.engine.zoo import push as run

    _registered(run(package, name), as_json)


@zoo_app.command()
def pull(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder, or a file .zip.")],
    as_json: Json = False,
) -> None:
    """Take a model away: network, experiment, card, scores and checksums, as a folder or a zip."""
    from r2d2.engine.zoo import pull as run

    made = run(model, output)
    if as_json:
        answer({"model": model, "package": made})
    else:
        print(f"Wrote {made}\nNext: {command()} zoo push {made}")


@zoo_app.command()
def compare(
    first: Model,
    second: Annotated[str, typer.Argument(help="Likewise.")],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Compare two models on the same patients, whom neither was trained or chosen on."""
    from r2d2.engine.compare import compare as run

    found = run(first, second, data)
    if as_json:
        answer(found)
        return
    print(f"{found.about}\n")
    width = max(12, *(len(row["patient"]) for row in found.rows))
    print(f"{'Dice':<{width}}  {first:>20}  {second:>20}")
    for row in found.rows:
        one, two = ("none" if value is None else f"{value:.3f}" for value in row["dice"])
        print(f"{row['patient']:<{width}}  {one:>20}  {two:>20}")
    print()
    for name, compared in found.comparisons.items():
        print(
            f"{name}: {first} less {second} {compared.difference:+.4f} ({compared.low:+.4f} to {compared.high:+.4f}), "
            f"n = {compared.n}, Wilcoxon p = {compared.p:.3g}"
        )


@zoo_app.command()
def promote(
    name: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[int, typer.Argument(min=1, help="The candidate's version.")],
    alias: Alias = "champion",
    data: Data = None,
    force: Annotated[bool, typer.Option("--force", help="Whatever the gate says; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="Why; it goes onto the record.")] = "",
    as_json: Json = False,
) -> None:
    """Give a version an alias, if it is as good as today's holder on patients whom neither has seen."""
    from r2d2.engine.promote import promote as run

    made = run(name, version, alias, data, force, reason)
    if as_json:
        answer(made)
        return
    told = made.evidence.get("comparison")
    if told:
        print(f"Dice less {made.before}'s: {told['difference']:+.4f} ({told['low']:+.4f} to {told['high']:+.4f})")
    for refusal in made.evidence["reasons"]:
        print(f"Forced, against: {refusal}")
    print(f"{made.model} is @{made.alias} now" + (f", before it {made.before}" if made.before else ""))
    print(f"Evidence: {made.file}")


@zoo_app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The model.")],
    alias: Alias = "champion",
    reason: Annotated[str, typer.Option(help="Why; it goes onto the record.")] = "",
    as_json: Json = False,
) -> None:
    """Give an alias back to its previous holder."""
    from r2d2.engine.promote import roll_back

    made = roll_back(name, alias, reason)
    if as_json:
        answer(made)
    else:
        before = f", {made['before']} no longer" if made["before"] else ""
        print(f"{made['model']} is @{made['alias']} again{before}")


def _registered(model: str, as_json: bool) -> None:
    if as_json:
        answer({"model": model})
    else:
        print(f"Registered {model} (alias candidate)\nNext: {command()} zoo show {model}")
