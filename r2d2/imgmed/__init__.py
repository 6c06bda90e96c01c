"""ImgMed, the preprocessing library: volumes, their geometry, intensities and slices. It stands alone."""

from r2d2.imgmed.dicom import read_contours, read_segments, structure_names
from r2d2.imgmed.geometry import from_canonical, to_canonical
from r2d2.imgmed.intensity import normalize
from r2d2.imgmed.slices import (
    PLANES,
    choose_slices,
    from_slices,
    resize_images,
    resize_labels,
    resize_probabilities,
    to_slices,
)
from r2d2.imgmed.volume import (
    Volume,
    check_writable,
    files_of,
    read_geometry,
    read_labels,
    read_volume,
    write_volume,
)

__all__ = [
    "PLANES",
    "Volume",
    "check_writable",
    "choose_slices",
    "files_of",
    "from_canonical",
    "from_slices",
    "normalize",
    "read_contours",
    "read_geometry",
    "read_labels",
    "read_segments",
    "read_volume",
    "resize_images",
    "resize_labels",
    "resize_probabilities",
    "structure_names",
    "to_canonical",
    "to_slices",
    "write_volume",
]
