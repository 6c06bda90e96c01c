"""Kill whatever can be killed, again and again, and see whether anything is lost: `make soak`.

    python experiments/soak.py --kills 20 --seed 0

trains one small experiment undisturbed, and then once for each kill: a SIGKILL goes to a victim: a rank, one or the
other (Ray starts the workers again), the driver (the script calls `r2d2 train --resume`), or all, three seconds after
the driver was told to end, as Ray stops a job (likewise); or, on two hosts made of network namespaces
(infra/several_hosts.sh; needs root), the raylet of the second host (the script starts it again). It comes at a random
step, once as soon as there are workers, and once for each victim when all steps are done and the network is tested and
handed over. Every run must finish as one MLflow run with each metric's step once and the cause on it, take up the
latest checkpoint on the disk when the victim died, none having been left out before (one that is due while another is
written comes behind it, so that two are at most two intervals apart), and, the training being deterministic, end with
the undisturbed run's weights, optimizer and scores to the last bit. The record goes to `soak.md` beside this file; the
exit code is 1 if anything was lost.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from common import machine
from helpers.hosts import BIN, Hosts, below, end, line, missing, processes, ranks, wait_until

from r2d2.cluster.leaving import GRACE_S

ROOM = Path("/var/tmp/r2d2-soak")
"""What the hosts share lies here: each has a /tmp of its own."""
EPOCHS, EVERY_STEPS = 30, 4
STOP = "stop"
"""As a job is stopped: the driver is told to end, and all are killed GRACE_S later."""
START = -1
"""Before the first checkpoint."""
LIMIT_S = 400
TWICE = "select key, step from metrics group by key, step having count(*) > 1 order by key, step"
COURSE = (
    "select key, step, value from metrics where key not like 'time/%' and key not like 'system/%' "
    "and key not like 'cost/%' order by key, step, value"
)
"""What must be the same in two runs: every metric that is not of time and machine."""


def main() -> None:
    """Run all, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    victims = ["rank", "driver", STOP]
    if reason := missing():
        print(f"Raylets are left alone: {reason}")
    else:
        victims.append("raylet")
    shutil.rmtree(ROOM, ignore_errors=True)
    ROOM.mkdir(parents=True)
    experiment = make_experiment(ROOM)

    started = time.monotonic()
    undisturbed = finished(OneHost(experiment, ROOM / "undisturbed"), None, 0, chance)
    total_steps = undisturbed["step"]
    print(f"undisturbed: {total_steps} steps, {undisturbed['seconds']:.0f} s", flush=True)
    rows = []
    # Every victim in turn, in a random order, so that none is missed.
    for number in range(given.kills):
        if number % len(victims) == 0:
            turn = chance.sample(victims, len(victims))
        victim, step = turn[number % len(victims)], chance.randrange(1, total_steps - EVERY_STEPS)
        if number < len(victims):
            step = total_steps
        elif number == len(victims):
            step = START
        place = (TwoHosts if victim == "raylet" else OneHost)(experiment, ROOM / f"run{number:02d}")
        moment = {START: "start", total_steps: "end"}.get(step, "step")
        row = {"number": number + 1, "victim": victim, "moment": moment} | finished(place, victim, step, chance)
        row["lost"] = compared(row, undisturbed)
        rows.append(row)
        print(
            f"{row['number']:>3}  {victim:<7} killed at step {row['killed_at']:>3}, went on at {row['resumed_at']:>3}, "
            f"{row['seconds']:.0f} s: {row['lost'] or 'nothing lost'}",
            flush=True,
        )
        if not row["lost"]:
            shutil.rmtree(place.home)
    text = record(rows, undisturbed, given.seed, time.monotonic() - started)
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)
    lost = any(row["lost"] for row in rows)
    if not lost:
        shutil.rmtree(ROOM)
    sys.exit(lost)


def make_experiment(room: Path) -> Path:
    """Virtual patients and the experiment that is trained on them, in a folder."""
    data = room / "patients"
    run = ["data", "synthesize", "brain", data, "--patients", "8", "--spacing-mm", "6"]
    subprocess.run([BIN / "r2d2", *run], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    values = {
        "name": "soak",
        "data": {"path": str(data)},
        "preprocess": {"image_size": [34, 40], "slices": {"count": 12, "choice": "foreground"}},
        "model": {"filters": 16, "depth": 3, "dropout": 0.1},
        "training": {
            "epochs": EPOCHS,
            "batch_size": 4,
            "optimizer": "adam",
            "learning_rate": 0.003,
            "deterministic": True,
            "checkpoints": {"every_steps": EVERY_STEPS},
            "augmentation": {"rotation_degrees": [-15, 15], "noise": [0.0, 0.1]},
        },
        "cluster": {"workers": 2, "cpus_per_worker": 1, "max_restarts": 3},
        "evaluation": {"every_epochs": 5, "overlays": 0},
    }
    path = room / "soak.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


class OneHost:
    """A run on this machine, with Ray's cluster for it alone and MLflow's SQLite file."""

    def __init__(self, experiment: Path, home: Path) -> None:
        self.experiment, self.home = experiment, home
        self.store = home / "mlflow.db"
        home.mkdir(parents=True)

    def __enter__(self) -> "OneHost":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def train(self, *arguments: str) -> subprocess.Popen:
        """Start the driver."""
        return self._start([BIN / "r2d2", "train", *arguments], {})

    def _start(self, command: list, environment: dict[str, str]) -> subprocess.Popen:
        log = (self.home / "log").open("a")
        told = dict(os.environ) | {"R2D2_HOME": str(self.home)} | environment
        return subprocess.Popen(command, env=told, stdout=log, stderr=log, start_new_session=True)

    def ranks(self, driver: subprocess.Popen) -> list[psutil.Process]:
        """The workers that train."""
        return [process for process in below(driver.pid) if "RayTrainWorker" in line(process)]

    def mend(self) -> None:
        """What a person would do after the kill, beside calling resume: here nothing."""


class TwoHosts(OneHost):
    """A run on two hosts: a Ray head and the driver on the first, a worker node on the second, an MLflow server."""

    def __init__(self, experiment: Path, home: Path) -> None:
        super().__init__(experiment, home)
        self.hosts = Hosts(home)

    def __enter__(self) -> "TwoHosts":
        self.hosts.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hosts.__exit__(*error)

    def train(self, *arguments: str) -> subprocess.Popen:
        """Start the driver on the first host."""
        return self.hosts.run(0, "r2d2", "train", *arguments)

    def ranks(self, driver: subprocess.Popen) -> list[psutil.Process]:  # noqa: ARG002
        """The workers on both hosts."""
        return [*ranks(0), *ranks(1)]

    def mend(self) -> None:
        """The second host comes back."""
        self.hosts.join()


def finished(place: OneHost, victim: str | None, at_step: int, chance: random.Random) -> dict:
    """Train to the end with one kill on the way: what the run is then, and what it cost."""
    started = time.monotonic()
    found: dict = {"killed_at": 0, "resumed_at": 0, "interval": 0}
    with place, Seen(place.home) as seen:
        driver = place.train(str(place.experiment))
        try:
            if victim:
                wait_until(lambda: latest_step(place.home) >= at_step and place.ranks(driver), LIMIT_S, driver)
                target = chosen(place, driver, victim, chance)
                found["killed_at"], told = latest_step(place.home), time.time()
                if victim == STOP:
                    target.terminate()
                    psutil.wait_procs([target], timeout=GRACE_S)
                    found["kept"] = written(place.home) > told
                    end([*below(driver.pid), *([target] if driver.poll() is None else [])])
                else:
                    target.send_signal(signal.SIGKILL)
                found["interval"] = seen.interval(found["killed_at"])
                place.mend()
            if victim in ("driver", STOP):
                driver.wait()
                end(place.ranks(driver))
                driver = place.train("--resume", only_run(place)[0])
            driver.wait(timeout=LIMIT_S)
        finally:
            end([*below(driver.pid), *([psutil.Process(driver.pid)] if driver.poll() is None else [])])
        found |= {"code": driver.returncode, "seconds": time.monotonic() - started}
        run_id, status = only_run(place)
        tags = dict(query(place.store, "select key, value from tags"))
        found |= {"status": status, "resumed_at": int(tags.get("r2d2.started_at_step", 0))}
        found["restarts"] = [value for key, value in tags.items() if key.startswith("r2d2.restart.")]
        found["metrics"], found["twice"] = query(place.store, COURSE), query(place.store, TWICE)
        if driver.returncode:
            return found | {"step": latest_step(place.home)}
        latest = max((place.home / "runs" / run_id).glob("attempt-*/checkpoints/step-*"))
        found["step"] = json.loads((latest / "state.json").read_text())["step"]
        with np.load(latest / "variables.npz") as arrays:
            found["variables"] = [arrays[name] for name in sorted(arrays.files)]
    return found


def compared(row: dict, undisturbed: dict) -> str:
    """What was lost, in words; empty if nothing was."""
    if row["code"] or row["status"] != "FINISHED":
        return f"exit code {row['code']}, the run is {row['status']}"
    if row["twice"]:
        return f"{row['twice'][0]} is recorded twice"
    if row["victim"] == STOP and row["moment"] == "step" and not row["kept"]:
        return f"no checkpoint within {GRACE_S:g} s of SIGTERM"
    if row["interval"] > 2 * EVERY_STEPS:
        return f"{row['interval']} steps without a checkpoint"
    if row["resumed_at"] < row["killed_at"]:
        return f"checkpoint {row['killed_at']} was on the disk, it went on from {row['resumed_at']}"
    # Who leaves in time is no loss.
    if len(row["restarts"]) != 1 and not (row["victim"] == STOP and not row["restarts"]):
        return f"{len(row['restarts'])} restarts with their cause are on the run"
    same = len(row["variables"]) == len(undisturbed["variables"]) and all(
        np.array_equal(left, right) for left, right in zip(row["variables"], undisturbed["variables"], strict=True)
    )
    if not same:
        return "other weights than the undisturbed run's"
    return "" if row["metrics"] == undisturbed["metrics"] else "other metrics than the undisturbed run's"


class Seen:
    """Looks all the time which checkpoints come to be in a home."""

    def __init__(self, home: Path) -> None:
        self._home, self._steps, self._over = home, {0}, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Seen":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self._steps |= set(steps(self._home))

    def interval(self, until: int) -> int:
        """The most steps between two that were there until that one was."""
        known = sorted(step for step in {*self._steps, until} if step <= until)
        return max((after - before for before, after in pairwise(known)), default=0)


def chosen(place: OneHost, driver: subprocess.Popen, victim: str, chance: random.Random) -> psutil.Process:
    """The process to kill."""
    if victim == "rank":
        return chance.choice(place.ranks(driver))
    if victim in ("driver", STOP):
        return psutil.Process(driver.pid)
    (raylet,) = [process for process in processes(1) if "raylet/raylet" in line(process)]
    return raylet


def latest_step(home: Path) -> int:
    """The step of the latest checkpoint on the disk, 0 if there is none."""
    return max(steps(home), default=0)


def steps(home: Path) -> list[int]:
    """The steps of the checkpoints on the disk."""
    return [int(path.name[5:]) for path in home.glob("runs/*/attempt-*/checkpoints/step-*")]


def written(home: Path) -> float:
    """When the latest checkpoint was, in seconds of the clock."""
    return max(
        (path.stat().st_mtime for path in home.glob("runs/*/attempt-*/checkpoints/step-*/state.json")), default=0.0
    )


def only_run(place: OneHost) -> tuple[str, str]:
    """The id and status of the one run that there may be."""
    (run,) = query(place.store, "select run_uuid, status from runs")
    return run


def query(store: Path, sql: str) -> list[tuple]:
    """Rows of MLflow's store."""
    with sqlite3.connect(store) as connection:
        return connection.execute(sql).fetchall()


def record(rows: list[dict], undisturbed: dict, seed: int, seconds: float) -> str:
    """The page."""
    whole = sum(not row["lost"] for row in rows)
    lines = [
        f"# {len(rows)} kills, {date.today()}, commit {machine()['commit']}",
        "",
        f"`python experiments/soak.py --kills {len(rows)} --seed {seed}`: {whole} of {len(rows)} runs lost nothing.",
        f"{undisturbed['step']} steps, 2 ranks of one thread, a checkpoint every {EVERY_STEPS} steps;",
        f"{seconds / 60:.0f} minutes in all, the undisturbed run {undisturbed['seconds']:.0f} s.",
        "",
        "| # | killed | when | latest checkpoint then | went on from | most steps without one | whole run | lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells: list[object] = [
            row["number"],
            row["victim"],
            row["moment"],
            row["killed_at"],
            row["resumed_at"],
            row["interval"],
            f"{row['seconds']:.0f} s",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} | {row['lost'] or 'nothing'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
