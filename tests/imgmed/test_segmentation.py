"""Masks as DICOM SEG, read back by ImgMed's own reader."""

import numpy as np
import pydicom
import pytest
from helpers.dicoms import oblique_affine, write_series

from r2d2 import imgmed
from r2d2.errors import InputError

NAMES = {0: "background", 1: "liver", 2: "tumour"}
SHAPE = (5, 4, 6)


@pytest.fixture
def series(tmp_path):
    """Slices whose names run against their order in space."""
    write_series(tmp_path / "ct", np.zeros(SHAPE, np.int16), oblique_affine(), order=[3, 0, 5, 1, 4, 2])
    return tmp_path / "ct"


def _mask(series):
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 1:3, 2:] = 1
    mask[4, 0, 5] = 2
    like = imgmed.read_volume(series)
    return imgmed.Volume(mask, like.affine)


def test_a_segmentation_reads_back_as_the_mask(series, tmp_path):
    mask = _mask(series)
    imgmed.write_segments(mask, tmp_path / "a.dcm", series, NAMES, ("liver", "3"))
    back = imgmed.read_structures(tmp_path / "a.dcm", imgmed.read_volume(series), {1: "liver", 2: "tumour"}, series)
    np.testing.assert_array_equal(back.data, mask.data)
    assert imgmed.structure_names(tmp_path / "a.dcm") == ("liver", "tumour")


def test_a_mask_of_nothing_is_a_segmentation_of_nothing(series, tmp_path):
    nothing = imgmed.Volume(np.zeros(SHAPE, np.uint8), np.eye(4))
    imgmed.write_segments(nothing, tmp_path / "a.dcm", series, NAMES, ("liver", "3"))
    back = imgmed.read_segments(tmp_path / "a.dcm", imgmed.read_volume(series), {1: "liver", 2: "tumour"})
    assert not back.data.any()


def test_a_series_that_an_anonymizer_emptied_is_segmented(series, tmp_path):
    for path in series.iterdir():
        header = pydicom.dcmread(path)
        del header.PatientName, header.StudyID, header.AccessionNumber
        header.save_as(path)
    imgmed.write_segments(_mask(series), tmp_path / "a.dcm", series, NAMES, ("liver", "3"))
    assert pydicom.dcmread(tmp_path / "a.dcm").PatientName == ""


def test_what_does_not_fit_is_refused_and_nothing_is_written(series, tmp_path):
    mask = _mask(series)
    with pytest.raises(InputError, match=r"a mask of 4x4x6, .*ct is 5x4x6"):
        imgmed.write_segments(imgmed.Volume(mask.data[1:], mask.affine), tmp_path / "a.dcm", series, NAMES, ("m", "1"))
    with pytest.raises(InputError, match=r"holds \[2\], the names are those of \[1\]"):
        imgmed.write_segments(mask, tmp_path / "a.dcm", series, {1: "liver"}, ("m", "1"))
    with pytest.raises(InputError, match="there is no folder"):
        imgmed.write_segments(mask, tmp_path / "none" / "a.dcm", series, NAMES, ("m", "1"))
    assert not [*tmp_path.glob("*.dcm")]
