"""Whole folders from volumes to small images: the four steps of the paper's Listing 1, by its names.

Guedria et al. 2020, section 3.2.1: every slice of every volume becomes a colour JPEG, then a grey one, then a PNG, then
a PNG of the wanted size. Each step makes a new folder, whole or not at all, passes over hidden files (`._*`,
`.DS_Store`) and takes every other file or refuses it by name. Names tell where an image came from: `CASE_z012.jpg` is
slice 12, counted from 0, of `CASE.nii.gz`.

JPEG is lossy: it rounds blocks of 8x8 pixels in the frequency domain, which moves grey values by a few levels around an
edge. A scan survives that; a label does not, for a value of 1.4 is no class, and a rim of 1 between 0 and 2 is a wrong
one. Masks are therefore refused wherever JPEG comes in.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from r2d2.errors import InputError
from r2d2.files import whole_folder
from r2d2.imgmed.intensity import normalize
from r2d2.imgmed.slices import resize_images, resize_labels
from r2d2.imgmed.volume import read_volume

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called after every file, with how many are done and of how many."""

VOLUMES = (".nii.gz", ".nii")
JPEGS = (".jpg", ".jpeg")
PNGS = (".png",)
# How a file of each kind begins and ends; decoders make up what is missing of a truncated one.
BOUNDS = {JPEGS: (b"\xff\xd8\xff", b"\xff\xd9"), PNGS: (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82")}
JPEG_QUALITY = 95
MAX_SIDE = 65500
# A mask has few different values, a scan has many.
MOST_CLASSES = 32
WAY_OUT = (
    "a label never goes through JPEG or an average, which make values of it that are no class: masks stay volumes, or "
    "are PNG and resized with labels=True"
)
LABELS_FOLDER = re.compile(r"(labels?|masks?)(tr|ts|[_-].*)?", re.IGNORECASE)


def convert_4DNI_to_RGBJPG(  # noqa: N802
    src: str | Path, dest: str | Path, dim: int, workers: int | None = None, progress: Progress | None = None
) -> Path:
    """Make a colour JPEG of every slice of every NIfTI volume in a folder, and return the new folder.

    Values: of each volume, the chosen channel's 0.5 percentile becomes 0 and its 99.5 percentile 255, linear between
    and cut outside; the percentiles are of its foreground (`imgmed.foreground`), so that the size of the background
    does not matter. One window for a whole volume: its slices stay comparable with each other; Hounsfield units are not
    kept. Grey is written as three equal channels, with JPEG's losses (quality 95).

    Place: slice z is `data[:, :, z]` as the file stores it, rows along the first axis, columns along the second;
    nothing is turned or flipped (`to_canonical` and `write_volume` do that before, where wanted).

    Args:
        src: A folder of .nii and .nii.gz files, (X, Y, Z, C) or (X, Y, Z), the latter with one channel.
        dest: The new folder, of `CASE_z000.jpg` and so on, X rows and Y columns.
        dim: The channel, an index along the fourth axis from 0; the modality.
        workers: How many volumes at a time, by default one per CPU that this process may use.
        progress: Called once per finished volume.

    Raises:
        InputError: A file is no volume, or has no such channel, or the channel holds NaN, infinity or one value
            throughout; or it is a mask, by the folder's name (`labelsTr`) or by its values, at most 32 different ones,
            all whole and from 0 to 254. The folder is missing or empty, or `dest` is there already.
    """
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 0:
        raise InputError(f"dim ({dim!r}) must be a whole number from 0, the index of a channel along the fourth axis")
    paths = _enter(src, VOLUMES)
    with _made(dest) as folder:
        _each(partial(_slices_to_jpeg, folder=folder, dim=int(dim)), paths, workers, progress)
    return Path(dest)


def reshape_JPG_to2D(  # noqa: N802
    src: str | Path, dest: str | Path, workers: int | None = None, progress: Progress | None = None
) -> Path:
    """Make a grey image of one channel of every JPEG in a folder, and return the new folder.

    Values: the luminance, 0.299 red + 0.587 green + 0.114 blue, which of three equal channels is their value; then
    JPEG's losses once more (quality 95). The size stays, and rows stay rows, whatever a camera noted in the file.

    Args:
        src: A folder of .jpg and .jpeg files, such as `convert_4DNI_to_RGBJPG` makes.
        dest: The new folder, of grey JPEG files of the same names.
        workers: How many files at a time, by default one per CPU that this process may use.
        progress: Called once per finished file.

    Raises:
        InputError: A file is no whole JPEG; the images are masks, by the folder's name or by all their values together,
            2 to 32 different ones. The folder is missing or empty, or `dest` is there already.
    """
    paths = _enter(src, JPEGS)
    with _made(dest) as folder:
        step = partial(
            _convert_image, folder=folder, suffix=".jpg", flags=cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
        )
        _refuse_labels(_each(step, paths, workers, progress), src)
    return Path(dest)


def convert_JPG_to_PNG(  # noqa: N802
    src: str | Path, dest: str | Path, workers: int | None = None, progress: Progress | None = None
) -> Path:
    """Make a PNG of every JPEG in a folder, and return the new folder.

    Values: those that the JPEG decodes to, all of them kept; PNG loses nothing, and brings back nothing that JPEG lost.
    Grey stays grey and colour stays colour; the size stays.

    Args:
        src: A folder of .jpg and .jpeg files.
        dest: The new folder, of `.png` files of the same names.
        workers: How many files at a time, by default one per CPU that this process may use.
        progress: Called once per finished file.

    Raises:
        InputError: As for `reshape_JPG_to2D`. A mask that is a JPEG is damaged already; make its PNG from the volume.
    """
    paths = _enter(src, JPEGS)
    with _made(dest) as folder:
        step = partial(_convert_image, folder=folder, suffix=".png", flags=cv2.IMREAD_UNCHANGED)
        _refuse_labels(_each(step, paths, workers, progress), src)
    return Path(dest)


def resize_img(
    src: str | Path,
    dest: str | Path,
    ext: str,
    height: int,
    width: int,
    labels: bool | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make every image of a folder `height` rows by `width` columns, and return the new folder.

    Values: averaged along an axis that shrinks, linear along one that grows, as `resize_images`, and rounded; masks by
    nearest neighbour, as `resize_labels`, so that no value appears that was not there. Proportions are not kept: the
    image is stretched to the new shape. The paper's 350, 350 is square and leaves the order open; here rows come first,
    then columns. (An experiment's `preprocess.image_size` for such pictures is the other way round: width, height.)

    Args:
        src: A folder of images of that extension alone, 8 or 16 bits, of any number of channels.
        dest: The new folder, of files of the same names and kind.
        ext: `png` or `jpg`; a JPEG has its losses once more (quality 95).
        height: Rows of the new images.
        width: Columns of the new images.
        labels: True: masks, of one channel and 8 bits, PNG alone. False: images, whatever they look like. None: images,
            and what looks like masks is refused: by the folder's name, or 2 to 32 different values in all together.
        workers: How many files at a time, by default one per CPU that this process may use.
        progress: Called once per finished file.

    Raises:
        InputError: A file has another extension, or is not whole; the images look like masks, and `labels` does not say
            what they are. The folder is missing or empty, or `dest` is there already.
    """
    kinds = {"png": PNGS, "jpg": JPEGS, "jpeg": JPEGS}
    kind = kinds.get(str(ext).lower().lstrip("."))
    if kind is None:
        raise InputError(f"no images {ext!r}; there are {', '.join(kinds)}")
    for name, side in (("height", height), ("width", width)):
        if isinstance(side, bool) or not isinstance(side, int | np.integer) or not 1 <= side <= MAX_SIDE:
            raise InputError(f"{name} ({side!r}) must be a whole number of pixels from 1 to {MAX_SIDE}")
    if labels and kind is JPEGS:
        raise InputError(f"{src}: labels do not go through JPEG, which would change them; make them PNG")
    paths = _enter(src, kind, guess=labels is None)
    with _made(dest) as folder:
        step = partial(_resize_image, folder=folder, size=(int(height), int(width)), labels=bool(labels))
        values = _each(step, paths, workers, progress)
        if labels is None:
            _refuse_labels(values, src)
    return Path(dest)


def _enter(src: str | Path, suffixes: tuple[str, ...], guess: bool = True) -> list[Path]:
    """Return the visible files of a folder; raise if one is nothing for this step, or if its name says masks."""
    folder = Path(src)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if guess and LABELS_FOLDER.fullmatch(folder.resolve().name):
        raise InputError(f"{folder}: masks, by the folder's name; {WAY_OUT}")
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    stems: dict[str, Path] = {}
    for path in found:
        if not (path.is_file() and path.name.lower().endswith(suffixes)):
            raise InputError(
                f"{path}: not a {' or '.join(suffixes)} file; this step takes no others, move it elsewhere"
            )
        other = stems.setdefault(_stem(path), path)
        if other is not path:
            raise InputError(f"{path}: the same name as {other.name}; keep one of the two")
    if not found:
        raise InputError(f"{folder}: no {' or '.join(suffixes)} files")
    return found


def _stem(path: Path) -> str:
    suffix = next(suffix for suffix in VOLUMES + JPEGS + PNGS if path.name.lower().endswith(suffix))
    return path.name[: -len(suffix)]


@contextmanager
def _made(dest: str | Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `dest` when it is whole."""
    folder = Path(dest)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: there is something there already; name a folder that is new or empty")
        with whole_folder(folder) as beside:
            yield beside
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror or error})") from None


def _each(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int | None, progress: Progress | None
) -> list[Result]:
    """Return what `work` makes of every item, in their order; the first error ends it all.

    Threads, for NumPy, OpenCV and the decompression leave Python's lock while they work; and processes would ask every
    script that has the four lines of Listing 1 for `if __name__ == "__main__"`.
    """
    pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))
    try:
        futures = [pool.submit(work, item) for item in items]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            if progress:
                progress(done, len(items))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _slices_to_jpeg(path: Path, folder: Path, dim: int) -> None:
    volume = read_volume(path)
    stack = volume.data if volume.data.ndim == 4 else volume.data[..., np.newaxis]
    if dim >= stack.shape[3]:
        raise InputError(
            f"{path}: dim ({dim}) must be from 0 to {stack.shape[3] - 1}, it has {stack.shape[3]} channels"
        )
    channel = stack[..., dim : dim + 1]
    if not np.isfinite(channel).all():
        raise InputError(f"{path}: channel {dim} has voxels of NaN or infinity; intensities must be finite")
    if channel.min() == channel.max():
        raise InputError(f"{path}: channel {dim} is {channel.min():g} throughout; there is no image in it")
    if _is_mask(channel):
        raise InputError(f"{path}: a mask, by its values (few, whole, from 0 to 254); {WAY_OUT}")
    levels = np.rint(255 * normalize(channel, "percentile")[..., 0]).astype(np.uint8)
    digits = max(3, len(str(levels.shape[2] - 1)))
    for z in range(levels.shape[2]):
        image = cv2.cvtColor(np.ascontiguousarray(levels[:, :, z]), cv2.COLOR_GRAY2BGR)
        _write(image, folder / f"{_stem(path)}_z{z:0{digits}}.jpg")


def _is_mask(values: np.ndarray) -> bool:
    """Whether these are the values of a mask: at most 32 different ones, whole, from 0 to 254."""
    flat = values.ravel(order="K")
    for some in (flat[:: 1 + flat.size // 10_000], flat):  # a sample tells almost every scan
        if some.min() < 0 or some.max() > 254 or (some != np.rint(some)).any():
            return False
        if np.count_nonzero(np.bincount(some.astype(np.uint8))) > MOST_CLASSES:
            return False
    return True


def _convert_image(path: Path, folder: Path, suffix: str, flags: int) -> np.ndarray:
    image = _read(path, flags)
    _write(image, folder / f"{_stem(path)}{suffix}")
    return _values(image)


def _resize_image(path: Path, folder: Path, size: tuple[int, int], labels: bool) -> np.ndarray:
    image = _read(path, cv2.IMREAD_UNCHANGED)
    if labels:
        if image.ndim != 2 or image.dtype != np.uint8:
            raise InputError(
                f"{path}: a mask must have one channel of 8 bits, not {image.shape[2:] or ''}{image.dtype}"
            )
        resized = resize_labels(image[np.newaxis], size)[0]
    else:
        stack = image.reshape(1, *image.shape[:2], -1).astype(np.float32)
        resized = np.rint(resize_images(stack, size)[0]).astype(image.dtype)
    _write(resized, folder / path.name)
    return _values(image)


def _values(image: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.bincount(image.ravel()))


def _refuse_labels(values: Iterable[np.ndarray], src: str | Path) -> None:
    """Raise if all images of a folder together have the values of masks; a single one of a scan may be black."""
    different = np.unique(np.concatenate(list(values)))
    if 1 < len(different) <= MOST_CLASSES:
        raise InputError(f"{src}: masks, by their {len(different)} different values; {WAY_OUT}")


def _read(path: Path, flags: int) -> np.ndarray:
    kind = JPEGS if path.name.lower().endswith(JPEGS) else PNGS
    first, last = BOUNDS[kind]
    content = path.read_bytes()
    if not content.startswith(first):
        raise InputError(f"{path}: not a {kind[0]} file, whatever its name says")
    if not content.rstrip(b"\0").endswith(last):
        raise InputError(f"{path}: a truncated {kind[0]} file")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{path}: cannot be decoded as a {kind[0]} file")
    return image


def _write(image: np.ndarray, path: Path) -> None:
    if max(image.shape[:2]) > MAX_SIDE:
        raise InputError(f"{path.name}: an image has at most {MAX_SIDE} rows and columns, not {image.shape[:2]}")
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.name.lower().endswith(JPEGS) else []
    _, content = cv2.imencode(path.suffix, image, quality)
    path.write_bytes(content.data)
