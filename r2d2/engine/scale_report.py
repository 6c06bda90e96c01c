"""A scaling study's report: `scaling.json`, tables, and the paper's curves: time, efficiency and scores by workers."""

import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from r2d2 import __version__, config
from r2d2.files import whole_folder
from r2d2.segeval import compare, estimate, plain
from r2d2.segeval.statistics import CONFIDENCE
from r2d2.training.time_model import fit_curve

PAPERS = {
    "dice": "Dice, foreground",
    "mean_iou": "mean IoU",
    "mean_accuracy": "mean accuracy",
    "pixel_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "freq.-weighted IoU",
}
"""The paper's five scores, which are drawn; the JSON has all."""
BASELINE_OF = (
    "dice",
    "mean_dice",
    "iou",
    "mean_iou",
    "mean_accuracy",
    "pixel_accuracy",
    "frequency_weighted_iou",
    "kappa",
)
"""Scores whose loss against the baseline is given."""
BOUND_POINTS = 0.3
"""How many hundredths of Dice a recipe may lose, at the upper end of the interval, to count as one that loses none."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#777777")
"""Okabe and Ito's, which colour-blind people tell apart, with grey for a yellow that white swallows. Each rule has a
mark of its own, too."""
MARKS = "osD^vPX*"
TIMINGS = (
    ("step_s", "step s", "{:.4f}"),
    ("images_per_s", "images/s", "{:.1f}"),
    ("training_s", "training s", "{:.1f}"),
    ("speedup", "speedup of the step", "{:.2f}"),
    ("training_speedup", "speedup of the training", "{:.2f}"),
    ("efficiency", "efficiency of the step", "{:.0%}"),
    ("cpu_hours", "CPU hours", "{:.3f}"),
    ("gpu_hours", "GPU hours", "{:.3f}"),
    ("kwh", "kWh", "{:.4f}"),
)
"""What a table says of time and energy, how it calls it, and how it writes it; without what nobody measured."""
COSTS = ("cpu_hours", "cpu_kwh", "gpu_hours", "gpu_kwh")
INTERVALS = "95 %, half-widths over patients (bootstrap) and over seeds (Student's t) in quadrature"
"""What the intervals of scores and losses are; with one seed there is none."""
AHEAD, FURTHEST = (2, 4, 8, 18, 64, 256, 1024), 32
"""Numbers of workers that the time of is predicted for: more than were measured, and up to so many times as many."""
APART = 1.02
"""How far to the right of a rule's mark the next one's stands."""
LOSS_TICKS = (-30, -10, -3, -1, 0, 1, 3, 10, 30, 100)

Interval = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


def scaling(study: config.Study, run_id: str, runs: Sequence[Mapping[str, Any]], cpus: int) -> dict[str, Any]:
    """All that the study found.

    Args:
        study: The study.
        run_id: Its run.
        runs: From `engine.scale.points`.
        cpus: What each worker had.

    Returns:
        Plain values for JSON:
        `points`, one a run and rule: `workers`, `virtual`, `rule`, `repeat`, `seed`, `run_id`, `outcome`, `reason`,
        `updates`, `epochs`, `step_s`, `input_s`, `compute_s`, `communication_s` (of a step), `images_per_s`, `epoch_s`
        (after the first, in which the step is traced, if there are more), `training_s` (all, with validation),
        `cpu_hours`, `cpu_kwh`, `gpu_hours`, `gpu_kwh`, `kwh` of both (null where nobody can tell), `scores` (means
        over the validation patients).
        `summaries`, one for each number of workers and rule: `repeats` that came to their end, of which all else is,
        and how many `diverged`; `value`, `low`, `high` of `step_s`, `images_per_s`, `epoch_s`, `training_s`, `speedup`
        and `efficiency` (of a step: after the first epoch, without validation and checkpoints), `training_speedup` (of
        `training_s`, which has all of these) and the costs over the repeats (null for virtual workers, whose time is
        nobody's); `scores`, and `loss` against the baseline in hundredths, paired by patient and seed, both with their
        intervals over the patients, over the repeats, and of the two in quadrature as `low` and `high`; `verdict`.
        `model` and `predictions`, see `time_model.Curve`; null without two numbers of real workers, 1 among them.
    """
    points = [_point(study, run, rule) for run in runs for rule in run["rules"]]
    rows = {
        (one["workers"], one["virtual"], rule, one["repeat"]): one["measured"].get("rows")
        for one in runs
        for rule in one["rules"]
    }
    done = [point for point in points if point["outcome"] == "finished"]
    ended = [point for point in points if point["outcome"] in ("finished", "diverged")]
    kinds = list(dict.fromkeys(map(_kind, ended)))
    kinds.sort(key=lambda kind: (study.rules.index(kind[2]), kind[0]))
    first = next((_kind(one) for one in done if one["workers"] == study.least and one["rule"] == study.rules[0]), None)
    summaries = [_summary(study, kind, first, ended, rows) for kind in kinds]
    model, predictions = _ahead(study, done)
    patients = {row["patient"] for found in rows.values() for row in found or ()}
    told = {
        "study": run_id,
        "name": study.name,
        "version": __version__,
        "cores": os.cpu_count(),
        "cpus_per_worker": cpus,
        "base": config.parameters(study.experiment),
        "scored": "validation patients, after the last epoch",
        "patients": len(patients),
        "baseline": None if first is None else {"workers": first[0], "virtual": first[1], "rule": first[2]},
        "bound_points": BOUND_POINTS,
        "intervals": INTERVALS,
        "energy": any(point["kwh"] is not None for point in done),
        "monitored": bool(study.workers) and study.experiment.tracking.monitor_s is not None,
        "points": points,
        "summaries": summaries,
        "model": model,
        "predictions": predictions,
    }
    return plain(told)


def write(folder: Path, told: Mapping[str, Any]) -> list[Path]:
    """Write `scaling.json`, `points.csv`, `table.md` and the pictures into a folder that is made anew.

    Returns:
        The files.
    """
    with whole_folder(folder, replace=True) as new:
        (new / "scaling.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        (new / "table.md").write_text(table(told), encoding="utf-8")
        with (new / "points.csv").open("w", newline="") as file:
            names = [name for name in told["points"][0] if name != "scores"]
            scores = sorted({name for point in told["points"] for name in point["scores"]})
            sheet = csv.writer(file)
            sheet.writerow([*names, *scores])
            for point in told["points"]:
                sheet.writerow([*(point[name] for name in names), *(point["scores"].get(name) for name in scores)])
        if any(one["step_s"] for one in told["summaries"]):
            times(told).savefig(new / "time.png", dpi=120)
        curves(told).savefig(new / "scores.png", dpi=120)
        if any(one["loss"] for one in told["summaries"]):
            losses(told).savefig(new / "loss.png", dpi=120)
    return sorted(folder.iterdir())


def table(told: Mapping[str, Any], timed: bool = True) -> str:
    """The summaries as a table of Markdown, with what took how long if that was `timed`."""
    head = ["rule", "workers", "repeats", "diverged", "updates", "Dice (95 %)", "points lost (95 %)", ""]
    timings = [one for one in TIMINGS if timed and any(row[one[0]] for row in told["summaries"])]
    head += [title for _, title, _ in timings]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in told["summaries"]:
        dice, lost = one["scores"].get("dice"), one["loss"].get("dice")
        pairs = f", {lost['pairs']} pair{'s' if lost['pairs'] > 1 else ''}" if lost else ""
        cells = [
            one["rule"],
            f"{one['workers']}{' virtual' if one['virtual'] else ''}",
            str(one["repeats"]),
            f"{one['diverged']} of {one['diverged'] + one['repeats']}" if one["diverged"] else "",
            "-" if one["updates"] is None else str(one["updates"]),
            _shown(dice, "{:.4f}"),
            "baseline" if one["baseline"] else _shown(lost, "{:.2f}") + pairs,
            one["verdict"],
        ]
        cells += [_shown(one[key], how) for key, _, how in timings]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Intervals of scores and losses: {INTERVALS}; with one seed there is none."]
    if any(one["diverged"] for one in told["summaries"]):
        lines += [
            "Runs that diverged have no scores: Dice, losses and times are those of the seeds that came to their end, "
            "and no rule that diverged in one counts as losing less; one that diverged in all of several loses more."
        ]
    if told["predictions"] and timed:
        lines += ["", predicted(told), ""]
        lines += ["| workers | step s | images/s | efficiency |", "|---|---|---|---|"]
        lines += [
            f"| {one['workers']} | {one['step_s']:.4f} | {one['images_per_s']:.1f} | {one['efficiency']:.0%} |"
            for one in told["predictions"]
        ]
    if timed and not told["energy"]:
        why = "not known; the processors' counters (RAPL) cannot be read here, and there is no GPU"
        lines += ["", f"Energy: {why if told['monitored'] else 'not measured'}."]
    return "\n".join(lines) + "\n"


def predicted(told: Mapping[str, Any]) -> str:
    """What stands above the predictions: from what they are, and what could not be told from it."""
    counts = told["model"]["workers"]
    text = (
        f"Predicted from the steps of {', '.join(map(str, counts[:-1]))} and {counts[-1]} workers, were every worker's "
        "processor and link as good. It goes beyond what was measured, and nobody has measured its error."
    )
    if len(counts) == 2:
        text += (
            " Two numbers of workers do not tell what each message costs from what each byte does: the first is taken "
            "as 0, so that large rings look better than they may be."
        )
    return text


def times(told: Mapping[str, Any]) -> Figure:
    """Training time, speedups and efficiency by real workers: the paper's Figures 11 and 12; energy, if it is known."""
    panels = [
        ("training_s", "training and validation, s", 1),
        ("speedup", "speedup of the training step", 1),
        ("training_speedup", "speedup of the whole training", 1),
        ("efficiency", "efficiency of the training step, %", 100),
    ]
    panels += [("kwh", "energy of a training, kWh", 1)] if told["energy"] else []
    figure = Figure(figsize=(3.5 * len(panels), 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels))
    counts = sorted({one["workers"] for one in told["summaries"] if one["step_s"]})
    for place, (key, label, factor) in zip(axes, panels, strict=True):
        _lines(place, told, itemgetter(key), factor, real=True)
        place.set_ylabel(label)
        place.set_xlabel("workers")
        place.set_xticks(counts)
    for place in axes[1:3]:
        place.plot(counts, [count / min(counts) for count in counts], color="0.5", linestyle=":", label="ideal")
    axes[3].axhline(100, color="0.5", linestyle=":")
    ahead = [one for one in told["predictions"] or () if one["workers"] <= 4 * max(counts)]
    if ahead:
        x, y = ([one[key] for one in ahead] for key in ("workers", "speedup"))
        axes[1].plot(x, y, ".-", color="0.5", label="predicted")
        axes[1].set_xticks([*counts, *x])
    axes[1].legend(fontsize=8, frameon=False)
    for place in axes:
        place.set_ylim(0, 1.05 * place.get_ylim()[1])
    figure.suptitle("Bars: 95 % over seeds (Student's t)", fontsize=8, color="0.3")
    return figure


def curves(told: Mapping[str, Any]) -> Figure:
    """The paper's five scores by workers, as its Figures 13 to 16, with their intervals."""
    figure = Figure(figsize=(13.0, 3.5), layout="constrained")
    axes = figure.subplots(1, len(PAPERS))
    for place, (score, label) in zip(axes, PAPERS.items(), strict=True):
        _lines(place, told, partial(_score_of, score), 1)
        _workers(place, told, told["summaries"])
        place.set_title(label, fontsize=10, loc="left")
        low, high = place.get_ylim()
        place.set_ylim(max(low, -0.03), min(high, 1.03))  # no score is beyond, though its interval may be
    axes[0].set_ylabel("score, mean over patients")
    _legend(figure, axes[0])
    figure.suptitle(f"Bars: {INTERVALS}", fontsize=8, color="0.3")
    return figure


def _score_of(score: str, one: Mapping[str, Any]) -> Interval | None:
    return one["scores"].get(score)


def losses(told: Mapping[str, Any]) -> Figure:
    """What each rule loses of the baseline's Dice, in hundredths, by workers."""
    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    axes = figure.subplots()
    _lines(axes, told, lambda one: one["loss"].get("dice"), 1)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.axhline(told["bound_points"], color="0.5", linestyle=":", label=f"bound, {told['bound_points']} points")
    _workers(axes, told, [one for one in told["summaries"] if one["loss"] or one["diverged"]])
    axes.set_ylabel("Dice lost against the baseline, points")
    axes.set_yscale("symlog", linthresh=1.0)
    axes.margins(y=0.08)
    low, high = axes.get_ylim()
    shown = [tick for tick in LOSS_TICKS if low <= tick <= high]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
    axes.minorticks_off()
    axes.set_title(f"Bars: {INTERVALS}", fontsize=7, color="0.3")
    _legend(figure, axes)
    return figure


def _point(study: config.Study, run: Mapping[str, Any], rule: str) -> dict[str, Any]:
    measured, costs = run["measured"], run["measured"].get("costs", {})
    point = {key: run[key] for key in ("workers", "virtual")} | {"rule": rule, "repeat": run["repeat"]}
    point |= {
        "seed": study.experiment.training.seed + run["repeat"],
        "run_id": run["run_id"],
        "outcome": run["outcome"],
    }
    point |= {"reason": run["reason"], "updates": measured.get("updates"), "epochs": None}
    point |= dict.fromkeys(("step_s", "input_s", "compute_s", "communication_s", "images_per_s", "epoch_s"))
    if history := measured.get("history"):
        steps = measured["updates"] / len(history)
        late = history[1:] or history
        seconds = sum(row["time/epoch_s"] for row in late)
        point["epochs"], point["epoch_s"], point["step_s"] = (
            len(history),
            seconds / len(late),
            seconds / len(late) / steps,
        )
        for part in ("input", "compute", "communication"):
            point[f"{part}_s"] = sum(row[f"time/{part}_s"] for row in late) / len(late) / steps
        point["images_per_s"] = sum(row["time/images_per_s"] * row["time/epoch_s"] for row in late) / seconds
    point["training_s"] = measured.get("training_s")
    point |= {key: costs.get(f"cost/{key}") for key in COSTS}
    energy = [point[key] for key in ("cpu_kwh", "gpu_kwh") if point[key] is not None]
    point["kwh"] = sum(energy) if energy else None
    scores = (
        {name: _mean([*of_patients(measured["rows"], name).values()]) for name in _names(measured["rows"])}
        if measured
        else {}
    )
    return point | {"scores": scores}


def _summary(
    study: config.Study,
    kind: tuple[int, bool, str],
    baseline: tuple[int, bool, str] | None,
    points: Sequence[Mapping[str, Any]],
    rows: Mapping[tuple[int, bool, str, int], Any],
) -> dict[str, Any]:
    workers, virtual, rule = kind

    def of(kind: tuple[int, bool, str] | None, outcome: str) -> dict[int, Mapping[str, Any]]:
        return {one["repeat"]: one for one in points if _kind(one) == kind and one["outcome"] == outcome}

    mine, diverged, first = of(kind, "finished"), len(of(kind, "diverged")), of(baseline, "finished")
    summary: dict[str, Any] = {"workers": workers, "virtual": virtual, "rule": rule, "repeats": len(mine)}
    summary |= {
        "diverged": diverged,
        "baseline": bool(mine)
        and {one["run_id"] for one in first.values()} == {one["run_id"] for one in mine.values()},
        "updates": next((one["updates"] for one in mine.values()), None),
    }
    for key in ("step_s", "images_per_s", "epoch_s", "training_s"):
        summary[key] = None if virtual else over_repeats([one[key] for one in mine.values()], positive=True)
    for key in (*COSTS, "kwh"):
        summary[key] = None if virtual else over_repeats([one[key] for one in mine.values()])
    least = min((*study.workers, 10**9))
    alone = {} if virtual else of((least, False, rule), "finished")
    ratios = [mine[k]["images_per_s"] / alone[k]["images_per_s"] for k in mine if k in alone]
    whole = [alone[k]["training_s"] / mine[k]["training_s"] for k in mine if k in alone]
    summary["speedup"] = over_repeats(ratios, positive=True)
    summary["training_speedup"] = over_repeats(whole, positive=True)
    summary["efficiency"] = over_repeats([least * ratio / workers for ratio in ratios], positive=True)
    found = {repeat: rows[(*kind, repeat)] for repeat in mine}
    summary["scores"] = {name: _score(found, name) for name in _names(next(iter(found.values()), [{}]))}
    base: dict[int, Rows] = {}
    if baseline is not None and not summary["baseline"]:
        base = {repeat: rows[(*baseline, repeat)] for repeat in first}
    lost = {name: loss_between(base, found, name) for name in BASELINE_OF if name in summary["scores"]}
    summary["loss"] = {name: value for name, value in lost.items() if value}
    summary["verdict"] = ""
    if first and not summary["baseline"]:
        said = verdict(summary["loss"].get("dice"), diverged, diverged + len(mine))
        # Of a baseline that diverged itself, the seeds that did well are no measure of what others lose.
        unfair = mine and of(baseline, "diverged") and said == "loses more"
        summary["verdict"] = "undecided" if unfair else said
    return summary


def _kind(point: Mapping[str, Any]) -> tuple[int, bool, str]:
    return point["workers"], point["virtual"], point["rule"]


def verdict(lost: Interval | None, diverged: int = 0, ended: int = 0, bound: float = BOUND_POINTS) -> str:
    """What may be said of a loss, in points: `loses less` than the bound, `loses more`, or `undecided`.

    Args:
        lost: From `loss_between`, of the seeds that came to their end.
        diverged: In how many seeds it diverged, which never loses less; in all of several, it loses more.
        ended: Of so many.
        bound: In points.
    """
    if diverged and diverged == ended:
        return "loses more" if ended > 1 else "undecided"
    if lost is None:
        return "undecided" if diverged else ""
    if lost["low"] is None or np.isnan(lost["low"]):
        return "undecided"
    if lost["high"] <= bound:
        return "undecided" if diverged else "loses less"
    return "loses more" if lost["low"] > bound else "undecided"


def over_repeats(values: Sequence[float], positive: bool = False) -> Interval | None:
    """Mean and 95 % interval over the repeats (Student's t); NaN at the ends of a single one; None of none.

    Args:
        values: One of each repeat.
        positive: Whether they are times or ratios, all > 0: then both are of the logarithms, the mean geometric.
    """
    known = np.asarray([value for value in values if value is not None], np.float64)
    if not known.size:
        return None
    back = np.exp if positive else float
    known = np.log(known) if positive else known
    half = float("nan")
    if known.size > 1:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, known.size - 1) * known.std(ddof=1) / np.sqrt(known.size))
    low, value, high = (float(back(known.mean() + part)) for part in (-half, 0.0, half))
    return {"value": value, "low": low, "high": high}


def of_patients(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """One score of every patient, the mean of his scans; NaN where there is none."""
    of: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        value = row.get(name)
        of[row["patient"]].append(float("nan") if value is None else float(value))
    return {patient: _mean(values) for patient, values in of.items()}


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in rows[0] if name not in ("case", "patient")]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _score(found: Mapping[int, Sequence[Mapping[str, Any]]], name: str) -> Interval:
    """A score with its intervals: over the patients, each one's mean over the repeats, over the repeats, of both."""
    each = [of_patients(rows, name) for rows in found.values()]
    averaged = {patient: _mean([one[patient] for one in each]) for patient in each[0]}
    told, repeats = estimate(np.array([*averaged.values()])), over_repeats([_mean([*one.values()]) for one in each])
    assert repeats is not None
    return in_quadrature(told.value, told.low, told.high, repeats) | {"patients": told.n}


def in_quadrature(value: float, low: float, high: float, repeats: Interval) -> Interval:
    """A mean over patients and repeats, with both intervals in one: half-widths at right angles, on each side.

    Args:
        value: The mean.
        low: Lower end of its interval over the patients.
        high: The upper one.
        repeats: Its interval over the repeats.

    Returns:
        `value`, `low`, `high`, and both as `low_patients`, ..., `high_repeats`; NaN where one of the two is.
    """
    below = math.hypot(value - low, repeats["value"] - repeats["low"])
    above = math.hypot(high - value, repeats["high"] - repeats["value"])
    told = {"value": value, "low": value - below, "high": value + above, "low_patients": low, "high_patients": high}
    return told | {"low_repeats": repeats["low"], "high_repeats": repeats["high"]}


def loss_between(before: Mapping[int, Rows], after: Mapping[int, Rows], name: str) -> Interval | None:
    """What the second have less of a score than the first, in hundredths, paired by patient and seed.

    Args:
        before: Rows of the validation patients' scans by repeat.
        after: The same of others.
        name: The score.

    Returns:
        `value` with its `low` and `high`, in quadrature of `..._patients` (patients resampled, each one's mean over
        the repeats) and `..._repeats` (Student's t), Wilcoxon's `p` over the patients, and `pairs`, how many repeats
        both have. One repeat tells nothing of others, nor one patient: `low` and `high` are NaN. None without a pair.
    """
    pairs = [(of_patients(before[k], name), of_patients(after[k], name)) for k in sorted(before.keys() & after.keys())]
    if not pairs:
        return None
    one, other = (
        {patient: _mean([pair[side][patient] for pair in pairs]) for patient in pairs[0][0]} for side in (0, 1)
    )
    repeats = over_repeats([_mean([*first.values()]) - _mean([*second.values()]) for first, second in pairs])
    assert repeats is not None
    if len(one) < 2:
        return {"value": 100 * repeats["value"], "low": float("nan"), "high": float("nan"), "pairs": len(pairs)}
    patients = compare(one, other)
    both = in_quadrature(patients.difference, patients.low, patients.high, repeats)
    return {key: 100 * value for key, value in both.items()} | {"p": patients.p, "pairs": len(pairs)}


def _ahead(study: config.Study, points: Sequence[Mapping[str, Any]]) -> tuple[dict | None, list[dict] | None]:
    """The time of more workers than there were, from the first rule's steps."""
    steps = [(one["workers"], one["step_s"]) for one in points if not one["virtual"] and one["rule"] == study.rules[0]]
    curve = fit_curve(steps)
    if curve is None:
        return None, None
    batch, found = study.experiment.training.batch_size, []
    most = max(n for n, _ in steps)
    for workers in (count for count in AHEAD if most < count <= FURTHEST * most):
        step = curve.step_s(workers)
        efficiency = curve.compute_s / step
        one = {"workers": workers, "step_s": step, "images_per_s": batch * workers / step}
        found.append(one | {"speedup": workers * efficiency, "efficiency": efficiency})
    fitted = {"compute_s": curve.compute_s, "volume_s": curve.volume_s, "latency_s": curve.latency_s}
    return fitted | {"workers": sorted({n for n, _ in steps})}, found


def _shown(value: Interval | None, how: str) -> str:
    if value is None or value["value"] is None:
        return "-"
    text = how.format(value["value"])
    return text if value["low"] is None else f"{text} ({how.format(value['low'])} to {how.format(value['high'])})"


def _lines(
    axes: Any,
    told: Mapping[str, Any],
    of: Callable[[Mapping[str, Any]], Interval | None],
    factor: float,
    real: bool = False,
) -> None:
    """A line a rule, bars for its intervals; marks of virtual workers are open."""
    rules = _rules(told)
    for number, rule in enumerate(rules):
        mine = [one for one in told["summaries"] if one["rule"] == rule and not (real and one["virtual"])]
        found = [(one["workers"], one["virtual"], of(one)) for one in sorted(mine, key=lambda one: one["workers"])]
        known = [(n, virtual, value) for n, virtual, value in found if value and value["value"] is not None]
        gone = [str(one["workers"]) for one in mine if one["diverged"]]
        if not (known or gone):
            continue
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        style = ("-", "--", ":")[number // len(COLOURS) % 3]  # once the colours begin again
        x = [n * APART ** (number - len(rules) / 2) for n, _, _ in known]  # beside each other, not on top
        y = [factor * value["value"] for _, _, value in known]
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1.3)
        label = f"{rule} (diverged at {', '.join(gone)})" if gone else rule
        axes.plot([], [], color=colour, linestyle=style, marker=mark, markersize=5, linewidth=1.3, label=label)
        for place, (_, virtual, value) in zip(x, known, strict=True):
            middle, ends = factor * value["value"], None
            if value["low"] is not None:  # rounding may put an end on the other side
                ends = [[max(0.0, middle - factor * value["low"])], [max(0.0, factor * value["high"] - middle)]]
            face = "white" if virtual else colour
            how = {"marker": mark, "markersize": 5, "markerfacecolor": face, "capsize": 2, "linewidth": 1}
            axes.errorbar(place, middle, yerr=ends, color=colour, **how)
    axes.spines[["top", "right"]].set_visible(False)


def _rules(told: Mapping[str, Any]) -> list[str]:
    """All rules, in the order in which their marks stand beside each other."""
    return list(dict.fromkeys(one["rule"] for one in told["summaries"]))


def _workers(axes: Any, told: Mapping[str, Any], shown: Sequence[Mapping[str, Any]]) -> None:
    """An axis for the numbers of workers of these summaries, wide enough for all marks beside each of them."""
    counts = sorted({one["workers"] for one in shown})
    beside = APART ** (len(_rules(told)) / 2 + 3)
    axes.set_xscale("log", base=2)
    axes.set_xlim(counts[0] / beside, counts[-1] * beside)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("workers (open marks: virtual)" if any(one["virtual"] for one in shown) else "workers")


def _legend(figure: Figure, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    fit = int(10 * figure.get_figwidth() / (6 + max(map(len, labels))))
    columns = max(1, min(fit, len(labels)))
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(labels) // columns))  # none of it from the curves
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
