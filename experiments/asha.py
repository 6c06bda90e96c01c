"""ASHA against random search at equal budget: how many epochs until a sweep has seen a trial of so good a Dice?

    python experiments/asha.py

On the brain-tissue task at a quarter of the demo's resolution. For each of five seeds a random sweep of 16 trials
trains all to their last epoch (27); what asynchronous successive halving would have made of the very same trials is
then read off their recorded curves by Ray's own scheduler, as `r2d2 tune` uses it, two trials at a time. That is exact
where a trial's epochs do not depend on the others', and is checked: one seed's sweep is run with ASHA, too. The record,
with what the start of a trial took, goes to `asha.md` beside this file. Trials that were trained are found again when
it is started anew.
"""

import os
import re
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import yaml

EPOCHS, TRIALS, SEEDS, AT_A_TIME = 27, 16, range(5), 2
RUNGS = [(first, reduction) for first in (1, 2, 3, 9) for reduction in (2, 3, 4)]
ROOM = Path(os.environ.get("R2D2_HOME", ".r2d2")).absolute() / "asha"


def main() -> None:
    """Run all, print and write the record."""
    os.environ["R2D2_HOME"] = str(ROOM)
    from r2d2.data.synthesis import synthesize

    data = ROOM / "virtual-patients"
    if not data.exists():
        synthesize("brain", data, 12, seed=0, spacing_mm=4.0)
    curves = {seed: trained(data, seed) for seed in SEEDS}
    real = trained(data, SEEDS[0], stopping="asha")
    rows = [compared(curves[seed]) for seed in SEEDS]
    others = {rungs: [compared(curves[seed], *rungs) for seed in SEEDS] for rungs in RUNGS}
    text = record(rows, agreement(curves[SEEDS[0]], real)) + settings(others) + starts()
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


def sweep_of(data: Path, seed: int, stopping: str) -> dict:
    """The sweep file's values."""
    return {
        "name": f"{stopping}-{seed}",
        "experiment": {
            "name": "brain-tissue-small",
            "data": {"path": str(data)},
            "preprocess": {"image_size": [48, 56], "slices": {"count": 16, "choice": "foreground"}},
            "model": {"filters": 8, "depth": 3},
            "training": {
                "epochs": EPOCHS,
                "batch_size": 4,
                "warmup_epochs": 1,
                "seed": seed,
                "sentinel": {"loss_factor": None, "gradient_factor": None, "collapse": None},
            },
            "evaluation": {"overlays": 0},
        },
        "space": {
            "training.optimizer": {"choice": ["sgd", "adam", "adamw"]},
            "training.learning_rate": {"log_uniform": [1e-4, 1e-1]},
            "training.loss": {"choice": ["cross_entropy", "dice", "dice_cross_entropy"]},
            "training.decay": {"choice": ["constant", "cosine"]},
            "model.dropout": {"uniform": [0.0, 0.5]},
        },
        "search": "random",
        "trials": TRIALS,
        "seed": seed,
        "stopping": stopping,
        "concurrent": AT_A_TIME,
        "finish": "none",
    }


def trained(data: Path, seed: int, stopping: str = "none") -> list[dict[int, float]]:
    """Every trial's validation Dice by epoch, in the order of the trials; from before if it was run."""
    from r2d2 import config
    from r2d2.cluster.search import Study
    from r2d2.engine.tune import tune

    kept = ROOM / f"{stopping}-{seed}.yaml"
    if not kept.exists():
        sweep = config.parse_sweep(yaml.safe_dump(sweep_of(data, seed, stopping)))
        result = tune(sweep)
        trials = Study(sweep, ROOM / "runs" / result.run_id).trials()
        kept.write_text(yaml.safe_dump([trial.scores for trial in trials]))
    return yaml.safe_load(kept.read_text())


def halved(curves: list[dict[int, float]], *rungs: int) -> list[int]:
    """After how many epochs ASHA stops each trial, two of them at a time, an epoch of each in turn.

    Args:
        curves: Every trial's scores.
        rungs: `min_epochs` and `reduction`; a sweep's defaults if absent.
    """
    from r2d2 import config
    from r2d2.cluster.sweep import SCORE, TIME, _Asha

    values = sweep_of(Path("/"), 0, "asha")
    values |= {"asha": dict(zip(("min_epochs", "reduction"), rungs, strict=True))} if rungs else {}
    sweep = config.parse_sweep(yaml.safe_dump(values))
    desk = SimpleNamespace(known=dict, values=lambda _: {})
    # A training that fell apart has no more epochs than it had.
    asha, waiting, running = _Asha(sweep, desk), [number for number, curve in enumerate(curves) if curve], {}
    spent = [0] * len(curves)
    while waiting or running:
        while waiting and len(running) < AT_A_TIME:
            running[waiting.pop(0)] = 0
        for number in [*running]:
            running[number] += 1
            epoch = spent[number] = running[number]
            decision = asha.on_trial_result(None, number, {TIME: epoch, SCORE: curves[number][epoch]})
            if decision == "STOP" or epoch == max(curves[number]):
                del running[number]
    return spent


def best_so_far(curves: list[dict[int, float]], spent: list[int]) -> np.ndarray:
    """The best Dice that a sweep has seen after each epoch of its budget, trial after trial."""
    seen = [curve[epoch] for curve, most in zip(curves, spent, strict=True) for epoch in range(1, most + 1)]
    return np.maximum.accumulate(seen)


def compared(curves: list[dict[int, float]], *rungs: int) -> dict:
    """One seed: epochs until each way has seen the Dice that random search ends with, and 99 and 95 % of it."""
    full = [max(curve, default=0) for curve in curves]
    stopped = halved(curves, *rungs)
    random, asha = best_so_far(curves, full), best_so_far(curves, stopped)
    row = {"random": len(random), "asha": len(asha), "best_random": random[-1], "best_asha": asha[-1], "to": {}}
    for part in (0.95, 0.99, 1.0):
        wanted = part * random[-1]
        row["to"][part] = [int(np.argmax(one >= wanted)) + 1 if one[-1] >= wanted else None for one in (random, asha)]
    row["at_equal"] = random[min(len(asha), len(random)) - 1]
    return row


def agreement(curves: list[dict[int, float]], real: list[dict[int, float]]) -> str:
    """Whether the sweep that was run with ASHA trained the same curves, and how its epochs compare."""
    same = all(
        np.isclose(curve[epoch], score, atol=1e-9)
        for curve, other in zip(curves, real, strict=True)
        for epoch, score in other.items()
    )
    spent, read = sum(len(one) for one in real), sum(halved(curves))
    return (
        f"Seed 0 run with ASHA: {'the same' if same else 'OTHER'} scores in the same epochs, {spent} epochs in all; "
        f"read off the curves: {read} (who of two is first at a rung depends on the clock)."
    )


def record(rows: list[dict], agreed: str) -> str:
    """The page."""
    head = ["seed", "epochs random, ASHA", "best Dice random, ASHA", "random at ASHA's budget"]
    lines = [
        f"# ASHA against random search, {date.today()}",
        "",
        f"`python experiments/asha.py`: brain tissue, {TRIALS} trials of {EPOCHS} epochs, {len(rows)} seeds;",
        "optimizer, rate, loss, decay and dropout are searched. Epochs that random search and ASHA have spent, trial",
        "after trial, when they first see a validation Dice of 95 %, 99 % and all of the best that random search has.",
        "",
        f"| {' | '.join([*head, 'to 95 %', 'to 99 %', 'to the best'])} |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed, row in enumerate(rows):
        to = [" : ".join(str(epochs or "-") for epochs in pair) for pair in row["to"].values()]
        lines.append(
            f"| {seed} | {row['random']}, {row['asha']} | {row['best_random']:.3f}, {row['best_asha']:.3f} | "
            f"{row['at_equal']:.3f} | {' | '.join(to)} |"
        )
    budget = np.median([row["asha"] / row["random"] for row in rows])
    lost = [100 * (row["best_random"] - row["best_asha"]) for row in rows]
    won = [100 * (row["best_asha"] - row["at_equal"]) for row in rows]
    lines += [
        "",
        f"ASHA spends {budget:.0%} of the epochs (median) and ends {np.mean(lost):.2f} hundredths of Dice below (mean;",
        f"worst {max(lost):.2f}); random search that stops after as many epochs lies {np.mean(won):.2f} hundredths",
        f"below ASHA (mean; {min(won):.2f} to {max(won):.2f}).",
        agreed,
    ]
    return "\n".join(lines) + "\n"


def settings(others: dict[tuple[int, int], list[dict]]) -> str:
    """What other rungs than the default ones would have given, on the same curves."""
    lines = ["", "| min_epochs | reduction | part of the epochs | lost, mean | lost, worst |", "|---|---|---|---|---|"]
    for (first, reduction), rows in others.items():
        budget = np.median([row["asha"] / row["random"] for row in rows])
        lost = [100 * (row["best_random"] - row["best_asha"]) for row in rows]
        lines.append(f"| {first} | {reduction} | {budget:.0%} | {np.mean(lost):.2f} | {max(lost):.2f} |")
    lines += [
        "",
        "Lost: hundredths of Dice below the best that all trials have when trained to their end. With a warm-up of",
    ]
    lines += ["one epoch the default is min_epochs 2, the first without; reduction 3."]
    return "\n".join(lines) + "\n"


def starts() -> str:
    """What the starts of all trials took, and of what they consisted."""
    from r2d2.tracking import store

    client = store.connect(store.resolve())
    everything = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(everything, "tags.`r2d2.start` LIKE '%'", max_results=1000)
    parts: dict[str, list[float]] = {}
    for run in runs:
        told = run.data.tags["r2d2.start"]
        found = [("in all", told.split()[0]), *re.findall(r"[:,] ([^,:]+?) ([\d.]+) s", told)]
        for part, seconds in found:
            parts.setdefault(part, []).append(float(seconds))
    lines = [
        "",
        f"What lies between asking for a trial's workers and its first step, {len(runs)} trials, two at a time:",
        "",
    ]
    lines += ["| part | median s | quartiles |", "|---|---|---|"]
    for part, seconds in parts.items():
        low, middle, high = np.percentile(seconds, (25, 50, 75))
        lines.append(f"| {part} | {middle:.1f} | {low:.1f} to {high:.1f} |")
    lines += [
        "",
        "What was done about it: trials load no MLflow (the driver records for them), data are prepared and their hash",
        "taken once, Tune carries a pointer to each trial's task instead of the task, and its processes start while",
        "others train. What is left is Python's start and TensorFlow's import in each of these processes.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
