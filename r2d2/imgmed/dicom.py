"""DICOM: a series of slices as one volume, and masks on its grid from RTSTRUCT contours and SEG segments."""

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813  # its documentation's own name
from numpy.typing import DTypeLike
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    RTDoseStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from r2d2.errors import InputError
from r2d2.imgmed.checks import MAX_RATIO, as_text, check_affine, check_room, file_size, input_errors
from r2d2.imgmed.volume import LPS_TO_RAS, Volume

NO_SCANS = (SegmentationStorage, RTDoseStorage)
TAGS = [
    *("SOPClassUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesDescription", "Modality", "ImageType"),
    *("PatientID", "Rows", "Columns"),
    *("NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
]
# Scanners write positions with few digits.
SPACING_TOLERANCE = 0.01
ORIENTATION_TOLERANCE = 1e-3
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# A contour farther from its slice than this, in slices, was drawn on another series.
PLANE_TOLERANCE = 0.1


Names = Mapping[int, str | Sequence[str]]
"""A region's or segment's name for each label, or several of which the file has one."""


def files(path: Path) -> tuple[Path, ...]:
    """Return the slices of a folder's series in their order along its normal."""
    return tuple(_file(header) for header in _series(path)[0])


def geometry(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the series' shape and affine from the headers: columns are X, rows Y, slices along the normal Z."""
    headers, affine = _series(path)
    return (int(headers[0].Columns), int(headers[0].Rows), len(headers)), affine.copy()


def read(path: Path, dtype: DTypeLike | None) -> Volume:
    """Return the series in a type, or with None in float64; each slice with its rescale slope and intercept."""
    headers, affine = _series(path)
    first = headers[0]
    voxels = np.empty((len(headers), first.Rows, first.Columns), dtype or np.float64)
    for plane, header in zip(voxels, headers, strict=True):
        file = _file(header)
        with dicom_errors(file):
            plane[:] = _pixels(header, file)
    return Volume(voxels.T, affine.copy())


def find_dicom(folder: str | Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the folders, this one and all below, that hold slices of a series, and the files of RTSTRUCTs and SEGs.

    Raises:
        InputError: A file is called .dcm and is none.
    """
    series, masks = set(), []
    for file in sorted(Path(folder).rglob("*")):
        if file.name.startswith(".") or not file.is_file() or not _is_dicom(file):
            continue
        with dicom_errors(file):
            kind = pydicom.filereader.read_file_meta_info(file).get("MediaStorageSOPClassUID", "")
        if kind in (RTStructureSetStorage, SegmentationStorage):
            masks.append(file)
        elif getattr(kind, "name", "").endswith("Image Storage"):
            series.add(file.parent)
    return tuple(sorted(series)), tuple(masks)


def read_structures(path: str | Path, like: Volume, names: Names, series: str | Path | None = None) -> Volume:
    """Read regions of an RTSTRUCT or segments of a DICOM SEG as a mask; see `read_contours` and `read_segments`.

    Args:
        path: The RTSTRUCT or SEG.
        like: The series that it belongs to, as `read_volume` gives it.
        names: The region's or segment's name for each label of the mask, or names of which the file has one.
        series: The folder that `like` was read from: a mask that references another series, or another frame of
            reference, is refused. Where one of the two does not say, nothing is compared.

    Raises:
        InputError: As for the two; or the mask belongs to another series.
    """
    path = Path(path)
    with dicom_errors(path):
        dataset = _dataset(path, stop_before_pixels=True)
        if series is not None and (elsewhere := _elsewhere(dataset, _series(Path(series))[0][0])):
            raise InputError(f"{path}: {elsewhere} {series}; take the series that it was drawn on")
    return (read_contours if dataset.SOPClassUID == RTStructureSetStorage else read_segments)(path, like, names)


def referenced_series(path: str | Path, folders: Iterable[Path]) -> tuple[Path, ...]:
    """Return those of some folders that hold a series which an RTSTRUCT or SEG may belong to by its references.

    Raises:
        InputError: A file cannot be read.
    """
    path = Path(path)
    with dicom_errors(path):
        dataset = _dataset(path, stop_before_pixels=True)
    return tuple(
        folder for folder in folders if any(not _elsewhere(dataset, identity) for identity in _identities(folder))
    )


def patient_id(folder: str | Path) -> str:
    """Return the PatientID of a series, by its folder; empty where it says none.

    Raises:
        InputError: As `read_volume`, as far as headers tell.
    """
    return str(_series(Path(folder))[0][0].get("PatientID") or "").strip()


def structure_names(path: str | Path) -> tuple[str, ...]:
    """Return the names of the regions in an RTSTRUCT, or of the segments in a DICOM SEG.

    Raises:
        InputError: The file is missing, damaged, or neither of the two.
    """
    path = Path(path)
    with dicom_errors(path):
        dataset = _dataset(path, stop_before_pixels=True)
        if dataset.SOPClassUID == RTStructureSetStorage:
            return tuple(str(region.ROIName) for region in dataset.StructureSetROISequence)
        if dataset.SOPClassUID == SegmentationStorage:
            return tuple(str(segment.SegmentLabel) for segment in dataset.SegmentSequence)
        raise InputError(f"{path}: neither an RTSTRUCT nor a SEG, but {dataset.SOPClassUID.name}")


def read_contours(path: str | Path, like: Volume, names: Names) -> Volume:
    """Read regions of an RTSTRUCT as a mask.

    A voxel belongs to a region if its centre lies within an odd number of the region's contours in its slice, so that
    a contour within another one cuts a hole. The same contour stored twice counts once; points enclose nothing and are
    passed over.

    Args:
        path: The RTSTRUCT file.
        like: The series that the contours were drawn on, as `read_volume` gives it.
        names: The region's name (ROI Name) for each label of the mask, or names of which it has one. Where regions
            overlap, the later one wins.

    Returns:
        The mask, uint8 on the series' grid, 0 outside the regions.

    Raises:
        InputError: The file is missing, damaged or no RTSTRUCT; it lacks a name, or has it twice; a region has no
            closed contour, or one that lies beside the series' slices; or it is drawn on every second slice or fewer,
            with nothing that says what lies between.
    """
    path = Path(path)
    with dicom_errors(path):
        dataset = _dataset(path)
        if dataset.SOPClassUID != RTStructureSetStorage:
            raise InputError(f"{path}: no RTSTRUCT, but {dataset.SOPClassUID.name}")
        regions = dataset.StructureSetROISequence
        chosen = _choose([str(region.ROIName) for region in regions], names, "region", path)
        contours = {int(roi.ReferencedROINumber): roi for roi in dataset.get("ROIContourSequence", [])}
        mask = np.zeros(like.data.shape[:3], np.uint8)
        for label, place in chosen.items():
            drawn = contours.get(int(regions[place].ROINumber), pydicom.Dataset()).get("ContourSequence", [])
            mask[_filled(drawn, like, f"{path}: region {str(regions[place].ROIName)!r}")] = label
        return Volume(mask, like.affine, like.header)


def read_segments(path: str | Path, like: Volume, names: Names) -> Volume:
    """Read segments of a DICOM SEG as a mask.

    Args:
        path: The SEG file, binary or a label map.
        like: The series that was segmented, as `read_volume` gives it.
        names: The segment's name (Segment Label) for each label of the mask, or names of which it has one. Where
            segments overlap, the later wins.

    Returns:
        The mask, uint8 on the series' grid, 0 outside the segments. Frames are put in their places, never resampled.

    Raises:
        InputError: The file is missing, damaged or no SEG, holds fractions; it lacks a name, or has it twice; or it
            lies on another grid than the series.
    """
    import highdicom as hd  # half a second that nobody else needs

    path = Path(path)
    with dicom_errors(path):
        dataset = _dataset(path)
        if dataset.SOPClassUID != SegmentationStorage:
            raise InputError(f"{path}: no DICOM SEG, but {dataset.SOPClassUID.name}")
        if dataset.SegmentationType == "FRACTIONAL":
            raise InputError(f"{path}: holds fractions, a mask holds labels; export it as a binary segmentation")
        chosen = _choose([str(segment.SegmentLabel) for segment in dataset.SegmentSequence], names, "segment", path)
        frames = (int(dataset.NumberOfFrames), int(dataset.Rows), int(dataset.Columns))
        needed = math.prod(frames) * int(dataset.BitsAllocated) // 8
        check_room(frames, np.dtype(np.uint8), needed, file_size(path) * MAX_RATIO, path)
        segmentation = hd.seg.Segmentation.from_dataset(dataset, copy=False)
        grid = hd.VolumeGeometry(LPS_TO_RAS @ like.affine, like.data.shape[:3], "PATIENT")
        own = segmentation.get_volume_geometry()
        elsewhere = f"{path}: lies on another grid than the series ({as_text(grid.spatial_shape)})"
        if own is None or math.prod(own.spatial_shape) > math.prod(grid.spatial_shape):
            raise InputError(elsewhere if own is None else f"{elsewhere}: {as_text(own.spatial_shape)}")
        numbers = [int(dataset.SegmentSequence[place].SegmentNumber) for place in chosen.values()]
        volume = segmentation.get_volume(segment_numbers=numbers, dtype=np.uint8)
        try:
            placed = volume.match_geometry(grid, tol=ORIENTATION_TOLERANCE)
        except RuntimeError:
            raise InputError(f"{elsewhere}, and masks are not resampled; take the series that was segmented") from None
        if np.count_nonzero(placed.array) != np.count_nonzero(volume.array):
            raise InputError(f"{path}: reaches beyond the series ({as_text(grid.spatial_shape)})")
        mask = np.zeros(like.data.shape[:3], np.uint8)
        for channel, label in enumerate(chosen):
            mask[placed.array[..., channel] > 0] = label
        return Volume(mask, like.affine, like.header)


def _elsewhere(mask: pydicom.Dataset, scan: pydicom.Dataset) -> str:
    """Return how an RTSTRUCT or SEG says that it belongs to another scan than this; empty if it does not."""
    if mask.SOPClassUID == RTStructureSetStorage:
        frames = list(mask.get("ReferencedFrameOfReferenceSequence", []))
        regions = [region.get("ReferencedFrameOfReferenceUID") for region in mask.get("StructureSetROISequence", [])]
        spaces = {*regions, *(frame.get("FrameOfReferenceUID") for frame in frames)}
        studies = [study for frame in frames for study in frame.get("RTReferencedStudySequence", [])]
        series = [one for study in studies for one in study.get("RTReferencedSeriesSequence", [])]
    else:
        spaces, series = {mask.get("FrameOfReferenceUID")}, list(mask.get("ReferencedSeriesSequence", []))
    for what, named, own in (
        ("frame of reference", spaces, scan.get("FrameOfReferenceUID")),
        ("series", {one.get("SeriesInstanceUID") for one in series}, scan.get("SeriesInstanceUID")),
    ):
        stated = {str(uid) for uid in named if uid}
        if stated and own and str(own) not in stated:
            return f"belongs to another {what} ({', '.join(sorted(stated))}) than {own} of"
    return ""


def _identities(folder: Path) -> Iterator[pydicom.Dataset]:
    """Yield the headers of a folder's images, one of each series, with what says which series it is."""
    seen = set()
    for file in _visible_files(folder):
        with dicom_errors(file):
            if _is_dicom(file):
                header = _dataset(file, stop_before_pixels=True, specific_tags=[*TAGS[:3], "Rows"])
                uid = header.get("SeriesInstanceUID")
                if "Rows" in header and uid not in seen:
                    seen.add(uid)
                    yield header


def _visible_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if not file.name.startswith(".") and file.is_file()]


def _series(folder: Path) -> tuple[tuple[pydicom.Dataset, ...], np.ndarray]:
    """Return the headers of a folder's one series, in order along its normal, and its affine."""
    with dicom_errors(folder):
        states = [(file, file.stat()) for file in _visible_files(folder)]
        return _parsed(folder, tuple((file, state.st_size, state.st_mtime_ns) for file, state in states))


@lru_cache(maxsize=16)  # a case's geometry, files, voxels and identity are asked for one after another
def _parsed(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> tuple[tuple[pydicom.Dataset, ...], np.ndarray]:
    """Return what `_series` does, of files in a known state."""
    with dicom_errors(folder):
        found: dict[str, list[pydicom.Dataset]] = {}
        for file, _, _ in files:
            header = _slice_header(file)
            if header is not None:
                found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(header)
        if not found:
            raise InputError(f"{folder}: a folder without a DICOM image in it")
        if len(found) > 1:
            listed = "; ".join(
                f"{headers[0].get('Modality')} {headers[0].get('SeriesDescription', '')!r}, {len(headers)} slices, "
                f"{_file(headers[0]).name} ..."
                for headers in found.values()
            )
            raise InputError(
                f"{folder}: {len(found)} series, put each into a folder of its own and name that: {listed}"
            )
        (headers,) = found.values()
        _check_alike(headers)
        return _stack(headers, folder)


def _is_dicom(file: Path) -> bool:
    """Return if a file has DICOM's mark.

    Raises:
        InputError: It has not, and its name says that it should.
    """
    with dicom_errors(file), file.open("rb") as opened:
        marked = opened.read(132)[128:] == b"DICM"
    if not marked and file.suffix.lower() in (".dcm", ".ima"):
        raise InputError(f"{file}: no DICOM file, although its name says so; remove it or fetch it again")
    return marked


def _slice_header(file: Path) -> pydicom.Dataset | None:
    """Return the header of a slice; None for what is no DICOM image."""
    with dicom_errors(file):
        if not _is_dicom(file):
            return None
        header = _dataset(file, stop_before_pixels=True, specific_tags=TAGS)
        kind = header.file_meta.get("MediaStorageSOPClassUID")
        if "Rows" not in header and (kind is None or kind.name.endswith("Image Storage")):
            raise InputError(f"{file}: truncated, a slice without Rows; fetch or export it again")
        if "Rows" not in header or header.get("SOPClassUID") in NO_SCANS:
            return None
        if int(header.get("NumberOfFrames") or 1) > 1 or "MOSAIC" in header.get("ImageType", ()):
            raise InputError(f"{file}: several slices in one file are not read; convert it to NIfTI (dcm2niix)")
        for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
            if not header.get(tag):
                raise InputError(f"{file}: a slice without {tag} has no place in a volume; remove it from the folder")
            if not np.isfinite(np.array(header[tag].value, float)).all():
                raise InputError(f"{file}: {tag} must be finite, it is {header[tag].value}")
        if header.get("SamplesPerPixel") != 1 or header.get("BitsAllocated") not in (8, 16, 32):
            raise InputError(
                f"{file}: slices must be grey, of 8, 16 or 32 bits; this one has {header.get('SamplesPerPixel')} "
                f"samples a pixel of {header.get('BitsAllocated')} bits"
            )
        shape, dtype = (header.Columns, header.Rows), np.dtype(f"u{header.BitsAllocated // 8}")
        packed = header.file_meta.TransferSyntaxUID.is_compressed
        room = file_size(file) * (MAX_RATIO if packed else 1)
        check_room(shape, dtype, math.prod(shape) * dtype.itemsize, room, file)
        return header


def _check_alike(headers: list[pydicom.Dataset]) -> None:
    """Raise an InputError if slices differ in size, spacing or orientation."""
    first = headers[0]
    tolerances = {"PixelSpacing": 1e-4, "ImageOrientationPatient": ORIENTATION_TOLERANCE, "Rows": 0, "Columns": 0}
    for header in headers[1:]:
        for tag, tolerance in tolerances.items():
            here, there = header[tag].value, first[tag].value
            if not np.allclose(np.array(here, float), np.array(there, float), rtol=0, atol=tolerance):
                raise InputError(
                    f"{_file(header)}: {tag} is {here}, in {_file(first).name} it is {there}; the slices of a series "
                    "must be alike, put others into a folder of their own"
                )


def _stack(headers: list[pydicom.Dataset], folder: Path) -> tuple[tuple[pydicom.Dataset, ...], np.ndarray]:
    """Return the headers in order along the slices' normal, and the affine of the stack."""
    first = headers[0]
    along_x, along_y = axes = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > 10 * ORIENTATION_TOLERANCE:
        raise InputError(
            f"{_file(first)}: ImageOrientationPatient must be two unit vectors at right angles, it is {axes.tolist()}"
        )
    normal = np.cross(along_x, along_y)
    places = np.array([header.ImagePositionPatient for header in headers], float)
    order = np.argsort(places @ normal, kind="stable")
    headers, places = [headers[i] for i in order], places[order]
    down_mm, across_mm = (float(mm) for mm in first.PixelSpacing)  # from row to row, then from column to column
    if len(headers) > 1:
        _check_gaps(headers, places @ normal)
        step = (places[-1] - places[0]) / (len(headers) - 1)
        aside_mm = np.linalg.norm(places - (places[0] + np.outer(np.arange(len(places)), step)), axis=1)
        if aside_mm.max() > _tolerance_mm(float(np.linalg.norm(step))):
            worst = int(aside_mm.argmax())
            raise InputError(f"{_file(headers[worst])}: lies {aside_mm[worst]:.3g} mm beside the line of the others")
    else:
        thickness_mm = first.get("SpacingBetweenSlices") or first.get("SliceThickness")
        if not thickness_mm:
            raise InputError(f"{_file(first)}: a single slice needs SpacingBetweenSlices or SliceThickness")
        step = normal * float(thickness_mm)
    affine = np.eye(4)
    affine[:3] = np.column_stack([along_x * across_mm, along_y * down_mm, step, places[0]])
    affine = check_affine(LPS_TO_RAS @ affine, folder)
    affine.setflags(write=False)  # it is kept
    return tuple(headers), affine


def _check_gaps(headers: list[pydicom.Dataset], along_mm: np.ndarray) -> None:
    gaps_mm = np.diff(along_mm)
    usual_mm = float(np.median(gaps_mm))
    doubled = int(gaps_mm.argmin())
    names = [_file(header) for header in headers]
    if gaps_mm[doubled] <= _tolerance_mm(0.0):
        raise InputError(
            f"{names[doubled + 1]}: at the place of {names[doubled].name}, {along_mm[doubled]:g} mm along the normal; "
            "a series is one volume, put doubled slices and other phases into folders of their own"
        )
    wrong = np.abs(gaps_mm - usual_mm) > _tolerance_mm(usual_mm)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise InputError(
            f"{names[place + 1]}: {gaps_mm[place]:g} mm from {names[place].name} (at {along_mm[place]:g} mm), the "
            f"usual gap is {usual_mm:g} mm: slices are missing or unevenly spaced ({int(wrong.sum())} such gaps)"
        )


def _tolerance_mm(spacing_mm: float) -> float:
    return max(SPACING_TOLERANCE * spacing_mm, 0.005)


def _pixels(header: pydicom.Dataset, file: Path) -> np.ndarray:
    """Return a slice, (rows, columns), in the scanner's units."""
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_compressed and syntax != RLELossless:
        # GDCM has every codec of JPEG, and applies slope and intercept itself.
        try:
            return sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))[0]
        except RuntimeError:
            raise InputError(f"{file}: pixels of {syntax.name} that cannot be decoded; export it again") from None
    dataset = pydicom.dcmread(file)
    if "PixelData" not in dataset:
        raise InputError(f"{file}: a slice without pixel data; fetch or export it again")
    slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    pixels = dataset.pixel_array
    if slope == 1 and intercept.is_integer() and pixels.itemsize <= 2:
        return pixels.astype(np.int32) + int(intercept)  # half the time of float64, and exact
    return pixels * slope + intercept


def _choose(present: list[str], names: Names, what: str, path: Path) -> dict[int, int]:
    """Return the place in `present` of the name of each label."""
    chosen = {}
    for label, name in names.items():
        wanted = (name,) if isinstance(name, str) else tuple(name)
        places = [place for place, other in enumerate(present) if other in wanted]
        if len(places) != 1:
            said = f"{len(places) or 'no'} {what} {' or '.join(map(repr, wanted))}"
            raise InputError(f"{path}: {said}, it has {', '.join(map(repr, present)) or 'none'}")
        chosen[label] = places[0]
    return chosen


def _filled(contours: Any, like: Volume, where: str) -> np.ndarray:
    """Return the voxels whose centres lie within an odd number of contours."""
    inside = np.zeros(like.data.shape[:3], bool)
    to_voxels = np.linalg.inv(LPS_TO_RAS @ like.affine)
    slices = inside.shape[2]
    if not contours:
        raise InputError(f"{where} has no contours")
    closed = [contour for contour in contours if contour.ContourGeometricType in CLOSED]
    passed_over = ("POINT",) if closed else ()
    for contour in contours:
        if contour.ContourGeometricType not in (*CLOSED, *passed_over):
            raise InputError(f"{where} holds a {contour.ContourGeometricType}, only closed contours enclose voxels")
    drawn: set[frozenset[tuple[float, ...]]] = set()
    planes: set[int] = set()
    for contour in closed:
        points_mm = np.array(contour.ContourData, float).reshape(-1, 3)
        points = points_mm @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        place = points[:, 2].mean()
        if not (np.abs(points[:, 2] - np.rint(place)).max() <= PLANE_TOLERANCE and 0 <= np.rint(place) < slices):
            raise InputError(
                f"{where} has a contour at slice {place:.3f} of 0 to {slices - 1} (point {points_mm[0].tolist()} mm), "
                "which is not in a slice's plane; take the series that it was drawn on"
            )
        outline = frozenset(map(tuple, points_mm.tolist()))
        if outline not in drawn:  # some programs store a contour twice
            drawn.add(outline)
            inside[:, :, int(np.rint(place))] ^= _polygon(points[:, :2], inside.shape[:2])
            planes.add(int(np.rint(place)))
    gap = np.quantile(np.diff(sorted(planes)), 0.5, method="lower") if len(planes) > 1 else 1
    if gap > 1:
        raise InputError(
            f"{where} is drawn on one of {gap:g} slices ({len(planes)} from {min(planes)} to {max(planes)}), and "
            "nothing says what lies between; interpolate it where it was drawn, or give the mask as a volume"
        )
    return inside


def _polygon(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixels whose centres a polygon encloses by the even-odd rule.

    Args:
        points: (N, 2), x and y in pixels; the centre of pixel (i, j) is (i, j).
        shape: (X, Y) of the result. A centre on the lower edge is inside, one on the upper edge outside.
    """
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    first, last = (np.clip(np.ceil(edge(y0, y1)), 0, shape[1]).astype(int) for edge in (np.minimum, np.maximum))
    rows = last - first  # that each edge crosses
    edge = np.repeat(np.arange(len(points)), rows)
    y = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + first[edge]
    x = x0[edge] + (y - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    crossings = np.zeros((shape[0] + 1, shape[1]), np.uint32)
    np.add.at(crossings, (np.clip(np.ceil(x), 0, shape[0]).astype(int), y), 1)
    return np.cumsum(crossings, axis=0)[:-1] % 2 == 1


def _dataset(path: Path, **how: Any) -> pydicom.Dataset:
    file_size(path)
    if pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise InputError(f"{path}: deflated DICOM is not read; export it without")  # unpacked whole, whatever its size
    return pydicom.dcmread(path, **how)


def _file(header: pydicom.Dataset) -> Path:
    return Path(header.filename)


@contextlib.contextmanager
def dicom_errors(path: Path) -> Iterator[None]:
    """Turn anything that a bad file makes pydicom, GDCM or highdicom raise into one line that names it."""
    with input_errors(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (InputError, OSError, MemoryError, EOFError):
            raise
        except InvalidDicomError:
            raise InputError(f"{path}: no DICOM file (the mark DICM is missing)") from None
        except Exception as error:
            raise InputError(f"{path}: not a sound DICOM file ({' '.join(str(error).split()):.200})") from None
