"""Prepared data: every slice of every case once, resized and normalized, in memory-mapped arrays with an index.

A prepared dataset is a folder named after the hash of what it was made from (the files' contents and the settings), so
that it is made once and found again; it appears whole or not at all. Its arrays:

- `images.npy` (slices, rows, columns, channels) float16 (float32 where intensities are left as they are),
- `labels.npy` (slices, rows, columns) uint8, on the same grid,
- `references.npy` (voxels,) uint8: every case's labels on its own grid, slice after slice, for scores that are honest
  about what resizing loses.

All workers of a node that map these files share one copy in memory.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import nibabel
import numpy as np

from r2d2 import config, imgmed
from r2d2.console import bar
from r2d2.data.cases import Case, Dataset, content_hash, inspect_case
from r2d2.errors import InputError

FORMAT = 1
"""Raised when the layout or the arithmetic changes, so that older prepared data is not found any more."""


@dataclass(frozen=True)
class PreparedCase:
    """Where a case lies in the arrays: rows `first` to `first + slices`, of which `chosen` are trained on.

    `grid` is the shape of the case's own slices (slices, rows, columns); `voxel` is where its reference starts.
    """

    name: str
    patient: str
    first: int
    grid: tuple[int, int, int]
    voxel: int
    content: str
    chosen: tuple[int, ...] = ()

    @property
    def slices(self) -> int:
        """How many slices the case has."""
        return self.grid[0]


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset that is opened for reading."""

    folder: Path
    key: str
    labels: dict[int, str]
    channels: tuple[str, ...]
    cases: tuple[PreparedCase, ...]

    @cached_property
    def images(self) -> np.ndarray:
        """(slices, rows, columns, channels), memory-mapped."""
        return np.load(self.folder / "images.npy", mmap_mode="r")

    @cached_property
    def masks(self) -> np.ndarray:
        """(slices, rows, columns) uint8, memory-mapped."""
        return np.load(self.folder / "labels.npy", mmap_mode="r")

    @cached_property
    def references(self) -> np.ndarray:
        """(voxels,) uint8, memory-mapped."""
        return np.load(self.folder / "references.npy", mmap_mode="r")

    def reference(self, case: PreparedCase) -> np.ndarray:
        """A case's labels on its own grid, (slices, rows, columns) uint8, axes canonical, slices first."""
        return self.references[case.voxel : case.voxel + int(np.prod(case.grid))].reshape(case.grid)

    def select(self, names: Sequence[str]) -> list[PreparedCase]:
        """The cases of these names, in the order of the dataset."""
        wanted = set(names)
        return [case for case in self.cases if case.name in wanted]

    def training_rows(self, names: Sequence[str]) -> np.ndarray:
        """The rows of the slices that these cases are trained on, (slices,) int64."""
        return np.concatenate([case.first + np.array(case.chosen, np.int64) for case in self.select(names)])


def prepare(dataset: Dataset, preprocess: config.Preprocess, store: Path, workers: int | None = None) -> Prepared:
    """Prepare a dataset, or find it prepared.

    Args:
        dataset: Its cases, each with a label.
        preprocess: The experiment's `preprocess` section.
        store: The folder that holds prepared datasets.
        workers: Processes; all processors if absent.

    Returns:
        The prepared dataset, opened.

    Raises:
        InputError: A file that cannot be read or trained on; nothing is left in `store`.
    """
    contents = [content_hash(case.images) for case in dataset.cases]
    key = _key(dataset, preprocess, contents)
    folder = store / key
    if not folder.exists():
        beside = store / f".{key}-{os.getpid()}"
        try:
            beside.mkdir(parents=True, exist_ok=True)
            _write(dataset, preprocess, contents, beside, workers or _processors())
            try:
                beside.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was first, with the same content
                    raise
        except OSError as error:
            raise InputError(
                f"{store}: cannot be written ({error.strerror}); choose another folder with R2D2_HOME"
            ) from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return open_prepared(folder)


def open_prepared(folder: Path) -> Prepared:
    """A prepared dataset by its folder."""
    index = json.loads((folder / "index.json").read_text())
    cases = tuple(
        PreparedCase(**case | {"grid": tuple(case["grid"]), "chosen": tuple(case["chosen"])}) for case in index["cases"]
    )
    labels = {int(value): name for value, name in index["labels"].items()}
    return Prepared(folder, index["key"], labels, tuple(index["channels"]), cases)


def to_images(volume: imgmed.Volume, preprocess: config.Preprocess) -> np.ndarray:
    """A scan as the network sees it: normalized, sliced, resized.

    Args:
        volume: A scan in canonical orientation, (X, Y, Z) or (X, Y, Z, C).
        preprocess: The experiment's `preprocess` section.

    Returns:
        (slices, rows, columns, channels), float16 where intensities are normalized (finer than the bfloat16 that
        networks compute in, and half the memory), float32 where they are left as they are.
    """
    data = volume.data if volume.data.ndim == 4 else volume.data[..., None]
    if preprocess.channels is not None:
        data = data[..., list(preprocess.channels)]
    data = imgmed.normalize(data, preprocess.normalization)
    images = imgmed.resize_images(imgmed.to_slices(data, preprocess.plane), preprocess.image_size)
    return images.astype(_dtype(preprocess))


def _write(dataset: Dataset, preprocess: config.Preprocess, contents: list[str], folder: Path, workers: int) -> None:
    cases = _lay_out(dataset, preprocess, contents)
    channels = dataset.channels
    if preprocess.channels is not None:
        if max(preprocess.channels) >= len(channels):
            raise InputError(
                f"preprocess.channels {list(preprocess.channels)}: the scans have {len(channels)} channels, "
                f"counted from 0: {', '.join(channels)}"
            )
        channels = tuple(channels[number] for number in preprocess.channels)

    slices, (rows, columns) = sum(case.slices for case in cases), preprocess.image_size
    voxels = sum(int(np.prod(case.grid)) for case in cases)
    _allocate(folder / "images.npy", (slices, rows, columns, len(channels)), _dtype(preprocess))
    _allocate(folder / "labels.npy", (slices, rows, columns), np.uint8)
    _allocate(folder / "references.npy", (voxels,), np.uint8)

    light = replace(dataset, cases=())  # what travels to the processes
    context = multiprocessing.get_context("spawn")
    problems: list[str] = []
    chosen: dict[str, list[int]] = {}
    with (
        ProcessPoolExecutor(min(workers, len(cases)), mp_context=context) as pool,
        bar("Preparing", len(cases)) as advance,
    ):
        futures = {
            pool.submit(_write_case, source, case, light, preprocess, folder): case.name
            for source, case in zip(dataset.cases, cases, strict=True)
        }
        for future in as_completed(futures):
            name = futures[future]
            found, chosen[name] = future.result()
            problems += found
            advance(name)
    if problems:
        more = f" (and {len(problems) - 1} more: r2d2 data check lists all)" if len(problems) > 1 else ""
        raise InputError(f"{sorted(problems)[0]}{more}")

    index = {
        "format": FORMAT,
        "key": folder.name.split("-")[0].removeprefix("."),
        "labels": dataset.labels,
        "channels": channels,
        "preprocess": preprocess.model_dump(mode="json"),
        "cases": [asdict(case) | {"chosen": chosen[case.name]} for case in cases],
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1))


def _lay_out(dataset: Dataset, preprocess: config.Preprocess, contents: list[str]) -> list[PreparedCase]:
    """Every case's place in the arrays, from the headers alone."""
    cases, first, voxel = [], 0, 0
    axis = imgmed.PLANES[preprocess.plane]
    for case, content in zip(dataset.cases, contents, strict=True):
        shape, affine = imgmed.read_geometry(case.images[0])
        # Row i of io_orientation says which canonical axis the scan's axis i runs along.
        canonical = nibabel.orientations.io_orientation(affine)[:, 0].astype(int)
        sizes = dict(zip(canonical, shape[:3], strict=True))
        slices = sizes.pop(axis)
        grid = (slices, *(sizes[key] for key in sorted(sizes)))
        cases.append(PreparedCase(case.name, case.patient, first, grid, voxel, content))
        first, voxel = first + slices, voxel + int(np.prod(grid))
    return cases


def _write_case(
    source: Case, place: PreparedCase, dataset: Dataset, preprocess: config.Preprocess, folder: Path
) -> tuple[list[str], list[int]]:
    """Check and write one case; returns what is wrong with it, or the slices chosen to train on."""
    inspected = inspect_case(source, tuple(dataset.labels), dataset.channels)
    if inspected.errors or inspected.mask is None:
        return inspected.errors or [f"case {source.name}: it has no mask"], []
    image = imgmed.to_canonical(inspected.images[0])
    reference = imgmed.to_slices(imgmed.to_canonical(inspected.mask).data, preprocess.plane)
    chosen = imgmed.choose_slices(
        place.slices, preprocess.slices.count, preprocess.slices.choice, reference.any(axis=(1, 2))
    )
    rows = slice(place.first, place.first + place.slices)
    images = np.load(folder / "images.npy", mmap_mode="r+")
    images[rows] = to_images(image, preprocess)
    np.load(folder / "labels.npy", mmap_mode="r+")[rows] = imgmed.resize_labels(reference, preprocess.image_size)
    voxels = slice(place.voxel, place.voxel + reference.size)
    np.load(folder / "references.npy", mmap_mode="r+")[voxels] = reference.ravel()
    return [], [int(number) for number in chosen]


def _dtype(preprocess: config.Preprocess) -> type[np.floating]:
    return np.float32 if preprocess.normalization == "none" else np.float16


def _allocate(path: Path, shape: tuple[int, ...], dtype: type) -> None:
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _key(dataset: Dataset, preprocess: config.Preprocess, contents: list[str]) -> str:
    made_from = {
        "format": FORMAT,
        "preprocess": preprocess.model_dump(mode="json"),
        "labels": dataset.labels,
        "channels": dataset.channels,
        "cases": [
            (case.name, case.patient, content, content_hash([case.label] if case.label else []))
            for case, content in zip(dataset.cases, contents, strict=True)
        ],
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:20]


def _processors() -> int:
    return len(os.sched_getaffinity(0))
