"""Which patients train, validate and test."""

from itertools import combinations

import numpy as np

from r2d2.config import Split
from r2d2.data.cases import Dataset
from r2d2.errors import InputError

PARTS = ("training", "validation", "test")


def split_patients(dataset: Dataset, split: Split) -> dict[str, tuple[str, ...]]:
    """Return which cases train, validate and test; all of a patient's cases go to one part.

    Args:
        dataset: From `find_cases`.
        split: Lists of patients, which win (who is in none is left out); or folds; or fractions. Folds and fractions
            are drawn with the seed from the sorted patients, so that the order of files on the disk plays no part.

    Returns:
        `training`, `validation`, `test` -> names of cases, in the dataset's order. By fractions every part whose
        fraction is not 0 has a patient.

    Raises:
        InputError: There are fewer patients than parts or folds; a list names a patient whom the dataset lacks, or two
            lists name the same one.
    """
    patients = sorted({case.patient for case in dataset.cases})
    if split.training is not None:
        part_of = _listed(patients, split)
    else:
        drawn = [patients[i] for i in np.random.default_rng(split.seed).permutation(len(patients))]
        part_of = _folded(drawn, split.folds, split.fold) if split.folds else _fractioned(drawn, split.fractions)
    return {part: tuple(c.name for c in dataset.cases if part_of.get(c.patient) == part) for part in PARTS}


def _listed(patients: list[str], split: Split) -> dict[str, str]:
    lists = {part: set(getattr(split, part)) for part in PARTS}
    for part, listed in lists.items():
        for patient in sorted(listed.difference(patients)):
            known = ", ".join(patients[:3]) + (", ..." if len(patients) > 3 else "")
            raise InputError(f"data.split.{part}: no patient {patient!r} in the dataset, which has {known}")
    for left, right in combinations(PARTS, 2):
        for patient in sorted(lists[left] & lists[right]):
            raise InputError(f"data.split: patient {patient!r} is in {left} and in {right}, and may be in one only")
    return {patient: part for part, listed in lists.items() for patient in listed}


def _folded(drawn: list[str], folds: int, fold: int) -> dict[str, str]:
    if len(drawn) < folds:
        raise InputError(
            f"data.split.folds: {folds} folds need at least {folds} patients, the dataset has {len(drawn)}; "
            "take fewer folds, or look whether data.patient_pattern takes the patients apart"
        )
    parts = {fold: "test", (fold + 1) % folds: "validation"}
    return {patient: parts.get(i % folds, "training") for i, patient in enumerate(drawn)}


def _fractioned(drawn: list[str], fractions: tuple[float, float, float]) -> dict[str, str]:
    needed = sum(fraction > 0 for fraction in fractions)
    if len(drawn) < needed:
        raise InputError(
            f"data.split: {needed} parts need at least {needed} patients, the dataset has {len(drawn)}; set the "
            "fraction of a part to 0, add scans, or look whether data.patient_pattern takes the patients apart"
        )
    sizes = [max(1, round(fraction * len(drawn))) if fraction else 0 for fraction in fractions]
    # Rounding leaves at most two too many or too few; the largest part can give and take them.
    while sum(sizes) != len(drawn):
        sizes[sizes.index(max(sizes))] += 1 if sum(sizes) < len(drawn) else -1
    parts = [part for part, size in zip(PARTS, sizes, strict=True) for _ in range(size)]
    return dict(zip(drawn, parts, strict=True))
