"""Work on a Ray cluster: submit it, look at it, stop it."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from r2d2.cli.common import Json, answer, app, jobs_app
from r2d2.console import command
from r2d2.errors import InputError

if TYPE_CHECKING:
    from r2d2.engine.jobs import JobRow

Address = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The cluster's page (RAY_API_SERVER_ADDRESS, RAY_ADDRESS or that of `r2d2 up`)."),
]
Job = Annotated[str, typer.Argument(help="A job's id.")]


@app.command(context_settings={"allow_interspersed_args": False})
def submit(
    words: Annotated[list[str], typer.Argument(metavar="-- train FILE [KEY=VALUE]...", help="A command of R2D2's.")],
    wait: Annotated[bool, typer.Option("--wait", help="Follow it, and end as it ends.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="cluster.workers=N")] = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Submit a command to a Ray cluster: its log, its run, where to look; the exit code of a job that is waited for."""
    from r2d2.engine.jobs import logs
    from r2d2.engine.jobs import submit as run

    row = run(words[1:] if words[:1] == ["--"] else words, wait, workers, address, _err)
    if row.exit_code and not wait:
        logs(row.job, False, _err, address)
    if as_json:
        answer(row)
    elif row.status == "RUNNING" or row.status == "PENDING":
        if row.waits:
            print(f"It waits for slots: {row.waits}")
        if row.run_id is None:
            print(f"Its run is not there yet; {command()} jobs list shows it once the data are prepared")
        print(f"Next: {command()} jobs logs {row.job} --follow; {command()} jobs stop {row.job}")
    else:
        print(f"Job {row.job}: {_ended(row)}")
    if row.exit_code == 127:
        raise InputError(f"job {row.job}: the cluster's nodes have no r2d2; install it on each of them")
    if row.status in ("FAILED", "STOPPED"):
        raise typer.Exit(row.exit_code if row.exit_code in (1, 2) else 1)


@jobs_app.command("list")
def jobs_list(address: Address = None, as_json: Json = False) -> None:
    """The jobs of a cluster, the latest first: their runs, and what they wait for."""
    from r2d2.engine.jobs import jobs

    rows = jobs(address)
    if as_json:
        answer(rows)
        return
    if not rows:
        print(f"No jobs yet. Next: {command()} submit -- train FILE")
    for row in rows:
        run = f"  run {row.run_id}" if row.run_id else ""
        reason = f", {row.reason}" if row.reason else ""
        print(f"{row.job}  {row.outcome:<9}  {row.started}  {row.what}{run}{reason}")
        if row.waits:
            print(f"    waits for slots: {row.waits}")


@jobs_app.command("logs")
def jobs_logs(
    job: Job,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it is over.")] = False,
    address: Address = None,
) -> None:
    """What a job has printed."""
    from r2d2.engine.jobs import logs

    logs(job, follow, lambda text: print(text, end="", flush=True), address)


@jobs_app.command("stop")
def jobs_stop(job: Job, address: Address = None, as_json: Json = False) -> None:
    """Stop a job: its run leaves well, with a checkpoint, evaluated as it is; if it does not, Ray stops it."""
    from r2d2.engine.jobs import stop

    row = stop(job, address)
    if as_json:
        answer(row)
    else:
        print(f"Job {row.job}: {_ended(row)}")


def _err(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _ended(row: "JobRow") -> str:
    """How a job ended, in words."""
    return (
        row.outcome.lower() + (f"; run {row.run_id}" if row.run_id else "") + (f", {row.reason}" if row.reason else "")
    )
