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
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import nibabel
import numpy as np
from pydantic import TypeAdapter

from r2d2 import config, imgmed
from r2d2.console import bar
from r2d2.data.cases import Case, Dataset, file_hashes, inspect_case, same_scans
from r2d2.data.parallel import spread
from r2d2.errors import InputError
from r2d2.files import whole_folder

FORMAT = 2
"""Raised when the layout or the arithmetic changes, so that older prepared data is not found any more."""


@dataclass(frozen=True)
class PreparedCase:
    """Where a case lies in the arrays: rows `first` to `first + slices`.

    `grid` is the shape of the case's own slices (slices, rows, columns) and `spacing_mm` the distance of its voxels
    along each of them; `voxel` is where its reference starts; `labelled` are the slices with a label; `content` is
    `CaseSummary.content`.
    """

    name: str
    patient: str
    first: int
    grid: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    voxel: int
    content: str = ""
    labelled: tuple[int, ...] = ()

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

    def training_rows(self, names: Sequence[str], slices: config.Slices) -> np.ndarray:
        """The rows of the slices that these cases are trained on, (slices,) int64."""
        rows = []
        for case in self.select(names):
            labelled = np.isin(np.arange(case.slices), case.labelled)
            rows.append(case.first + imgmed.choose_slices(case.slices, slices.count, slices.choice, labelled))
        return np.concatenate(rows)


def prepare(dataset: Dataset, preprocess: config.Preprocess, store: Path, workers: int | None = None) -> Prepared:
    """Prepare a dataset, or find it prepared.

    Args:
        dataset: Its cases, each with a label.
        preprocess: The experiment's `preprocess` section. Its `slices` play no part: all are prepared, and
            `Prepared.training_rows` chooses.
        store: The folder that holds prepared datasets.
        workers: Processes; all processors if absent.

    Returns:
        The prepared dataset, opened.

    Raises:
        InputError: A file that cannot be read or trained on, the same scan of two patients, or no room; nothing is
            left in `store`.
        WorkFailed: A process was killed.
    """
    files = _hash_files(dataset)
    key = _key(dataset, preprocess, files)
    folder = store / key
    if not folder.exists():
        try:
            with whole_folder(folder) as beside:
                _write(dataset, preprocess, files, beside, key, workers)
        except OSError as error:
            if not folder.exists():  # else another process was first, with the same content
                raise InputError(
                    f"{store}: cannot be written ({error.strerror or error}); choose another folder with R2D2_HOME or "
                    "tracking.storage"
                ) from None
    return open_prepared(folder)


def open_prepared(folder: Path) -> Prepared:
    """A prepared dataset by its folder."""
    index = json.loads((folder / "index.json").read_text())
    cases = tuple(TypeAdapter(PreparedCase).validate_python(case) for case in index["cases"])
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


def _write(
    dataset: Dataset,
    preprocess: config.Preprocess,
    files: list[tuple[str, str]],
    folder: Path,
    key: str,
    workers: int | None,
) -> None:
    cases = _lay_out(dataset, preprocess)
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
    work = partial(_write_case, dataset=light, preprocess=preprocess, folder=folder)
    problems: list[str] = []
    written: dict[str, PreparedCase] = {}
    with bar("Preparing", len(cases)) as advance:
        for case, found in spread(work, list(zip(dataset.cases, files, cases, strict=True)), workers):
            written[case.name] = case
            problems += found
            advance(case.name)
    contents = {name: case.content for name, case in written.items()}
    problems += [found.message for found in same_scans(dataset.cases, contents) if found.severity == "error"]
    if problems:
        more = f" (and {len(problems) - 1} more: r2d2 data check lists all)" if len(problems) > 1 else ""
        raise InputError(f"{sorted(problems)[0]}{more}")

    index = {
        "format": FORMAT,
        "key": key,
        "labels": dataset.labels,
        "channels": channels,
        "preprocess": preprocess.model_dump(mode="json", exclude={"slices"}),
        "cases": [asdict(written[case.name]) for case in cases],
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1))


def _lay_out(dataset: Dataset, preprocess: config.Preprocess) -> list[PreparedCase]:
    """Every case's place in the arrays, from the headers alone."""
    cases, first, voxel = [], 0, 0
    axis = imgmed.PLANES[preprocess.plane]
    for case in dataset.cases:
        shape, affine = imgmed.read_geometry(case.images[0])
        # Row i of io_orientation says which canonical axis the scan's axis i runs along.
        canonical = nibabel.orientations.io_orientation(affine)[:, 0].astype(int)
        own_axis = {along: number for number, along in enumerate(canonical)}
        order = [own_axis[axis], *(own_axis[along] for along in range(3) if along != axis)]
        slices, rows, columns = (int(shape[number]) for number in order)
        along, down, across = (float(np.linalg.norm(affine[:3, number])) for number in order)
        grid, spacing_mm = (slices, rows, columns), (along, down, across)
        cases.append(PreparedCase(case.name, case.patient, first, grid, spacing_mm, voxel))
        first, voxel = first + slices, voxel + int(np.prod(grid))
    return cases


def _write_case(
    task: tuple[Case, tuple[str, str], PreparedCase], dataset: Dataset, preprocess: config.Preprocess, folder: Path
) -> tuple[PreparedCase, list[str]]:
    """Check and write one case; return what is known of it then, and what is wrong with it."""
    source, files, place = task
    inspected = inspect_case(source, tuple(dataset.labels), dataset.channels)
    if inspected.errors or inspected.summary is None or inspected.mask is None:
        return place, inspected.errors
    if inspected.summary.files != files:
        return place, [f"{source.images[0]}: it or its mask was changed while it was read; start again"]
    image = imgmed.to_canonical(inspected.images[0])
    reference = imgmed.to_slices(imgmed.to_canonical(inspected.mask).data, preprocess.plane)
    rows = slice(place.first, place.first + place.slices)
    np.load(folder / "images.npy", mmap_mode="r+")[rows] = to_images(image, preprocess)
    np.load(folder / "labels.npy", mmap_mode="r+")[rows] = imgmed.resize_labels(reference, preprocess.image_size)
    voxels = slice(place.voxel, place.voxel + reference.size)
    np.load(folder / "references.npy", mmap_mode="r+")[voxels] = reference.ravel()
    labelled = tuple(int(number) for number in np.flatnonzero(reference.any(axis=(1, 2))))
    return replace(place, content=inspected.summary.content, labelled=labelled), []


def _dtype(preprocess: config.Preprocess) -> type[np.floating]:
    return np.float32 if preprocess.normalization == "none" else np.float16


def _allocate(path: Path, shape: tuple[int, ...], dtype: type) -> None:
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    # Without this the file has holes, and a disk that is full later ends the process that writes into one (SIGBUS).
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _hash_files(dataset: Dataset) -> list[tuple[str, str]]:
    """The hashes of every case's files."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(file_hashes, dataset.cases))


def _key(dataset: Dataset, preprocess: config.Preprocess, files: list[tuple[str, str]]) -> str:
    made_from = {
        "format": FORMAT,
        "preprocess": preprocess.model_dump(mode="json", exclude={"slices"}),
        "labels": dataset.labels,
        "channels": dataset.channels,
        "cases": [(case.name, case.patient, *both) for case, both in zip(dataset.cases, files, strict=True)],
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:20]
