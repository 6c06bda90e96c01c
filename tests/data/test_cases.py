import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.dicoms import write_series
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from r2d2.config import Data, Split
from r2d2.data.cases import Case, Dataset, check_cases, content_hash, find_cases, inspect_case, split_patients
from r2d2.errors import InputError
from r2d2.imgmed import Volume, write_volume

RNG = np.random.default_rng(0)
AFFINE = np.diag([3.0, 2.0, 1.0, 1.0])
LABELS = {0: "background", 1: "edema", 2: "tumour"}


def save(path, data, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


def scan(shape=(5, 6, 7)):
    return RNG.normal(100, 10, shape).astype(np.float32)


def mask(shape=(5, 6, 7)):
    labels = np.zeros(shape, np.uint8)
    labels[1:3, 1:3, 1:3] = 1
    labels[3, 3, 3] = 2
    return labels


def plain(folder, names=("a", "b")):
    for name in names:
        save(folder / "images" / f"{name}.nii.gz", scan())
        save(folder / "labels" / f"{name}.nii.gz", mask())
    return Data(path=folder, labels=LABELS)


def decathlon(folder, names=("BRATS_002", "BRATS_001"), **changes):
    for name in names:
        save(folder / "imagesTr" / f"{name}.nii.gz", scan((5, 6, 7, 2)))
        save(folder / "labelsTr" / f"{name}.nii.gz", mask())
    about = {
        "name": "BRATS",
        "description": "Gliomas",
        "licence": "CC-BY-SA 4.0",
        "modality": {"1": "T1w", "0": "FLAIR"},
        "labels": {str(value): name for value, name in LABELS.items()},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": ["./imagesTs/BRATS_485.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(about | changes))
    return Data(path=folder)


def refusal(data):
    with pytest.raises(InputError) as caught:
        find_cases(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_decathlon_folder_is_read_from_its_json(tmp_path):
    dataset = find_cases(decathlon(tmp_path))
    assert (dataset.name, dataset.licence) == ("BRATS", "CC-BY-SA 4.0")
    assert dataset.labels == LABELS and dataset.channels == ("FLAIR", "T1w")
    assert [case.name for case in dataset.cases] == ["BRATS_001", "BRATS_002"]
    assert dataset.cases[0] == Case(
        "BRATS_001",
        "BRATS_001",
        (tmp_path / "imagesTr/BRATS_001.nii.gz",),
        tmp_path / "labelsTr/BRATS_001.nii.gz",
    )


def test_labels_of_the_config_win(tmp_path):
    data = decathlon(tmp_path).model_copy(update={"labels": {0: "rest", 1: "lesion"}})
    assert find_cases(data).labels == {0: "rest", 1: "lesion"}


def test_hidden_files_are_passed_over(tmp_path):
    hidden = {"image": "./imagesTr/._BRATS_001.nii.gz", "label": "./labelsTr/._BRATS_001.nii.gz"}
    known = {"image": "imagesTr/BRATS_001.nii.gz", "label": "labelsTr/BRATS_001.nii.gz"}
    assert len(find_cases(decathlon(tmp_path / "msd", training=[hidden, known])).cases) == 1
    data = plain(tmp_path / "plain")
    (tmp_path / "plain/images/._a.nii.gz").write_bytes(b"Mac")
    (tmp_path / "plain/images/README.txt").write_bytes(b"")
    assert len(find_cases(data).cases) == 2


@pytest.mark.parametrize("listed", ["../../x.nii.gz", "/etc/passwd", "imagesTr/../../x.nii.gz"])
@pytest.mark.parametrize("key", ["image", "label"])
def test_paths_out_of_the_folder_are_refused(tmp_path, listed, key):
    entry = {"image": "imagesTr/BRATS_001.nii.gz", "label": "labelsTr/BRATS_001.nii.gz"} | {key: listed}
    message = refusal(decathlon(tmp_path, training=[entry]))
    assert repr(listed) in message and "inside the dataset's folder" in message


def test_a_listed_file_that_is_missing_is_named(tmp_path):
    data = decathlon(tmp_path)
    (tmp_path / "labelsTr/BRATS_002.nii.gz").unlink()
    assert str(tmp_path / "labelsTr/BRATS_002.nii.gz") in refusal(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": []},
        {"training": None},
        {"training": ["imagesTr/BRATS_001.nii.gz"]},
        {"training": [{"image": "imagesTr/BRATS_001.nii.gz"}]},
        {"labels": {"background": 0}},
        {"labels": ["background"]},
        {"labels": {"1": "tumour"}},
        {"labels": {"0": "background", "255": "tumour"}},
        {"modality": {}},
    ],
)
def test_a_damaged_json_is_refused(tmp_path, changes):
    assert str(tmp_path) in refusal(decathlon(tmp_path, **changes))


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe\x00"])
def test_what_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "dataset.json").write_bytes(content)
    assert "dataset.json" in refusal(Data(path=tmp_path))


def test_a_case_listed_twice_is_refused(tmp_path):
    entry = {"image": "imagesTr/BRATS_001.nii.gz", "label": "labelsTr/BRATS_001.nii.gz"}
    assert "2 scans are named BRATS_001" in refusal(decathlon(tmp_path, training=[entry, entry]))


def test_plain_folders_pair_by_name(tmp_path):
    dataset = find_cases(plain(tmp_path / "hearts"))
    assert dataset.name == "hearts" and dataset.labels == LABELS and dataset.channels == ("0",)
    assert [case.name for case in dataset.cases] == ["a", "b"]
    assert dataset.cases[1].label == tmp_path / "hearts/labels/b.nii.gz"


def test_plain_folders_need_the_classes_in_the_config(tmp_path):
    plain(tmp_path)
    assert "data.labels" in refusal(Data(path=tmp_path))


def test_a_scan_without_mask_and_a_mask_without_scan_are_named(tmp_path):
    data = plain(tmp_path)
    extra = save(tmp_path / "labels/c.nii.gz", mask())
    assert refusal(data).startswith(f"{extra}: a mask without a scan")
    extra.rename(tmp_path / "images/d.nii.gz")
    assert refusal(data).startswith(f"{tmp_path / 'images/d.nii.gz'}: a scan without a mask")


def test_missing_and_empty_folders_are_refused(tmp_path):
    assert "no such folder" in refusal(Data(path=tmp_path / "none", labels=LABELS))
    assert "images" in refusal(Data(path=tmp_path, labels=LABELS))
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    assert "no .nii" in refusal(Data(path=tmp_path, labels=LABELS))


def test_the_pattern_takes_the_patient_from_the_name(tmp_path):
    data = plain(tmp_path, ("p1_visit1", "p1_visit2", "p2_visit1"))
    for pattern, expected in (("^(p.)_", ["p1", "p1", "p2"]), ("p.", ["p1", "p1", "p2"])):
        dataset = find_cases(data.model_copy(update={"patient_pattern": pattern}))
        assert [case.patient for case in dataset.cases] == expected


@pytest.mark.parametrize("pattern", ["(", "x", "(x)?", ""])
def test_a_pattern_that_takes_no_patient_is_refused(tmp_path, pattern):
    data = plain(tmp_path).model_copy(update={"patient_pattern": pattern})
    assert "data.patient_pattern" in refusal(data)


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


def test_a_spacing_far_from_the_usual_one_is_a_warning_whatever_the_axes(tmp_path):
    data = plain(tmp_path, ("a", "b", "c"))
    for name, affine in (("turned", AFFINE[[1, 0, 2, 3]]), ("odd", np.diag([3.0, 2.0, 2.5, 1.0]))):
        save(tmp_path / f"images/{name}.nii.gz", scan(), affine)
        save(tmp_path / f"labels/{name}.nii.gz", mask(), affine)
    findings = check_cases(find_cases(data), workers=1).findings
    assert [(finding.case, finding.severity) for finding in findings] == [("odd", "warning")]
    assert "a spacing of 3 x 2 x 2.5 mm, where 3 x 2 x 1 mm is usual" in findings[0].message


def test_visits_that_the_pattern_takes_for_patients_are_a_warning_with_a_pattern_that_helps(tmp_path):
    data = plain(tmp_path, ("P07_visit1", "P07_visit2", "P08_visit1", "sub-1_ses-02", "sub-1_ses-03"))
    (finding,) = check_cases(find_cases(data), workers=1).findings
    assert finding.severity == "warning" and finding.message.startswith(
        "case P07_visit2: by its name of the same patient"
    )
    pattern = finding.message.partition('patient_pattern: "')[2].rstrip('"')
    joined = find_cases(data.model_copy(update={"patient_pattern": pattern}))
    assert [case.patient for case in joined.cases] == ["P07", "P07", "P08", "sub-1", "sub-1"]
    assert check_cases(joined, workers=1).findings == ()


@pytest.mark.parametrize("name", ["core (T1)", "a&b", "", "/core", "core/", "a//b", "a/../b", "x" * 300])
def test_a_class_name_that_cannot_be_recorded_is_refused(tmp_path, name):
    data = plain(tmp_path).model_copy(update={"labels": {0: "background", 1: name}})
    assert f"class 1 is called {name!r}" in refusal(data)


def test_class_names_of_all_alphabets_and_with_a_slash_inside_are_taken(tmp_path):
    labels = {0: "background", 1: "Ödem", 2: "prostate/uterus"}
    assert find_cases(plain(tmp_path).model_copy(update={"labels": labels})).labels == labels


def test_two_classes_of_one_name_are_refused(tmp_path):
    data = plain(tmp_path).model_copy(update={"labels": {0: "background", 1: "lesion", 2: "lesion"}})
    assert "2 classes are called 'lesion'" in refusal(data)


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


@pytest.mark.parametrize(("shift", "found"), [(0.1, 1), (1e-4, 0)])
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


def dataset_of(patients, cases_each=1):
    cases = [Case(f"{p}_{i}", p, (Path(p),), Path(p)) for p in patients for i in range(cases_each)]
    return Dataset("test", LABELS, ("T1w",), tuple(cases))


def patients_of(parts):
    return {part: {name.rsplit("_", 1)[0] for name in names} for part, names in parts.items()}


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 3), st.integers(0, 5), st.tuples(*[st.integers(0, 100)] * 3))
def test_every_patient_is_in_one_part_and_every_part_has_its_share(patients, cases_each, seed, weights):
    assume(sum(weights) > 0)
    fractions = tuple(weight / sum(weights) for weight in weights)
    dataset = dataset_of([f"p{i}" for i in range(patients)], cases_each)
    split = Split(fractions=fractions, seed=seed)
    if patients < sum(weight > 0 for weight in weights):
        with pytest.raises(InputError, match="need at least"):
            split_patients(dataset, split)
        return
    parts = split_patients(dataset, split)
    assert list(parts) == ["training", "validation", "test"]
    assert sorted(name for names in parts.values() for name in names) == sorted(case.name for case in dataset.cases)
    by_part = patients_of(parts)
    assert sum(len(found) for found in by_part.values()) == patients
    for fraction, found in zip(fractions, by_part.values(), strict=True):
        assert (len(found) > 0) == (fraction > 0)
        assert abs(len(found) - fraction * patients) < 3


@pytest.mark.parametrize(
    ("patients", "sizes"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (20, (14, 3, 3)), (484, (338, 73, 73))]
)
def test_the_default_split_is_70_15_15(patients, sizes):
    parts = split_patients(dataset_of([f"p{i}" for i in range(patients)]), Split())
    assert tuple(len(names) for names in parts.values()) == sizes


def test_a_split_follows_its_seed_and_not_the_order_of_cases():
    dataset = dataset_of([f"p{i}" for i in range(20)])
    reverse = Dataset("test", LABELS, ("T1w",), dataset.cases[::-1])
    first = split_patients(dataset, Split(seed=1))
    assert first == split_patients(dataset, Split(seed=1))
    assert patients_of(first) == patients_of(split_patients(reverse, Split(seed=1)))
    assert first != split_patients(dataset, Split(seed=2))


def test_two_patients_cannot_be_split_in_three():
    with pytest.raises(InputError, match=r"3 parts need at least 3 patients, the dataset has 2.*patient_pattern"):
        split_patients(dataset_of(["a", "b"], cases_each=9), Split())


def test_every_patient_is_tested_in_one_fold_and_validated_in_the_one_before():
    dataset = dataset_of([f"p{i}" for i in range(11)], cases_each=2)
    folds = [patients_of(split_patients(dataset, Split(folds=4, fold=fold))) for fold in range(4)]
    assert sorted(p for parts in folds for p in parts["test"]) == sorted(f"p{i}" for i in range(11))
    for fold, parts in enumerate(folds):
        assert parts["validation"] == folds[(fold + 1) % 4]["test"]
        assert parts["training"].isdisjoint(parts["validation"] | parts["test"])
        assert sum(len(part) for part in parts.values()) == 11


def test_folds_need_as_many_patients():
    with pytest.raises(InputError, match="4 folds need at least 4 patients"):
        split_patients(dataset_of(["a", "b", "c"]), Split(folds=4))


def test_lists_win_and_leave_out_whom_they_do_not_name():
    split = Split(training=("c", "a"), validation=("b",), test=(), folds=4)
    parts = split_patients(dataset_of(["a", "b", "c", "d"], cases_each=2), split)
    assert parts == {"training": ("a_0", "a_1", "c_0", "c_1"), "validation": ("b_0", "b_1"), "test": ()}


def test_lists_with_unknown_or_doubled_patients_are_refused_by_name():
    dataset = dataset_of(["a", "b", "c"])
    with pytest.raises(InputError, match=r"data\.split\.test: no patient 'x'"):
        split_patients(dataset, Split(training=("a",), validation=("b",), test=("x",)))
    with pytest.raises(InputError, match="patient 'a' is in training and in test"):
        split_patients(dataset, Split(training=("a",), validation=("b",), test=("a",)))
