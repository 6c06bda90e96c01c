"""A sweep on two hosts loses its driver, then a host: are its trials the same, and each of them trained once?

    sudo python experiments/sweep_kill.py

runs one sweep of six trials, two at a time, on two hosts made of network namespaces (infra/several_hosts.sh; needs
root): undisturbed; and with the driver killed once a trial has ended, `r2d2 tune --resume`, and all processes of the
second host killed once it trains again. Trainings are deterministic: every trial must have the same settings and the
same validation Dice in every epoch, each once. The record goes to `sweep_kill.md` beside this file; the exit code is 1
if anything differs.
"""

import shutil
import sqlite3
import sys
import time
from datetime import date
from pathlib import Path

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.hosts import Hosts, below, end, missing, ranks, wait_until
from soak import make_experiment

ROOM, TRIALS, EPOCHS, LIMIT_S = Path("/var/tmp/r2d2-sweep"), 6, 60, 900
COURSE = "select step, value from metrics where key = 'val/dice' and run_uuid = ? order by step"


def main() -> None:
    """Run both, print and write the record."""
    if reason := missing():
        sys.exit(reason)
    shutil.rmtree(ROOM, ignore_errors=True)
    ROOM.mkdir(parents=True)
    values = yaml.safe_load(make_experiment(ROOM).read_text())
    values["training"] |= {"epochs": EPOCHS, "deterministic": True, "checkpoints": {"every_minutes": 1}}
    values["cluster"] = {"workers": 1}
    values["evaluation"] = {"every_epochs": 5, "overlays": 0}
    sweep = {
        "name": "killed",
        "experiment": values,
        "space": {"training.learning_rate": {"log_uniform": [0.001, 0.02]}, "model.filters": {"choice": [4, 8]}},
        "search": "random",
        "trials": TRIALS,
        "stopping": "none",
        "finish": "none",
    }
    (ROOM / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    rows = [swept("nothing"), swept("driver, then host")]
    text = record(rows, differs(*rows))
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)
    sys.exit(bool(differs(*rows)))


def swept(killed: str) -> dict:
    """Run the sweep with these kills; its trials by number, as their runs and the store know them."""
    found: dict = {"killed": killed}
    started = time.monotonic()
    with Hosts(ROOM / killed.replace(", ", "-").replace(" ", "-")) as hosts:
        driver = hosts.run(0, "r2d2", "tune", ROOM / "sweep.yaml")
        try:
            if killed != "nothing":
                wait_until(lambda: ended(hosts) >= 1 and ranks(1), LIMIT_S, driver)
                end([psutil.Process(driver.pid), *below(driver.pid)])
                driver.wait()
                found["ended_before"] = ended(hosts)
                wait_until(lambda: not ranks(0) and not ranks(1), LIMIT_S)
                ((sweep_id,),) = query(hosts, "select run_uuid from tags where key = 'r2d2.sweep'")
                driver = hosts.run(0, "r2d2", "tune", "--resume", sweep_id)
                wait_until(lambda: ended(hosts) < TRIALS and ranks(1), LIMIT_S, driver)
                found["ended_at_host"] = ended(hosts)
                hosts.join()  # ends all that runs there; then it comes back
            found["code"] = driver.wait(timeout=LIMIT_S)
        finally:
            end(below(driver.pid))
        found["trials"] = {}
        rows = query(hosts, "select value, run_uuid from tags where key = 'r2d2.trial'")
        for number, run_id in sorted(rows, key=lambda row: int(row[0])):
            tags = dict(query(hosts, "select key, value from tags where run_uuid = ?", run_id))
            found["trials"][int(number)] = {
                "values": {key: value for key, value in tags.items() if key.startswith("r2d2.trial.")},
                "course": query(hosts, COURSE, run_id),
                "status": query(hosts, "select status from runs where run_uuid = ?", run_id)[0][0],
                "attempts": int(tags["r2d2.attempts"]),
            }
        found["names"] = len(rows)
    return found | {"seconds": time.monotonic() - started}


def ended(hosts: Hosts) -> int:
    """How many trials have ended."""
    trials = "select count(*) from runs join tags using (run_uuid) where key = 'r2d2.trial' and end_time is not null"
    return query(hosts, trials)[0][0] if hosts.store.exists() else 0


def query(hosts: Hosts, sql: str, *values: str) -> list[tuple]:
    """What the store says."""
    with sqlite3.connect(hosts.store) as store:
        return store.execute(sql, values).fetchall()


def differs(undisturbed: dict, killed: dict) -> str:
    """What is not the same, in words; empty if all is."""
    if killed["code"] or killed["trials"].keys() != undisturbed["trials"].keys() or killed["names"] != TRIALS:
        return f"exit code {killed['code']}, trials {sorted(killed['trials'])} in {killed['names']} runs"
    for number, trial in killed["trials"].items():
        for what in ("values", "course", "status"):
            if trial[what] != undisturbed["trials"][number][what]:
                return f"trial {number} has other {what}"
    return ""


def record(rows: list[dict], wrong: str) -> str:
    """The page."""
    undisturbed, killed = rows
    attempts = [trial["attempts"] for trial in killed["trials"].values()]
    scores = sum(len(trial["course"]) for trial in killed["trials"].values())
    return "\n".join(
        [
            f"# A sweep loses its driver, then a host, {date.today()}",
            "",
            f"`sudo python experiments/sweep_kill.py`: {TRIALS} trials of {EPOCHS} epochs on two hosts, two at a time.",
            "",
            f"- Undisturbed: {undisturbed['seconds']:.0f} s, hosts, server and all.",
            f"- Driver killed after {killed['ended_before']} trials had ended, the second host after "
            f"{killed['ended_at_host']}: {killed['seconds']:.0f} s. Attempts of the trials: {attempts}.",
            f"- Settings, states and {scores} validation scores of all trials: {wrong or 'the same, each once'}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
