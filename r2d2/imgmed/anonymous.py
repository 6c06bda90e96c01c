"""DICOM without the person: of a slice its pixels and their place in space, and nothing else."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid

from r2d2.errors import InputError
from r2d2.imgmed.dicom import NO_SCANS, dicom_errors

KEPT = (
    *("SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelData",
)
"""What `read_volume` needs of a slice. No name, no number, no date, no text, none of a manufacturer's own tags."""
GREY = ("MONOCHROME1", "MONOCHROME2")


def write_anonymous(slices: Iterable[bytes], folder: Path) -> int:
    """Write DICOM slices into a folder without what says whose they are, and return how many there were.

    What is no DICOM image (a DICOMDIR, a text, an RTSTRUCT) is passed over. Other tags than `KEPT` are not even parsed;
    files are numbered, and UIDs are new ones, the same for what had the same.

    Args:
        slices: The files' contents.
        folder: Where `0001.dcm` and so on go.

    Raises:
        InputError: One is called neither by its name nor by anything in it: `slice 12`.
    """
    series: dict[str, str] = {}
    written = 0
    for number, content in enumerate(slices, start=1):
        name = Path(f"slice {number}")
        if content[128:132] != b"DICM":
            continue
        if DeflatedExplicitVRLittleEndian.encode() in content:  # pydicom unpacks it whole, whatever its size
            raise InputError(f"{name}: deflated DICOM is not read; export it without")
        with dicom_errors(name):
            try:
                image = _without_person(content, series)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
            except Exception as error:  # whose text may quote the file
                raise InputError(f"{name}: not a sound DICOM file ({type(error).__name__})") from None
            if image is not None:
                written += 1
                image.save_as(folder / f"{number:04}.dcm", enforce_file_format=True)
    return written


def _without_person(content: bytes, series: dict[str, str]) -> pydicom.Dataset | None:
    """A slice of its kept tags alone; None for what is no image. `series` are the new UIDs by the old ones."""
    told = pydicom.dcmread(io.BytesIO(content), specific_tags=[*KEPT, "SeriesInstanceUID", "ImageType"])
    if told.get("SOPClassUID") in NO_SCANS:
        return None
    if "Rows" not in told:
        if getattr(told.file_meta.get("MediaStorageSOPClassUID"), "name", "").endswith("Image Storage"):
            raise InputError("truncated, a slice without Rows; fetch or export it again")
        return None
    image = pydicom.Dataset()
    for tag in KEPT:
        if tag in told:
            image[tag] = told[tag]
            if image[tag].VR == "DS":
                np.array(image[tag].value, float)  # text in a number's place is nobody's name
    if image.get("PhotometricInterpretation") not in GREY:
        raise InputError(f"slices must be grey ({' or '.join(GREY)})")
    if "MOSAIC" in (told.get("ImageType") or ()):
        image.ImageType = ["ORIGINAL", "PRIMARY", "MOSAIC"]  # several slices in one, which is refused
    old = str(told.get("SeriesInstanceUID", ""))
    image.SeriesInstanceUID = series.setdefault(old, generate_uid(prefix=None))
    image.SOPInstanceUID = generate_uid(prefix=None)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = told.file_meta.TransferSyntaxUID
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image
