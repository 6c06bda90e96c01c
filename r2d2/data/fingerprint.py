"""A dataset's fingerprint: what a protocol, a scanner fleet and a disease look like in numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2.errors import InputError
from r2d2.imgmed import foreground

if TYPE_CHECKING:
    from r2d2.data.check import CaseSummary

PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.5)
SAMPLES = 1000
"""Voxels of a class that a case brings; every case counts alike, whatever its size."""


@dataclass(frozen=True)
class Fingerprint:
    """What a dataset holds, over all its cases.

    Attributes:
        cases: How many.
        shape: Smallest, median and largest number of voxels along right, front, top (X, Y, Z).
        spacing_mm: The same of the distance of neighbouring voxels along these.
        intensities: Channel -> class -> `mean`, `deviation` and percentiles (`p0.5` to `p99.5`) of intensities, over
            as many voxels of every case; the class `all` is the foreground.
        classes: Class -> `cases` that have it, `voxels` in all, and smallest, median and largest `volume_ml` in those.
    """

    cases: int
    shape: dict[str, tuple[float, ...]]
    spacing_mm: dict[str, tuple[float, ...]]
    intensities: dict[str, dict[str, dict[str, float]]]
    classes: dict[str, dict[str, Any]]


def sample_intensities(data: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> dict[int, list[list[float]]]:
    """Return intensities of a case: by class, and under -1 of the foreground of any channel.

    Args:
        data: (X, Y, Z) or (X, Y, Z, C) float32.
        labels: (X, Y, Z) uint8.
        classes: The classes' values.

    Returns:
        Class -> channel -> at most SAMPLES intensities, drawn from the class' voxels.
    """
    channels = data if data.ndim == 4 else data[..., np.newaxis]
    flat = [channels[..., c].ravel(order="F") for c in range(channels.shape[-1])]  # as in the file: no copy
    values = labels.ravel(order="F")
    somewhere = foreground(flat[0])
    for channel in flat[1:]:
        somewhere |= foreground(channel)
    found = {}
    for value in (-1, *classes):
        inside = np.flatnonzero(values == value if value >= 0 else somewhere)
        if len(inside) > SAMPLES:  # drawn, since every n-th voxel could all be of a few columns
            inside = inside[np.random.default_rng(0).integers(len(inside), size=SAMPLES)]
        found[value] = [channel[inside].tolist() for channel in flat]
    return found


def fingerprint(
    summaries: Sequence["CaseSummary"], labels: Mapping[int, str], channels: Sequence[str]
) -> Fingerprint | None:
    """Return the fingerprint of cases, or None if there are none.

    Args:
        summaries: From `check_cases`.
        labels: The classes' names by value.
        channels: The channels' names.
    """
    if not summaries:
        return None
    usable = [summary for summary in summaries if summary.channels == len(channels) and summary.intensities]
    intensities: dict[str, dict[str, dict[str, float]]] = {}
    for number, channel in enumerate(channels):
        intensities[channel] = {}
        for value, name in {-1: "all", **labels}.items():
            values = [sample for summary in usable for sample in summary.intensities[value][number]]
            if values:
                intensities[channel][name] = _statistics(np.array(values))
    return Fingerprint(
        cases=len(summaries),
        shape=_range([summary.canonical_shape for summary in summaries]),
        spacing_mm=_range([summary.canonical_spacing_mm for summary in summaries]),
        intensities=intensities,
        classes={name: _volumes(summaries, value) for value, name in labels.items()},
    )


def class_weights(
    asked: str | Sequence[float], labels: Mapping[int, str], pixels: Sequence[int] | np.ndarray = ()
) -> tuple[float, ...] | None:
    """Return the weight of every class in the loss, or None where all count alike.

    `fingerprint` weighs a class by N / (C n): n of the training images' N pixels are its, C is the number of classes
    that occur; a class that occurs nowhere has weight 0. That is inverse frequency, scaled so that the mean over all
    pixels that are trained on is 1: a cross-entropy that is alike everywhere keeps its size and the learning rate its
    meaning, which median frequency (the same ratios) does not grant.

    Args:
        asked: `training.class_weights` of an experiment: `none`, `fingerprint`, or the weights themselves.
        labels: The classes' names by value.
        pixels: For `fingerprint`, how many each class has in the training images, from `Prepared.pixels`.

    Raises:
        InputError: Another number of weights than of classes, or no labelled pixel to derive them from.
    """
    if asked == "none":
        return None
    if asked != "fingerprint":
        if len(asked) != len(labels):
            names = ", ".join(labels[value] for value in sorted(labels))
            raise InputError(f"training.class_weights: {len(asked)} weights for {len(labels)} classes ({names})")
        return tuple(float(weight) for weight in asked)
    if not any(pixels[1:]):
        raise InputError("training.class_weights: fingerprint: no training image has a class other than the background")
    occurring = sum(count > 0 for count in pixels)
    return tuple(float(sum(pixels) / (occurring * count)) if count else 0.0 for count in pixels)


def _statistics(values: np.ndarray) -> dict[str, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {}
    named = zip(PERCENTILES, np.percentile(finite, PERCENTILES), strict=True)
    return {"mean": float(finite.mean()), "deviation": float(finite.std())} | {
        f"p{percent:g}": float(value) for percent, value in named
    }


def _range(rows: Sequence[Sequence[float]]) -> dict[str, tuple[float, ...]]:
    stacked = np.array(rows, dtype=np.float64)
    found = {"min": stacked.min(axis=0), "median": np.median(stacked, axis=0), "max": stacked.max(axis=0)}
    return {name: tuple(float(value) for value in values) for name, values in found.items()}


def _volumes(summaries: Sequence["CaseSummary"], value: int) -> dict[str, Any]:
    counts = [(summary.voxels[value], np.prod(summary.spacing_mm) / 1000) for summary in summaries]
    having = [float(count * voxel_ml) for count, voxel_ml in counts if count]
    volumes = {"min": min(having), "median": float(np.median(having)), "max": max(having)} if having else None
    return {"cases": len(having), "voxels": sum(count for count, _ in counts), "volume_ml": volumes}
