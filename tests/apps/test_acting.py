"""The pages that act, without a browser: Zoo, Predict, Train, Data, on a store with some models and hostile names."""

import getpass
import gzip
import io
import os
import re
import shutil
import socket
import subprocess
import tempfile
import urllib.request
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import mlflow
import nibabel as nib
import numpy as np
import pytest
import yaml
from helpers.board import browser, colours
from helpers.datasets import LABELS, decathlon, mask, save
from helpers.dicoms import oblique_affine, write_series
from helpers.processes import end, wait_for
from helpers.tissue import by_brightness, write_experiment
from streamlit.testing.v1 import AppTest

from apps.dashboard import errands, page
from apps.dashboard.lineage import picture
from r2d2 import config, resources, services
from r2d2.engine import desk, jobs, uploads, zoo
from r2d2.engine.predict import predict
from r2d2.engine.promote import promote
from r2d2.engine.services import commands
from r2d2.engine.services.settings import Settings
from r2d2.network import answers, free_port
from r2d2.tracking import promotion, queries, store
from r2d2.tracking import zoo as registry
from r2d2.tracking.zoo import ModelVersion

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload``"),  # of SQLAlchemy's, at MLflow
    pytest.mark.filterwarnings("ignore:.*type hint"),  # of MLflow's, at its own
    pytest.mark.timeout(900),  # it waits for processes that load TensorFlow, on machines that have much else to do
]
HOSTILE = "<img src=x onerror=alert(1)> ..\\[a](b) ![c](d)"
PERSON = {
    "PatientName": "Doe^Jane",
    "PatientID": "ID-471108150742",
    "PatientComments": "Jane Doe",
    "PatientBirthDate": "19700101",
}
SECRETS = ("doe", "jane", "471108150742", "19700101")  # longer than what a random UID has by chance


@pytest.fixture(scope="module")
def place(tmp_path_factory, virtual_patients):
    """A home with three versions of a network, the second a bad one, the first the champion; and an odd model."""
    folder = tmp_path_factory.mktemp("acting")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R2D2_HOME", str(folder / "home"))
        experiment = config.load(write_experiment(folder / "tissue.yaml", virtual_patients))
        for number, white in enumerate((1.0, 100.0)):
            zoo.publish(str(by_brightness(folder / f"{number}.keras", white)), experiment)
        zoo.pull("tissue/1", folder / "package.zip")
        zoo.push(folder / "package.zip", "tissue")
        promote("tissue", 1, reason="the first")
        client = store.connect(store.resolve())
        client.create_registered_model(HOSTILE)
        run = client.create_run(client.create_experiment("odd"), run_name="../../" + HOSTILE).info.run_id
        tags = {"r2d2.task": HOSTILE, "r2d2.classes": HOSTILE, "r2d2.parents": "tissue/1, gone/7", "r2d2.dice": "nan?"}
        client.create_model_version(HOSTILE, "file:///nowhere", run, tags=tags)
    yield folder
    for one in (errands.PREDICTIONS, errands.JUDGEMENTS, errands.CHECKS, errands.SUBMISSIONS):
        one.close()


@pytest.fixture(autouse=True)
def home(place, monkeypatch):
    """R2D2_HOME of this module."""
    monkeypatch.setenv("R2D2_HOME", str(place / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", services.file_store())  # MLflow sets it, too
    monkeypatch.setenv("R2D2_LOGIN_BY", "loopback")
    queries.forget()
    return place / "home"


def opened(view, **asked):
    """A page, run once."""
    app = AppTest.from_file(resources.find("apps/dashboard/app.py"), default_timeout=120)
    app.run()
    for name, value in asked.items():
        app.query_params[name] = value
    app.switch_page(f"views/{view}.py").run()
    assert not app.exception, app.exception
    return app


def pressed(app, label):
    """The page after a button was pressed and what that began is over."""
    (button,) = [one for one in app.button if one.label.startswith(label)]
    assert not button.disabled, label
    button.click().run()
    assert not app.exception, app.exception
    return app


def waited(app, errand):
    assert errand.wait(240)
    app.run()
    assert not app.exception, app.exception
    return app


def told(app):
    """All text of a page, without the marks that keep it from being Markdown."""
    kinds = (
        "markdown",
        "caption",
        "error",
        "warning",
        "success",
        "info",
        "title",
        "subheader",
        "text",
        "code",
        "metric",
    )
    parts = [str(getattr(one, "value", "")) + str(getattr(one, "label", "")) for kind in kinds for one in app.get(kind)]
    return "\n".join(parts).replace("\\", "").replace(page.JOIN, "")


def pictured(app):
    """The HTML of the page's own: legends."""
    return "".join(str(one.proto) for one in app.get("html"))


def judged(app, model):
    return app.session_state[f"judged {model} @champion"]


def trail():
    return promotion.history(store.connect(store.resolve()), "tissue", "champion")


def test_the_zoo_is_browsed_and_filtered_and_the_champion_comes_first():
    app = opened("zoo")
    table = app.dataframe[0].value
    assert table["model"].tolist()[-3:] == ["tissue/3", "tissue/2", "tissue/1"] and len(table) == 4
    good, bad = (table.set_index("model").loc[name] for name in ("tissue/1", "tissue/2"))
    assert good["aliases"] == "champion" and good["Dice"] > bad["Dice"] + 0.1
    low, high = (float(part) for part in good["95 % interval"].split(" to "))
    assert low < good["Dice"] < high
    assert app.selectbox(key="widget model").value == "tissue/1" and app.query_params["model"] == "tissue/1"
    assert "real patients" in told(app) and "tissue of the brain" in told(app)
    app.text_input[0].set_value("candidate @candidate TISSUE").run()
    assert app.dataframe[0].value["model"].tolist() == ["tissue/3"] and app.query_params["model"] == "tissue/3"
    app.text_input[0].set_value("no such words").run()
    assert not app.exception and "None of 4 models" in told(app)


@pytest.mark.parametrize("view", ["zoo", "predict"])
def test_a_model_that_is_not_there_is_told_and_no_other_takes_its_place(view):
    app = opened(view, model="tissue/9")
    assert "tissue/9 is not here" in told(app)
    assert not [one for one in app.selectbox if one.key == "widget model"] and app.query_params["model"] == "tissue/9"
    app.button(key="lost model").click().run()
    assert not app.exception and app.selectbox(key="widget model").value == "tissue/1"


def test_names_from_strangers_are_text():
    app = opened("zoo", model=f"{HOSTILE}/1")
    assert "cannot be read" in app.error[0].value or "nowhere" in app.error[0].value.replace("\\", "")
    for element in (*app.markdown, *app.error, *app.subheader):
        if not getattr(element, "allow_html", False):
            assert not re.search(r"(?<!\\)(<img|!\[c)", element.value), element.value
    assert app.selectbox(key="widget model").value == f"{HOSTILE}/1"
    opened("zoo", model="../../etc/passwd/1", alias="<b>", filter="")
    for view in ("predict", "data", "train"):
        opened(view, model="../../x", data="/etc", case="../../x", slice="-9", plane="<b>", set="training.epochs=[")


def test_a_model_is_promoted_by_its_evidence_and_given_back(home):
    app = opened("zoo", model="tissue/3")
    app.text_area[0].set_value("as good, and newer").run()
    waited(pressed(app, "Judge"), judged(app, "tissue/3"))
    assert "lets it pass" in app.success[0].value and "none" not in [metric.value for metric in app.metric]
    assert [event["did"] for event in trail()] == ["promoted"], "nothing changes before the button is pressed"
    pressed(app, "Promote")
    assert "tissue/3 is @champion now, before it tissue/1." in told(app)
    event = trail()[-1]
    assert (event["did"], event["version"], event["reason"]) == ("promoted", 3, "as good, and newer")
    assert event["by"] == getpass.getuser()
    pressed(app, "Roll back")
    assert "tissue/1 is @champion again" in told(app) and trail()[-1]["did"] == "rolled back"


def test_a_refused_model_takes_a_reason_and_evidence_that_is_out_of_date_is_none():
    app = opened("zoo", model="tissue/2")
    waited(pressed(app, "Judge"), judged(app, "tissue/2"))
    assert "refuses" in app.error[0].value and "white matter is found nowhere" in told(app)
    labels = {button.label.split("\\")[0].split()[0]: button.disabled for button in app.button}
    assert labels["Force"] and "Promote" not in labels
    app.text_area[0].set_value("a deadline").run()
    promote("tissue", 3, force=True, reason="meanwhile")
    pressed(app, "Force")
    assert "has changed hands since tissue/2 was judged" in told(app) and trail()[-1]["version"] == 3
    waited(pressed(app, "Judge again"), judged(app, "tissue/2"))
    pressed(app, "Force")
    event = trail()[-1]
    assert (event["did"], event["version"], event["reason"]) == ("forced", 2, "a deadline")
    pressed(app, "Roll back")
    pressed(app, "Roll back")
    assert promotion.holder(store.connect(store.resolve()), "tissue", "champion") == 1


def test_what_is_shown_of_a_model_is_its_card_alone_and_nothing_of_it_stays(monkeypatch, tmp_path):
    asked, real = [], mlflow.artifacts.download_artifacts

    def download(uri, **told):
        asked.append(uri)
        return real(uri, **told)

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    card, sums = (f"models:/tissue/1/{name}" for name in ("card.json", "SHA256SUMS"))
    assert zoo.show("tissue/1").card["labels"] and asked == [card]
    monkeypatch.setattr(registry, "kept_here", lambda *_: None)  # as of a store on another machine
    assert zoo.show("tissue/1").changed == "" and asked[1:] == [card, sums]
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("name", "here"), [("data/model.keras", True), ("card.json", True), ("card.json", False)])
def test_a_package_that_was_changed_is_told_as_such(name, here, monkeypatch):
    client = store.connect(store.resolve())
    file = registry.kept_here(client, registry.get(client, "tissue/1")) / name
    if not here:
        monkeypatch.setattr(registry, "kept_here", lambda *_: None)
    content = file.read_bytes()
    said = f"tissue/1: {name} is not what it was (SHA256SUMS)"
    try:
        file.write_bytes(content + b" ")
        assert zoo.show("tissue/1").changed.startswith(said)
        if name == "data/model.keras":
            app = opened("zoo", model="tissue/1")
            wait_for(lambda: said in told(app.run()), 60)  # what was known of it before may be shown first
    finally:
        file.write_bytes(content)
    assert zoo.show("tissue/1").changed == ""


def test_a_read_only_dashboard_acts_on_nothing(monkeypatch, virtual_patients):
    monkeypatch.setenv("R2D2_READ_ONLY", "1")
    app = opened("zoo", model="tissue/2")
    assert app.button and all(button.disabled for button in app.button)
    before = trail()
    for view in ("predict", "train"):
        app = opened(view, data=str(virtual_patients))
        assert not app.button and not app.file_uploader and "read-only" in told(app)
    app = opened("data", data=str(virtual_patients))  # known, for a run was trained on it
    assert all(button.disabled for button in app.button) and "8 scans of 8 patients" in told(app)
    app = opened("data", data="/etc")
    assert not app.error and trail() == before


def test_lineage_follows_weights_up_and_down():
    def version(name, parents=""):
        return ModelVersion(name, 1, (), "", "", "", "", None, None, None, parents)

    versions = [
        version("a"),
        version("b", "a/1"),
        version("c", "b/1, a/1"),
        version("d", "a/1"),
        version("e", "gone/1"),
    ]
    assert set(queries.family(versions, "b/1")) == {("a/1", "b/1"), ("b/1", "c/1")}
    assert set(queries.family(versions, "a/1")) == {("a/1", "b/1"), ("b/1", "c/1"), ("a/1", "d/1")}
    assert queries.family(versions, "e/1") == [("gone/1", "e/1")] and queries.family(versions, "nobody/1") == []
    odd = '"]; evil [label=<b>\\'
    drawn = picture([("gone/1", odd)], versions, odd)
    assert '"\\"]; evil [label=<b>\\\\"' in drawn and "not in this registry" in drawn


@pytest.fixture
def scan(virtual_patients):
    return (virtual_patients / "imagesTr" / "brain_003.nii.gz").read_bytes()


def test_a_scan_is_predicted_once_and_its_mask_is_the_command_lines(scan, virtual_patients, tmp_path, monkeypatch):
    app = opened("predict", model="tissue/1")
    assert [one.label for one in app.file_uploader] == ["File"]
    app.file_uploader[0].set_value(("..\\<b>.nii.gz", scan, "")).run()
    pressed(app, "Predict")
    errand = app.session_state["prediction"]
    waited(app, errand)
    asked = []
    monkeypatch.setattr(desk.Desk, "hand_in", lambda *arguments: asked.append(arguments))
    app.run()
    found = app.session_state["prediction"].result
    assert not asked and found is errand.result, "a rerun predicts nothing again"
    volumes = {name: f"{value:.1f} ml" for name, value in found.volumes_ml.items()}
    assert len(volumes) == 3 and all(value in pictured(app) for value in volumes.values())
    (tmp_path / "mask.nii.gz").write_bytes(found.mask)
    expected = predict("tissue/1", [virtual_patients / "imagesTr" / "brain_003.nii.gz"], tmp_path / "expected.nii.gz")
    made, same = (np.asarray(nib.load(tmp_path / f"{name}.nii.gz").dataobj) for name in ("mask", "expected"))
    np.testing.assert_array_equal(made, same)
    assert found.volumes_ml == expected.volumes_ml and [*np.unique(made)] == [0, 1, 2, 3]
    pressed(app, "Discard")
    assert "prediction" not in app.session_state and "Volumes" not in told(app)


def test_a_case_of_a_dataset_is_predicted(virtual_patients):
    app = opened("predict", model="tissue/1", data=str(virtual_patients), case="brain_004")
    pressed(app, "Predict")
    waited(app, app.session_state["prediction"])
    warnings = app.session_state["prediction"].result.warnings
    assert "By tissue/1" in told(app) and len(app.warning) == len(warnings)
    assert app.query_params["case"] == "brain_004" and app.query_params["data"] == str(virtual_patients)


def somebodys_series(folder, dropped=None):
    """The zip of a DICOM series that says whose it is, perhaps without one of its slices."""
    data = np.random.default_rng(0).integers(0, 1000, (24, 20, 12)).astype(np.int16)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opened_zip:
        for number, path in enumerate(write_series(folder / "Doe^Jane", data, oblique_affine(), **PERSON)):
            if number != dropped:
                opened_zip.write(path, f"Doe^Jane/{path.name}")
    return packed.getvalue()


def test_nobody_learns_whose_dicom_it_is(tmp_path, monkeypatch, capfd, caplog):
    """Not from the page, not from the logs, not from what is left on the disk; nor where it goes wrong."""
    caplog.set_level("DEBUG")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    seen = []
    original = uploads.private_folder.__wrapped__

    def watched():
        made = original()
        folder = next(made)
        yield folder
        seen.extend(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        next(made, None)

    for module in ("uploads", "looking"):
        monkeypatch.setattr(f"r2d2.engine.{module}.private_folder", contextmanager(watched))
    for dropped in (None, 5):  # whole; then with a slice missing, which is told
        app = opened("predict", model="tissue/1")
        series = somebodys_series(tmp_path / f"{dropped}", dropped)
        app.file_uploader[0].set_value(("series.zip", series, "application/zip")).run()
        pressed(app, "Predict")
        if dropped is not None:
            assert "slices are missing" in app.error[0].value and "prediction" not in app.session_state
        else:
            waited(app, app.session_state["prediction"])
            assert "spacing back-front 2 mm" in told(app) and "24 x 20 x 12 voxels" in told(app)
            found = app.session_state["prediction"].result
            seen += [gzip.decompress(content) for content in (found.mask, found.scan, found.painted)]
        assert not [word for word in SECRETS if word in told(app).lower()]
    logged = ("".join(capfd.readouterr()) + caplog.text).lower()
    assert len(seen) > 12 and not [word for word in SECRETS if word in logged]
    assert not [word for word in SECRETS for content in seen if word.encode() in content.lower()]
    assert not [*temporary.iterdir()]


def test_hostile_files_are_sentences(monkeypatch):
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4)).header
    header.set_data_shape((2000, 2000, 100))
    bomb = gzip.compress(header.binaryblock + bytes(1 << 19))
    for content, rule in (
        (b"<html><script>alert(1)</script>", "neither NIfTI (.nii, .nii.gz) nor the zip of a DICOM series"),
        (bomb, "too much for a file of"),
        (b"PK\x03\x04", "not a sound zip file"),
    ):
        app = opened("predict", model="tissue/1")
        app.file_uploader[0].set_value(("../../x.nii", content, "")).run()
        pressed(app, "Predict")
        assert rule in app.error[0].value.replace("\\", "") and "prediction" not in app.session_state
    monkeypatch.setattr(uploads, "LARGEST_MB", 1)
    app = opened("predict", model="tissue/1")
    app.file_uploader[0].set_value(("x.nii", bytes(2 << 20), "")).run()
    pressed(app, "Predict")
    assert "2 MB, more than the 1 that a file may have" in app.error[0].value.replace("\\", "")


def test_slices_are_looked_at_and_the_page_is_where_the_address_says(virtual_patients):
    app = opened("data", data=str(virtual_patients), case="brain_002", plane="coronal", slice="30")
    assert "coronal slice 30 of 59" in told(app) and app.get("image")
    assert "grey matter" in pictured(app)
    app.slider[0].set_value(12).run()
    assert app.query_params["slice"] == "12" and "slice 12 of 59" in told(app)


def test_a_check_is_seen_by_all_and_a_training_takes_what_it_accepts(virtual_patients, monkeypatch):
    path = str(virtual_patients)
    app = opened("train", data=path)
    assert not app.number_input
    waited(pressed(app, "Check"), errands.check_of(path, None))
    assert "accepts it: 8 scans" in told(app)
    table = opened("data", data=path).dataframe
    assert table[0].value["case"].tolist()[0] == "brain_001" and len(table) == 4

    def written():
        (text,) = [one.value for one in app.code if one.language == "yaml"]
        return yaml.safe_load(text)

    assert written() == {"name": "r2d2-virtual-patients-brain", "data": {"path": path}}
    app.number_input(key="set training.epochs").set_value(3)
    app.selectbox(key="set training.optimizer").set_value("adam")
    app.text_input(key="set training.augmentation.rotation_degrees").set_value("[-20, 20]").run()
    assert written()["training"] == {"epochs": 3, "optimizer": "adam", "augmentation": {"rotation_degrees": [-20, 20]}}
    assert config.parse(yaml.safe_dump(written())).training.epochs == 3
    asked = app.query_params["set"]
    again = opened("train", data=path, set=asked)
    assert again.number_input(key="set training.epochs").value == 3
    told_by = "No cluster takes jobs"
    assert told_by in told(app) and "r2d2 up" in told(app) and "Train" not in [one.label for one in app.button]

    app.number_input(key="set training.weight_decay").set_value(0.1).run()
    assert "weight_decay: adam has none; take adamw" in app.error[0].value.replace("\\", "")
    app.text_input(key="set training.augmentation.rotation_degrees").set_value("[").run()
    assert "the value is not YAML" in app.error[0].value.replace("\\", "")


def test_a_training_is_a_job(virtual_patients, monkeypatch):
    path, words = str(virtual_patients), []

    def submit(told, by):
        assert by == page.who()
        words.append((told[0], yaml.safe_load(Path(told[1]).read_text())))
        return jobs.JobRow("job-7", "RUNNING", "", None, None, None, "0" * 32, "RUNNING", None, None, "http://a", None)

    monkeypatch.setattr(jobs, "takes_jobs", lambda: "http://a:8265")
    monkeypatch.setattr(jobs, "submit", submit)
    if errands.check_of(path, None) is None:
        errands.check(path, None)
        assert errands.check_of(path, None).wait(240)
    app = opened("train", data=path, set=["cluster.workers=2", "cluster.address=evil", "tracking.uri=http://evil"])
    pressed(app, "Train")
    waited(app, app.session_state["submission"])
    assert words == [("train", {"name": words[0][1]["name"], "data": {"path": path}, "cluster": {"workers": 2}})]
    assert "Job job-7 is running." in told(app) and app.get("page_link")


def test_a_dataset_that_is_refused_trains_nothing(tmp_path):
    folder = decathlon(tmp_path / "bad").path
    save(folder / "labelsTr" / "BRATS_001.nii.gz", mask((5, 6, 6)))
    app = opened("train", data=str(folder))
    waited(pressed(app, "Check"), errands.check_of(str(folder), None))
    assert "the shapes must be the same" in told(app) and "mend them" in told(app) and not app.number_input
    save(tmp_path / "plain" / "images" / "a.nii.gz", np.ones((4, 4, 4), np.float32))
    save(tmp_path / "plain" / "labels" / "a.nii.gz", np.ones((4, 4, 4), np.uint8))
    app = opened("data", data=str(tmp_path / "plain"))
    assert "name the classes in data.labels" in told(app)
    (text,) = [one for one in app.text_input if one.label == "Classes"]
    text.set_value(", ".join(f"{value}: {name}" for value, name in LABELS.items())).run()
    assert not app.error and "1 scans of 1 patients" in told(app)


@pytest.fixture(scope="module")
def served(place, tmp_path_factory):
    """The dashboard in front of a browser: `page` (its address), `context` (of the browser), `temporary`, `log`."""
    folder, port = tmp_path_factory.mktemp("served"), free_port(services.LOOPBACK)
    command, more = commands.dashboard(services.LOOPBACK, port, Settings())
    around = {"R2D2_HOME": str(place / "home"), "TMPDIR": str(folder)}
    around |= {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/home/mlflow.db"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | more | around, stdout=log, stderr=log)
        try:
            wait_for(lambda: answers(f"{services.LOOPBACK}:{port}"), 120, process)
            with browser() as context:
                address = f"http://{services.LOOPBACK}:{port}"
                yield SimpleNamespace(page=address, context=context, temporary=folder, log=folder / "log", port=port)
        finally:
            end(process)


def uploaded(served):
    """Whether the server holds a file that somebody uploaded."""
    with urllib.request.urlopen(f"{served.page}/_stcore/metrics", timeout=30) as answer:
        return b"UploadedFileManager" in answer.read()


def test_a_scan_is_dropped_and_its_mask_is_seen_and_the_file_is_gone(served, virtual_patients):
    page = served.context.new_page()
    page.goto(f"{served.page}/predict?model=tissue/1")
    with page.expect_request(lambda one: "/upload_file/" in one.url and one.method == "PUT") as sent:
        page.locator("input[type=file]").set_input_files(virtual_patients / "imagesTr" / "brain_003.nii.gz")
    wait_for(lambda: uploaded(served), 60)
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("button", name="Download the mask").wait_for()
    assert not uploaded(served) and not [*served.temporary.glob("r2d2-*")]
    viewer = page.frame_locator("iframe[title*=niivue]").locator("canvas").first
    viewer.wait_for()
    wait_for(lambda: min(colours(viewer)) > 300, 60)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the mask").click()
    assert np.asarray(nib.load(shutil.copy(download.value.path(), served.temporary / "m.nii.gz")).dataobj).max() == 3

    # The log of a real server does not tell whose scan it was, either.
    page.get_by_role("button", name="Discard").click()
    series = somebodys_series(served.temporary / "series")
    dropped = {"name": "Doe^Jane.zip", "mimeType": "application/zip", "buffer": series}
    page.locator("input[type=file]").set_input_files([dropped])
    page.get_by_role("button", name="Predict").and_(page.locator(":enabled")).click()
    page.get_by_role("button", name="Download the mask").wait_for()
    assert not [word for word in SECRETS if word in served.log.read_text().lower()]

    # Ten gigabytes are refused by the page before they leave, and by the server before they come.
    page.get_by_role("button", name="Discard").click()
    with (served.temporary / "large.nii").open("wb") as large:
        large.truncate(10 << 30)
    page.locator("input[type=file]").set_input_files(served.temporary / "large.nii")
    page.get_by_text(f"File must be {uploads.LARGEST_MB}", exact=False).first.wait_for()
    url = urlsplit(sent.value.url)
    told = {
        name: value
        for name, value in sent.value.all_headers().items()
        if not name.startswith((":", "content-", "host"))
    }
    head = [
        f"PUT {url.path} HTTP/1.1",
        f"Host: {url.netloc}",
        f"Content-Length: {10 << 30}",
        "Content-Type: multipart/form-data",
    ]
    with socket.create_connection((services.LOOPBACK, served.port), timeout=60) as line:
        line.sendall("\r\n".join([*head, *(f"{name}: {value}" for name, value in told.items()), "", ""]).encode())
        assert line.recv(100).startswith(b"HTTP/1.1 413 ")
    page.close()


def test_a_name_from_a_stranger_is_text_in_a_browser_and_a_tab_is_in_the_address(served):
    page = served.context.new_page()
    page.goto(f"{served.page}/zoo?model=tissue/3")
    page.get_by_role("tab", name="Promote").click()
    page.get_by_role("button", name="Judge").wait_for()
    assert "tab=Promote" in page.url
    page.goto(f"{served.page}/zoo?model={quote(HOSTILE)}/1")
    page.get_by_text("cannot be read").wait_for()
    assert page.locator("img[src=x], img[src=d], a[href=b]").count() == 0
    page.close()
