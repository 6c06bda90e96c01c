"""The real path of a prediction: a model's folder and a scan's file in, a mask's file out."""

import itertools
import json
import sys

import nibabel
import numpy as np
import pydicom
import pytest
from helpers.dicoms import oblique_affine, write_series
from helpers.saved import LABELS, RUN, experiment, ranges_of, save_model, small_network
from scipy.ndimage import gaussian_filter

from r2d2 import cli, imgmed
from r2d2.data.prepare import seen_percentiles, to_images
from r2d2.engine.predict import predict, predict_folder, scans_in
from r2d2.errors import InputError
from r2d2.imgmed import Volume, write_volume

SHAPE = (15, 18, 11)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a network of random weights: its mask is neither empty nor symmetric."""
    return save_model(tmp_path_factory.mktemp("model") / "small", small_network())


@pytest.fixture
def scan(tmp_path):
    """An anisotropic, oblique scan of blobs that are alike in no two directions."""
    path = tmp_path / "scan.nii.gz"
    write_volume(Volume(_blobs(), _oblique((2.0, 1.5, 3.0))), path)
    return path


def _blobs(seed=0):
    data = gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 1.5)
    data[:6] += 0.2
    return (1000 * (data - data.min())).astype(np.float32)


def _oblique(spacing_mm):
    angle = 0.2
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= spacing_mm
    affine[:3, 3] = (-20, 31, 7)
    return affine


def _mask(path):
    image = nibabel.load(path)
    return np.asarray(image.dataobj), image


def test_a_mask_replaces_no_file_of_its_scan(tmp_path):
    write_volume(Volume(np.ones((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "scan.mhd")
    slices = write_series(tmp_path / "series", np.ones((4, 5, 6), np.int16), oblique_affine())
    (tmp_path / "mask.nii.gz").symlink_to(slices[3])
    for scan, output in (("scan.mhd", "scan.mhd"), ("series", "mask.nii.gz")):
        with pytest.raises(InputError, match="the scan itself, which the mask would replace"):
            predict("none", [tmp_path / scan], tmp_path / output)


def test_the_mask_is_the_same_in_the_world_for_all_48_ways_to_store_a_scan(tmp_path, model, scan):
    first = predict(str(model), [scan], tmp_path / "mask.nii.gz")
    expected, image = _mask(first.mask)
    assert min(np.bincount(expected.ravel(), minlength=3)) > 100, "every class has its place"
    for flip in itertools.product((0, 1), repeat=3):
        assert not any(flip) or (np.flip(expected, np.flatnonzero(flip)) != expected).mean() > 0.1, "asymmetric"
    stored = nibabel.load(scan)
    folder = tmp_path / "turned"
    folder.mkdir()
    ways = [
        np.column_stack([order, signs])
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]
    for number, way in enumerate(ways):
        stored.as_reoriented(way).to_filename(folder / f"way{number:02d}.nii.gz")
    found = predict_folder(str(model), scans_in([folder]), tmp_path / "masks")
    assert len(found.predictions) == 48 and not found.failed
    for number, way in enumerate(ways):
        mask, turned = _mask(tmp_path / "masks" / f"way{number:02d}.nii.gz")
        like = nibabel.load(folder / f"way{number:02d}.nii.gz")
        assert mask.shape == like.shape
        np.testing.assert_array_equal(turned.affine, like.affine)
        np.testing.assert_array_equal(mask, np.asarray(image.as_reoriented(way).dataobj))
        assert found.predictions[f"way{number:02d}"].volumes_ml == pytest.approx(first.volumes_ml)


def _odd_kinds(folder):
    """The same scan in kinds of files that are rare: by name, its path."""
    data, affine = _blobs(), _oblique((2.0, 1.5, 3.0))
    whole = np.round(data).astype(np.int16)

    def save(name, kind, values, header=None, slope=None, codes=(1, 1)):
        image = kind(values, affine, header)
        image.set_sform(affine, codes[0])
        image.set_qform(affine, codes[1])
        if slope:
            image.header.set_slope_inter(*slope)
        image.to_filename(folder / name)
        return folder / name

    big = nibabel.Nifti1Header(endianness=">")
    big.set_data_dtype(np.int16)
    scaled = nibabel.Nifti1Image(data / 10, affine)
    scaled.set_data_dtype(np.int16)  # nibabel then chooses slope and intercept
    scaled.to_filename(folder / "scaled.nii.gz")
    kinds = {
        "big-endian": save("big.nii", nibabel.Nifti1Image, whole, big),
        "nifti-2": save("two.nii.gz", nibabel.Nifti2Image, whole),
        "pair": save("pair.hdr", nibabel.Nifti1Pair, whole),
        "scaled": folder / "scaled.nii.gz",
        "4D of one": save("four.nii.gz", nibabel.Nifti1Image, whole[..., None]),
        "codes": save("codes.nii.gz", nibabel.Nifti1Image, whole, codes=(4, 2)),
        "qform alone": save("qform.nii.gz", nibabel.Nifti1Image, whole, codes=(0, 1)),
        "LAS": folder / "las.nii.gz",
    }
    las = nibabel.orientations.axcodes2ornt("LAS")
    nibabel.Nifti1Image(whole, affine).as_reoriented(las).to_filename(kinds["LAS"])
    return kinds


def test_a_mask_of_an_odd_kind_of_file_lies_where_the_anatomy_is(tmp_path, model, scan):
    expected, _ = _mask(predict(str(model), [scan], tmp_path / "mask.nii.gz").mask)
    kinds = _odd_kinds(tmp_path)
    found = predict_folder(str(model), {kind: (path,) for kind, path in kinds.items()}, tmp_path / "masks")
    assert not found.failed
    for kind, path in kinds.items():
        mask, image = _mask(found.predictions[kind].mask)
        like = nibabel.load(path)
        np.testing.assert_allclose(image.affine, like.affine, atol=1e-5, err_msg=kind)
        for code in ("qform_code", "sform_code"):
            assert image.header[code] == like.header[code], kind
        assert mask.shape == like.shape[:3], kind
        canonical = np.asarray(nibabel.as_closest_canonical(image).dataobj)
        assert (canonical != expected).mean() < 0.01, kind  # intensities were rounded


def test_nibabels_own_files_are_predicted_on_their_grids(tmp_path, model):
    folder = nibabel.__path__[0] + "/tests/data"
    for name in ("anatomical.nii", "example_nifti2.nii.gz"):
        scan = nibabel.load(f"{folder}/{name}")
        path = tmp_path / name
        if scan.ndim == 4:  # of two moments in time the first
            nibabel.Nifti2Image(np.asarray(scan.dataobj)[..., 0], None, scan.header).to_filename(path)
        else:
            nibabel.save(scan, path)
        mask, image = _mask(predict(str(model), [path], tmp_path / "mask.nii.gz").mask)
        assert mask.shape == scan.shape[:3]
        np.testing.assert_allclose(image.affine, scan.affine, atol=1e-5)


def test_channels_of_one_file_and_of_several_give_one_mask(tmp_path):
    model = save_model(tmp_path / "m", small_network(channels=2), channels=("a", "b"))
    affine, two = _oblique((2.0, 1.5, 3.0)), np.stack([_blobs(0), _blobs(1)], axis=-1)
    write_volume(Volume(two, affine), tmp_path / "both.nii.gz")
    (tmp_path / "scans").mkdir()
    for channel in range(2):
        write_volume(Volume(two[..., channel], affine), tmp_path / "scans" / f"P1_{channel:04d}.nii.gz")
    one, _ = _mask(predict(str(model), [tmp_path / "both.nii.gz"], tmp_path / "one.nii.gz").mask)
    scans = scans_in([tmp_path / "scans"])
    assert [*scans] == ["P1"] and len(scans["P1"]) == 2
    several, _ = _mask(predict_folder(str(model), scans, tmp_path / "masks").predictions["P1"].mask)
    np.testing.assert_array_equal(one, several)
    with pytest.raises(InputError, match="1 channels, the model needs channels"):
        predict(str(model), [tmp_path / "scans" / "P1_0000.nii.gz"], tmp_path / "no.nii.gz")


def test_probabilities_lie_on_the_scans_grid_and_their_largest_is_the_mask(tmp_path, model, scan):
    turned = tmp_path / "turned.nii.gz"
    nibabel.load(scan).as_reoriented(nibabel.orientations.axcodes2ornt("LSP")).to_filename(turned)
    plain, _ = _mask(predict(str(model), [turned], tmp_path / "plain.nii.gz").mask)
    for options in ({}, {"flips": True}, {"planes": True}, {"flips": True, "planes": True}):
        told = predict(str(model), [turned], tmp_path / "m.nii.gz", probabilities=tmp_path / "p.nii.gz", **options)
        image = nibabel.load(told.probabilities)
        probabilities, (mask, like) = image.get_fdata(dtype=np.float32), _mask(told.mask)
        assert image.get_data_dtype() == np.float32 and image.shape == (*like.shape, 3)
        np.testing.assert_array_equal(image.affine, nibabel.load(turned).affine)
        np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
        np.testing.assert_array_equal(probabilities.argmax(axis=-1), mask)
        assert (mask == plain).all() == (not options), options


def test_averaging_over_flips_and_planes_makes_a_mask_turn_with_its_scan(tmp_path):
    """Of a cube with cubic voxels, whatever its axes: averaged over all, no axis is told from another."""
    network = small_network((12, 12))
    model = save_model(tmp_path / "m", network, experiment(image_size=[12, 12]))
    data = gaussian_filter(np.random.default_rng(1).standard_normal((12, 12, 12)), 1).astype(np.float32)
    masks = []
    for name, values in (("a", data), ("b", data[::-1])):
        write_volume(Volume(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
        told = predict(str(model), [tmp_path / f"{name}.nii.gz"], tmp_path / f"{name}m.nii.gz", flips=True, planes=True)
        masks.append(_mask(told.mask)[0])
    assert (masks[0] != masks[1]).any()
    np.testing.assert_array_equal(masks[0], masks[1][::-1])


def test_planes_that_do_not_reach_a_voxel_have_no_say_in_it(tmp_path):
    """Images of 12 mm of a scan of 12x12x30: sagittal and coronal slices show its middle alone."""
    model = save_model(tmp_path / "m", small_network((12, 12)), experiment(image_size=[12, 12], pixel_mm=1.0))
    write_volume(Volume(_blobs()[:12, :12, :].repeat(3, axis=2)[:, :, :30], np.eye(4)), tmp_path / "scan.nii.gz")
    masks = [
        _mask(predict(str(model), [tmp_path / "scan.nii.gz"], tmp_path / "mask.nii.gz", planes=planes).mask)[0]
        for planes in (False, True)
    ]
    beyond = np.r_[0:9, 21:30]
    np.testing.assert_array_equal(masks[0][..., beyond], masks[1][..., beyond])
    assert (masks[0] != masks[1]).any()


def test_the_largest_piece_of_a_class_stays_with_all_that_touches_it(tmp_path, model, scan):
    plain, _ = _mask(predict(str(model), [scan], tmp_path / "a.nii.gz").mask)
    for names, values in ((["left"], [1]), (["all"], [1, 2])):
        mask, _ = _mask(predict(str(model), [scan], tmp_path / "b.nii.gz", largest=names).mask)
        assert (mask != plain).any()
        np.testing.assert_array_equal(mask, imgmed.largest_component(plain, values, corners=True))
    with pytest.raises(InputError, match="--largest middle: the model's classes are left, right; or all"):
        predict(str(model), [scan], tmp_path / "c.nii.gz", largest=["middle"])


@pytest.fixture
def guarded(tmp_path, scan):
    """A model that knows one training scan: the scan itself."""
    canonical = imgmed.to_canonical(imgmed.read_volume(scan))
    images, _ = to_images(canonical, experiment().preprocess)
    known = ranges_of(canonical.spacing_mm, seen_percentiles(images)[0])
    return save_model(tmp_path / "guarded", small_network(), ranges=known)


def test_a_scan_like_the_training_scans_is_not_warned_of(tmp_path, guarded, scan, capsys):
    assert predict(str(guarded), [scan], tmp_path / "m.nii.gz", strict=True).warnings == ()
    assert "Warning" not in capsys.readouterr().err


def test_thick_slices_and_inverted_intensities_are_told_with_number_and_range(tmp_path, guarded, capsys):
    thick, dark = tmp_path / "thick.nii.gz", tmp_path / "dark.nii.gz"
    write_volume(Volume(_blobs(), _oblique((2.0, 1.5, 15.0))), thick)
    # As in the scan a background of 0; a few voxels far below the rest become a few far above.
    write_volume(Volume(_blobs() ** 3, _oblique((2.0, 1.5, 3.0))), dark)
    (spacing,) = predict(str(guarded), [thick], tmp_path / "m.nii.gz").warnings
    assert spacing == f"{thick}: spacing bottom-top 15 mm, the training scans' 3 mm"
    warnings = predict(str(guarded), [dark], tmp_path / "m.nii.gz").warnings
    assert warnings and all(
        f"{dark}: channel 0: " in line and "in the training scans below" in line for line in warnings
    )
    told = " ".join(capsys.readouterr().err.split())
    assert f"Warning: {spacing}; the mask may be wrong" in told


def test_strict_refuses_what_is_warned_of_and_writes_nothing(tmp_path, guarded, model, scan):
    thick = tmp_path / "thick.nii.gz"
    write_volume(Volume(_blobs(), _oblique((2.0, 1.5, 15.0))), thick)
    with pytest.raises(InputError, match=r"thick.nii.gz: unlike all .* spacing bottom-top 15 mm.*\(--strict\)"):
        predict(str(guarded), [thick], tmp_path / "no.nii.gz", strict=True)
    assert not (tmp_path / "no.nii.gz").exists()
    with pytest.raises(InputError, match="--strict cannot judge"):
        predict(str(model), [scan], tmp_path / "no.nii.gz", strict=True)


def _command(*arguments):
    """Exit code of a command line in this process."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["r2d2", *map(str, arguments)])
        cli.main()
    return ended.value.code or 0


def test_one_bad_scan_of_a_folder_ends_no_other(tmp_path, model, capsys):
    folder, masks = tmp_path / "scans", tmp_path / "masks"
    folder.mkdir()
    for number in range(3):
        write_volume(Volume(_blobs(number), _oblique((2.0, 1.5, 3.0))), folder / f"P{number}.nii.gz")
    (folder / "P1.nii.gz").write_bytes(b"no scan")
    (folder / "notes.txt").write_text("hello")
    (folder / "empty").mkdir()
    write_series(folder / "P3" / "ct", _blobs().astype(np.int16), oblique_affine())
    code = _command("predict", model, folder, "-o", masks, "--probabilities", tmp_path / "probabilities", "--json")
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert code == 1
    assert err.splitlines()[-1] == "r2d2: 1 of 4 scans without a mask: P1"
    assert [*answer["failed"]] == ["P1"] and "P1.nii.gz" in answer["failed"]["P1"]
    assert sorted(path.name for path in masks.iterdir()) == ["P0.nii.gz", "P2.nii.gz", "P3.nii.gz"]
    assert sorted(path.name for path in (tmp_path / "probabilities").iterdir()) == sorted(
        path.name for path in masks.iterdir()
    )
    assert _command("predict", model, folder, "-o", masks) == 1
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["volumes", "in", "ml", "left", "right"]
    assert [line.split()[0] for line in table[1:4]] == ["P0", "P2", "P3"]
    assert _command("predict", model, folder, "-o", folder) == 2
    assert "the scans are in it" in capsys.readouterr().err


def test_an_empty_folder_and_a_broken_numbering_are_refused(tmp_path):
    with pytest.raises(InputError, match="neither a DICOM series nor scans"):
        scans_in([tmp_path])
    for number in (0, 2):
        write_volume(Volume(_blobs(), np.eye(4)), tmp_path / f"P_{number:04d}.nii.gz")
    with pytest.raises(InputError, match="channel 2 of a scan whose channel 1 is missing"):
        scans_in([tmp_path])


def test_a_dicom_series_gets_a_segmentation_that_reads_back_the_same(tmp_path, model):
    series = tmp_path / "series"
    stored = np.round(_blobs()).astype(np.int16)
    paths = write_series(series, stored, oblique_affine(), order=[*range(SHAPE[2])][::-1], PatientID="P7")
    told = predict(str(model), [series], tmp_path / "mask.dcm")
    expected = imgmed.read_volume(predict(str(model), [series], tmp_path / "mask.nii.gz").mask).data
    back = imgmed.read_segments(told.mask, imgmed.read_volume(series), {1: "left", 2: "right"})
    np.testing.assert_array_equal(back.data, expected)
    seg, source = pydicom.dcmread(told.mask), pydicom.dcmread(paths[0])
    for tag in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate"):
        assert seg[tag].value == source[tag].value, tag
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == [LABELS[1], LABELS[2]]
    (algorithm,) = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("small", f"small, run {RUN}")
    (referenced,) = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence} == {
        pydicom.dcmread(path).SOPInstanceUID for path in paths
    }
    write_volume(Volume(_blobs(), np.eye(4)), tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match="a DICOM SEG belongs to a DICOM series"):
        predict(str(model), [tmp_path / "scan.nii.gz"], tmp_path / "no.dcm")
