"""The dashboard before 1,000 runs of 100 metrics each, and before 20 viewers of one live run.

    python experiments/benchmarks/dashboard.py             all: eight minutes
    python experiments/benchmarks/dashboard.py --fill DIR  only make the store, as DIR/mlflow.db

A real MLflow server on SQLite, the dashboard as `r2d2 dashboard` starts it, and headless Chromium; the 20 viewers are
bare WebSocket sessions which speak Streamlit's protocol. What goes to MLflow is counted by a proxy in between.
"""

import argparse
import contextlib
import math
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from common import Figure, interval, keep, machine

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from helpers.board import browser
from helpers.processes import end, start, wait_for
from helpers.servers import Counted, answers
from helpers.viewers import Viewer, watch

from r2d2.network import free_port

RUNS, METRICS, EPOCHS = 1_000, 100, 20
NAMES = ("train/loss", "train/learning_rate", "val/dice", "val/dice/grey matter", "val/dice/white matter")
TIMES = ("epoch_s", "input_s", "compute_s", "communication_s", "images_per_s", "validation_s")
VIEWERS, WATCHED_S, TURNS = 20, 60.0, 12
LIMITS_S = {"first page": 2.0, "run page": 2.0, "refresh": 0.3}


def main() -> None:
    """Fill a store, or measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fill", type=Path, metavar="DIR")
    given = parser.parse_args()
    if given.fill:
        fill(given.fill)
        return
    with (
        tempfile.TemporaryDirectory(prefix="r2d2-dashboard-") as folder,
        served(Path(folder)) as (page, proxy, live, of),
    ):
        pages = in_a_browser(page, live)
        with training(proxy.address, live):
            by_viewers = {count: viewed(page, live, count, proxy, of) for count in (1, VIEWERS)}
    report(pages, by_viewers)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, Counted, str, psutil.Process]]:
    """The dashboard's address, the proxy before MLflow, the live run, and the dashboard's process."""
    live, port, page_port = fill(folder), free_port("127.0.0.1"), free_port("127.0.0.1")
    line = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    line += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--uvicorn-opts=--no-access-log"]
    surroundings = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "mlflow.log").open("w") as log:
        server = subprocess.Popen(line, stdout=log, stderr=log, env=surroundings, start_new_session=True)
    proxy = Counted(port)
    dashboard = None
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), 120, server)
        told = {"R2D2_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": proxy.address}
        dashboard = start("dashboard", "--port", page_port, **told)
        page = f"http://127.0.0.1:{page_port}"
        wait_for(lambda: answers(f"{page}/_stcore/health"), 120, dashboard)
        watch([Viewer(page, "", ""), Viewer(page, "run", f"run={live}")], 0.0)  # somebody has been there before
        yield page, proxy, live, psutil.Process(dashboard.pid)
    finally:
        if dashboard is not None:
            end(dashboard)
        end(server)
        proxy.close()


def in_a_browser(page: str, live: str) -> dict[str, list[float]]:
    """Seconds until a person sees the first page with its table, and a run's page with its curves."""
    found: dict[str, list[float]] = {"first page": [], "run page": []}
    with browser() as context:
        for turn in range(TURNS + 1):
            for name, address, done in (
                ("first page", page, overview_is_there),
                ("run page", f"{page}/run?run={live}", curves_are_there),
            ):
                tab = context.new_page()
                began = time.monotonic()
                tab.goto(address)
                done(tab)
                if turn:  # the first fills the browser's cache
                    found[name].append(time.monotonic() - began)
                tab.close()
    return found


def overview_is_there(tab: Any) -> None:
    """Wait until the table of runs is drawn."""
    tab.locator("table tbody tr").nth(20).wait_for()


def curves_are_there(tab: Any) -> None:
    """Wait until all three charts are drawn."""
    drawn = "[data-testid=stVegaLiteChart] :is(canvas, svg)"
    tab.wait_for_function(
        f"new Set([...document.querySelectorAll('{drawn}')].map(one => one.closest('[data-testid]'))).size >= 3"
    )


@contextlib.contextmanager
def training(address: str, run_id: str) -> Iterator[None]:
    """Have the live run end an epoch every two seconds."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client, over = MlflowClient(address, address), threading.Event()

    def train() -> None:
        for epoch in range(EPOCHS + 1, 10_000):
            at = int(time.time() * 1000)
            client.log_batch(run_id, [Metric(name, 0.9 - 1 / epoch, at, epoch) for name in metric_names()])
            if over.wait(2.0):
                return

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join()


def viewed(page: str, run_id: str, count: int, proxy: Counted, process: psutil.Process) -> dict[str, Any]:
    """What so many viewers of a live run see and cost, for WATCHED_S."""
    viewers = [Viewer(page, "run", f"run={run_id}") for _ in range(count)]
    proxy.paths.clear()
    before, began = cpu_s(process), time.monotonic()
    watch(viewers, WATCHED_S)
    took = time.monotonic() - began
    assert not any(viewer.errors for viewer in viewers), viewers[0].errors
    asked = [path for path in proxy.paths if not path.endswith("log-batch")]
    refreshes = [seconds for viewer in viewers for seconds in viewer.refreshes_s]
    return {
        "viewers": count,
        "requests a minute": 60 * len(asked) / took,
        "requests a refresh": 2.0 * len(asked) / took,
        "core-seconds a viewer-minute": 60 * (cpu_s(process) - before) / took / count,
        "refreshes": refreshes,
        "kilobytes a refresh": sum(viewer.received for viewer in viewers) / max(1, len(refreshes)) / 1000,
        "memory, MB": process.memory_info().rss / 1e6,
    }


def cpu_s(process: psutil.Process) -> float:
    """What a process has computed so far."""
    return sum(process.cpu_times()[:2])


def report(pages: dict[str, list[float]], by_viewers: dict[int, dict[str, Any]]) -> None:
    """Write it down, and fail if more viewers ask more of MLflow."""
    one, many = by_viewers[1], by_viewers[VIEWERS]
    took = pages | {"refresh": one["refreshes"]}
    about = machine()
    lines = [
        "# The dashboard",
        "",
        "`python experiments/benchmarks/dashboard.py`",
        "",
        f"{RUNS:,} runs with {METRICS} metrics of {EPOCHS} epochs each, in an MLflow server on SQLite; the dashboard",
        f"and headless Chromium on the same {about['cores']} cores. A page: from its address to its table or curves,",
        f"in a browser that has been there before; {TURNS} times. A refresh: of one part of a live run's page, from",
        f"asking to its last word, while an epoch of {METRICS} metrics ends every two seconds.",
        "",
        "| seconds | median (95 %) | 95 % take less than | limit |",
        "|---|---|---|---|",
    ]
    for name, seconds in took.items():
        middle, low, high = interval(seconds)
        worst = sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]
        lines.append(f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) | {worst:.2f} | {LIMITS_S[name]:g} |")
    lines += ["", f"Viewers of one live run, as WebSocket sessions, for {WATCHED_S:g} s:", ""]
    lines += [
        "| viewers | "
        + " | ".join(key for key in one if key not in ("viewers", "refreshes"))
        + " | refresh, s, median |"
    ]
    lines += ["|---" * (len(one)) + "|"]
    for found in by_viewers.values():
        values = [f"{value:.2f}" for key, value in found.items() if key not in ("viewers", "refreshes")]
        lines.append(f"| {found['viewers']} | {' | '.join(values)} | {statistics.median(found['refreshes']):.2f} |")
    where = f"{about['processor']}, {about['cores']} cores, load {about['load']}, commit {about['commit']}"
    lines += ["", f"{where}; Python {about['python']}, MLflow {about['versions']['mlflow']}.", ""]
    keep(__file__, "\n".join(lines), [against_limit(name, seconds) for name, seconds in took.items()])
    if many["requests a refresh"] > 1.2 * one["requests a refresh"] + 0.2:
        sys.exit("more viewers ask more of MLflow")


def against_limit(name: str, seconds: Sequence[float]) -> Figure:
    """How many times as fast as it has to be."""
    limit = LIMITS_S[name]
    ratio, low, high = interval([limit / one for one in seconds])
    what = f"the dashboard's {name} before {RUNS:,} runs, against the {limit:g} s it may take"
    return Figure(f"dashboard/{name}", what, "s", statistics.median(seconds), limit, ratio, low, high)


def metric_names() -> list[str]:
    """The names of a run's metrics: those that the page draws, and others."""
    known = [*NAMES, *(f"time/{name}" for name in TIMES)]
    return [*known, *(f"val/other_{number:03d}" for number in range(METRICS - len(known)))]


def fill(folder: Path, runs: int = RUNS, epochs: int = EPOCHS) -> str:
    """Make a store of finished runs, and one that goes on.

    Returns:
        The id of the latter.
    """
    from mlflow import MlflowClient

    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("lesion", (folder / "artifacts").as_uri())
    names, draw, now = metric_names(), random.Random(0), int(time.time() * 1000)
    columns = ("key", "value", "timestamp", "run_uuid", "step", "is_nan")
    run_id = ""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as store:
        store.execute("pragma synchronous = off")

        def put(table: str, columns: Sequence[str], rows: Sequence[tuple]) -> None:
            marks = ", ".join("?" * len(columns))
            store.executemany(f"insert into {table} ({', '.join(columns)}) values ({marks})", rows)

        for number in range(runs):
            run_id, began, live = (
                uuid.UUID(int=draw.getrandbits(128)).hex,
                now - (runs - number) * 60_000,
                number == runs - 1,
            )
            row = {
                "run_uuid": run_id,
                "name": f"lesion-{number:04d}",
                "experiment_id": experiment,
                "user_id": "ada",
                "status": "RUNNING" if live else "FINISHED",
                "start_time": began,
                "end_time": None if live else began + 3_000_000,
                "lifecycle_stage": "active",
                "artifact_uri": (folder / "artifacts" / run_id / "artifacts").as_uri(),
                "source_type": "LOCAL",
                "source_name": "",
                "entry_point_name": "",
            }
            put("runs", [*row], [tuple(row.values())])
            tags = {"mlflow.runName": row["name"], "r2d2.version": "0.1.0", "r2d2.workers": "2"}
            tags |= {} if live else {"r2d2.reason": "all epochs done"}
            put("tags", ("key", "value", "run_uuid"), [(*item, run_id) for item in tags.items()])
            settings = {f"training.setting_{k:02d}": str(draw.random()) for k in range(55)}
            settings |= {"training.epochs": str(100_000 if live else epochs), "tracking.monitor_s": "10"}
            put("params", ("key", "value", "run_uuid"), [(*item, run_id) for item in settings.items()])
            rows = []
            for name in names:
                slow = 3 + 5 * draw.random()
                for epoch in range(1, epochs + 1):
                    rise = 1 - math.exp(-epoch / slow)
                    value = 1 - 0.8 * rise if "loss" in name else 0.9 * rise + 0.02 * draw.random()
                    rows.append((name, value, began + 60_000 * epoch, run_id, epoch, 0))
            put("metrics", columns, rows)
            put("latest_metrics", columns, rows[epochs - 1 :: epochs])
        store.commit()
    return run_id


if __name__ == "__main__":
    main()
