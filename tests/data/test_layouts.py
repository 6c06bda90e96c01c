import json

import cv2
import numpy as np
import pytest
from helpers.datasets import AFFINE, LABELS, decathlon, mask, plain, refusal, save, scan
from helpers.dicoms import oblique_affine, write_contours, write_segments, write_series
from pydicom.uid import generate_uid

from r2d2.config import Data, Preprocess
from r2d2.data.cases import find_cases
from r2d2.data.check import check_cases
from r2d2.data.layouts import unannotated
from r2d2.data.prepare import prepare
from r2d2.imgmed import Volume, write_volume

TUMOUR = {0: "background", 1: "tumour"}


def findings(dataset):
    return [finding.message for finding in check_cases(dataset, workers=1).findings]


def nnunet(folder, names=("LIVER_1", "LIVER_2"), **changes):
    """Two channels in files of their own; the first is channel 0000."""
    for name in names:
        image = scan((5, 6, 7, 2))
        for channel in range(2):
            save(folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz", image[..., channel])
        save(folder / "labelsTr" / f"{name}.nii.gz", mask())
    about = {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": {"background": 0, "tumour": 2, "edema": 1},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about | changes))
    return Data(path=folder)


def lasc(folder, names=("a001", "a002")):
    """As the challenge of 2013 hands out: MetaImage, a folder a patient."""
    for name in names:
        (folder / name).mkdir(parents=True)
        write_volume(Volume(scan().astype(np.int16), AFFINE), folder / name / "image.mhd")
        write_volume(Volume((mask() > 0).astype(np.uint8), AFFINE), folder / name / "gt_binary.mhd")
    return Data(path=folder, labels={0: "background", 1: "left atrium"})


def hospital(folder, names=("pat_1", "pat_2"), region="GTV-1"):
    """A folder a patient: the slices of a CT, and an RTSTRUCT that draws voxels 1 and 2 of x and y in slice 3."""
    for name in names:
        stored = np.random.default_rng(len(name)).integers(-900, 300, (5, 6, 7)).astype(np.int16)
        stored[0, 0, 0] = int(name[-1])
        write_series(folder / name / "ct", stored, AFFINE, PatientID=f"ID {name}")
        square = [(0.5, 0.5, 3), (2.5, 0.5, 3), (2.5, 2.5, 3), (0.5, 2.5, 3)]
        write_contours(folder / name / "structures.dcm", [("lung", [square]), (region, [square])], AFFINE)
    return Data(path=folder, labels={0: "background", 1: "GTV-1"})


def test_nnunet_s_raw_layout_has_a_file_a_channel(tmp_path):
    dataset = find_cases(nnunet(tmp_path / "Dataset003_Liver"))
    assert dataset.name == "Dataset003_Liver" and dataset.channels == ("T2", "ADC") and dataset.labels == LABELS
    assert [case.name for case in dataset.cases] == ["LIVER_1", "LIVER_2"]
    assert [path.name for path in dataset.cases[0].images] == ["LIVER_1_0000.nii.gz", "LIVER_1_0001.nii.gz"]
    assert findings(dataset) == []


def test_channels_in_files_of_their_own_prepare_as_those_in_one_file(tmp_path):
    apart = find_cases(nnunet(tmp_path / "apart", ["LIVER_1"]))
    image, label = apart.cases[0].read()
    for folder, volume in (("imagesTr", image), ("labelsTr", label)):
        save(tmp_path / "together" / folder / "LIVER_1.nii.gz", volume.data, volume.affine)
    entry = {"image": "imagesTr/LIVER_1.nii.gz", "label": "labelsTr/LIVER_1.nii.gz"}
    about = {"modality": {"0": "T2", "1": "ADC"}, "labels": {str(k): v for k, v in LABELS.items()}, "training": [entry]}
    (tmp_path / "together/dataset.json").write_text(json.dumps(about))
    together = find_cases(Data(path=tmp_path / "together"))
    settings = Preprocess(image_size=(16, 16))
    left, right = (prepare(dataset, settings, tmp_path / "store") for dataset in (apart, together))
    assert left.key != right.key and left.images.shape == (7, 16, 16, 2)
    np.testing.assert_array_equal(left.images, right.images)
    np.testing.assert_array_equal(left.masks, right.masks)


def test_regions_of_nnunet_s_json_are_not_looked_at_where_the_config_names_the_classes(tmp_path):
    data = nnunet(tmp_path, labels={"background": 0, "whole": [1, 2], "core": 2})
    assert "regions of several labels" in refusal(data)
    dataset = find_cases(data.model_copy(update={"labels": LABELS}))
    assert dataset.labels == LABELS and findings(dataset) == []


def test_nnunet_s_first_version_lists_scans_whose_channels_are_files_of_their_own(tmp_path):
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    data = decathlon(tmp_path, names=("BRATS_001",), training=[entry])
    image = scan((5, 6, 7, 2))
    for channel in range(2):
        save(tmp_path / f"imagesTr/a_{channel:04d}.nii.gz", image[..., channel])
    save(tmp_path / "labelsTr/a.nii.gz", mask())
    (case,) = find_cases(data).cases
    assert case.name == "a" and [path.name for path in case.images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    np.testing.assert_array_equal(case.read()[0].data, image)
    (tmp_path / "imagesTr/a_0001.nii.gz").unlink()
    assert "there is no file" in refusal(data) and "a_0001.nii.gz" in refusal(data)


def test_masks_of_other_values_are_read_with_the_classes_numbers(tmp_path):
    data = plain(tmp_path / "pictures", ())
    labels = np.where(np.random.default_rng(0).integers(0, 9, (12, 10)) > 6, 255, 0).astype(np.uint8)
    for folder, pixels in (("images", labels // 2 + np.arange(10, dtype=np.uint8)), ("labels", labels)):
        (tmp_path / "pictures" / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "pictures" / folder / "a.png"), pixels)
    data = data.model_copy(update={"labels": TUMOUR})
    assert "it holds 255" in findings(find_cases(data))[0]
    dataset = find_cases(data.model_copy(update={"remap": {255: 1}}))
    (summary,) = check_cases(dataset, workers=1).summaries
    assert summary.voxels == {0: (labels == 0).sum(), 1: (labels == 255).sum()} and findings(dataset) == []
    prepared = prepare(dataset, Preprocess(image_size=(10, 12)), tmp_path / "store")
    np.testing.assert_array_equal(prepared.masks[0] * 255, labels.T)
    other = find_cases(data.model_copy(update={"remap": {255: 1, 7: 1}}))
    assert prepare(other, Preprocess(image_size=(10, 12)), tmp_path / "store").key != prepared.key
    assert "data.remap: leads to 2" in refusal(data.model_copy(update={"remap": {255: 2}}))


def test_a_class_may_be_a_region_of_another_name_or_of_one_of_several(tmp_path):
    hospital(tmp_path, ["pat_1"])
    data = hospital(tmp_path, ["pat_2"], region="gtv").model_copy(update={"labels": TUMOUR})
    told = data.model_copy(update={"structures": {1: ("GTV-1", "gtv")}})
    dataset = find_cases(told)
    assert dataset.labels == TUMOUR and findings(dataset) == []
    assert all(case.read()[1].data.sum() == 4 for case in dataset.cases)
    (message,) = findings(find_cases(data.model_copy(update={"structures": {1: "gtv"}})))
    assert "pat_1" in message and "no region 'gtv', it has 'lung', 'GTV-1'" in message
    both = find_cases(data.model_copy(update={"structures": {1: ("lung", "gtv")}}))
    assert "2 region 'lung' or 'gtv'" in findings(both)[0]
    for number in (0, 2):
        assert "data.structures: leads to" in refusal(data.model_copy(update={"structures": {number: "gtv"}}))


def test_a_channel_of_nnunet_that_lacks_is_too_many_or_lies_elsewhere_is_named(tmp_path):
    data = nnunet(tmp_path)
    extra = save(tmp_path / "imagesTr/LIVER_1_0002.nii.gz", scan())
    assert str(extra) in refusal(data) and "the 2 of dataset.json" in refusal(data)
    extra.rename(tmp_path / "imagesTr/LIVER_3_0000.nii.gz")
    assert "LIVER_3_0000" in refusal(data) and "a scan without a mask" in refusal(data)
    (tmp_path / "imagesTr/LIVER_3_0000.nii.gz").unlink()
    moved = AFFINE.copy()
    moved[2, 3] = 0.5
    path = save(tmp_path / "imagesTr/LIVER_2_0001.nii.gz", scan(), moved)
    (message,) = findings(find_cases(data))
    assert message.startswith(f"{path}: its affine differs") and "by 0.5" in message
    save(path, scan((5, 6, 8)))
    (message,) = findings(find_cases(data))
    assert message.startswith(f"{path}: 5x6x8") and "is 5x6x7; channels must have one shape" in message
    path.unlink()
    assert "LIVER_2.nii.gz: a mask without its scan" in refusal(data) and "LIVER_2_0001.*" in refusal(data)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"background": 0, "whole": [1, 2]}, "regions of several labels are not trained on"),
        ({"background": 0, "tumour": 1, "ignore": 2}, '"ignore" is not known'),
        ({"background": 0, "a": 1, "b": 1}, "two names one number"),
        ({"0": "background", "1": "tumour"}, "the number of label '0' must be a whole one"),
        ({"background": 0, "tumour": 2}, "must be numbered 0 (background), 1, 2"),
        (["background"], '"labels" must be an object of names and numbers'),
    ],
)
def test_labels_of_nnunet_that_cannot_be_trained_on_are_refused(tmp_path, labels, said):
    assert said in refusal(nnunet(tmp_path, labels=labels))


def test_colours_of_nnunet_s_pictures_are_channels_of_one_file(tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (12, 10, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "imagesTr/road_0000.png"), picture)
    cv2.imwrite(str(tmp_path / "labelsTr/road.png"), (picture[..., 0] > 99).astype(np.uint8))
    about = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "road": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    dataset = find_cases(Data(path=tmp_path))
    assert dataset.channels == ("R", "G", "B") and findings(dataset) == []


def test_the_atria_of_lasc_are_a_folder_a_patient(tmp_path):
    data = lasc(tmp_path)
    dataset = find_cases(data)
    assert [(case.name, case.patient) for case in dataset.cases] == [("a001", "a001"), ("a002", "a002")]
    assert dataset.channels == ("0",) and findings(dataset) == []
    assert check_cases(dataset, workers=1).summaries[0].voxels == {0: 201, 1: 9}
    (tmp_path / "a002/gt_binary.mhd").unlink()
    assert refusal(data).startswith(f"{tmp_path / 'a002'}: has no volume called gt_binary")


def test_a_hospital_s_folders_of_series_and_contours_are_cases(tmp_path):
    dataset = find_cases(hospital(tmp_path))
    assert [case.name for case in dataset.cases] == ["pat_1", "pat_2"]
    assert dataset.cases[0].images == (tmp_path / "pat_1/ct",)
    assert dataset.cases[0].label == tmp_path / "pat_1/structures.dcm"
    assert dataset.cases[0].structures == {1: "GTV-1"}
    check = check_cases(dataset, workers=1)
    assert check.findings == () and [summary.voxels[1] for summary in check.summaries] == [4, 4]
    np.testing.assert_array_equal(np.argwhere(dataset.cases[0].read()[1].data)[:, 2], [3] * 4)
    prepared = prepare(dataset, Preprocess(image_size=(8, 8)), tmp_path / "store")
    assert prepared.cases[0].labelled == (3,) and prepared.reference(prepared.cases[0])[3].sum() == 4


def test_slices_and_contours_may_lie_in_one_folder_beside_what_is_neither(tmp_path):
    data = hospital(tmp_path, ["pat_1"])
    for path in (tmp_path / "pat_1/ct").iterdir():
        path.rename(tmp_path / "pat_1" / path.name)
    (tmp_path / "pat_1/ct").rmdir()
    (tmp_path / "pat_1/notes.txt").write_text("late arrival")
    (tmp_path / ".cache").mkdir()
    dataset = find_cases(data)
    assert dataset.cases[0].images == (tmp_path / "pat_1",) and findings(dataset) == []


def test_a_patient_s_segments_are_a_mask_too(tmp_path):
    slices = write_series(tmp_path / "p/series", np.arange(210, dtype=np.int16).reshape(5, 6, 7), AFFINE)
    write_segments(tmp_path / "p/seg.dcm", slices, {"tumour": mask() > 0})
    dataset = find_cases(Data(path=tmp_path, labels=TUMOUR))
    check = check_cases(dataset, workers=1)
    assert check.findings == () and check.summaries[0].voxels == {0: 201, 1: 9}


def test_a_hospital_s_folder_without_exactly_one_series_and_one_mask_is_refused(tmp_path):
    data = hospital(tmp_path)
    write_series(tmp_path / "pat_2/pet", np.ones((5, 6, 7), np.int16), AFFINE, series="pet")
    assert refusal(data) == f"{tmp_path / 'pat_2'}: a patient's folder must have one DICOM series, this has 2: ct, pet"
    for path in (tmp_path / "pat_2/pet").iterdir():
        path.unlink()
    (tmp_path / "pat_2/structures.dcm").unlink()
    assert "must have one RTSTRUCT or SEG, this has 0" in refusal(data)


def test_of_several_series_the_one_that_the_contours_reference_is_the_scan(tmp_path):
    data = hospital(tmp_path, ["pat_1"])
    write_series(tmp_path / "pat_1/a localizer", np.ones((5, 6, 1), np.int16), AFFINE, series="localizer")
    write_series(tmp_path / "pat_1/pet", np.ones((5, 6, 7), np.int16), AFFINE, series="pet")
    assert "this has 3: a localizer, ct, pet" in refusal(data)
    square = [(0.5, 0.5, 3), (2.5, 0.5, 3), (2.5, 2.5, 3)]
    own = generate_uid(entropy_srcs=["series"])
    write_contours(tmp_path / "pat_1/structures.dcm", [("GTV-1", [square])], AFFINE, series=own)
    dataset = find_cases(data)
    assert dataset.cases[0].images == (tmp_path / "pat_1/ct",) and findings(dataset) == []


def test_contours_drawn_on_another_scan_are_an_error(tmp_path):
    data = hospital(tmp_path)
    (tmp_path / "pat_1/structures.dcm").unlink()
    square = [(0.5, 0.5, 3), (2.5, 0.5, 3), (2.5, 2.5, 3)]
    other = generate_uid(entropy_srcs=["another person"])
    path = write_contours(tmp_path / "pat_1/structures.dcm", [("GTV-1", [square])], AFFINE, frame=other)
    (message,) = findings(find_cases(data))
    assert message.startswith(f"{path}: belongs to another frame of reference") and "pat_1/ct" in message


def test_a_region_that_a_patient_lacks_is_found_with_those_it_has(tmp_path):
    hospital(tmp_path, ["pat_1"])
    data = hospital(tmp_path, ["pat_2"], region="gtv")
    (message,) = findings(find_cases(data))
    assert "pat_2" in message and "no region 'GTV-1', it has 'lung', 'gtv'" in message


def test_plain_folders_hold_volumes_of_all_formats(tmp_path):
    data = plain(tmp_path, ["a"])
    for name, suffix in (("b", ".mhd"), ("c", ".nrrd"), ("d", ".nii")):
        write_volume(Volume(scan(), AFFINE), tmp_path / f"images/{name}{suffix}")
        write_volume(Volume(mask(), AFFINE), tmp_path / f"labels/{name}.mha")
    stored = scan().astype(np.int16)
    write_series(tmp_path / "images/e", stored, AFFINE)
    slices = write_series(tmp_path / "images/f", stored + 1, AFFINE, series="f")
    write_volume(Volume(mask(), AFFINE), tmp_path / "labels/e.nii.gz")
    write_segments(tmp_path / "labels/f.dcm", slices, {"edema": mask() == 1, "tumour": mask() == 2})
    dataset = find_cases(data)
    assert [case.name for case in dataset.cases] == list("abcdef")
    check = check_cases(dataset, workers=1)
    assert check.findings == ()
    assert all(summary.voxels == {0: 201, 1: 8, 2: 1} for summary in check.summaries)


def test_a_decathlon_s_list_may_name_volumes_of_any_format(tmp_path):
    entry = {"image": "imagesTr/x.nrrd", "label": "labelsTr/x.nrrd"}
    data = decathlon(tmp_path, training=[entry], modality={"0": "CT"})
    write_volume(Volume(scan(), AFFINE), tmp_path / "imagesTr/x.nrrd")
    write_volume(Volume(mask(), AFFINE), tmp_path / "labelsTr/x.nrrd")
    dataset = find_cases(data)
    assert [case.name for case in dataset.cases] == ["x"] and findings(dataset) == []


def test_files_among_scans_and_masks_of_no_known_format_are_a_warning(tmp_path):
    quiet = ("README", "about.txt", "list.csv", ".DS_Store", "LICENSE.rtf", "meta.json")
    (tmp_path / "nn").mkdir()
    for name, data, folders in (
        ("plain", plain(tmp_path / "plain"), ("images", "labels")),
        ("nn", nnunet(tmp_path / "nn"), ("imagesTr", "labelsTr")),
        ("msd", decathlon(tmp_path / "msd"), ("imagesTr", "labelsTr")),
        ("lasc", lasc(tmp_path / "lasc"), ("a001", "a002")),
    ):
        for folder in folders:
            for file in quiet:
                (tmp_path / name / folder / file).touch()
        assert findings(find_cases(data)) == []
        strange = [tmp_path / name / folder / file for folder in folders for file in ("c.mgz", "d.npy")]
        for path in strange:
            path.touch()
        (message,) = findings(find_cases(data))
        assert message.startswith("4 files are of no format that is read")
        assert message.endswith(f"passed over: {', '.join(str(path) for path in strange[:3])}, ...")


def test_a_folder_in_no_layout_is_refused_with_all_of_them(tmp_path):
    (tmp_path / "stuff").mkdir()
    message = refusal(Data(path=tmp_path, labels=TUMOUR))
    assert all(name in message for name in ("dataset.json", "images and labels", "gt_binary.mhd", "RTSTRUCT"))


def test_scans_without_masks_are_files_channels_of_one_name_and_folders_with_a_series(tmp_path):
    scan = Volume(np.ones((4, 5, 6), np.uint8), AFFINE)
    for name in ("b.nii.gz", "visit_0001.mha", "P_0000.nii.gz", "P_0001.nii.gz", "P_0002.nrrd", "Q_0000.nii.gz"):
        write_volume(scan, tmp_path / name)
    (tmp_path / "list.csv").touch()
    (tmp_path / "masks").mkdir()
    write_volume(scan, tmp_path / "masks" / "b.nii.gz")
    write_series(tmp_path / "a" / "study" / "ct", np.ones((4, 5, 6), np.int16), oblique_affine())
    found = unannotated(tmp_path)
    assert {name: [str(path.relative_to(tmp_path)) for path in paths] for name, paths in found.items()} == {
        "P": ["P_0000.nii.gz", "P_0001.nii.gz", "P_0002.nrrd"],
        "Q": ["Q_0000.nii.gz"],
        "a": ["a/study/ct"],
        "b": ["b.nii.gz"],
        "visit_0001": ["visit_0001.mha"],
    }
