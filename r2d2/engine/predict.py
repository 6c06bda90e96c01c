"""Predict: a scan in, a mask on the scan's own grid out; or a folder of scans and a folder of masks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2d2.console import bar, say
from r2d2.engine.evaluate import load_network
from r2d2.errors import InputError, WorkFailed

SEG = ".dcm"
"""What the name of a mask ends in that is to be a DICOM SEG."""
MANY = 10
"""Scans for which a network is made ready at more length, to be faster then."""


@dataclass(frozen=True)
class Prediction:
    """A mask that was written.

    Attributes:
        mask: Where.
        shape: Of the mask and the scan.
        volumes_ml: The volume of each foreground class.
        probabilities: Where those are, if they were asked for.
        warnings: In what the scan is unlike all that the model was trained on, a line each.
    """

    mask: Path
    shape: tuple[int, ...]
    volumes_ml: dict[str, float]
    probabilities: Path | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """The masks of a folder of scans.

    Attributes:
        folder: Where they are.
        predictions: By the scans' names.
        failed: By the names of the others, why there is none.
    """

    folder: Path
    predictions: dict[str, Prediction]
    failed: dict[str, str]


def scans_in(scan: Sequence[Path]) -> dict[str, tuple[Path, ...]] | None:
    """What a folder of scans holds, by name; None for one scan: files, or the folder of a DICOM series.

    Raises:
        InputError: A folder with neither, or two scans of one name in it.
    """
    if len(scan) != 1 or not scan[0].is_dir():
        return None
    from r2d2 import imgmed
    from r2d2.data.layouts import unannotated

    folder = scan[0]
    if folder in imgmed.find_dicom(folder)[0]:
        return None
    found = unannotated(folder)
    if not found:
        raise InputError(f"{folder}: neither a DICOM series nor scans (.nii.gz, .mha, ..., folders of DICOM) in it")
    return found


def predict(
    model: str,
    scan: Sequence[Path],
    output: Path,
    *,
    probabilities: Path | None = None,
    flips: bool = False,
    planes: bool = False,
    largest: Sequence[str] = (),
    strict: bool = False,
) -> Prediction:
    """Segment a scan.

    Args:
        model: See `engine.models.resolve`.
        scan: A file or folder that `imgmed.read_volume` takes, or a file for each channel.
        output: The mask's file, .nii.gz or another that `imgmed.write_volume` takes, with the scan's grid, affine and
            orientation; or for the folder of a DICOM series .dcm, a DICOM SEG.
        probabilities: A file for those of the classes, (X, Y, Z, C) float32 on the scan's own grid, the classes in
            their order.
        flips: Average over the flips within the slices' plane.
        planes: Average over slices along all three axes.
        largest: Classes of which only the largest connected component is kept (26 neighbours); `all` for every one.
        strict: Refuse a scan whose spacing or intensities are outside of all that the model was trained on, instead of
            warning.

    Raises:
        InputError: No such model, scan or class; the mask cannot be written; or the scan is refused.
        WorkFailed: Not enough memory.
    """
    from r2d2 import imgmed

    volume = imgmed.read_channels(scan)
    _check_places(output, probabilities, scan, volume.data.shape[:3])  # before the network is loaded and works
    work = Work(model, flips, planes, largest, strict)
    return work.segment(volume, scan, output, probabilities, shown=True)


def predict_folder(
    model: str,
    scans: dict[str, tuple[Path, ...]],
    output: Path,
    *,
    probabilities: Path | None = None,
    flips: bool = False,
    planes: bool = False,
    largest: Sequence[str] = (),
    strict: bool = False,
) -> Predictions:
    """Segment scans, each by itself: what is wrong with one keeps no other from its mask.

    Args:
        model: As for `predict`.
        scans: By name, from `scans_in`.
        output: The folder of the masks, NAME.nii.gz; made if it is not there.
        probabilities: The folder of the probabilities, likewise; another one.
        flips: As for `predict`.
        planes: As for `predict`.
        largest: As for `predict`.
        strict: As for `predict`.

    Raises:
        InputError: No such model or class, or a folder cannot be written.
    """
    folders = [folder for folder in (output, probabilities) if folder]
    sources = {path.parent.resolve() for paths in scans.values() for path in paths}
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(f"{output}: for masks and for probabilities; give them folders of their own")
    for folder in folders:
        if folder.resolve() in sources:
            raise InputError(f"{folder}: the scans are in it, which the masks would replace; name another folder")
    work = Work(model, flips, planes, largest, strict, len(scans))
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror or error})") from None
    from r2d2 import imgmed

    found, failed = {}, {}
    with bar("Predicting", len(scans)) as advance:
        for name, paths in scans.items():
            mask, beside = output / f"{name}.nii.gz", probabilities and probabilities / f"{name}.nii.gz"
            try:
                if len(paths) > 1 and paths[0].is_dir():
                    listed = ", ".join(path.name for path in paths)
                    raise InputError(f"{paths[0].parent}: {len(paths)} DICOM series ({listed}); give each a folder")
                volume = imgmed.read_channels(paths)
                _check_places(mask, beside, paths, volume.data.shape[:3])
                found[name] = work.segment(volume, paths, mask, beside)
            except (InputError, WorkFailed) as error:
                failed[name] = str(error)
            advance(name)
    return Predictions(output, found, failed)


class Work:
    """A model with the options, ready for one scan after another."""

    def __init__(
        self, model: str, flips: bool, planes: bool, largest: Sequence[str], strict: bool, scans: int = 1
    ) -> None:
        self.model, self.strict = model, strict
        self.saved, network = load_network(model)
        self.classes = {name: value for value, name in sorted(self.saved.labels.items()) if value > 0}
        for name in largest:
            if name not in ("all", *self.classes):
                raise InputError(f"--largest {name}: the model's classes are {', '.join(self.classes)}; or all")
        self.largest = [*self.classes.values()] if "all" in largest else [self.classes[name] for name in largest]
        if strict and self.saved.ranges is None:
            raise InputError(f"{model}: was saved before training scans' ranges were kept; --strict cannot judge by it")
        from r2d2.inference import Segmenter

        self.segmenter = Segmenter(network, self.saved.experiment.preprocess, flips, planes, many=scans >= MANY)

    def segment(
        self, volume: Any, scan: Sequence[Path], output: Path, probabilities: Path | None, shown: bool = False
    ) -> Prediction:
        """Segment a scan and write what is wanted; `shown` by a bar over its slices."""
        from r2d2 import imgmed

        images = self.segmenter.images(volume, scan[0])
        warnings = self._guard(volume, images, scan[0])
        with _bar_over(self.segmenter.passes(volume) if shown else 0) as advance:
            found = self.segmenter.segment(volume, images, probabilities is not None, advance)
        mask = found.mask
        if self.largest:
            kept = imgmed.largest_component(mask.data, self.largest, corners=True)
            mask = imgmed.Volume(kept, mask.affine, mask.header)
        if probabilities is not None:
            assert found.probabilities is not None
            imgmed.write_volume(found.probabilities, probabilities)
        if output.suffix == SEG:
            name = self.saved.experiment.registered_name
            version = f"{Path(self.model).name.rpartition('@')[2]}, run {self.saved.run_id}"
            imgmed.write_segments(mask, output, scan[0], self.saved.labels, (name, version))
        else:
            imgmed.write_volume(mask, output)
        volumes_ml = {name: float((mask.data == value).sum() * mask.voxel_ml) for name, value in self.classes.items()}
        return Prediction(output, mask.data.shape, volumes_ml, probabilities, warnings)

    def _guard(self, volume: Any, images: Any, source: Path) -> tuple[str, ...]:
        """Warn of a scan that is unlike all that the model was trained on, or refuse it."""
        if self.saved.ranges is None:
            return ()
        from r2d2 import imgmed
        from r2d2.data.prepare import seen_percentiles
        from r2d2.inference import guard

        spacing_mm = imgmed.to_canonical(volume).spacing_mm
        told = guard.outside(self.saved.ranges, spacing_mm, seen_percentiles(images))
        if told and self.strict:
            raise InputError(f"{source}: unlike all that {self.model} was trained on: {'; '.join(told)} (--strict)")
        for line in told:
            say(f"Warning: {source}: {line}; the mask may be wrong")
        return tuple(f"{source}: {line}" for line in told)


def _check_places(output: Path, probabilities: Path | None, scan: Sequence[Path], shape: tuple[int, ...]) -> None:
    """Raise an InputError if a mask or probabilities cannot be written there, or would replace a file of the scan."""
    from r2d2 import imgmed

    if output.suffix != SEG:
        imgmed.check_writable(output, shape)
    elif len(scan) == 1 and scan[0].is_dir():
        imgmed.check_folder(output)
    else:
        raise InputError(f"{output}: a DICOM SEG belongs to a DICOM series, {scan[0]} is none; name a .nii.gz")
    if probabilities is not None:
        imgmed.check_writable(probabilities, (*shape, 2))
        if not probabilities.name.endswith((".nii", ".nii.gz")):
            raise InputError(f"{probabilities}: probabilities are written as .nii.gz")
        if probabilities.resolve() == output.resolve():
            raise InputError(f"{output}: for the mask and for the probabilities; name two files")
    files = [file for path in scan for file in imgmed.files_of(path)]
    for what, path in (("mask", output), ("probabilities", probabilities)):
        if path is not None and path.exists() and any(path.samefile(file) for file in files):
            raise InputError(f"{path}: the scan itself, which the {what} would replace; name another file")


@contextmanager
def _bar_over(slices: int) -> Iterator[Callable[..., None]]:
    """A bar over so many slices, or none."""
    if not slices:
        yield lambda: None
        return
    with bar("Predicting", slices) as advance:
        yield advance
