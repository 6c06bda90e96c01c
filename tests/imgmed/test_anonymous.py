"""DICOM without the person: what is left of a slice, and that it is still the same scan."""

import warnings

import numpy as np
import pydicom
import pytest
from helpers.dicoms import oblique_affine, write_series
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from r2d2 import imgmed
from r2d2.errors import InputError
from r2d2.imgmed.anonymous import KEPT

STORED = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)
PERSON = {
    "PatientName": "Doe^Jane",
    "PatientID": "ID-471108150742",
    "PatientBirthDate": "19700101",
    "PatientComments": "called Jane Doe",
    "InstitutionName": "Doe Hospital",
    "ImageComments": "Jane Doe",
}


def contents(folder, **tags):
    return [path.read_bytes() for path in write_series(folder, STORED, oblique_affine(), **PERSON | tags)]


def made(folder, slices):
    folder.mkdir()
    return imgmed.write_anonymous(slices, folder)


def test_the_scan_is_the_same_and_the_person_is_gone(tmp_path):
    slices = contents(tmp_path / "series", RescaleSlope=2, RescaleIntercept=-3)
    with_private = pydicom.dcmread(tmp_path / "series" / "slice00.dcm")
    with_private.private_block(0x0011, "DOE", create=True).add_new(1, "LO", "Jane Doe")
    with_private.save_as(tmp_path / "series" / "slice00.dcm")
    slices[0] = (tmp_path / "series" / "slice00.dcm").read_bytes()
    assert made(tmp_path / "clean", [b"a text by Jane Doe", *slices]) == 4

    before, after = (imgmed.read_volume(tmp_path / folder) for folder in ("series", "clean"))
    np.testing.assert_array_equal(after.data, before.data)
    np.testing.assert_array_equal(after.affine, before.affine)
    for path in (tmp_path / "clean").iterdir():
        content = path.read_bytes().lower()
        assert not [word for word in (b"doe", b"jane", b"471108150742", b"1970", b"one^patient") if word in content]
        known = {element.keyword for element in pydicom.dcmread(path)}
        assert known <= {*KEPT, "SeriesInstanceUID", "SOPInstanceUID"}
    assert [path.name for path in sorted((tmp_path / "clean").iterdir())] == [f"000{n}.dcm" for n in range(2, 6)]


def test_compressed_pixels_stay_as_they_are(tmp_path):
    paths = write_series(tmp_path / "series", STORED, oblique_affine(), **PERSON)
    for path in paths:
        dataset = pydicom.dcmread(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.compress(RLELossless)
        dataset.save_as(path)
    made(tmp_path / "clean", [path.read_bytes() for path in paths])
    np.testing.assert_array_equal(imgmed.read_volume(tmp_path / "clean").data, STORED)


def test_two_series_stay_two(tmp_path):
    slices = contents(tmp_path / "a") + contents(tmp_path / "b", SeriesInstanceUID="1.2.3")
    made(tmp_path / "clean", slices)
    with pytest.raises(InputError, match="2 series"):
        imgmed.read_volume(tmp_path / "clean")


def test_what_cannot_be_read_is_told_by_its_number_and_nothing_that_is_in_it(tmp_path):
    slices = contents(tmp_path / "series")
    place = slices[1].index(b"\x20\x00\x32\x00DS") + 8
    broken = slices[1][:place] + b"Doe" + slices[1][place + 3 :]
    loud = slices[1].replace(b"MONOCHROME2", b"DOE^JANE   ")
    for number, content in enumerate((broken, loud, slices[1][:400])):
        with pytest.raises(InputError) as caught:
            made(tmp_path / f"clean{number}", [slices[0], content])
        assert str(caught.value).startswith("slice 2: ") and "Doe" not in str(caught.value)
    assert made(tmp_path / "half", [slices[0], b"\0" * 128 + b"DICM" + b"Doe^Jane" * 9]) == 1
    dataset = pydicom.dcmread(tmp_path / "series" / "slice00.dcm")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "deflated.dcm")
    with pytest.raises(InputError, match="slice 1: deflated DICOM is not read"):
        made(tmp_path / "clean", [(tmp_path / "deflated.dcm").read_bytes()])
