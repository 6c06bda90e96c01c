"""Prepared data: every slice of every case once, resized and normalized, in memory-mapped arrays with an index.

A prepared dataset is a folder named after the hash of what it was made from (the files' contents and the settings), so
that it is made once and found again; it appears whole or not at all. Beside `index.json`, `fingerprint.json` says what
the dataset holds. Its arrays:

- `images.npy` (slices, rows, columns, channels) float16 (float32 where intensities are left as they are),
- `labels.npy` (slices, rows, columns) uint8, on the same grid,
- `references.npy` (voxels,) uint8: every case's labels on its own grid, slice after slice, for scores that are honest
  about what resizing loses.

All workers of a node that map these files share one copy in memory.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from r2d2 import config, imgmed
from r2d2.console import bar, say
from r2d2.data import parallel as processes
from r2d2.data.cases import Case, Dataset
from r2d2.data.check import LEFT_OUT, CaseSummary, check_together, file_hashes, inspect_case
from r2d2.data.fingerprint import Fingerprint, fingerprint
from r2d2.data.framing import canonical_masks, chosen_channels, frame_of, left_out, with_channels
from r2d2.errors import InputError
from r2d2.files import to_disk, whole_file
from r2d2.imgmed.augment import Ranges

Spread = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]

FORMAT = 5
"""Raised when the layout or the arithmetic changes, so that older prepared data is not found any more."""
PERCENTILES = (5, 50, 95)
SAMPLED = 250_000
"""Pixels of a scan that its percentiles are taken from."""


@dataclass(frozen=True)
class PreparedCase:
    """Where a case lies in the arrays: rows `first` to `first + slices`.

    `grid` is the shape of the case's own slices (slices, rows, columns) and `spacing_mm` the distance of its voxels
    along each of them; `voxel` is where its reference starts; `frame` says how its slices lie in the images;
    `labelled` are the slices with a label; `content` is `CaseSummary.content`;
    `intensities` are each channel's `seen_percentiles`.
    """

    name: str
    patient: str
    first: int
    grid: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    voxel: int
    frame: imgmed.Frame
    content: str = ""
    labelled: tuple[int, ...] = ()
    intensities: tuple[tuple[float, ...], ...] = ()

    @property
    def slices(self) -> int:
        """How many slices the case has."""
        return self.grid[0]

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Size of the images' pixels, rows then columns."""
        rows, columns = (
            self.frame.box[2 + axis] * self.spacing_mm[1 + axis] / self.frame.scaled[axis] for axis in (0, 1)
        )
        return rows, columns


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset that is opened for reading."""

    folder: Path
    key: str
    labels: dict[int, str]
    channels: tuple[str, ...]
    cases: tuple[PreparedCase, ...]
    licence: str = ""

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

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What the dataset holds."""
        return TypeAdapter(Fingerprint).validate_json((self.folder / "fingerprint.json").read_bytes())

    def reference(self, case: PreparedCase) -> np.ndarray:
        """A case's labels on its own grid, (slices, rows, columns) uint8, axes canonical, slices first."""
        return self.references[case.voxel : case.voxel + int(np.prod(case.grid))].reshape(case.grid)

    @cached_property
    def pixel_mm(self) -> np.ndarray:
        """(slices, 2) float64: size of every image's pixels, rows then columns."""
        return np.repeat([case.pixel_mm for case in self.cases], [case.slices for case in self.cases], axis=0)

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

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """How many pixels the images of these rows have of each class, (classes,) int64."""
        counts = np.zeros(len(self.labels), np.int64)
        for row in rows:
            counts += np.bincount(self.masks[row].ravel(), minlength=len(counts))
        return counts


def prepare(
    dataset: Dataset,
    preprocess: config.Preprocess,
    store: Path,
    spread: Spread = processes.spread,
    expected: str | None = None,
) -> Prepared:
    """Prepare a dataset, or find it prepared; what was interrupted goes on where it stopped.

    Args:
        dataset: Its cases, each with a label.
        preprocess: The experiment's `preprocess` section. Its `slices` play no part: all are prepared, and
            `Prepared.training_rows` chooses.
        store: The folder that holds prepared datasets.
        spread: Maps a function over the cases, like `parallel.spread`: by default processes of this machine.
        expected: The key that it must have, if it is known from elsewhere.

    Returns:
        The prepared dataset, opened.

    Raises:
        InputError: A file that cannot be read or trained on, the same scan or PatientID of two patients, a class that
            no mask has, or no room; nothing is left in `store`.
        WorkFailed: A process was killed; what was prepared is kept for the next try.
    """
    files = _hash_files(dataset)
    key = _key(dataset, preprocess, files)
    if expected not in (None, key):
        raise InputError(
            f"{dataset.cases[0].images[0].parent}: the scans and masks here are not those of the run (their hash is "
            f"{key}, the run's {expected}); give every node the same files"
        )
    folder, partial_folder = store / key, store / f".{key}.partial"
    try:
        with alone(store, key):
            if not folder.exists():
                _write(dataset, preprocess, files, partial_folder, key, spread)
                to_disk(partial_folder)
                partial_folder.rename(folder)
    except OSError as error:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise InputError(
            f"{store}: cannot be written ({error.strerror or error}); choose another folder with R2D2_HOME or "
            "tracking.storage"
        ) from None
    except InputError:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise
    return open_prepared(folder)


@contextlib.contextmanager
def alone(store: Path, key: str) -> Iterator[None]:
    """Keep others on this machine, or disk, from making the same; they wait, and find it."""
    (store / ".locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(store / ".locks" / key)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("Waiting for another process that prepares the same data")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def open_prepared(folder: Path) -> Prepared:
    """A prepared dataset by its folder."""
    index = json.loads((folder / "index.json").read_text())
    cases = tuple(TypeAdapter(PreparedCase).validate_python(case) for case in index["cases"])
    labels = {int(value): name for value, name in index["labels"].items()}
    return Prepared(folder, index["key"], labels, tuple(index["channels"]), cases, index["licence"])


def to_images(volume: imgmed.Volume, preprocess: config.Preprocess) -> tuple[np.ndarray, imgmed.Frame]:
    """A scan as the network sees it: normalized, sliced, resized; and how its slices lie in these images.

    Args:
        volume: A scan in canonical orientation, (X, Y, Z) or (X, Y, Z, C).
        preprocess: The experiment's `preprocess` section.

    Returns:
        The images, (slices, rows, columns, channels), float16 where intensities are normalized (finer than the
        bfloat16 that networks compute in, and half the memory), float32 where they are left as they are.
    """
    frame = frame_of(volume, preprocess)
    return frame_normalized(normalized(volume, preprocess), frame, preprocess), frame


def normalized(volume: imgmed.Volume, preprocess: config.Preprocess) -> np.ndarray:
    """A canonical scan's data, (X, Y, Z, C), with the intensities that the network sees."""
    data = with_channels(volume, preprocess)
    if preprocess.bias_correction == "n4":
        corrected = [imgmed.correct_bias(data[..., c], volume.spacing_mm) for c in range(data.shape[-1])]
        data = np.stack(corrected, axis=-1)
    return imgmed.normalize(data, preprocess.normalization, preprocess.window)


def frame_normalized(data: np.ndarray, frame: imgmed.Frame, preprocess: config.Preprocess) -> np.ndarray:
    """The slices of `normalized` data as images, in a frame that `frame_of` gives."""
    return imgmed.frame_images(imgmed.to_slices(data, preprocess.plane), frame, _dtype(preprocess))


def seen_percentiles(images: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """The `PERCENTILES` of each channel's foreground in the images of a scan, to four significant digits.

    Args:
        images: (slices, rows, columns, channels), as `to_images` makes them; about `SAMPLED` pixels are looked at.

    Returns:
        Three numbers a channel, 0 where a channel has no foreground.
    """
    step = max(1, round((images[..., 0].size / SAMPLED) ** (1 / 3)))
    found = []
    for c in range(images.shape[-1]):
        # From the middle of each step: the first rows and columns are rarely of the patient.
        sample = images[step // 2 :: step, step // 2 :: step, step // 2 :: step, c].astype(np.float32)
        inside = sample[imgmed.foreground(sample)]
        values = np.percentile(inside, PERCENTILES) if inside.size else np.zeros(len(PERCENTILES))
        found.append(tuple(float(f"{value:.4g}") for value in values))
    return tuple(found)


def augmentation(experiment: config.Experiment) -> Ranges | None:
    """What the experiment's training images are augmented with, on their own rows and columns; None if not at all."""
    settings = experiment.training.augmentation
    if settings is None:
        return None
    axes = ["left-right", "front-back", "bottom-top"]
    del axes[imgmed.PLANES[experiment.preprocess.plane]]
    flip = tuple(name for name, axis in zip(("rows", "columns"), axes, strict=True) if axis in settings.flip)
    return Ranges(**settings.model_dump(exclude={"flip"}), flip=flip)


def _write(
    dataset: Dataset,
    preprocess: config.Preprocess,
    files: list[tuple[str, str]],
    folder: Path,
    key: str,
    spread: Spread,
) -> None:
    cases = _lay_out(dataset, preprocess)
    channels = chosen_channels(dataset.channels, preprocess)
    if not (folder / "cases").exists():
        _allocate(folder, cases, len(channels), preprocess)

    light = replace(dataset, cases=())  # what travels to the processes
    work = partial(_write_case, dataset=light, preprocess=preprocess, folder=folder)
    written = {path.stem: _Written.load(path) for path in (folder / "cases").glob("*.json")}
    tasks = [
        (number, *task)
        for number, task in enumerate(zip(dataset.cases, files, cases, strict=True))
        if str(number) not in written
    ]
    problems: list[str] = []
    with bar("Preparing", len(cases)) as advance:
        advance(done=len(written))
        for number, found in spread(work, tasks):
            written[str(number)] = found
            problems += found.problems
            advance(found.place.name)
    in_order = [written[str(number)] for number in range(len(cases))]
    summaries = [done.summary for done in in_order if done.summary]
    problems += [found.message for found in check_together(dataset, summaries) if found.severity == "error"]
    if problems:
        more = f" (and {len(problems) - 1} more: r2d2 data check lists all)" if len(problems) > 1 else ""
        raise InputError(f"{sorted(problems)[0]}{more}")

    cut = [f"{summary.case} {summary.left_out:.1%}" for summary in summaries if summary.left_out > LEFT_OUT]
    if cut:
        say(f"Labelled voxels beyond the edges of the images (preprocess.image_size, pixel_mm, crop): {', '.join(cut)}")

    index = {
        "format": FORMAT,
        "key": key,
        "labels": dataset.labels,
        "channels": channels,
        "licence": dataset.licence,
        "preprocess": preprocess.model_dump(mode="json", exclude={"slices"}),
        "cases": [asdict(done.place) for done in in_order],
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1))
    found_all = fingerprint(summaries, dataset.labels, dataset.channels)
    (folder / "fingerprint.json").write_bytes(TypeAdapter(Fingerprint | None).dump_json(found_all, indent=1))
    shutil.rmtree(folder / "cases")


@dataclass(frozen=True)
class _Written:
    """A case that is in the arrays, or what keeps it from them; in a file of its own until all are there."""

    place: PreparedCase
    summary: CaseSummary | None = None
    problems: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        with whole_file(path) as beside:
            beside.write_bytes(_WRITTEN.dump_json(self))

    @staticmethod
    def load(path: Path) -> "_Written":
        return _WRITTEN.validate_json(path.read_bytes())


_WRITTEN = TypeAdapter(_Written)


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
        unknown = imgmed.frame((rows, columns), preprocess.image_size)  # until its voxels are read
        cases.append(PreparedCase(case.name, case.patient, first, grid, spacing_mm, voxel, unknown))
        first, voxel = first + slices, voxel + int(np.prod(grid))
    return cases


def _write_case(
    task: tuple[int, Case, tuple[str, str], PreparedCase],
    dataset: Dataset,
    preprocess: config.Preprocess,
    folder: Path,
) -> tuple[int, _Written]:
    """Check and write the case of a number; return the number and what is known of the case then."""
    number, source, files, place = task
    inspected = inspect_case(source, tuple(dataset.labels), dataset.channels)
    if inspected.errors or inspected.summary is None or inspected.image is None or inspected.mask is None:
        return number, _Written(place, problems=tuple(inspected.errors))
    if inspected.summary.files != files:
        problem = f"{source.images[0]}: it or its mask was changed while it was read; start again"
        return number, _Written(place, problems=(problem,))
    image = imgmed.to_canonical(inspected.image)
    reference = canonical_masks(inspected.image, inspected.mask, preprocess)
    rows = slice(place.first, place.first + place.slices)
    images, frame = to_images(image, preprocess)
    voxels = slice(place.voxel, place.voxel + reference.size)
    for name, where, values in (
        ("images.npy", rows, images),
        ("labels.npy", rows, imgmed.frame_labels(reference, frame)),
        ("references.npy", voxels, reference.ravel()),
    ):
        array = np.lib.format.open_memmap(folder / name, mode="r+")
        array[where] = values
        array.flush()
    labelled = tuple(int(slice_) for slice_ in np.flatnonzero(reference.any(axis=(1, 2))))
    content, intensities = inspected.summary.content, seen_percentiles(images)
    place = replace(place, frame=frame, content=content, labelled=labelled, intensities=intensities)
    written = _Written(place, replace(inspected.summary, left_out=left_out(reference, frame)))
    written.save(folder / "cases" / f"{number}.json")
    return number, written


def _dtype(preprocess: config.Preprocess) -> type[np.floating]:
    return np.float32 if preprocess.normalization == "none" else np.float16


def _allocate(folder: Path, cases: list[PreparedCase], channels: int, preprocess: config.Preprocess) -> None:
    """Make the arrays, with all the room that they need, and last the folder `cases` that says so."""
    slices, (rows, columns) = sum(case.slices for case in cases), preprocess.image_size
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, shape, dtype in (
        ("images.npy", (slices, rows, columns, channels), _dtype(preprocess)),
        ("labels.npy", (slices, rows, columns), np.uint8),
        ("references.npy", (sum(int(np.prod(case.grid)) for case in cases),), np.uint8),
    ):
        np.lib.format.open_memmap(folder / name, mode="w+", dtype=dtype, shape=shape)
        # Else the file has holes, and a disk that is full later ends the process that writes into one (SIGBUS).
        with (folder / name).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, (folder / name).stat().st_size)
    (folder / "cases").mkdir()


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
        "cases": [
            (case.name, case.patient, case.structures, case.remap, *both)
            for case, both in zip(dataset.cases, files, strict=True)
        ],
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:20]
