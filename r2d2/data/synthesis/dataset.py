"""From virtual patients to a folder in Medical Segmentation Decathlon layout."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2d2 import __version__
from r2d2.data.parallel import spread
from r2d2.data.sources import ICBM152_LICENCE, ICBM152_SOURCE
from r2d2.data.synthesis import atrium, brain, brats
from r2d2.errors import InputError
from r2d2.files import whole_folder
from r2d2.imgmed import Volume, write_volume

KINDS: dict[str, ModuleType] = {"brain": brain, "brats": brats, "atrium": atrium}
"""Each has LABELS, MODALITIES, SETTINGS, `grid(spacing_mm)` and `generate(rng, spacing_mm) -> (image, labels)`."""

CAUTION = (
    "These are virtual patients, drawn by R2D2's generator: good for trying out and testing software, no clinical "
    "evidence of anything, and a score on them says nothing about a score on people."
)


def synthesize(
    kind: str,
    folder: str | Path,
    patients: int,
    seed: int,
    spacing_mm: float | None = None,
    workers: int | None = None,
    progress: Callable[[], None] | None = None,
) -> Path:
    """Make a dataset of virtual patients: the whole folder, or none.

    Patient i of a seed is the same voxel by voxel, however many patients or workers there are.

    Args:
        kind: `brain` (T1w; grey matter, white matter, other), `brats` (FLAIR, T1w, T1gd, T2w; three parts of a
            tumour; 240x240x155 voxels) or `atrium` (MRI of the chest; left atrium; 320x320x110 voxels).
        folder: Where it goes: a folder that is not there yet, or is empty.
        patients: How many, 1 or more.
        seed: 0 or more.
        spacing_mm: Distance of neighbouring voxels, for smaller scans of the same size in mm; by default that of the
            kind (1 mm; 1.25 mm for `atrium`, whose slices are 1.1 times as far apart as its rows).
        workers: Processes that work side by side; by default one for each core. 1 works in this process.
        progress: Called without arguments after every finished patient.

    Returns:
        The folder, with `dataset.json`, `imagesTr/` and `labelsTr/`.

    Raises:
        InputError: No such kind, a number out of its range, a folder that is not empty or cannot be made, or nilearn,
            which carries the anatomy, is missing.
    """
    folder = Path(folder).absolute()
    _check(kind, folder, patients, seed, spacing_mm, workers)
    KINDS[kind].grid(spacing_mm)  # a missing template is told before any work
    try:
        with whole_folder(folder) as beside:
            for part in ("imagesTr", "labelsTr"):
                (beside / part).mkdir()
            names = []
            for name in spread(partial(_write_patient, kind, beside, seed, spacing_mm), range(patients), workers):
                names.append(name)
                if progress:
                    progress()
            description = json.dumps(_description(kind, sorted(names), seed, spacing_mm), indent=2, ensure_ascii=False)
            (beside / "dataset.json").write_text(description + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror or error})") from None
    return folder


def is_made_so(folder: Path, kind: str, patients: int, seed: int, spacing_mm: float | None) -> bool:
    """Return whether a folder holds what `synthesize` would make of these arguments."""
    try:
        about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        return about["numTraining"] == patients and about["generator"] == _generator(kind, seed, spacing_mm)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def patient(
    kind: str, seed: int, index: int, spacing_mm: float | None = None
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Patient number `index` (from 0) of a seed: the scan, (X, Y, Z) or (X, Y, Z, C) int16, and the labels."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
    return KINDS[kind].generate(rng, spacing_mm)


def _write_patient(kind: str, folder: Path, seed: int, spacing_mm: float | None, index: int) -> str:
    name = f"{kind}_{index + 1:03d}.nii.gz"
    affine = KINDS[kind].grid(spacing_mm).affine
    image, labels = patient(kind, seed, index, spacing_mm)
    write_volume(Volume(image, affine), folder / "imagesTr" / name)
    write_volume(Volume(labels, affine), folder / "labelsTr" / name)
    return name


def _description(kind: str, names: list[str], seed: int, spacing_mm: float | None) -> dict[str, Any]:
    generator = KINDS[kind]
    real = kind != "atrium"
    return {
        "name": f"R2D2 virtual patients: {kind}",
        "description": f"{CAUTION} {(generator.__doc__ or '').splitlines()[0]}",
        "reference": ICBM152_SOURCE if real else "R2D2",
        "licence": ICBM152_LICENCE if real else "Apache-2.0",
        "release": __version__,
        "tensorImageSize": "4D" if len(generator.MODALITIES) > 1 else "3D",
        "modality": {str(value): name for value, name in generator.MODALITIES.items()},
        "labels": {str(value): name for value, name in generator.LABELS.items()},
        "numTraining": len(names),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
        "generator": _generator(kind, seed, spacing_mm),
    }


def _generator(kind: str, seed: int, spacing_mm: float | None) -> dict[str, Any]:
    made_with = {
        "r2d2": __version__,
        "kind": kind,
        "seed": seed,
        "spacing_mm": KINDS[kind].grid(spacing_mm).spacing_mm,
        "settings": _settings(kind),
    }
    return json.loads(json.dumps(made_with))  # as it is read back: lists for tuples


def _settings(kind: str) -> dict[str, Any]:
    settings = KINDS[kind].SETTINGS._asdict()
    return {"brain": brain.SETTINGS._asdict(), "brats": settings} if kind == "brats" else {kind: settings}


def _check(kind: str, folder: Path, patients: int, seed: int, spacing_mm: float | None, workers: int | None) -> None:
    if kind not in KINDS:
        raise InputError(f"no virtual patients of the kind {kind!r}; there are {', '.join(KINDS)}")
    if patients < 1:
        raise InputError(f"patients ({patients}) must be >= 1")
    if seed < 0:
        raise InputError(f"seed ({seed}) must be >= 0")
    if spacing_mm is not None and not 0.5 <= spacing_mm <= 8.0:
        raise InputError(f"spacing_mm ({spacing_mm:g}) must be from 0.5 to 8")
    if workers is not None and workers < 1:
        raise InputError(f"workers ({workers}) must be >= 1")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: there is something there already; name a folder that is new or empty")
