"""The input guard: what a model's training scans were like, and in what a new scan is unlike all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from r2d2 import imgmed
from r2d2.data.prepare import PERCENTILES, Prepared, PreparedCase

SPACING_FACTOR = 1.5
OWN_SHARE, SPAN_SHARE = 0.5, 0.05
"""How far beyond the training scans' range a scan may be: so many times the range of the percentile itself, and so many
times what all intensities span. Tried on 40 virtual patients each of brain, brats and atrium, z-scored and by
percentiles, drawn into training and the rest: with 28 training patients none of the rest is warned of, with 14 0.5 %
(1.6 % of the worst of the six), with 5 6 % (21 %). All the while these are found: a brain turned dark for bright, one
with 1024 added, noise, a head with its skull (88 % of the draws where normalized by percentiles, else all), a CT in
stored values, in 1000 HU or in attenuation through a window. What z-scoring takes away is not missed: other units. A
brain turned dark for bright inside its mask alone is not found, its histogram being much the same."""
AXES = ("left-right", "back-front", "bottom-top")


def ranges(prepared: Prepared, names: Sequence[str], plane: str) -> dict[str, Any]:
    """What the scans of some cases were like, from the least to the largest, in JSON's terms.

    Args:
        prepared: The dataset.
        names: The cases: those that a model was trained on.
        plane: The experiment's `preprocess.plane`.

    Returns:
        `spacing_mm`: [least, largest] along each canonical axis, to the right, front and top. `intensities`: of every
        channel that the network sees, by its name, `p5`, `p50` and `p95`, each [least, largest]: percentiles of the
        scans' foreground after normalization, `prepare.seen_percentiles`.
    """
    cases = prepared.select(names)
    spacings = [_canonical_mm(case, plane) for case in cases]
    return {
        "spacing_mm": [_span(along) for along in zip(*spacings, strict=True)],
        "intensities": {
            channel: {
                f"p{percent}": _span([case.intensities[c][k] for case in cases])
                for k, percent in enumerate(PERCENTILES)
            }
            for c, channel in enumerate(prepared.channels)
        },
    }


def outside(known: Mapping[str, Any], spacing_mm: Sequence[float], intensities: Sequence[Sequence[float]]) -> list[str]:
    """Say in what a scan is unlike a model's training scans; nothing if it is like them.

    Args:
        known: The model's `ranges`.
        spacing_mm: Of the scan's canonical axes.
        intensities: Its `prepare.seen_percentiles`.

    Returns:
        A clause each, with the number and the range. A spacing is outside if it is `SPACING_FACTOR` times beyond the
        range, a percentile if it is beyond it by more than `OWN_SHARE` of the range and `SPAN_SHARE` of what the
        training scans' intensities span (their largest p95 less their least p5).
    """
    told = []
    for axis, size, (least, largest) in zip(AXES, spacing_mm, known["spacing_mm"], strict=True):
        if not least / SPACING_FACTOR <= size <= largest * SPACING_FACTOR:
            told.append(f"spacing {axis} {size:.3g} mm, the training scans' {_as_text(least, largest)} mm")
    for (channel, bounds), found in zip(known["intensities"].items(), intensities, strict=True):
        span = bounds["p95"][1] - bounds["p5"][0]
        for (name, (least, largest)), value in zip(bounds.items(), found, strict=True):
            share = f"{name.removeprefix('p')} %"
            margin = OWN_SHARE * (largest - least) + SPAN_SHARE * span
            if not least - margin <= value <= largest + margin:
                told.append(
                    f"channel {channel}: {share} of its normalized intensities are below {value:.3g}, "
                    f"in the training scans below {_as_text(least, largest)}"
                )
    return told


def _canonical_mm(case: PreparedCase, plane: str) -> tuple[float, ...]:
    """A case's spacing along X, Y, Z; `PreparedCase.spacing_mm` has the axis of the slices first."""
    along, *others = case.spacing_mm
    others.insert(imgmed.PLANES[plane], along)
    return tuple(others)


def _span(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in (min(values), max(values))]


def _as_text(least: float, largest: float) -> str:
    return f"{least:.3g}" if f"{least:.3g}" == f"{largest:.3g}" else f"{least:.3g} to {largest:.3g}"
