"""Services of this machine: a Ray head, an MLflow server, the dashboard."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from r2d2.cli.common import Json, answer, app
from r2d2.console import command

ReadOnly = Annotated[bool, typer.Option("--read-only", help="The dashboard shows, and lets nobody act.")]
Header = Annotated[
    str | None, typer.Option(metavar="NAME", help="A header in which a proxy tells the dashboard who is there.")
]
Proxy = Annotated[str | None, typer.Option(metavar="ADDRESS", help="That proxy's address, or its network.")]
Port = Annotated[int | None, typer.Option(min=1024, max=65535, show_default=False)]


@app.command()
def up(
    host: Annotated[
        str | None, typer.Option(help="Listen on this address (127.0.0.1); on another one, passwords are asked for.")
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="CPUs to declare to Ray (the cores there are).")] = None,
    backend_store: Annotated[str | None, typer.Option(help="Runs go to this database: postgresql://...")] = None,
    artifacts: Annotated[str | None, typer.Option(help="Their files go there: a folder, or s3://BUCKET/...")] = None,
    ray_port: Port = None,
    ray_page_port: Port = None,
    mlflow_port: Port = None,
    dashboard_port: Port = None,
    read_only: ReadOnly = False,
    user_header: Header = None,
    proxy: Proxy = None,
    as_json: Json = False,
) -> None:
    """Start a Ray head, an MLflow server and the dashboard; whatever runs already stays as it is."""
    from r2d2.engine import services

    ports: dict[str, Any] = {
        "ray": ray_port,
        "ray_page": ray_page_port,
        "mlflow": mlflow_port,
        "dashboard": dashboard_port,
    }
    asked = services.Settings(host=host, slots=slots, backend_store=backend_store, artifacts=artifacts)
    asked = replace(asked, read_only=read_only or None, user_header=user_header, proxy=proxy)
    rows = services.up(replace(asked, **ports))
    if as_json:
        answer(rows)
        return
    _show(rows)
    for file, variables in services.access().items():
        print(f"Commands in this R2D2_HOME are let in; others set {', '.join(variables)} (in {file})")
    if host not in (None, "127.0.0.1", "localhost"):
        print("Ray listens on all addresses; the dashboard on 127.0.0.1 alone, unless it has a login (infra/README.md)")
    print(f"Runs now go there, and stay when it ends. Next: {command()} train FILE; {command()} down")


@app.command()
def down(
    force: Annotated[bool, typer.Option("--force", help="Also while programs use the cluster.")] = False,
    as_json: Json = False,
) -> None:
    """End what `up` started, and nothing else."""
    from r2d2.engine.services import down as run

    ended = run(force)
    if as_json:
        answer(ended)
    else:
        print(f"Ended {', '.join(ended)}" if ended else "Nothing to end: no services of this R2D2_HOME")


@app.command()
def status(as_json: Json = False) -> None:
    """The services: whether they run, where, since when; exit code 1 if one that should run does not."""
    from r2d2.engine.services import status as run

    rows = run()
    if as_json:
        answer(rows)
    elif rows:
        _show(rows)
    else:
        print(f"No services of this R2D2_HOME. Next: {command()} up")
    if any(row.state not in ("running", "elsewhere") for row in rows):
        raise typer.Exit(1)


@app.command()
def dashboard(
    host: Annotated[str | None, typer.Option(help="Listen on this address (127.0.0.1); others need a login.")] = None,
    port: Port = None,
    read_only: ReadOnly = False,
    user_header: Header = None,
    proxy: Proxy = None,
) -> None:
    """Where the dashboard is; without `up`, serve it until Ctrl-C."""
    from r2d2.engine import services

    asked = services.Settings(
        host=host, dashboard=port, read_only=read_only or None, user_header=user_header, proxy=proxy
    )
    print(f"The dashboard is at {services.dashboard(asked)}")


def _show(rows: list[Any]) -> None:
    for row in rows:
        page = f"  page {row.page}" if row.page != row.address else ""
        about = f"  {row.about}" if row.about else ""
        print(f"{row.name:<10} {row.state:<14} {row.address:<24} process {row.pid:<8} since {row.since}{page}{about}")
