"""Small datasets on the disk, in the layouts that are handed out."""

import json

import nibabel as nib
import numpy as np
import pytest

from r2d2.config import Data
from r2d2.data.cases import find_cases
from r2d2.errors import InputError

RNG = np.random.default_rng(0)
AFFINE = np.diag([3.0, 2.0, 1.0, 1.0])
LABELS = {0: "background", 1: "edema", 2: "tumour"}


def save(path, data, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


def scan(shape=(5, 6, 7)):
    return RNG.normal(100, 10, shape).astype(np.float32)


def mask(shape=(5, 6, 7)):
    labels = np.zeros(shape, np.uint8)
    labels[1:3, 1:3, 1:3] = 1
    labels[3, 3, 3] = 2
    return labels


def plain(folder, names=("a", "b")):
    for name in names:
        save(folder / "images" / f"{name}.nii.gz", scan())
        save(folder / "labels" / f"{name}.nii.gz", mask())
    return Data(path=folder, labels=LABELS)


def decathlon(folder, names=("BRATS_002", "BRATS_001"), **changes):
    for name in names:
        save(folder / "imagesTr" / f"{name}.nii.gz", scan((5, 6, 7, 2)))
        save(folder / "labelsTr" / f"{name}.nii.gz", mask())
    about = {
        "name": "BRATS",
        "description": "Gliomas",
        "licence": "CC-BY-SA 4.0",
        "modality": {"1": "T1w", "0": "FLAIR"},
        "labels": {str(value): name for value, name in LABELS.items()},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": ["./imagesTs/BRATS_485.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(about | changes))
    return Data(path=folder)


def refusal(data):
    """The one line that a dataset is refused with."""
    with pytest.raises(InputError) as caught:
        find_cases(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)
