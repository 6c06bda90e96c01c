"""Augmentation offline: from folders of images and masks to a wanted number of pairs on disk."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import cv2
import numpy as np

from r2d2.errors import InputError
from r2d2.files import whole_folder
from r2d2.imgmed.augment import Ranges, apply, draw

SUFFIXES = (".png", ".tif", ".tiff")


def augment_folder(
    images: Path,
    labels: Path,
    destination: Path,
    count: int,
    ranges: Ranges,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[], object] | None = None,
) -> None:
    """Make `count` pairs of an image and its mask: the originals as they are, then draws over them in turn.

    Pair number i (from 0, in the order of names) is drawn in round r (from 1) by (seed, r, i) and named
    `NAME_augmented_r`. Images of 16 bits keep them; intensities that leave the type's range are clipped to it.

    Args:
        images: A folder of PNG or TIFF images alone (files whose names begin with a dot apart), grey or colour, 8 or
            16 bits or float32.
        labels: A folder of their masks, of the same names (`.png` and `.tif` may differ), one channel, 8 or 16 bits.
        destination: A new or empty folder; gets `images` and `labels`, whole or not at all.
        count: Pairs to make, the originals among them.
        ranges: What is drawn, e.g. `augment.TABLE_1`. The paper: 1,400 slices to 35,000 images.
        seed: Of the draws; the same seed makes the same files.
        workers: Threads (OpenCV does the work outside Python's lock), by default one for each CPU of this process.
        progress: Called after each pair.

    Raises:
        InputError: A name without its image or mask, a JPEG among the masks, a file that is no such image, a pair of
            two sizes, too small a `count`, or a destination that cannot be written.
    """
    images, labels, destination = Path(images), Path(labels), Path(destination)
    pairs = _pairs(images, labels)
    if count < len(pairs):
        raise InputError(f"count ({count}) must be at least {len(pairs)}, the number of images in {images}")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"{destination}: is there already; name a new or empty folder")
    tasks = [(number % len(pairs), number // len(pairs)) for number in range(count)]
    names = {_name(pairs[index][0], times) for index, times in tasks}
    if len(names) < count:
        raise InputError(f"{images}: has names that end in _augmented_ and a number, as the new ones will; rename them")

    def make(task: tuple[int, int], folder: Path) -> None:
        index, times = task
        paths = pairs[index]
        image, mask = _read_pair(*paths)
        targets = [folder / part / _name(path, times) for part, path in zip(("images", "labels"), paths, strict=True)]
        if times == 0:
            for path, target in zip(paths, targets, strict=True):
                shutil.copyfile(path, target)
            return
        one = draw(ranges, seed, times, index, (mask.shape[0], mask.shape[1]))
        new_image, new_mask = apply(one, image.astype(np.float32).reshape(*mask.shape, -1), mask)
        for array, target in ((_as_type(new_image, image.dtype), targets[0]), (new_mask, targets[1])):
            target.write_bytes(cv2.imencode(target.suffix, array)[1].tobytes())

    try:
        with (
            whole_folder(destination) as folder,
            ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool,
        ):
            for part in ("images", "labels"):
                (folder / part).mkdir()
            futures = [pool.submit(make, task, folder) for task in tasks]
            try:
                for future in as_completed(futures):
                    future.result()
                    if progress:
                        progress()
            finally:
                pool.shutdown(cancel_futures=True)
    except OSError as error:
        raise InputError(f"{error.filename or destination}: {error.strerror or error}") from None


def _pairs(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Each image with its mask, in the order of names."""
    of_images, of_labels = _by_name(images, "image"), _by_name(labels, "mask")
    if not of_images:
        raise InputError(f"{images}: has no PNG or TIFF image")
    for name in sorted(of_images.keys() ^ of_labels.keys()):
        present, absent = (of_images, labels) if name in of_images else (of_labels, images)
        raise InputError(f"{present[name]}: nothing of that name in {absent}; every image needs its mask")
    return [(of_images[name], of_labels[name]) for name in sorted(of_images)]


def _by_name(folder: Path, kind: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        suffix = path.suffix.lower()
        if kind == "mask" and suffix in (".jpg", ".jpeg"):
            raise InputError(f"{path}: a mask as JPEG, whose compression changes labels; save masks as PNG or TIFF")
        if suffix not in SUFFIXES:
            raise InputError(f"{path}: no PNG or TIFF; this folder may hold nothing else")
        if path.stem in found:
            raise InputError(f"{path}: {found[path.stem].name} has the same name; every {kind} needs its own")
        found[path.stem] = path
    return found


def _name(path: Path, times: int) -> str:
    return f"{path.stem}_augmented_{times}{path.suffix}" if times else path.name


def _read_pair(image_path: Path, mask_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W) or (H, W, C) and mask (H, W), as they are."""
    image, mask = _read(image_path, (np.uint8, np.uint16, np.float32)), _read(mask_path, (np.uint8, np.uint16))
    if mask.ndim != 2:
        raise InputError(
            f"{mask_path}: a mask in colour ({mask.shape[2]} channels); save the labels as one grey channel"
        )
    if image.shape[:2] != mask.shape:
        sizes = ["x".join(map(str, array.shape[:2])) for array in (image, mask)]
        raise InputError(f"{mask_path}: image {sizes[0]}, mask {sizes[1]} (rows x columns); they must be the same")
    return image, mask


def _read(path: Path, types: tuple[type, ...]) -> np.ndarray:
    content = path.read_bytes()
    if content.startswith(b"\x89PNG") and len(content) > 24 and content[24] < 8:
        raise InputError(f"{path}: has {content[24]} bits a value, which OpenCV reads as other values; save it with 8")
    try:
        read, pages = cv2.imdecodemulti(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # an empty file, or sizes beyond OpenCV's limits
        read, pages = False, ()
    if not read:
        raise InputError(f"{path}: cannot be read as PNG or TIFF; it is damaged or something else")
    if len(pages) > 1:
        raise InputError(f"{path}: has {len(pages)} pages; save each as a file of its own")
    if pages[0].dtype not in types:
        raise InputError(f"{path}: has values of {pages[0].dtype}; there may be {', '.join(t.__name__ for t in types)}")
    return pages[0]


def _as_type(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """An image (H, W, C) of float32, rounded and clipped to what the type holds."""
    if np.issubdtype(dtype, np.floating):
        return image
    limits = np.iinfo(dtype)
    return np.rint(image).clip(limits.min, limits.max).astype(dtype)
