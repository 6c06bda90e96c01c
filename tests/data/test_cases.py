import pytest
from helpers.datasets import LABELS, decathlon, mask, plain, refusal, save

from r2d2.config import Data
from r2d2.data.cases import Case, find_cases


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
    assert "no volumes" in refusal(Data(path=tmp_path, labels=LABELS))


def test_the_pattern_takes_the_patient_from_the_name(tmp_path):
    data = plain(tmp_path, ("p1_visit1", "p1_visit2", "p2_visit1"))
    for pattern, expected in (("^(p.)_", ["p1", "p1", "p2"]), ("p.", ["p1", "p1", "p2"])):
        dataset = find_cases(data.model_copy(update={"patient_pattern": pattern}))
        assert [case.patient for case in dataset.cases] == expected


def test_without_a_pattern_slices_and_augmented_images_are_their_patients(tmp_path):
    names = ("P1_z000", "P1_z011", "P2", "a", "a_augmented_3", "b_z1000_augmented_12", "c_z1")
    dataset = find_cases(plain(tmp_path, names))
    assert {case.name: case.patient for case in dataset.cases} == {
        **{"P1_z000": "P1", "P1_z011": "P1", "P2": "P2", "a": "a", "a_augmented_3": "a"},
        **{"b_z1000_augmented_12": "b", "c_z1": "c_z1"},
    }


@pytest.mark.parametrize("pattern", ["(", "x", "(x)?", ""])
def test_a_pattern_that_takes_no_patient_is_refused(tmp_path, pattern):
    data = plain(tmp_path).model_copy(update={"patient_pattern": pattern})
    assert "data.patient_pattern" in refusal(data)


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
