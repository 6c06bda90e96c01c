import numpy as np
import pytest
from helpers.dicoms import oblique_affine, write_series

from r2d2.engine.predict import predict
from r2d2.errors import InputError
from r2d2.imgmed import Volume, write_volume


def test_a_mask_replaces_no_file_of_its_scan(tmp_path):
    write_volume(Volume(np.ones((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "scan.mhd")
    slices = write_series(tmp_path / "series", np.ones((4, 5, 6), np.int16), oblique_affine())
    (tmp_path / "mask.nii.gz").symlink_to(slices[3])
    for scan, output in (("scan.mhd", "scan.mhd"), ("series", "mask.nii.gz")):
        with pytest.raises(InputError, match="the scan itself, which the mask would replace"):
            predict("none", [tmp_path / scan], tmp_path / output)
