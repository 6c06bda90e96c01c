import os
import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from helpers.dicoms import FRAME, LPS, oblique_affine, write_contours, write_segments, write_series
from matplotlib.path import Path as Outline
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRBigEndian, RLELossless, generate_uid

from r2d2 import imgmed
from r2d2.errors import InputError
from r2d2.imgmed import dicom
from r2d2.imgmed.dicom import _polygon

AFFINE = oblique_affine()
SHUFFLED = [3, 0, 5, 1, 4, 2]
STORED = np.random.default_rng(0).integers(0, 4000, (7, 5, 6)).astype(np.int16)


def refusal(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_oblique_series_in_shuffled_files_lies_where_it_was_scanned(tmp_path):
    paths = write_series(tmp_path, STORED, AFFINE, SHUFFLED, RescaleSlope=2, RescaleIntercept=-1024)
    volume = imgmed.read_volume(tmp_path)
    assert volume.data.dtype == np.float32 and volume.data.flags.f_contiguous
    np.testing.assert_array_equal(volume.data, STORED * 2.0 - 1024)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
    np.testing.assert_allclose(volume.spacing_mm, (3.0, 2.0, 1.5), atol=1e-6)
    shape, affine = imgmed.read_geometry(tmp_path)
    assert shape == (7, 5, 6)
    np.testing.assert_array_equal(affine, volume.affine)
    assert imgmed.files_of(tmp_path) == tuple(paths[SHUFFLED.index(z)] for z in range(6))


def test_a_series_is_read_as_simpleitk_reads_it(tmp_path):
    write_series(tmp_path, STORED, AFFINE, SHUFFLED)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    volume = imgmed.read_volume(tmp_path)
    np.testing.assert_array_equal(volume.data, sitk.GetArrayFromImage(image).T)
    for voxel in ((0, 0, 0), (6, 1, 2), (1, 4, 5)):
        place = LPS @ volume.affine @ (*voxel, 1)
        np.testing.assert_allclose(place[:3], image.TransformIndexToPhysicalPoint(voxel), atol=1e-5)


def test_every_slice_has_its_own_slope(tmp_path):
    paths = write_series(tmp_path, STORED, AFFINE)
    for number, path in enumerate(paths):
        header = pydicom.dcmread(path)
        header.RescaleSlope = str(0.5 * (number + 1))
        header.save_as(path)
    np.testing.assert_array_equal(imgmed.read_volume(tmp_path).data, STORED * 0.5 * np.arange(1, 7))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32])
def test_stored_types_are_read(tmp_path, dtype):
    values = (STORED % 200 - (100 if np.dtype(dtype).kind == "i" else 0)).astype(dtype)
    write_series(tmp_path, values, AFFINE)
    np.testing.assert_array_equal(imgmed.read_volume(tmp_path).data, values)


def test_compressed_and_big_endian_slices_are_read(tmp_path):
    for path in write_series(tmp_path / "rle", STORED, AFFINE, RescaleSlope=2, RescaleIntercept=-1024):
        header = pydicom.dcmread(path)
        header.compress(RLELossless)
        header.save_as(path)
    np.testing.assert_array_equal(imgmed.read_volume(tmp_path / "rle").data, STORED * 2.0 - 1024)
    for path in write_series(tmp_path / "big", STORED, AFFINE):
        header = pydicom.dcmread(path)
        header.PixelData = np.frombuffer(header.PixelData, "<i2").byteswap().tobytes()
        header.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        pydicom.dcmwrite(path, header, implicit_vr=False, little_endian=False)
    np.testing.assert_array_equal(imgmed.read_volume(tmp_path / "big").data, STORED)


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_codecs_give_the_pixels_of_the_uncompressed_file(tmp_path, name):
    for number, source in enumerate(("MR_small.dcm", name)):
        (tmp_path / str(number)).mkdir()
        shutil.copy(get_testdata_file(source), tmp_path / str(number))
    plain, packed = (imgmed.read_volume(tmp_path / str(number)) for number in range(2))
    np.testing.assert_array_equal(plain.data, packed.data)
    assert plain.data.shape == (64, 64, 1) and plain.data.std() > 0


def test_what_is_no_slice_is_passed_over(tmp_path):
    paths = write_series(tmp_path, STORED, AFFINE, name="IM{:04d}")
    write_contours(tmp_path / "contours.dcm", [("a", [[(1, 1, 0), (2, 1, 0), (2, 2, 0)]])], AFFINE)
    write_segments(tmp_path / "segments.dcm", paths, {"a": STORED > 2000})
    (tmp_path / "._IM0000").write_bytes(b"Mac")
    (tmp_path / ".DS_Store").write_bytes(b"Mac")
    (tmp_path / "README.txt").write_text("about")
    (tmp_path / "folder").mkdir()
    shutil.copy(get_testdata_file("DICOMDIR", download=False), tmp_path / "DICOMDIR")
    assert imgmed.files_of(tmp_path) == tuple(paths)


def test_one_slice_has_its_thickness_as_spacing(tmp_path):
    write_series(tmp_path, STORED[:, :, :1], AFFINE)
    np.testing.assert_allclose(imgmed.read_volume(tmp_path).affine, AFFINE, atol=1e-6)


def test_several_series_are_listed_with_how_to_choose(tmp_path):
    write_series(tmp_path, STORED, AFFINE, name="a{}.dcm", series="thin")
    write_series(tmp_path, STORED[:, :, :2], AFFINE, name="b{}.dcm", series="thick")
    message = refusal(imgmed.read_volume, tmp_path)
    assert "2 series, put each into a folder of its own" in message
    assert "CT 'thin', 6 slices, a0.dcm" in message and "CT 'thick', 2 slices, b0.dcm" in message


@pytest.mark.parametrize("axes", [[1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0], [1, 0, 0, 0.3, 1, 0], [0, 0, 0, 0, 1, 0]])
def test_axes_that_are_no_unit_vectors_at_right_angles_are_refused(tmp_path, axes):
    write_series(tmp_path, STORED, AFFINE, ImageOrientationPatient=axes)
    assert "two unit vectors at right angles" in refusal(imgmed.read_geometry, tmp_path)


def test_a_missing_slice_is_refused_with_the_gaps(tmp_path):
    write_series(tmp_path, STORED, AFFINE)[3].unlink()
    message = refusal(imgmed.read_geometry, tmp_path)
    assert "slice04.dcm: 3 mm from slice02.dcm" in message and "the usual gap is 1.5 mm" in message


def test_a_doubled_slice_is_refused_with_both_names(tmp_path):
    paths = write_series(tmp_path, STORED, AFFINE)
    shutil.copy(paths[2], tmp_path / "again.dcm")
    message = refusal(imgmed.read_volume, tmp_path)
    assert "again.dcm" in message and "slice02.dcm" in message and "phases" in message


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        ("PixelSpacing", [2.0, 3.5], "PixelSpacing is [2.0, 3.5], in slice00.dcm it is [2.0, 3.0]"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 1, 0], "ImageOrientationPatient is [1.0, 0.0"),
        ("Rows", 4, "Rows is 4, in slice00.dcm it is 5"),
        ("ImagePositionPatient", [-20.5, 30.0, 7.0], "mm"),
        ("ImagePositionPatient", None, "without ImagePositionPatient"),
        ("SamplesPerPixel", 3, "must be grey"),
        ("NumberOfFrames", 4, "several slices in one file"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "MOSAIC"], "several slices in one file"),
    ],
)
def test_a_slice_unlike_the_others_is_refused(tmp_path, tag, value, said):
    path = write_series(tmp_path, STORED, AFFINE)[4]
    header = pydicom.dcmread(path)
    setattr(header, tag, value)
    header.save_as(path)
    message = refusal(imgmed.read_volume, tmp_path)
    assert said in message and "slice04.dcm" in message


def test_a_polygon_encloses_what_matplotlib_says():
    rng = np.random.default_rng(1)
    centres = np.stack(np.meshgrid(np.arange(30), np.arange(20), indexing="ij"), axis=-1)
    for points in rng.uniform(-5, 30, (50, 9, 2)):  # nine corners that cross each other and leave the image
        # matplotlib winds where it crosses itself, as do we not; a star-shaped one crosses nothing.
        middle = points.mean(axis=0)
        points = points[np.argsort(np.arctan2(*(points - middle).T))]
        inside = Outline(points).contains_points(centres.reshape(-1, 2)).reshape(30, 20)
        np.testing.assert_array_equal(_polygon(points, (30, 20)), inside)


def test_a_square_on_the_centres_has_its_lower_edges_and_not_its_upper_ones():
    expected = np.zeros((7, 8), bool)
    expected[2:5, 1:4] = True
    np.testing.assert_array_equal(_polygon(np.array([(2, 1), (5, 1), (5, 4), (2, 4)], float), (7, 8)), expected)


@pytest.fixture
def series(tmp_path):
    paths = write_series(tmp_path / "series", STORED, AFFINE, SHUFFLED)
    return imgmed.read_volume(tmp_path / "series"), [paths[SHUFFLED.index(z)] for z in range(6)]


def box(low_x, low_y, high_x, high_y, z):
    return [(low_x, low_y, z), (high_x, low_y, z), (high_x, high_y, z), (low_x, high_y, z)]


def test_contours_become_labels_by_name_and_a_contour_in_a_contour_is_a_hole(tmp_path, series):
    tumour = [box(0.5, 0.6, 5.5, 4.4, 2), box(1.6, 1.5, 3.4, 2.5, 2), box(0.5, 0.5, 1.5, 1.5, 3)]
    path = write_contours(
        tmp_path / "rt.dcm", [("Heart", [box(-3, -3, 2.5, 20, 2)]), ("GTV-1", tumour), ("Lung", [])], AFFINE
    )
    assert imgmed.structure_names(path) == ("Heart", "GTV-1", "Lung")
    mask = imgmed.read_contours(path, series[0], {2: "GTV-1"})
    expected = np.zeros((7, 5, 6), np.uint8)
    expected[1:6, 1:5, 2] = 2
    expected[2:4, 2, 2] = 0
    expected[1, 1, 3] = 2
    assert mask.data.dtype == np.uint8
    np.testing.assert_array_equal(mask.data, expected)
    np.testing.assert_array_equal(mask.affine, series[0].affine)
    both = imgmed.read_contours(path, series[0], {2: "GTV-1", 1: "Heart"})
    expected[:3, :, 2] = 1  # the later one wins, and what lies outside the image is cut
    np.testing.assert_array_equal(both.data, expected)


def test_a_name_that_contours_lack_or_have_twice_is_refused_with_those_they_have(tmp_path, series):
    square = [box(0.5, 0.5, 2.5, 2.5, 1)]
    path = write_contours(tmp_path / "rt.dcm", [("GTV-1", square), ("Lung", square), ("Lung", square)], AFFINE)
    assert "no region 'GTV-2', it has 'GTV-1', 'Lung'" in refusal(imgmed.read_contours, path, series[0], {1: "GTV-2"})
    assert "2 region 'Lung'" in refusal(imgmed.read_contours, path, series[0], {1: "Lung"})


@pytest.mark.parametrize(
    ("polygon", "kind", "said"),
    [
        (box(1, 1, 3, 3, 6), "CLOSED_PLANAR", "slice 6.000 of 0 to 5"),
        (box(1, 1, 3, 3, 2.5), "CLOSED_PLANAR", "not in a slice's plane"),
        ([(1, 1, 1), (3, 1, 2), (3, 3, 1)], "CLOSED_PLANAR", "not in a slice's plane"),
        (box(1, 1, 3, 3, 2), "OPEN_PLANAR", "only closed contours"),
        ([(1, 1, 2)], "POINT", "a POINT, only closed contours"),
        (box(1, 1, 3, 3, 2.2), "CLOSED_PLANAR", "slice 2.200 of 0 to 5"),
    ],
)
def test_contours_beside_the_slices_are_refused(tmp_path, series, polygon, kind, said):
    path = write_contours(tmp_path / "rt.dcm", [("a", [polygon])], AFFINE, kind)
    assert said in refusal(imgmed.read_contours, path, series[0], {1: "a"})


def test_a_contour_a_tenth_of_a_slice_beside_its_plane_is_in_it(tmp_path, series):
    path = write_contours(tmp_path / "rt.dcm", [("a", [box(0.5, 0.5, 2.5, 2.5, 2.09)])], AFFINE)
    assert imgmed.read_contours(path, series[0], {1: "a"}).data.any(axis=(0, 1)).tolist() == [0, 0, 1, 0, 0, 0]


def test_a_contour_stored_twice_counts_once_and_a_point_not_at_all(tmp_path, series):
    outer, hole = box(0.5, 0.6, 5.5, 4.4, 2), box(1.6, 1.5, 3.4, 2.5, 2)
    once = write_contours(tmp_path / "once.dcm", [("a", [outer, hole])], AFFINE)
    kinds = ["CLOSED_PLANAR", "CLOSED_PLANAR", "POINT", "CLOSED_PLANAR", "CLOSED_PLANAR"]
    turned = [*hole[1:], hole[0]]
    twice = write_contours(tmp_path / "twice.dcm", [("a", [outer, outer, [(3, 3, 5)], hole, turned])], AFFINE, kinds)
    left, right = (imgmed.read_contours(path, series[0], {1: "a"}).data for path in (once, twice))
    assert left.sum() == 5 * 4 - 2
    np.testing.assert_array_equal(left, right)


def test_contours_of_dicom_s_exclusive_or_have_holes_too(tmp_path, series):
    contours = [box(0.5, 0.6, 5.5, 4.4, 2), box(1.6, 1.5, 3.4, 2.5, 2)]
    path = write_contours(tmp_path / "rt.dcm", [("a", contours)], AFFINE, "CLOSEDPLANAR_XOR")
    assert imgmed.read_contours(path, series[0], {1: "a"}).data.sum() == 5 * 4 - 2


def test_a_region_drawn_on_every_second_slice_is_refused_and_two_lesions_are_not(tmp_path, series):
    for planes, told in (([0, 2, 4], "one of 2 slices (3 from 0 to 4)"), ([0, 3], "one of 3 slices"), ([0, 1, 5], "")):
        contours = [box(0.5, 0.5, 2.5, 2.5, z) for z in planes]
        path = write_contours(tmp_path / "rt.dcm", [("a", contours)], AFFINE)
        if told:
            assert told in refusal(imgmed.read_contours, path, series[0], {1: "a"})
        else:
            drawn = imgmed.read_contours(path, series[0], {1: "a"}).data.any(axis=(0, 1))
            assert np.flatnonzero(drawn).tolist() == planes


OWN, OTHER = generate_uid(entropy_srcs=["series"]), generate_uid(entropy_srcs=["other"])


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"frame": FRAME, "series": OWN}, ""),
        ({"frame": FRAME}, ""),
        ({"frame": None}, ""),
        ({"frame": OTHER}, f"belongs to another frame of reference ({OTHER}) than {FRAME} of"),
        ({"frame": None, "series": OTHER}, f"belongs to another series ({OTHER}) than {OWN} of"),
    ],
)
def test_contours_that_reference_another_scan_are_refused_where_both_say_so(tmp_path, series, stated, told):
    path = write_contours(tmp_path / "rt.dcm", [("a", [box(0.5, 0.5, 2.5, 2.5, 2)])], AFFINE, **stated)
    folder = tmp_path / "series"
    assert imgmed.read_structures(path, series[0], {1: "a"}).data.sum() == 4
    if told:
        assert told in refusal(imgmed.read_structures, path, series[0], {1: "a"}, folder)
    else:
        assert imgmed.read_structures(path, series[0], {1: "a"}, folder).data.sum() == 4
    assert imgmed.referenced_series(path, [folder]) == (() if told else (folder,))


def test_segments_that_reference_another_scan_are_refused(tmp_path, series):
    path = write_segments(tmp_path / "seg.dcm", series[1], {"a": STORED > 2000})
    write_series(tmp_path / "twin", STORED, AFFINE, series="twin")
    assert imgmed.read_structures(path, series[0], {1: "a"}, tmp_path / "series").data.any()
    message = refusal(imgmed.read_structures, path, series[0], {1: "a"}, tmp_path / "twin")
    assert f"belongs to another series ({OWN})" in message and str(tmp_path / "twin") in message
    assert imgmed.referenced_series(path, [tmp_path / "twin", tmp_path / "series"]) == (tmp_path / "series",)


def test_headers_are_parsed_once_until_a_file_changes(tmp_path, monkeypatch):
    paths = write_series(tmp_path, STORED, AFFINE, PatientID="P 7 ")
    parsed = []
    monkeypatch.setattr(
        dicom, "_slice_header", lambda file, real=dicom._slice_header: parsed.append(file) or real(file)
    )
    imgmed.read_geometry(tmp_path)[1][:] = 0
    np.testing.assert_allclose(imgmed.read_volume(tmp_path).affine, AFFINE, atol=1e-6)
    assert imgmed.files_of(tmp_path) == tuple(paths) and imgmed.patient_id(tmp_path) == "P 7"
    assert len(parsed) == 6
    for path in write_series(tmp_path, STORED, AFFINE, PatientID="P8", SliceThickness=1.25):
        os.utime(path, ns=(0, 0))
    assert imgmed.patient_id(tmp_path) == "P8" and len(parsed) == 12


def test_a_slice_an_eighth_of_the_gap_out_of_its_place_is_refused(tmp_path):
    path = write_series(tmp_path, STORED, AFFINE)[3]
    header = pydicom.dcmread(path)
    step_mm = np.diff([pydicom.dcmread(tmp_path / f"slice0{z}.dcm").ImagePositionPatient for z in (0, 1)], axis=0)[0]
    header.ImagePositionPatient = [float(mm) for mm in np.round(header.ImagePositionPatient + step_mm / 8, 6)]
    header.save_as(path)
    assert "missing or unevenly spaced" in refusal(imgmed.read_geometry, tmp_path)


def test_slope_and_intercept_of_a_compressed_slice_are_applied_once(tmp_path):
    source = get_testdata_file("MR_small_jp2klossless.dcm")
    header = pydicom.dcmread(source)
    header.RescaleSlope, header.RescaleIntercept = 2, -1000
    for name, (slope, intercept) in {"scaled": (2, -1000), "stored": (1, 0)}.items():
        (tmp_path / name).mkdir()
        header.RescaleSlope, header.RescaleIntercept = slope, intercept
        header.save_as(tmp_path / name / "a.dcm")
    scaled, stored = (imgmed.read_volume(tmp_path / name).data for name in ("scaled", "stored"))
    assert stored.std() > 0
    np.testing.assert_array_equal(scaled, 2 * stored - 1000)


def test_a_region_without_contours_is_refused(tmp_path, series):
    path = write_contours(tmp_path / "rt.dcm", [("a", [])], AFFINE)
    assert "region 'a' has no contours" in refusal(imgmed.read_contours, path, series[0], {1: "a"})


def test_segments_become_labels_on_the_series_grid(tmp_path, series):
    lesion, organ = np.zeros((7, 5, 6), bool), np.zeros((7, 5, 6), bool)
    lesion[1:3, 2, 1:3] = True
    organ[0:5, 1:4, 2:4] = True
    path = write_segments(tmp_path / "seg.dcm", series[1], {"organ": organ, "lesion": lesion})
    assert imgmed.structure_names(path) == ("organ", "lesion")
    mask = imgmed.read_segments(path, series[0], {1: "organ", 2: "lesion"})
    np.testing.assert_array_equal(mask.data, np.where(lesion, 2, organ).astype(np.uint8))
    np.testing.assert_array_equal(imgmed.read_segments(path, series[0], {7: "lesion"}).data, 7 * lesion)
    other_way = imgmed.read_segments(path, series[0], {2: "lesion", 1: "organ"})
    np.testing.assert_array_equal(other_way.data, np.where(organ, 1, 2 * lesion))


def test_segments_of_frames_in_reverse_order_are_reordered(tmp_path, series):
    lesion = np.zeros((7, 5, 6), bool)
    lesion[1:3, 2, 1] = lesion[4, 1:4, 3] = True
    path = write_segments(tmp_path / "seg.dcm", series[1][::-1], {"lesion": lesion[:, :, ::-1]})
    np.testing.assert_array_equal(imgmed.read_segments(path, series[0], {1: "lesion"}).data, lesion)


def test_contours_and_segments_are_put_on_the_series_axes_however_it_was_turned(tmp_path, series):
    lesion = np.zeros((7, 5, 6), bool)
    lesion[1:3, 2, 1] = lesion[4, 1:4, 3] = True
    seg = write_segments(tmp_path / "seg.dcm", series[1], {"lesion": lesion})
    rt = write_contours(tmp_path / "rt.dcm", [("lesion", [box(0.5, 1.5, 3.4, 3.6, 4)])], AFFINE)
    flip = np.diag([-1.0, 1, -1, 1])
    flip[:3, 3] = (6, 0, 5)
    flipped = imgmed.Volume(series[0].data[::-1, :, ::-1], series[0].affine @ flip)
    for path, read in ((seg, imgmed.read_segments), (rt, imgmed.read_contours)):
        mask = read(path, series[0], {1: "lesion"}).data
        assert mask.any()
        np.testing.assert_array_equal(read(path, flipped, {1: "lesion"}).data, mask[::-1, :, ::-1])
    turned = imgmed.to_canonical(series[0])
    assert turned.data.shape == (6, 5, 7)
    expected = imgmed.to_canonical(imgmed.Volume(lesion, series[0].affine)).data
    np.testing.assert_array_equal(imgmed.read_segments(seg, turned, {1: "lesion"}).data, expected)


def test_segments_on_another_grid_are_refused(tmp_path, series):
    moved = AFFINE.copy()
    moved[0, 3] += 1.0
    paths = write_series(tmp_path / "other", STORED, moved)
    path = write_segments(tmp_path / "seg.dcm", paths, {"a": STORED > 2000})
    assert "masks are not resampled" in refusal(imgmed.read_segments, path, series[0], {1: "a"})
    part = imgmed.Volume(series[0].data[:, :, :3], series[0].affine)
    own = write_segments(tmp_path / "own.dcm", series[1], {"a": STORED > 2000})
    assert "another grid" in refusal(imgmed.read_segments, own, part, {1: "a"})


def test_a_name_that_segments_lack_and_fractions_are_refused(tmp_path, series):
    path = write_segments(tmp_path / "seg.dcm", series[1], {"a": STORED > 2000})
    assert "no segment 'b', it has 'a'" in refusal(imgmed.read_segments, path, series[0], {1: "b"})
    path = write_segments(tmp_path / "part.dcm", series[1], {"a": STORED / 4000.0}, "FRACTIONAL")
    assert "fractions" in refusal(imgmed.read_segments, path, series[0], {1: "a"})


def test_contours_segments_and_slices_are_not_taken_for_each_other(tmp_path, series):
    rt = write_contours(tmp_path / "rt.dcm", [("a", [])], AFFINE)
    seg = write_segments(tmp_path / "seg.dcm", series[1], {"a": STORED > 2000})
    assert "no DICOM SEG, but RT Structure Set" in refusal(imgmed.read_segments, rt, series[0], {1: "a"})
    assert "no RTSTRUCT, but Segmentation Storage" in refusal(imgmed.read_contours, seg, series[0], {1: "a"})
    assert "neither an RTSTRUCT nor a SEG" in refusal(imgmed.structure_names, series[1][0])
