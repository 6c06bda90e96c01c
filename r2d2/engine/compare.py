"""Compare two models on the same patients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2 import config
from r2d2.console import bar
from r2d2.engine.evaluate import Pair, dataset_for, load_predictor, read_case
from r2d2.engine.models import own_scans, read_metadata, resolve
from r2d2.errors import InputError

if TYPE_CHECKING:
    from r2d2.segeval import CaseScores, Comparison, Tally


@dataclass(frozen=True)
class Scored:
    """One or two models on the same patients.

    Attributes:
        about: Whose scans these are, in a sentence.
        tallies: The scores of each model.
        policies: What each model's experiment asks of a promotion.
        left_out: The patients who are not among them because a model, or one that it came from, was trained or chosen
            on a scan of theirs.
    """

    about: str
    tallies: "tuple[Tally, ...]"
    policies: tuple[config.Promotion, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """What `compare` finds.

    Attributes:
        about: Whose scans these are.
        models: The two, as they were called.
        comparisons: Of the Dice of all classes and of each one: the first model less the second, patient by patient.
        rows: Each patient's Dice from both models, and the difference.
        left_out: The patients who were left out.
    """

    about: str
    models: tuple[str, str]
    comparisons: "dict[str, Comparison]"
    rows: list[dict[str, Any]]
    left_out: tuple[str, ...]


def compare(first: str, second: str, data: Path | None = None) -> Compared:
    """Compare two models, patient by patient, on patients whom neither has seen.

    Args:
        first: See `engine.models.resolve`.
        second: Likewise; its classes and channels are the first's.
        data: A folder of annotated scans; absent, the first's own data.

    Raises:
        InputError: No such model or data, other classes or channels, or fewer than two patients whom neither has seen.
    """
    from r2d2 import segeval

    found = score([first, second], data)
    one, two = found.tallies
    names = ["dice", *(f"dice/{name}" for _, name in segeval.foreground(one.labels))]
    comparisons = {}
    for name in names:
        ours, theirs = one.patients(name), two.patients(name)
        having = sum(not (math.isnan(ours[patient]) and math.isnan(theirs[patient])) for patient in ours)
        if name == "dice" or having > 1:
            comparisons[name] = segeval.compare(ours, theirs)
    return Compared(found.about, (first, second), comparisons, rows(found.tallies), found.left_out)


def score(models: Sequence[str], data: Path | None) -> Scored:
    """Score models on the patients of a dataset whom none of them, nor any that they came from, has seen.

    Args:
        models: One or two, see `engine.models.resolve`.
        data: A folder of annotated scans; absent, the first model's own data.

    Raises:
        InputError: No such model or data, other classes or channels, or a scan that cannot be scored.
    """
    from r2d2 import segeval

    folders = [resolve(model) for model in models]
    seen: set[str] = set()
    for folder in folders:
        known = read_metadata(folder)
        seen.update(own_scans(known), *(parent["seen"] for parent in known.get("parents", [])))
    loaded = [load_predictor(str(folder)) for folder in folders]
    first = loaded[0][0]
    dataset = dataset_for(first, data)
    for (saved, _), model in zip(loaded[1:], models[1:], strict=True):
        for what in ("labels", "channels"):
            ours, theirs = getattr(first, what), getattr(saved, what)
            if ours != theirs:
                raise InputError(f"{models[0]} and {model}: their {what} differ, {ours} and {theirs}")
    # By the contents that the first model knows of its own data: those who were seen need not be read.
    contents = first.contents if data is None else {}
    left_out = {case.patient for case in dataset.cases if contents.get(case.name) in seen}
    scans: list[tuple[str, list[CaseScores]]] = []
    with bar("Comparing" if len(models) > 1 else "Scoring", len(dataset.cases)) as advance:
        for case in dataset.cases:
            advance(case.name)
            if case.patient in left_out:
                continue
            inspected = read_case(case, first, dataset)
            if inspected.summary.content in seen:
                left_out.add(case.patient)
                continue
            of_models = []
            for saved, predictor in loaded:
                prediction = predictor.volume(inspected.image, case.images[0])
                pair = Pair(inspected.mask, prediction, plane=saved.experiment.preprocess.plane)
                of_models.append(pair.scores(case.name, case.patient, first.labels, segeval.TOLERANCE_MM))
            scans.append((case.patient, of_models))
    tallies = tuple(segeval.Tally(first.labels) for _ in models)
    for patient, of_models in scans:
        if patient not in left_out:
            for tally, one in zip(tallies, of_models, strict=True):
                tally.add(one)
    patients = len(tallies[0].patients("dice")) if tallies[0].rows else 0
    of = data or first.experiment.data.path
    about = f"{patients} patients of {of} whom no model was trained or chosen on ({len(left_out)} left out)"
    policies = tuple(saved.experiment.promotion for saved, _ in loaded)
    return Scored(about, tallies, policies, tuple(sorted(left_out)))


def rows(tallies: "tuple[Tally, ...]") -> list[dict[str, Any]]:
    """Each patient's Dice, of all classes and of each one, from every model."""
    from r2d2.segeval import foreground, plain

    first = tallies[0]
    names = ["dice", *(f"dice/{name}" for _, name in foreground(first.labels))]
    values = {name: [tally.patients(name) for tally in tallies] for name in names}
    return plain(
        [
            {"patient": patient} | {name: [of_model[patient] for of_model in values[name]] for name in names}
            for patient in (values["dice"][0] if first.rows else ())
        ]
    )
