"""ImgMed, the preprocessing library: volumes, their geometry, intensities and slices. It stands alone."""

from r2d2.imgmed import augment
from r2d2.imgmed.dicom import read_contours, read_segments, structure_names
from r2d2.imgmed.geometry import (
    centred,
    crop_or_pad,
    foreground_box,
    from_canonical,
    resample,
    resize,
    to_canonical,
)
from r2d2.imgmed.intensity import apply_window, clip_percentiles, correct_bias, match_histogram, normalize
from r2d2.imgmed.labels import largest_component, remap_labels
from r2d2.imgmed.offline import augment_folder
from r2d2.imgmed.slices import (
    PLANES,
    Frame,
    choose_slices,
    frame,
    frame_images,
    frame_labels,
    from_slices,
    resize_images,
    resize_labels,
    resize_probabilities,
    to_slices,
    unframe_probabilities,
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
    "Frame",
    "Volume",
    "apply_window",
    "augment",
    "augment_folder",
    "centred",
    "check_writable",
    "choose_slices",
    "clip_percentiles",
    "correct_bias",
    "crop_or_pad",
    "files_of",
    "foreground_box",
    "frame",
    "frame_images",
    "frame_labels",
    "from_canonical",
    "from_slices",
    "largest_component",
    "match_histogram",
    "normalize",
    "read_contours",
    "read_geometry",
    "read_labels",
    "read_segments",
    "read_volume",
    "remap_labels",
    "resample",
    "resize",
    "resize_images",
    "resize_labels",
    "resize_probabilities",
    "structure_names",
    "to_canonical",
    "to_slices",
    "unframe_probabilities",
    "write_volume",
]
