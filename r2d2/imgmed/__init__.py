"""ImgMed, the preprocessing library: volumes, their geometry, intensities and slices. It stands alone."""

from r2d2.imgmed import augment
from r2d2.imgmed.geometry import from_canonical, to_canonical
from r2d2.imgmed.intensity import normalize
from r2d2.imgmed.offline import augment_folder
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
    decode_labels,
    decode_volume,
    read_bytes,
    read_geometry,
    read_labels,
    read_volume,
    write_volume,
)

__all__ = [
    "PLANES",
    "Volume",
    "augment",
    "augment_folder",
    "check_writable",
    "choose_slices",
    "decode_labels",
    "decode_volume",
    "from_canonical",
    "from_slices",
    "normalize",
    "read_bytes",
    "read_geometry",
    "read_labels",
    "read_volume",
    "resize_images",
    "resize_labels",
    "resize_probabilities",
    "to_canonical",
    "to_slices",
    "write_volume",
]
