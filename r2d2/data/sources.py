"""Real images that come inside installed packages: read from their files, never by running their code."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from r2d2.errors import InputError
from r2d2.imgmed import read_volume

ICBM152_SOURCE = (
    "ICBM 152 non-linear symmetric average, 2009a (Fonov et al., NeuroImage 54:313-327, 2011; Fonov et al., NeuroImage "
    "47:S102, 2009), McConnell Brain Imaging Centre, Montreal Neurological Institute, as the package nilearn carries it"
)
ICBM152_LICENCE = (
    "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill "
    "University. Permission to use, copy, modify, and distribute this software and its documentation for any purpose "
    "and without fee is hereby granted, provided that the above copyright notice appear in all copies. The authors and "
    "McGill University make no representations about the suitability of this software for any purpose. It is provided "
    '"as is" without express or implied warranty. The authors are not responsible for any data loss, equipment damage, '
    "property loss, or injury to subjects or patients resulting from the use or misuse of this software package."
)


class Template(NamedTuple):
    """An average brain and its tissue maps, all (X, Y, Z) on one grid, axes to the right, front and top (RAS).

    Attributes:
        t1: float32, T1-weighted intensity, 0 to 255; 0 outside the brain.
        grey: float32, share of grey matter in the voxel, 0 to 1.
        white: float32, share of white matter in the voxel, 0 to 1.
        brain: bool, the voxels of the brain, cerebrospinal fluid included.
        affine: (4, 4) float64, from voxel indices to millimetres.
        source: Whose image it is; to be shown with every picture made of it.
        licence: The notice that goes with every copy.
    """

    t1: NDArray[np.float32]
    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    brain: NDArray[np.bool_]
    affine: NDArray[np.float64]
    source: str
    licence: str


@cache
def icbm152() -> Template:
    """The ICBM 152 average brain, 197x233x189 voxels of 1 mm, skull-stripped.

    It is read once a process; the arrays cannot be written to.

    Raises:
        InputError: The package nilearn, which carries the image, is not installed or has it no longer.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InputError("the ICBM152 brain comes with the package nilearn; install it: pip install 'nilearn>=0.14'")
    folder = Path(spec.origin).parent / "datasets" / "data"
    t1, affine = _read(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    grey, _ = _read(folder / "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz")
    white, _ = _read(folder / "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz")
    template = Template(t1, grey / 255, white / 255, t1 > 0, affine, ICBM152_SOURCE, ICBM152_LICENCE)
    for array in template[:5]:
        array.setflags(write=False)
    return template


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    if not path.is_file():
        raise InputError(
            f"{path}: the installed nilearn lacks this file; install another: pip install 'nilearn==0.14.1'"
        )
    volume = read_volume(path)
    return volume.data, volume.affine
