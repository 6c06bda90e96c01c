"""The MLflow server goes away: for a minute in the middle of a run, and until after a run's end. Is anything lost?

    sudo python experiments/outage.py

trains one deterministic experiment three times on two hosts made of network namespaces (infra/several_hosts.sh; needs
root): undisturbed; with the server killed in the middle and started again 60 seconds later; and with the server killed
in the middle and started again when `r2d2 train` has ended, after which `r2d2 runs send` delivers what waited. Every
metric of all three must be the same in every step, once; the model registered; and each host must have a series of its
own system metrics without a hole. The record goes to `outage.md` beside this file; the exit code is 1 if anything was
lost.
"""

import itertools
import shutil
import sys
import time
from datetime import date
from pathlib import Path

import yaml
from soak import (
    COURSE,
    ROOM,
    TwoHosts,
    below,
    end,
    latest_step,
    make_experiment,
    only_run,
    query,
    wait_until,
)

EPOCHS, MONITOR_S, AWAY_S, LIMIT_S = 300, 5, 60, 1200


def main() -> None:
    """Run all, print and write the record."""
    shutil.rmtree(ROOM, ignore_errors=True)
    ROOM.mkdir(parents=True)
    experiment = make_experiment(ROOM)
    values = yaml.safe_load(experiment.read_text())
    values["training"] |= {"epochs": EPOCHS, "checkpoints": {"every_minutes": 1}}
    values["tracking"] = {"monitor_s": MONITOR_S}
    experiment.write_text(yaml.safe_dump(values))
    rows = [trained(experiment, away) for away in ("never", f"{AWAY_S} s", "to the end")]
    for row in rows:
        row["lost"] = lost(row, rows[0])
    text = record(rows)
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)
    sys.exit(any(row["lost"] for row in rows))


def trained(experiment: Path, away: str) -> dict:
    """Train on two hosts while the server is away so long; what it knows afterwards."""
    place = TwoHosts(experiment, ROOM / away.replace(" ", "-"))
    found: dict = {"away": away, "seconds_away": 0.0, "waited": 0}
    with place:
        driver = place.train(str(experiment))
        try:
            wait_until(lambda: latest_step(place.home) > 0 and known_epochs(place) >= 20, LIMIT_S, driver)
            run_id, _ = only_run(place)
            began = time.monotonic()
            if away != "never":
                place.hosts.stop_serving()
            if away == f"{AWAY_S} s":
                time.sleep(AWAY_S)  # the length of the outage is what is tried
                place.hosts.serve()
                found["seconds_away"] = time.monotonic() - began
            driver.wait(timeout=LIMIT_S)
            if away == "to the end":
                place.hosts.serve()
                found["seconds_away"] = time.monotonic() - began
                found["waited"] = EPOCHS - known_epochs(place)
                place.hosts.run(0, "r2d2", "runs", "send", run_id).wait(timeout=LIMIT_S)
        finally:
            end(below(driver.pid))
        found |= {"code": driver.returncode, "status": only_run(place)[1], "metrics": query(place.store, COURSE)}
        sql = "select key, step from metrics where key like 'system/%/cpu_utilization_percentage' order by key, step"
        series: dict[str, list[int]] = {}
        for key, step in query(place.store, sql):
            series.setdefault(key.split("/")[1], []).append(step)
        found["series"] = series
        found["models"] = query(place.store, "select name, version, run_id from model_versions")
        found["run_id"] = run_id
    return found


def known_epochs(place: TwoHosts) -> int:
    """How many epochs the server knows."""
    return query(place.store, "select count(*) from metrics where key = 'train/loss'")[0][0]


def lost(row: dict, undisturbed: dict) -> str:
    """What was lost, in words; empty if nothing was."""
    if row["code"] or row["status"] != "FINISHED":
        return f"exit code {row['code']}, the run is {row['status']}"
    if row["models"] != [("soak", 1, row["run_id"])]:
        return f"registered: {row['models']}"
    if row["metrics"] != undisturbed["metrics"]:
        return "other metrics than the undisturbed run's"
    if sorted(row["series"]) != ["node0", "node1"]:
        return f"system metrics of {sorted(row['series'])}"
    for host, steps in row["series"].items():
        if holes(steps) > 2 * MONITOR_S + 1:
            return f"no system metrics of {host} for {holes(steps)} s"
    return ""


def holes(steps: list[int]) -> int:
    """The longest time between two samples."""
    return max(later - step for step, later in itertools.pairwise(steps))


def record(rows: list[dict]) -> str:
    """The page."""
    lines = [
        f"# The MLflow server goes away, {date.today()}",
        "",
        f"`sudo python experiments/outage.py`: {EPOCHS} epochs on two hosts, a rank on each, deterministic; a monitor",
        f"on each host samples every {MONITOR_S} s. `metrics` counts the values that are compared with the undisturbed",
        "run's: all but times, system metrics and costs.",
        "",
        "| server away | for | epochs sent afterwards | metrics | samples of node0, node1 | longest hole | lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        samples = ", ".join(str(len(steps)) for _, steps in sorted(row["series"].items()))
        hole = max(map(holes, row["series"].values()), default=0)
        cells = [row["away"], f"{row['seconds_away']:.0f} s", row["waited"], len(row["metrics"]), samples, f"{hole} s"]
        lines.append(f"| {' | '.join(map(str, cells))} | {row['lost'] or 'nothing'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
