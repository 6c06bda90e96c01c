"""How long a run takes to its first step, and where the time goes: two workers, without and with `r2d2 up`, in turn.

    python experiments/benchmarks/start.py                 a quarter of an hour

A turn is one `r2d2 train experiments/brain_tissue.yaml` of one epoch on ten small virtual patients, which are prepared
by the turn before the first one that counts. The seconds are those of the run's tag `r2d2.start`: from the command's
beginning, once Python has read its line, to the end of the first step. Services are started for their turn and ended
after it. The limit is 15 s.
"""

import argparse
import contextlib
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

from common import figure, interval, keep, machine

EXPERIMENT = Path(__file__).parents[1] / "brain_tissue.yaml"
R2D2 = Path(sys.executable).with_name("r2d2")
LIMIT_S = 15.0
KINDS = {"alone": "without `r2d2 up`", "up": "with `r2d2 up`"}
ELSEWHERE = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "MLFLOW_TRACKING_URI", "R2D2_CACHE")
STAGE = re.compile(r"([^:,]+?) (\d+\.\d) s")

Stages = dict[str, float]


def r2d2(home: Path, *words: str | Path) -> None:
    """Run a command in a home of its own; what it says goes to the home's `log`."""
    variables = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    home.mkdir(parents=True, exist_ok=True)
    with (home / "log").open("a") as log:
        done = subprocess.run(
            [R2D2, *words], env=variables | {"R2D2_HOME": str(home)}, stdout=log, stderr=log, check=False
        )
    if done.returncode:
        sys.exit(f"r2d2 {words[0]} failed; see {home / 'log'}")


def turn(kind: str, room: Path) -> Stages:
    """The seconds of each stage of one run's start."""
    home = room / kind
    try:
        if kind == "up":
            r2d2(home, "up")
        small = ("preprocess.slices.count=8", "training.epochs=1", "evaluation.overlays=0")
        r2d2(home, "train", EXPERIMENT, f"data.path={room / 'patients'}", *small)
    finally:
        if kind == "up":
            r2d2(home, "down")
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as store:
        newest = "select run_uuid from runs order by start_time desc limit 1"
        ((told,),) = store.execute(f"select value from tags where key = 'r2d2.start' and run_uuid = ({newest})")
    return {name.strip(): float(seconds) for name, seconds in STAGE.findall(told.partition(":")[2])}


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", type=Path, default=Path(".r2d2/benchmarks"))
    given = parser.parse_args()
    room = given.home.absolute() / "start"
    shutil.rmtree(room, ignore_errors=True)
    r2d2(room, "data", "synthesize", "brain", room / "patients", "--patients", "10", "--spacing-mm", "4")
    taken: dict[str, list[Stages]] = {kind: [] for kind in KINDS}
    for number in range(given.rounds + 1):
        for kind in KINDS:
            stages = turn(kind, room)
            if number:  # the first one prepares the data
                taken[kind].append(stages)
                print(f"round {number}, {KINDS[kind]}: {sum(stages.values()):.1f} s", flush=True)
    whole = {kind: [sum(stages.values()) for stages in turns] for kind, turns in taken.items()}
    figures = [
        figure(f"start/{kind}", f"To the first step, {told}: {LIMIT_S:g} s", "s", whole[kind], [LIMIT_S] * given.rounds)
        for kind, told in KINDS.items()
    ]
    keep(__file__, page(taken, whole, given.rounds), figures)


def page(taken: dict[str, list[Stages]], whole: dict[str, list[float]], rounds: int) -> str:
    """What was measured, as a table of the stages."""
    about = machine()
    lines = [
        f"# To the first step, {date.today()}",
        "",
        "Seconds from the beginning of `r2d2 train` to the end of the first step of two workers (the network of",
        f"experiments/brain_tissue.yaml on small patients); medians of {rounds} rounds in turn, of the whole with its",
        f"95 % interval. The limit is {LIMIT_S:g} s. `python experiments/benchmarks/start.py --rounds {rounds}`,",
        f"commit {about['commit']}, {about['cores']} cores, {about['processor']}, load {about['load']}.",
        "",
        f"| stage | {' | '.join(KINDS.values())} |",
        "|---" * (len(KINDS) + 1) + "|",
    ]
    for stage in taken["alone"][0]:
        cells = (f"{statistics.median(stages[stage] for stages in turns):.1f}" for turns in taken.values())
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    totals = ("{:.1f} ({:.1f} to {:.1f})".format(*interval(values)) for values in whole.values())
    fastest = (f"{min(values):.1f}" for values in whole.values())
    rows = [f"| **all** | {' | '.join(totals)} |", f"| the fastest round | {' | '.join(fastest)} |"]
    return "\n".join([*lines, *rows]) + "\n"


if __name__ == "__main__":
    main()
