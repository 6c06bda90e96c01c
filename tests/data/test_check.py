import hashlib
from functools import partial

import nibabel as nib
import numpy as np
import pytest
from helpers.datasets import AFFINE, decathlon, mask, plain, save, scan
from helpers.dicoms import write_segments, write_series

from r2d2.config import Data, Preprocess, parse
from r2d2.data.cases import Case, find_cases
from r2d2.data.check import check_cases, content_hash, inspect_case
from r2d2.data.parallel import spread
from r2d2.data.prepare import prepare
from r2d2.errors import InputError
from r2d2.imgmed import Volume, write_volume


def check_with(tmp_path, image=None, label=None, affine=AFFINE, channels=None):
    """The findings of a case `bad` among good ones."""
    data = plain(tmp_path, ("good",))
    save(tmp_path / "images/bad.nii.gz", scan() if image is None else image)
    save(tmp_path / "labels/bad.nii.gz", mask() if label is None else label, affine)
    check = check_cases(find_cases(data), workers=1)
    assert all(finding.case == "bad" and "\n" not in finding.message for finding in check.findings)
    assert all(str(tmp_path) in finding.message for finding in check.findings)
    return check


def test_good_cases_have_no_findings_and_full_summaries(tmp_path):
    data = decathlon(tmp_path)
    finished = []
    check = check_cases(find_cases(data), workers=1, progress=lambda: finished.append(1))
    assert check.findings == () and len(finished) == 2
    summary = check.summaries[0]
    assert (summary.case, summary.shape, summary.spacing_mm, summary.channels) == ("BRATS_001", (5, 6, 7), (3, 2, 1), 2)
    assert summary.voxels == {0: 5 * 6 * 7 - 9, 1: 8, 2: 1}
    files = [tmp_path / folder / "BRATS_001.nii.gz" for folder in ("imagesTr", "labelsTr")]
    assert summary.files == tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    assert summary.files == (content_hash(files[:1]), content_hash(files[1:]))
    assert summary.content != check.summaries[1].content


def test_the_same_scan_under_two_names_is_an_error_for_two_patients_and_a_warning_for_one(tmp_path):
    data = plain(tmp_path, ("P1_a", "P2_a"))
    twin = nib.load(tmp_path / "images/P1_a.nii.gz").as_reoriented(nib.orientations.axcodes2ornt(("P", "S", "R")))
    nib.save(twin, tmp_path / "images/P1_b.nii.gz")
    label = nib.load(tmp_path / "labels/P1_a.nii.gz").as_reoriented(nib.orientations.axcodes2ornt(("P", "S", "R")))
    nib.save(label, tmp_path / "labels/P1_b.nii.gz")
    (finding,) = check_cases(find_cases(data), workers=1).findings
    assert (finding.case, finding.severity) == ("P1_b", "error")
    assert finding.message.startswith("case P1_b: the same scan as P1_a, under another patient's name")
    visits = data.model_copy(update={"patient_pattern": "^(P[0-9]+)"})
    (finding,) = check_cases(find_cases(visits), workers=1).findings
    assert finding.severity == "warning" and finding.message == (
        "case P1_b: the same scan as P1_a; one of the two adds nothing"
    )


def test_scans_that_differ_in_one_voxel_anywhere_are_not_the_same(tmp_path):
    data = plain(tmp_path, ("a", "b"))
    image = nib.load(tmp_path / "images/a.nii.gz").get_fdata(dtype=np.float32)
    for place in ((0, 0, 0), (4, 5, 6), (2, 3, 0), (0, 0, 3)):
        other = image.copy()
        other[place] += 1
        save(tmp_path / "images/b.nii.gz", other)
        left, right = check_cases(find_cases(data), workers=1).summaries
        assert left.content != right.content


def test_labelled_voxels_beyond_the_edges_of_the_images_are_a_warning(tmp_path):
    data = plain(tmp_path, ("a", "b"))  # pixels of 3 x 2 mm, 5 x 6 of them
    label = np.zeros((5, 6, 7), np.uint8)
    label[:, 2, 3], label[2, :, 4] = 1, 2
    save(tmp_path / "labels/b.nii.gz", label)
    settings = Preprocess(image_size=(8, 8), pixel_mm=1.0)  # 15 x 12 mm, of which 8 x 8 are shown
    findings = check_cases(find_cases(data), workers=1, preprocess=settings).findings
    # Rows at 1.5, 4.5, 7.5, 10.5 and 13.5 mm, columns at 1, 3, ... 11; shown are 3 to 11 mm and 2 to 10 mm.
    (finding,) = [finding for finding in findings if finding.case == "b"]
    assert finding.severity == "warning" and "case b: 36.4% of its labelled voxels lie beyond" in finding.message
    assert check_cases(find_cases(data), workers=1, preprocess=Preprocess(image_size=(8, 8))).findings == ()


def test_a_spacing_far_from_the_usual_one_is_a_warning_whatever_the_axes(tmp_path):
    data = plain(tmp_path, ("a", "b", "c"))
    for name, affine in (("turned", AFFINE[[1, 0, 2, 3]]), ("odd", np.diag([3.0, 2.0, 2.5, 1.0]))):
        save(tmp_path / f"images/{name}.nii.gz", scan(), affine)
        save(tmp_path / f"labels/{name}.nii.gz", mask(), affine)
    findings = check_cases(find_cases(data), workers=1).findings
    assert [(finding.case, finding.severity) for finding in findings] == [("odd", "warning")]
    assert "a spacing of 3 x 2 x 2.5 mm, where 3 x 2 x 1 mm is usual" in findings[0].message


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (("P07_visit1", "P07_visit2", "P08_visit1", "sub-1_ses-02", "sub-1_ses-03"), ["P07", "P08", "sub-1"]),
        (("patient001_frame01", "patient001_frame12", "patient002_frame01"), ["patient001", "patient002"]),
        (("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00006-000"), ["BraTS-GLI-00005", "BraTS-GLI-00006"]),
        (("sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-02"), ["sub-01", "sub-02"]),
        (("P07_pre", "P07_post", "P08_pre"), ["P07", "P08"]),
        (("P07_20240131", "P07_2025-12-01", "P08"), ["P07", "P08"]),
        (("P07_t1_z000", "P07_t2_z001", "P08_t1_z000_augmented_3"), ["P07", "P08"]),
    ],
)
def test_visits_that_the_pattern_takes_for_patients_are_a_warning_with_a_pattern_that_helps(tmp_path, names, patients):
    data = plain(tmp_path, names)
    (finding,) = check_cases(find_cases(data), workers=1).findings
    assert finding.severity == "warning" and "by its name of the same patient as" in finding.message
    settings = parse(f"{{name: x, data: {{path: x, patient_{finding.message.partition('if so, patient_')[2]}}}}}")
    joined = find_cases(data.model_copy(update={"patient_pattern": settings.data.patient_pattern}))
    assert sorted({case.patient for case in joined.cases}) == patients
    assert check_cases(joined, workers=1).findings == ()


@pytest.mark.parametrize(
    "names",
    [
        *(("BRATS_001", "BRATS_002"), ("la_003", "la_004"), ("hippocampus_001", "hippocampus_002")),
        *(("LIVER_1", "LIVER_2"), ("case_00001", "case_00002"), ("brain_001", "brain_002"), ("sub-01", "sub-02")),
        *(("P1", "P2"), ("prostate_t2_001", "prostate_t2_002"), ("CT_scan_1", "CT_scan_2"), ("a001", "a002")),
    ],
)
def test_patients_are_not_taken_for_visits(tmp_path, names):
    assert check_cases(find_cases(plain(tmp_path, names)), workers=1).findings == ()


def patients(folder, **ids):
    """A folder a patient, each a DICOM series with its segments and a PatientID."""
    for name, patient_id in ids.items():
        slices = write_series(folder / name, scan().astype(np.int16), AFFINE, series=name, PatientID=patient_id)
        write_segments(folder / f"{name}/seg.dcm", slices, {"tumour": mask() > 0})
    return find_cases(Data(path=folder, labels={0: "background", 1: "tumour"}))


def test_one_patient_id_under_two_patients_names_is_an_error_and_under_all_names_an_anonymizers(tmp_path):
    dataset = patients(tmp_path / "two", a="7", b="8", c="7", d="", e="")
    (finding,) = check_cases(dataset, workers=1).findings
    assert (finding.case, finding.severity) == ("c", "error")
    assert finding.message.startswith("case c: the PatientID '7' of a, under another patient's name")
    with pytest.raises(InputError, match="the PatientID '7' of a"):
        prepare(dataset, Preprocess(image_size=(8, 8)), tmp_path / "store", partial(spread, workers=1))
    assert check_cases(patients(tmp_path / "pair", a="7", b="7"), workers=1).findings[0].severity == "error"
    (finding,) = check_cases(patients(tmp_path / "all", a="ANON", b="ANON", c="ANON"), workers=1).findings
    assert finding.severity == "warning" and "all cases have the PatientID 'ANON'" in finding.message


def test_a_class_that_no_mask_has_is_an_error_and_so_are_masks_that_are_all_empty(tmp_path):
    data = plain(tmp_path, ("a", "b"))
    more = data.model_copy(update={"labels": {0: "background", 1: "edema", 2: "tumour", 3: "cyst"}})
    (finding,) = check_cases(find_cases(more), workers=1).findings
    assert finding.severity == "error" and finding.message.startswith("class 3 (cyst) is in no mask")
    for name in ("a", "b"):
        save(tmp_path / f"labels/{name}.nii.gz", np.zeros((5, 6, 7), np.uint8))
    findings = check_cases(find_cases(data), workers=1).findings
    assert [finding.severity for finding in findings] == ["warning", "warning", "error"]
    assert "every mask is empty" in findings[2].message
    with pytest.raises(InputError, match="every mask is empty"):
        prepare(find_cases(data), Preprocess(image_size=(8, 8)), tmp_path / "store", partial(spread, workers=1))


def test_several_processes_find_the_same_as_one(tmp_path):
    data = plain(tmp_path, ("a", "b", "c"))
    (tmp_path / "images/b.nii.gz").write_bytes(b"broken")
    finished = []
    dataset = find_cases(data)
    check = check_cases(dataset, workers=2, progress=lambda: finished.append(1))
    assert check == check_cases(dataset, workers=1) and len(finished) == 3
    assert [summary.case for summary in check.summaries] == ["a", "c"]
    assert [finding.case for finding in check.findings] == ["b"]


def test_a_series_and_a_metaimage_mask_are_a_case_hashed_by_all_their_files(tmp_path):
    slices = write_series(tmp_path / "scan", scan().astype(np.int16), AFFINE)
    write_volume(Volume(mask(), AFFINE), tmp_path / "mask.mhd")
    case = Case("a", "a", (tmp_path / "scan",), tmp_path / "mask.mhd")
    inspected = inspect_case(case, (0, 1, 2), ("0",))
    assert inspected.findings == [] and inspected.summary.files == (
        content_hash(slices),
        content_hash([tmp_path / "mask.mhd", tmp_path / "mask.raw"]),
    )


def test_a_truncated_file_is_found(tmp_path):
    data = plain(tmp_path, ("good", "bad"))
    path = tmp_path / "labels/bad.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    (finding,) = check_cases(find_cases(data), workers=1).findings
    assert finding.case == "bad" and finding.severity == "error" and "truncated" in finding.message


def test_a_label_of_another_shape_is_found_with_both_sides(tmp_path):
    (finding,) = check_with(tmp_path, label=mask((5, 6, 8))).findings
    assert finding.severity == "error" and "image 5x6x7, label 5x6x8, case bad" in finding.message


@pytest.mark.parametrize(("shift", "found"), [(0.1, 1), (2e-3, 1), (5e-4, 0)])
def test_a_label_that_lies_elsewhere_is_found(tmp_path, shift, found):
    affine = AFFINE.copy()
    affine[0, 3] += shift
    findings = check_with(tmp_path, affine=affine).findings
    assert len(findings) == found and all("affine" in finding.message for finding in findings)


def test_labels_outside_the_classes_are_found(tmp_path):
    label = mask()
    label[0, 0, :3] = 7
    check = check_with(tmp_path, label=label)
    assert "label 7 (3 voxels) is not among the classes 0, 1, 2" in check.findings[0].message


def test_labels_that_are_not_whole_are_found(tmp_path):
    label = mask().astype(np.float32)
    label[0, 0, 0] = 0.5
    assert "holds 0.5" in check_with(tmp_path, label=label).findings[0].message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_found(tmp_path, value):
    image = scan()
    image[0, 0, :2] = value
    (finding,) = check_with(tmp_path, image=image).findings
    assert finding.severity == "error" and "2 voxels of NaN or infinity" in finding.message


def test_a_constant_image_is_found(tmp_path):
    (finding,) = check_with(tmp_path, image=np.full((5, 6, 7), 3, np.float32)).findings
    assert finding.severity == "error" and "is 3 throughout" in finding.message


def test_an_empty_mask_is_a_warning(tmp_path):
    check = check_with(tmp_path, label=np.zeros((5, 6, 7), np.uint8))
    assert [finding.severity for finding in check.findings] == ["warning"]
    assert check.summaries[0].voxels == {0: 210, 1: 0, 2: 0}


def test_another_number_of_channels_is_found(tmp_path):
    data = decathlon(tmp_path)
    path = save(tmp_path / "imagesTr/BRATS_002.nii.gz", scan((5, 6, 7, 3)))
    (finding,) = check_cases(find_cases(data), workers=1).findings
    assert finding.message == f"{path}: 3 channels, the dataset has 2 (FLAIR, T1w)"
