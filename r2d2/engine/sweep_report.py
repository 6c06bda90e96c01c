"""A sweep's report: a table of its trials, the best settings, parallel coordinates, what the scores depend on."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from r2d2 import config
from r2d2.files import whole_folder

if TYPE_CHECKING:
    from r2d2.cluster.search import Trial

COLOURS = ListedColormap(colormaps["viridis_r"](np.linspace(0.15, 1.0, 256)))
"""Without the palest, which a line on white would be lost in."""
LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}


def write(folder: Path, sweep: config.Sweep, trials: "Sequence[Trial]", importance: Mapping[str, float]) -> list[Path]:
    """Write `trials.csv`, `importance.csv`, `best.yaml` (an experiment file; one for each `for_each`) and the pictures.

    Args:
        folder: It is made anew.
        sweep: The sweep.
        trials: Its trials, one of them with a score.
        importance: How much of the scores' variance each setting explains; no picture of it if that is not known.

    Returns:
        The files.
    """
    scored = [trial for trial in trials if trial.best is not None]
    with whole_folder(folder, replace=True) as new:
        with (new / "trials.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["trial", *sweep.space, "epochs", "val/dice", "outcome", "reason", "seconds", "run_id"])
            for trial in trials:
                values = [config.shown(trial.values[key]) if key in trial.values else "" for key in sweep.space]
                dice = "" if trial.best is None else f"{trial.best:.6f}"
                last = [trial.epochs, dice, trial.outcome, trial.reason, trial.seconds, trial.run_id]
                table.writerow([trial.number, *values, *last])
        for value, best in best_of(sweep, trials).items():
            name = "best" if value is None else f"best-{config.shown(value)}"
            told = f"# Trial {best.number} of the sweep {sweep.name}: validation Dice {best.best:.4f}, one seed.\n"
            (new / f"{name}.yaml").write_text(told + sweep.trial(best.values).to_yaml(), encoding="utf-8")
        parallel_coordinates(sweep, scored).savefig(new / "parallel_coordinates.png", dpi=120)
        if importance:
            with (new / "importance.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("setting", "importance"), *importance.items()])
            importance_bars(importance, len(scored)).savefig(new / "importance.png", dpi=120)
    return sorted(folder.iterdir())


def best_of(sweep: config.Sweep, trials: "Sequence[Trial]") -> "dict[Any, Trial]":
    """The trial with the best validation Dice for each value of `for_each`, or of all (None)."""
    found: dict[Any, Trial] = {}
    for trial in trials:
        group = sweep.group(trial.values)
        if trial.best is not None and trial.outcome != "diverged":
            before = found.get(group)
            if before is None or trial.best > (before.best or 0.0):
                found[group] = trial
    return dict(sorted(found.items(), key=lambda item: str(item[0]).zfill(9)))


def parallel_coordinates(sweep: config.Sweep, trials: "Sequence[Trial]") -> Figure:
    """A line a trial through its settings to its best validation Dice, the better the darker.

    Values lie evenly on their axis, those of `log_uniform` by their logarithm; a line is broken where its trial does
    not have a setting.
    """
    axes_of = [
        (key, *scale(sweep.space[key], [t.values[key] for t in trials if key in t.values])) for key in sweep.space
    ]
    scores = np.array([trial.best for trial in trials], float)
    low, high = float(scores.min()), float(scores.max())
    span = (high - low) or 1.0
    figure = Figure(figsize=(max(7.0, 1.9 * (len(axes_of) + 1)), 4.8), layout="constrained")
    axes = figure.add_subplot()
    norm = Normalize(low, high if high > low else low + 1e-9)
    for trial in sorted(trials, key=lambda trial: trial.best or 0.0):
        points = [
            (x, place(trial.values[key]) if key in trial.values else np.nan)
            for x, (key, place, _) in enumerate(axes_of)
        ]
        points.append((len(axes_of), ((trial.best or 0.0) - low) / span))
        best = trial.best == high
        axes.plot(
            *zip(*points, strict=True),
            color=COLOURS(norm(trial.best or 0.0)),
            linewidth=2.5 if best else 1.2,
            marker="o",
            markersize=4,
            linestyle="-" if trial.outcome == "finished" else (0, (4, 2)),
            zorder=3 if best else 2,
        )
    for x, (_, _, ticks) in enumerate(axes_of):
        _axis(axes, x, ticks)
    _axis(axes, len(axes_of), [(0.0, f"{low:.3f}"), (1.0, f"{high:.3f}")] if high > low else [(0.0, f"{low:.3f}")])
    names = [key.removeprefix("training.").replace(".", "\n") for key, _, _ in axes_of]
    axes.set_xticks(range(len(names) + 1), [*names, "validation\nDice"])
    axes.tick_params(axis="x", length=0, pad=8)
    axes.set_yticks([])
    axes.set_xlim(-0.35, len(names) + 0.45)
    axes.set_ylim(-0.06, 1.06)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{sweep.name}: {len(trials)} trials; dashed: not to the last epoch", loc="left", fontsize=10)
    figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, label="best validation Dice of the trial", pad=0.02)
    return figure


def importance_bars(importance: Mapping[str, float], trials: int) -> Figure:
    """How much of the scores' variance each setting explains, a bar each."""
    figure = Figure(figsize=(6.0, 1.2 + 0.4 * len(importance)), layout="constrained")
    axes = figure.add_subplot()
    names = [key.removeprefix("training.") for key in importance][::-1]
    parts = [100 * part for part in importance.values()][::-1]
    axes.barh(names, parts, color=COLOURS(0.55))
    for place, part in enumerate(parts):
        axes.text(part, place, f" {part:.0f} %", va="center", fontsize=9)
    axes.set_xlim(0, 112)
    axes.set_xlabel(
        f"variance of the validation Dice explained, %\n(fANOVA over {trials} trials; settings that all of them have)"
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _axis(axes: Any, x: float, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axvline(x, color="0.35", linewidth=1.0, zorder=1)
    for y, label in ticks:
        axes.text(x - 0.04, y, label, ha="right", va="center", fontsize=8, zorder=4, bbox=LABEL)


def scale(ranges: Sequence[config.Dimension], used: Sequence[Any]) -> tuple[Any, list[tuple[float, str]]]:
    """Where a setting's values lie on an axis from 0 to 1, and what is written beside it."""
    choices = [value for one in ranges for value in one.choice or ()]
    if choices:  # numbers of other ranges of the setting stand among them
        labels = list(dict.fromkeys(config.shown(value) for value in [*choices, *used]))
        places = {label: number / max(1, len(labels) - 1) for number, label in enumerate(labels)}
        return lambda value: places[config.shown(value)], [(place, label) for label, place in places.items()]
    low, high = (best(end for one in ranges for end in one.ends) for best in (min, max))
    logarithmic = all(one.log_uniform for one in ranges)
    forward = np.log if logarithmic else float

    def place(value: float) -> float:
        return float((forward(value) - forward(low)) / (forward(high) - forward(low)))

    marks = [low, high] if ranges[0].integers else [low, (low + high) / 2, high]
    if logarithmic:
        powers = range(int(np.ceil(np.log10(low))), int(np.floor(np.log10(high))) + 1)
        inner = [10.0**power for power in powers if 0.08 < place(10.0**power) < 0.92]  # clear of the ends' numbers
        marks = [low, *inner, high]
    return place, [(place(mark), config.shown(mark)) for mark in marks]
