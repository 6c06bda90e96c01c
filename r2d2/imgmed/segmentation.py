"""A mask as DICOM SEG, for the archive and the viewers of the hospital that the series came from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from r2d2.errors import InputError
from r2d2.files import whole_file
from r2d2.imgmed import dicom
from r2d2.imgmed.checks import as_text
from r2d2.imgmed.volume import Volume, check_folder

# What every DICOM object must say of its patient and study, if only that it is not known.
EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
SERIES_NUMBER = 1000
"""Far from those that scanners give."""
# SEG's own words are longer than viewers show, and than DICOM allows.
MOST_LETTERS = 64


def write_segments(
    mask: Volume,
    path: str | Path,
    series: str | Path,
    labels: Mapping[int, str],
    algorithm: tuple[str, str],
    manufacturer: str = "R2D2",
) -> None:
    """Write a mask as a binary DICOM SEG, a segment a class: the whole file, or none; `read_segments` reads it back.

    Patient, study and frame of reference are the series', whose instances it references.

    Args:
        mask: (X, Y, Z) uint8 on the series' grid, as `read_volume(series)` gives it.
        path: A file name ending in .dcm.
        series: The folder of the series that was segmented.
        labels: The segments' names by their values 1, 2, ... in the mask; 0 is what is in none.
        algorithm: Name and version of the artificial intelligence that made it.
        manufacturer: Of the program.

    Raises:
        InputError: The folder holds no series, or one of another grid; the mask holds a label without a name; or the
            file cannot be written.
    """
    import highdicom as hd  # half a second that nobody else needs
    from pydicom.sr.codedict import codes

    path, series, labels = Path(path), Path(series), {value: name for value, name in labels.items() if value}
    check_folder(path)
    files = dicom.files(series)
    with dicom.dicom_errors(series):
        sources = [_source(file) for file in files]
        stack = mask.data.T  # (slices, rows, columns)
        if stack.shape != (len(sources), int(sources[0].Rows), int(sources[0].Columns)):
            grid = (int(sources[0].Columns), int(sources[0].Rows), len(sources))
            raise InputError(f"{path}: a mask of {as_text(mask.data.shape)}, {series} is {as_text(grid)}")
        unnamed = sorted({*np.unique(stack).tolist()} - {0, *labels})
        if unnamed:
            raise InputError(f"{path}: the mask holds {unnamed}, the names are those of {sorted(labels)}")
        identification = hd.AlgorithmIdentificationSequence(
            algorithm[0][:MOST_LETTERS], codes.DCM.ArtificialIntelligence, algorithm[1][:MOST_LETTERS]
        )
        described = [
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=name[:MOST_LETTERS],
                # The codes of what has no code of its own, as other programs give them; the label says what it is.
                segmented_property_category=codes.SCT.Tissue,
                segmented_property_type=codes.SCT.Tissue,
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=identification,
            )
            for number, name in enumerate(labels.values(), start=1)
        ]
        planes = np.stack([stack == value for value in labels], axis=-1).astype(np.uint8)
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=planes,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=described,
            series_instance_uid=generate_uid(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=manufacturer,
            manufacturer_model_name=algorithm[0][:MOST_LETTERS],
            software_versions=algorithm[1][:MOST_LETTERS],
            device_serial_number="none",
            series_description=f"Segmentation by {algorithm[0]}"[:MOST_LETTERS],
            content_label="SEGMENTATION",
            omit_empty_frames=bool(planes.any()),
        )
    with dicom.dicom_errors(path), whole_file(path) as beside:
        segmentation.save_as(beside)


def _source(file: Path) -> pydicom.Dataset:
    """A slice's header, with all that it must say and, having gone through an anonymizer, may not."""
    header = pydicom.dcmread(file, stop_before_pixels=True)
    for keyword in EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    return header
