"""A model's card: what it is for, what it was made of, how good it is and where it fails, as JSON and for reading.

After Mitchell et al., Model Cards for Model Reporting (2019), with what a segmentation model's user asks first.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from r2d2 import __version__, config
from r2d2.data.cases import patient_reader
from r2d2.data.fingerprint import Fingerprint
from r2d2.segeval import Tally, foreground, plain

FORMAT = 1
WORST = 3
"""How many of the worst patients a card names."""
POOR = 0.5
"""Below this Dice a test patient is told among the failures."""
SHOWN = ("dice", "iou", "sensitivity", "precision", "hd95_mm", "surface_dice", "volume_error_ml")


def make(
    experiment: config.Experiment,
    known: Mapping[str, Any],
    tally: Tally,
    fingerprint: Fingerprint | None,
    licence: str,
    parameters: int,
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the card of a model, in JSON's terms.

    Args:
        experiment: What it was made from.
        known: What is saved beside the network, `metadata["r2d2"]`: labels, channels, split, ranges, parents.
        tally: Its scores on its test patients; without scans if there are none.
        fingerprint: Of its data.
        licence: The data's, as the dataset states it.
        parameters: How many numbers the network has learned.
        origin: From `lineage`.
    """
    told, split, patient_of = experiment.card, known["split"], patient_reader(experiment.data.patient_pattern)
    estimates = tally.estimates() if tally.rows else {}
    dice = {patient: value for patient, value in tally.patients("dice").items() if not math.isnan(value)}
    worst = sorted(dice, key=lambda patient: dice[patient])[:WORST]
    return plain(
        {
            "format": FORMAT,
            "name": experiment.registered_name,
            "description": experiment.description,
            "task": told.task or ", ".join(name for value, name in _classes(known) if value > 0),
            "modality": told.modality or ", ".join(known["channels"]),
            "intended_use": told.intended_use,
            "labels": {str(value): name for value, name in _classes(known)},
            "channels": list(known["channels"]),
            "network": experiment.model.network,
            "parameters": parameters,
            "plane": experiment.preprocess.plane,
            "ranges": known.get("ranges"),
            "fingerprint": asdict(fingerprint) if fingerprint else None,
            "scans": {part: len(names) for part, names in split.items()},
            "patients": {part: len({patient_of(name) for name in names}) for part, names in split.items()},
            "scores": {name: asdict(estimate) for name, estimate in estimates.items()},
            "worst": [{"patient": patient, "dice": dice[patient]} for patient in worst],
            "known_failures": [*told.known_failures, *_failures(tally, dice)],
            "licence": told.licence or licence,
            "lineage": {
                **origin,
                "parents": [parent["model"] for parent in known.get("parents", [])],
                "split": {part: sorted(names) for part, names in split.items()},
            },
        }
    )


def lineage(run_id: str, data: str, git: str, packages: Mapping[str, str]) -> dict[str, Any]:
    """Return where a model comes from, made today.

    Args:
        run_id: The run that made it.
        data: The hash of the prepared data.
        git: The commit.
        packages: The versions that results depend on.
    """
    today = time.strftime("%Y-%m-%d")
    return {"run": run_id, "data": data, "git": git, "packages": dict(packages), "r2d2": __version__, "date": today}


def text(card: Mapping[str, Any]) -> str:
    """Return a card for reading, in Markdown."""
    ranges = card["ranges"] or {}
    lines = [f"# {card['name']}", ""]
    if card["description"]:
        lines += [card["description"], ""]
    classes = ", ".join(f"{value} {name}" for value, name in card["labels"].items())
    lines += [
        f"- Task: {card['task']}",
        f"- Modality: {card['modality']}",
        f"- Intended use: {card['intended_use']}",
        f"- Classes: {classes}",
        f"- Network: {card['network']}, {card['parameters']:,} parameters, {card['plane']} slices",
        "- Patients: " + ", ".join(f"{count} {part}" for part, count in card["patients"].items()),
        f"- Licence of the data: {card['licence'] or 'not stated'}",
        "",
        "## Made for scans like these",
        "",
    ]
    if "spacing_mm" in ranges:
        axes = zip(("right", "front", "top"), ranges["spacing_mm"], strict=True)
        lines.append(
            "- Spacing: " + ", ".join(f"{low:.3g} to {high:.3g} mm to the {axis}" for axis, (low, high) in axes)
        )
    for channel, percentiles in ranges.get("intensities", {}).items():
        values = ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in percentiles.items())
        lines.append(f"- Intensities of {channel}, normalized, percentiles over the training scans: {values}")
    if not ranges:
        lines.append("- Not recorded.")
    lines += [
        "",
        f"## Scores of {_counted(card['patients']['test'], 'test patient')} (95 % interval over patients)",
        "",
    ]
    shown = {name: one for name, one in card["scores"].items() if name.split("/")[0] in SHOWN}
    lines += [f"- {name}: {_number(one)}" for name, one in shown.items()] or ["- None: there were no test patients."]
    if card["worst"]:
        lines += ["", "Worst: " + ", ".join(f"{one['patient']} (Dice {one['dice']:.3f})" for one in card["worst"])]
    lines += ["", "## Known failures", ""]
    lines += [f"- {failure}" for failure in card["known_failures"]] or ["- None known; few have looked."]
    of = card["lineage"]
    lines += [
        *("", "## Where it comes from", ""),
        f"- Run {of['run']}, {of['date']}, commit {of['git']}",
        f"- Prepared data {of['data']}",
        f"- Started from {', '.join(of['parents']) or 'random weights'}",
        "- " + ", ".join(f"{package} {number}" for package, number in {"r2d2": of["r2d2"], **of["packages"]}.items()),
    ]
    return "\n".join(lines) + "\n"


def tags(card: Mapping[str, Any]) -> dict[str, str]:
    """Return what a list of models shows of a card, as tags of its version."""
    dice = card["scores"].get("dice")
    found = {
        "task": card["task"],
        "modality": card["modality"],
        "classes": ", ".join(name for value, name in card["labels"].items() if value != "0"),
        "parents": ", ".join(card["lineage"]["parents"]),
    }
    if dice:
        found |= {
            "dice": _decimal(dice["value"]),
            "dice_low": _decimal(dice["low"]),
            "dice_high": _decimal(dice["high"]),
        }
    return {f"r2d2.{key}": value[:5000] for key, value in found.items()}


def _failures(tally: Tally, dice: Mapping[str, float]) -> list[str]:
    """What the test patients say by themselves."""
    if not tally.rows:
        return ["It has not been tested: the split left no test patients."]
    found = []
    poor = [
        f"{patient} ({value:.2f})" for patient, value in sorted(dice.items(), key=lambda one: one[1]) if value < POOR
    ]
    if poor:
        found.append(
            f"Dice below {POOR:g} on {len(poor)} of {_counted(len(dice), 'test patient')}: {', '.join(poor[:10])}."
        )
    for _, name in foreground(tally.labels):
        there, found_there = (tally.patients(f"{part}/{name}") for part in ("reference_ml", "volume_ml"))
        missed = [patient for patient in there if there[patient] > 0 and not found_there[patient]]
        if missed:
            whose = _counted(len(missed), "test patient")
            found.append(f"{name} not found at all in {whose} with it: {', '.join(missed[:10])}.")
    return found


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _classes(known: Mapping[str, Any]) -> list[tuple[int, str]]:
    return sorted((int(value), name) for value, name in known["labels"].items())


def _decimal(value: float | str | None) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _number(one: Mapping[str, Any]) -> str:
    value, low, high = (f"{one[key]:.3f}" if isinstance(one[key], float) else None for key in ("value", "low", "high"))
    interval = f" ({low} to {high})" if low and high else ""
    missed = f", missed in {one['missed']}" if one["missed"] else ""
    return f"{one['statistic']} {value or 'none'}{interval}, n = {one['n']}{missed}"
