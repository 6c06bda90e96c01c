import json
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from helpers import datasets
from helpers.datasets import LABELS, plain

from r2d2.config import parse
from r2d2.engine.evaluate import compare_folders, dataset_for
from r2d2.errors import InputError


def test_a_model_s_data_at_a_url_are_looked_for_where_its_training_put_them(tmp_path):
    plain(tmp_path / "source")
    fsspec.filesystem("memory").put(f"{tmp_path / 'source'}/", "/evaluated/", recursive=True)
    settings = ["data.labels={0: background, 1: edema, 2: tumour}", f"tracking.storage={tmp_path / 'storage'}"]
    experiment = parse("{name: x, data: {path: 'memory://evaluated'}}", settings)
    dataset = dataset_for(SimpleNamespace(experiment=experiment, labels=LABELS, channels=("0",)), None)
    (copy,) = (tmp_path / "storage/mirrors").iterdir()
    assert [case.images for case in dataset.cases] == [(copy / f"images/{name}.nii.gz",) for name in "ab"]


def pair(folder, change=lambda mask: mask, names=("a", "b"), affine=datasets.AFFINE):
    """A folder of references and one of what `change` makes of them."""
    for name in names:
        datasets.save(folder / "reference" / f"{name}.nii.gz", datasets.mask())
        datasets.save(folder / "prediction" / f"{name}.nii.gz", change(datasets.mask()), affine)
    return folder / "reference", folder / "prediction"


def missed(mask):
    mask[mask == 2] = 0
    return mask


def test_folders_are_scored_and_reported(tmp_path):
    folders = pair(tmp_path, missed)
    found = compare_folders(*folders, tmp_path / "report")
    assert found.about == f"2 masks of {folders[1]} against {folders[0]}"
    assert found.labels == {0: "background", 1: "1", 2: "2"}
    assert [row["case"] for row in found.rows] == ["a", "b"]
    assert found.rows[0]["dice/1"] == 1 and found.rows[0]["dice/2"] == 0 and found.rows[0]["hd95_mm/2"] == "inf"
    assert found.rows[0]["volume_error_ml/2"] == pytest.approx(-3 * 2 * 1 / 1000)
    assert found.estimates["hd95_mm/2"].missed == 2
    assert json.loads((tmp_path / "report/scores.json").read_text()) == found.document
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "2 missed" in page


def test_the_classes_have_the_names_of_the_dataset(tmp_path):
    folders = pair(tmp_path)
    (tmp_path / "dataset.json").write_text(
        json.dumps({"labels": {"0": "background", "1": "edema", "2": "tumour", "3": "x"}})
    )
    assert compare_folders(*folders, tmp_path / "report").labels == {0: "background", 1: "edema", 2: "tumour", 3: "x"}


def test_the_report_is_kept_at_home_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("R2D2_HOME", str(tmp_path / "home"))
    found = compare_folders(*pair(tmp_path))
    assert found.report.parent == tmp_path / "home/evaluations" and found.report.name.startswith(
        "prediction-reference-"
    )
    assert compare_folders(*pair(tmp_path)).report == found.report
    assert compare_folders(*pair(tmp_path / "other")).report != found.report


def wrong(folder, rule):
    with pytest.raises(InputError) as raised:
        compare_folders(folder / "reference", folder / "prediction", folder / "report")
    assert rule in str(raised.value) and "\n" not in str(raised.value)
    assert not (folder / "report").exists()


def test_a_reference_and_a_prediction_need_each_other(tmp_path):
    reference, prediction = pair(tmp_path)
    (prediction / "b.nii.gz").unlink()
    wrong(tmp_path, f"{prediction}: no prediction for b.nii.gz")
    (reference / "b.nii.gz").unlink()
    datasets.save(prediction / "c.nii.gz", datasets.mask())
    wrong(tmp_path, f"{reference}: no reference for c.nii.gz")


def test_grids_that_differ_are_told_with_both(tmp_path):
    pair(tmp_path, lambda mask: mask[:-1], names=["a"])
    wrong(tmp_path, "case a: reference 5x6x7, prediction 4x6x7")
    pair(tmp_path, names=["a"], affine=np.diag([3.0, 2.0, 1.01, 1.0]))
    wrong(tmp_path, "case a: the grids differ, reference affine [[3.0, 0.0, 0.0, 0.0], [0.0, 2.0")


def test_labels_outside_the_classes_are_told_with_the_case(tmp_path):
    pair(tmp_path, lambda mask: mask * 3, names=["a"])
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "edema", "2": "tumour"}}))
    wrong(tmp_path, "case a: prediction: labels 0 to 6, with 3 classes they must be 0 to 2")


def test_masks_that_are_not_whole_numbers_are_told_with_the_file(tmp_path):
    pair(tmp_path, lambda mask: mask.astype(np.float32) / 3, names=["a"])
    wrong(tmp_path, "prediction/a.nii.gz")


def test_a_label_that_the_dataset_does_not_name_is_told_though_a_larger_one_is_named(tmp_path):
    pair(tmp_path, names=["a"])
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "edema", "4": "tumour"}}))
    wrong(tmp_path, "case a: label 2 is none of the classes 0, 1, 4")


def test_two_classes_of_one_name_are_told(tmp_path):
    pair(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "tumour", "2": "tumour"}}))
    wrong(tmp_path, f"{tmp_path / 'dataset.json'}: two classes have one name")


def test_a_patient_s_scans_count_once_if_the_pattern_says_who_is_who(tmp_path):
    folders = pair(tmp_path, names=("p1_t0", "p1_t1", "p2_t0"))
    found = compare_folders(*folders, tmp_path / "report", patient_pattern="^([^_]+)")
    assert [row["patient"] for row in found.rows] == ["p1", "p1", "p2"] and found.estimates["dice"].n == 2
    with pytest.raises(InputError, match="takes no patient from the name of case p1_t0"):
        compare_folders(*folders, tmp_path / "report", patient_pattern="^x")


def test_names_are_shown_as_they_are(tmp_path):
    folders = pair(tmp_path, missed, names=(r"$\frac$", "5$ of 6$", "a" * 90))
    assert "$\\frac$" in compare_folders(*folders, tmp_path / "report").document["rows"][0]["case"]


def test_a_place_where_no_report_can_be_is_told_before_the_work(tmp_path):
    folders = pair(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "report" / "scores.csv").mkdir(parents=True)
    for place in (tmp_path / "file" / "x", tmp_path / "report"):
        with pytest.raises(InputError, match="no report can be written there; name another folder with -o"):
            compare_folders(*folders, place)
    assert [*(tmp_path / "report").iterdir()] == [tmp_path / "report" / "scores.csv"]
