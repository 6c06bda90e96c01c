"""Training runs."""

from typing import Annotated

import typer

from r2d2.cli.common import Json, answer, runs_app
from r2d2.console import command


@runs_app.command("list")
def runs_list(as_json: Json = False) -> None:
    """The runs, the latest first."""
    from r2d2.tracking import queries

    rows = queries.list_runs()
    if as_json:
        answer(rows)
        return
    if not rows:
        print(f"No runs yet. Next: {command()} demo")
    for row in rows:
        dice = "" if row["test/dice"] is None else f"test dice {row['test/dice']:.3f}"
        print(f"{row['run_id']}  {row['status']:<9} {row['started']}  {row['name']:<32} {dice}")
    if len(rows) == queries.LATEST:
        print(f"(the latest {queries.LATEST})")


@runs_app.command("show")
def runs_show(run: Annotated[str, typer.Argument(help="A run's id or name.")], as_json: Json = False) -> None:
    """One run: its state, its latest metrics, its settings."""
    from r2d2.tracking import queries

    found = queries.show_run(run)
    if as_json:
        answer(found)
        return
    for part in ("run_id", "name", "status", "started"):
        print(f"{part:<24} {found[part]}")
    if found["trials"]:
        print("\ntrials")
    for trial in found["trials"]:
        dice = "" if trial["val/dice"] is None else f"val dice {trial['val/dice']:.3f}"
        print(
            f"  {trial['run_id']}  {trial['status']:<9} {trial['name']:<32} {dice:<15} {trial['reason'] or ''}".rstrip()
        )
    for part in ("tags", "metrics", "params"):
        print(f"\n{part}")
        for key, value in found[part].items():
            print(f"  {key:<34} {value:.6g}" if isinstance(value, float) else f"  {key:<34} {value}")


@runs_app.command("stop")
def runs_stop(
    run: Annotated[str, typer.Argument(help="A run's id or name.")],
    after: Annotated[str, typer.Option(metavar="now|epoch|checkpoint", help="When it leaves.")] = "now",
    reason: Annotated[str, typer.Option(help="Why; it goes onto the run's record.")] = "",
    pause: Annotated[bool, typer.Option("--pause", help="With a checkpoint alone, to go on with later.")] = False,
    as_json: Json = False,
) -> None:
    """Ask a run to leave well: evaluated and registered as it is, or paused; wait until it has."""
    from r2d2.engine.runs import stop

    result = stop(run, after, reason, pause=pause)
    if as_json:
        answer(result)
    else:
        print(f"Run {result['run_id']}: {result['status'].lower()}, {result['reason']}")


@runs_app.command("send")
def runs_send(
    run: Annotated[str | None, typer.Argument(help="A run's id or name (all that have something).")] = None,
    as_json: Json = False,
) -> None:
    """Deliver what runs recorded while their tracking server was away."""
    from r2d2.engine.runs import send

    sent = send(run)
    if as_json:
        answer(sent)
    for one in sent if not as_json else ():
        refused = f", {one['refused']} refused for good" if one["refused"] else ""
        problem = f"; the rest is kept: {one['problem']}" if one["problem"] else ""
        print(f"Run {one['run_id']}: {one['delivered']} records delivered{refused}{problem}")
    if not sent and not as_json:
        print("No run has anything to send")
    if any(one["problem"] for one in sent):
        raise typer.Exit(1)
