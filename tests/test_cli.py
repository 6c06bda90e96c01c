"""The command line: what it loads, what it answers, and one line and exit code 2 for what it cannot take."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import r2d2
from r2d2.cli import app, main
from r2d2.data import fetch
from r2d2.engine import jobs

SCRIPT = Path(sys.executable).parent / "r2d2"
SHAPE = (12, 10, 8)
HEAVY = {"tensorflow", "keras", "ray", "mlflow", "streamlit", "horovod"}
PROGRESS = re.compile(r"^[A-Z][A-Za-z ]*: \d+/\d+(  \S.*)?$")


def scan(seed):
    return np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)


def mask(shape=SHAPE):
    labels = np.zeros(shape, np.uint8)
    labels[2:6, 2:6, 2:6] = 1
    return labels


def save(path, data):
    nib.Nifti1Image(data, np.diag([3.0, 2.0, 1.5, 1.0])).to_filename(path)
    return path


@pytest.fixture
def dataset(tmp_path):
    """Three small patients in images/ and labels/."""
    folder = tmp_path / "scans"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for seed, name in enumerate(("a", "b", "c")):
        save(folder / "images" / f"{name}.nii.gz", scan(seed))
        save(folder / "labels" / f"{name}.nii.gz", mask())
    return folder


@pytest.fixture
def experiment(tmp_path, dataset):
    """An experiment on them, one patient for each part."""
    file = tmp_path / "tiny.yaml"
    file.write_text(
        f"name: tiny\ndata: {{path: {dataset}, labels: {{0: background, 1: lesion}},"
        " split: {training: [a], validation: [b], test: [c]}}\n"
        "preprocess: {image_size: [16, 16]}\nmodel: {filters: 2, depth: 1}\n"
        "training: {epochs: 1, batch_size: 2}\n"
    )
    return file


class Ended:
    """How a command ended: its exit code and what it wrote, `told` being standard error without its progress."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err
        self.told = [line for line in err.splitlines() if not PROGRESS.match(line)]

    @property
    def refusal(self):
        """The one line of a refused command: exit code 2, nothing on standard output, no traceback."""
        assert self.code == 2, self.err
        assert self.out == ""
        assert "Traceback" not in self.err
        (line,) = self.told
        assert line.startswith("r2d2: ")
        return line

    @property
    def document(self):
        """The one JSON document on standard output of a command that did its work."""
        assert self.code == 0, self.err
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the console script's function in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["r2d2", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Ended(ended.value.code or 0, out, err)

    return run


def script(*arguments, **environment):
    """Runs the installed console script in a process of its own."""
    done = subprocess.run(
        [SCRIPT, *map(str, arguments)],
        env=os.environ | {key: str(value) for key, value in environment.items()},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An R2D2_HOME whose registry knows heart/1 @candidate and lung/1, made by MLflow itself; MLflow is slow to."""
    folder = tmp_path_factory.mktemp("store")
    code = """
import sys
from r2d2.tracking import store
client = store.connect(store.resolve())
for name in ("heart", "lung"):
    client.create_registered_model(name)
    client.create_model_version(name, source=sys.argv[1])
client.set_registered_model_alias("heart", "candidate", 1)
"""
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment["R2D2_HOME"] = str(folder)
    subprocess.run([sys.executable, "-c", code, folder.as_uri()], env=environment, check=True, capture_output=True)
    return folder


def commands(group=None, path=()):
    """Every command by its words, groups included."""
    group = group or typer.main.get_command(app)
    for name, found in group.commands.items():
        yield (*path, name), found
        if hasattr(found, "commands"):
            yield from commands(found, (*path, name))


HELP = """
import json, sys
from r2d2.cli import app, main
for words in json.loads(sys.argv[1]):
    sys.argv = ["r2d2", *words, "--help"]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
print("LOADED", *sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_help_loads_nothing_heavy():
    words = [[], *(list(path) for path, _ in commands())]
    arguments = [sys.executable, "-c", HELP, json.dumps(words)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    shown, _, loaded = done.stdout.rpartition("LOADED")
    assert shown.count("Usage: ") == len(words) > 10
    assert "typer" in loaded.split() and HEAVY.isdisjoint(loaded.split())


def test_help_and_version_in_the_installed_script():
    shown = script("--help")
    assert shown.code == 0 and shown.err == ""
    for word in ("train", "evaluate", "predict", "data", "runs", "zoo", "doctor", "demo"):
        assert re.search(rf"\b{word}\b", shown.out)
    version = script("--version")
    assert (version.code, version.out, version.err) == (0, f"{r2d2.__version__}\n", "")


@pytest.mark.parametrize("words", [" ".join(path) for path, _ in commands()])
def test_every_command_has_help(words):
    found = dict((" ".join(path), command) for path, command in commands())[words]
    assert len(found.help or "") > 10
    shown = CliRunner().invoke(app, [*words.split(), "--help"])
    assert shown.exit_code == 0 and f"Usage: root {words}" in shown.output


def test_every_command_that_answers_with_data_has_json():
    without = {" ".join(path) for path, found in commands() if "as_json" not in {p.name for p in found.params}}
    assert without == {"data", "jobs", "runs", "zoo", "dashboard", "jobs logs"}  # groups, a server, a job's own text


def test_a_missing_experiment_file_is_one_line_of_the_installed_script(tmp_path):
    missing = tmp_path / "none.yaml"
    assert script("train", missing).refusal == f"r2d2: {missing}: no such experiment file"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epoch=5", "training.epoch: unknown key; the nearest known: training.epochs"),
        ("training.epochs=many", "training.epochs: input should be a valid integer"),
        ("training.epochs", "override 'training.epochs': write it as section.key=value"),
        ("preprocess.channels=[]", "preprocess.channels"),
        ("description=2020-13-45", "2020-13-45"),
    ],
)
@pytest.mark.parametrize("verb", [["train"], ["data", "prepare"]], ids=" ".join)
def test_a_wrong_setting_is_one_line(command, experiment, home, verb, override, said):
    assert said in command(*verb, experiment, override).refusal
    assert not home.exists()


def test_training_without_a_file_is_refused_before_anything_is_written(command, home):
    assert "nothing to train" in command("train").refusal
    assert not home.exists()


def truncated(folder):
    path = folder / "images/b.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    return path, "truncated"


def other_shape(folder):
    return save(folder / "labels/b.nii.gz", mask((12, 10, 9))), "image 12x10x8, label 12x10x9"


def unknown_label(folder):
    labels = mask()
    labels[0, 0, 0] = 5
    return save(folder / "labels/b.nii.gz", labels), "label 5 (1 voxels) is not among the classes 0, 1"


def not_a_number(folder):
    image = scan(1)
    image[3, 3, 3] = np.nan
    return save(folder / "images/b.nii.gz", image), "1 voxels of NaN"


SPOILERS = (truncated, other_shape, unknown_label, not_a_number)


@pytest.mark.parametrize("spoil", SPOILERS)
def test_prepare_refuses_a_bad_case_in_one_line_and_leaves_nothing(command, experiment, dataset, home, spoil):
    path, rule = spoil(dataset)
    refusal = command("data", "prepare", experiment).refusal
    assert refusal.startswith(f"r2d2: {path}: ") and rule in refusal
    assert [path.name for path in (home / "prepared").iterdir()] == [".locks"]


def test_train_refuses_a_bad_case_in_one_line(experiment, dataset, home, store):
    path, rule = truncated(dataset)
    refusal = script("train", experiment, MLFLOW_TRACKING_URI=f"sqlite:///{store}/mlflow.db").refusal
    assert refusal.startswith(f"r2d2: {path}: ") and rule in refusal
    assert [path.name for path in (home / "prepared").iterdir()] == [".locks"] and not (home / "runs").exists()


def test_more_workers_than_slots_are_refused_before_anything_is_written(experiment, home):
    refusal = script("train", experiment, "cluster.workers=64").refusal
    assert "cluster.workers=64" in refusal and "slots" in refusal
    assert not home.exists() or list(home.iterdir()) == []


def test_a_home_that_cannot_be_written_is_one_line(command, experiment, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("R2D2_HOME", str(tmp_path / "file" / "home"))
    assert str(tmp_path / "file") in command("data", "prepare", experiment).refusal


def test_data_check_lists_all_that_would_spoil_a_training(command, dataset):
    found = []
    for number, spoil in enumerate(SPOILERS):
        save(dataset / "images/b.nii.gz", scan(10 + number))
        save(dataset / "labels/b.nii.gz", mask())
        path, rule = spoil(dataset)
        for part in ("images", "labels"):
            (dataset / part / "b.nii.gz").rename(dataset / part / f"bad{number}.nii.gz")
        found.append((str(path).replace("b.nii", f"bad{number}.nii"), rule))
    ended = command("data", "check", dataset, "--labels", "0: background, 1: lesion")
    assert ended.code == 2 and ended.told == []
    errors = [line for line in ended.out.splitlines() if line.startswith("error: ")]
    for error, (path, rule) in zip(errors, found, strict=True):
        assert error.startswith(f"error: {path}: ") and rule in error


def test_data_check_passes_a_good_dataset(command, dataset):
    ended = command("data", "check", dataset, "--labels", "0: background, 1: lesion")
    assert ended.code == 0 and "error" not in ended.out
    table = [line.split() for line in ended.out.splitlines()]
    assert ["a", "12x10x8", "3", "x", "2", "x", "1.5", "64"] in table
    assert ended.out.splitlines()[-1] == "Nothing here would spoil a training."


def test_data_check_of_an_experiment_looks_at_its_split_too(command, experiment):
    assert command("data", "check", experiment).code == 0
    experiment.write_text(experiment.read_text().replace("test: [c]", "test: [a]"))
    assert "patient 'a' is in training and in test" in command("data", "check", experiment).refusal


def test_data_check_of_an_experiment_says_what_its_images_leave_out(command, experiment):
    experiment.write_text(experiment.read_text().replace("[16, 16]", "[8, 8], pixel_mm: 1.0"))
    ended = command("data", "check", experiment)
    assert ended.code == 0 and ended.out.count("of its labelled voxels lie beyond the edges of the images") == 3
    experiment.write_text(experiment.read_text().replace("pixel_mm: 1.0", "channels: [3]"))
    assert "preprocess.channels [3]: the scans have 1 channels" in command("data", "check", experiment).refusal


def test_data_check_takes_a_url(command, dataset, home):
    ended = command("data", "check", f"file://{dataset}", "--labels", "0: background, 1: lesion")
    assert ended.code == 0 and "3 cases" in ended.out
    assert len(list((home / "mirrors").iterdir())) == 1


def test_data_check_answers_in_json_good_or_bad(command, dataset):
    arguments = ("data", "check", dataset, "--labels", "0: background, 1: lesion", "--json")
    good = command(*arguments).document
    assert good["errors"] == good["warnings"] == []
    assert good["cases"][0]["voxels"] == {"background": 12 * 10 * 8 - 64, "lesion": 64}
    assert good["cases"][0]["spacing_mm"] == [3.0, 2.0, 1.5]
    path, _ = not_a_number(dataset)
    bad = command(*arguments)
    assert bad.code == 2
    (error,) = json.loads(bad.out)["errors"]
    assert str(path) in error


@pytest.mark.parametrize("labels", ["lesion", "0: [", "0: background, 300: lesion", "0: background, 1:", "1"])
def test_data_check_refuses_labels_that_are_no_numbers_and_names(command, dataset, labels):
    assert "labels" in command("data", "check", dataset, "--labels", labels).refusal


def test_data_check_refuses_what_is_no_dataset(command, tmp_path):
    assert "no such folder" in command("data", "check", tmp_path / "none").refusal


def test_prepare_answers_in_json_and_finds_its_data_again(command, experiment, home):
    first = command("data", "prepare", experiment, "--json").document
    assert first["slices"] == 3 * first["training_slices"] == 24
    assert first["cases"] == {"training": 1, "validation": 1, "test": 1}
    assert Path(first["folder"]).parent == home / "prepared"
    again = command("data", "prepare", experiment, "--json")
    assert again.document == first and again.err == ""


def test_inspect_draws_what_the_network_sees(command, experiment, tmp_path):
    picture = tmp_path / "inspect.png"
    plain = command("data", "inspect", experiment, "-o", picture, "--json")
    assert plain.document == {"picture": str(picture)}
    width = cv2.imread(str(picture)).shape[1]
    assert command("data", "inspect", experiment, "-o", picture, "training.augmentation={flip: [left-right]}").code == 0
    assert cv2.imread(str(picture)).shape[1] == 2 * width  # two panels more
    assert "must end in .png" in command("data", "inspect", experiment, "-o", tmp_path / "x.jpg").refusal


def test_synthesize_answers_in_json_and_says_where(command, tmp_path):
    folder = tmp_path / "virtual"
    arguments = ("data", "synthesize", "atrium", folder, "--patients", "1", "--spacing-mm", "8")
    assert command(*arguments, "--json").document == {"folder": str(folder), "patients": 1}
    again = command(*arguments).refusal
    assert again.startswith(f"r2d2: {folder}: there is something there already")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mouse", "NEW"], "no virtual patients of the kind 'mouse'; there are brain, brats, atrium"),
        (["brain", "NEW", "--spacing-mm", "0.1"], "spacing_mm (0.1) must be from 0.5 to 8"),
        (["brain", "FILE/new"], "cannot be made"),
    ],
)
def test_a_synthesis_that_fails_leaves_nothing(command, tmp_path, arguments, said):
    (tmp_path / "file").touch()
    places = {"NEW": tmp_path / "new", "FILE/new": tmp_path / "file/new"}
    assert said in command("data", "synthesize", *(places.get(word, word) for word in arguments)).refusal
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def published(tmp_path, dataset, monkeypatch):
    """The address of an archive of `dataset` as if it were Task02_Heart, and a folder to fetch it to."""
    pairs = [{"image": f"./images/{name}.nii.gz", "label": f"./labels/{name}.nii.gz"} for name in ("a", "b", "c")]
    about = {"training": pairs, "labels": {"0": "background", "1": "atrium"}, "modality": {"0": "MRI"}}
    (dataset / "dataset.json").write_text(json.dumps(about | {"licence": "CC-BY-SA 4.0"}))
    archive = tmp_path / "site" / "heart.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        tar.add(dataset, "Task02_Heart")
    content = archive.read_bytes()
    sum_ = hashlib.md5(content, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(fetch.TASKS, "Task02_Heart", fetch.TASKS["Task02_Heart"]._replace(bytes=len(content), md5=sum_))
    monkeypatch.setattr(fetch, "BACK_OFF_S", ())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=archive.parent)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/heart.tar", tmp_path / "fetched"
        server.shutdown()
        thread.join()


def test_fetch_says_what_it_made_and_what_comes_next(command, published):
    url, folder = published
    ended = command("data", "fetch", "heart", folder, "--url", url)
    made = folder / "Task02_Heart"
    assert ended.code == 0 and ended.out == (
        f"Task02_Heart: 3 annotated scans in {made} (licence: CC-BY-SA 4.0)\nNext: r2d2 data check {made}\n"
    )
    steps = ("fetched", "checked", "unpacked")
    assert ended.err.splitlines() == [f"Megabytes {step}: 1/1" for step in steps] and ended.told == []
    assert command("data", "check", made).code == 0
    again = command("data", "fetch", "2", folder, "--json").document
    assert again == {"task": "Task02_Heart", "folder": str(made), "cases": 3, "licence": "CC-BY-SA 4.0"}


def test_fetch_without_a_server_is_one_line_and_exit_code_1(command, published):
    url, folder = published
    ended = command("data", "fetch", "heart", folder, "--url", "http://127.0.0.1:1/heart.tar")
    (line,) = ended.told
    assert ended.code == 1 and line.startswith("r2d2: http://127.0.0.1:1/heart.tar: the server cannot be reached")
    assert "404" in command("data", "fetch", "heart", folder, "--url", f"{url}x").refusal


def test_fetch_of_an_unknown_task_lists_those_that_there_are(command, tmp_path):
    line = command("data", "fetch", "kidney", tmp_path).refusal
    assert "Task01_BrainTumour" in line and "28.9 GB" in line


def test_a_job_is_stopped_if_its_run_was_whatever_its_command_ended_with(command, monkeypatch):
    row = jobs.JobRow("job-1", "FAILED", "tune", None, None, 1, "0f", "KILLED", "stopped: enough", None, "", None)
    monkeypatch.setattr(jobs, "stop", lambda *_: row)
    assert command("jobs", "stop", "job-1").out == "Job job-1: stopped; run 0f, stopped: enough\n"
    monkeypatch.setattr(jobs, "stop", lambda *_: replace(row, run_status="FAILED"))
    assert command("jobs", "stop", "job-1").out == "Job job-1: failed; run 0f, stopped: enough\n"


def test_runs_and_zoo_lists_are_json_arrays(store):
    assert script("runs", "list", "--json", R2D2_HOME=store).document == []
    heart, lung = script("zoo", "list", "--json", R2D2_HOME=store).document
    told = {"name": "heart", "version": 1, "aliases": ["candidate"], "run_id": "", "dice": None, "task": ""}
    assert told.items() <= heart.items()
    assert (lung["name"], lung["aliases"]) == ("lung", [])


def test_a_model_that_the_registry_does_not_know_is_refused_with_those_it_does(store, tmp_path):
    image, output = save(tmp_path / "scan.nii.gz", scan(0)), tmp_path / "mask.nii.gz"
    refusal = script("predict", "liver@candidate", image, "-o", output, R2D2_HOME=store).refusal
    assert "'liver@candidate'" in refusal and refusal.endswith("the registry has: heart/1 @candidate, lung/1")
    assert not output.exists()


def test_a_model_folder_that_is_none_is_refused(command, tmp_path):
    image = save(tmp_path / "scan.nii.gz", scan(0))
    assert "no model here" in command("predict", tmp_path, image, "-o", tmp_path / "mask.nii.gz").refusal


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("none/mask.nii.gz", "there is no folder"),
        ("scan.nii.gz/mask.nii.gz", "there is no folder"),
        ("mask.zip", "must end in .nii, .nii.gz, "),
        ("mask.jpg", "invents labels"),
        ("mask.png", "a picture holds one slice"),
        ("folder.nii.gz", "a folder, not a file"),
    ],
)
def test_a_mask_that_cannot_be_written_is_refused_before_the_model_is_looked_for(command, tmp_path, output, said):
    image = save(tmp_path / "scan.nii.gz", scan(0))
    (tmp_path / "folder.nii.gz").mkdir()
    refusal = command("predict", "no-model@all", image, "-o", tmp_path / output).refusal
    assert refusal.startswith(f"r2d2: {tmp_path / output}: ") and said in refusal


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(command, tmp_path):
    image = save(tmp_path / "scan.nii.gz", scan(0))
    (tmp_path / "closed").mkdir(mode=0o500)
    refusal = command("predict", "no-model@all", image, "-o", tmp_path / "closed/mask.nii.gz").refusal
    assert f"the folder {tmp_path / 'closed'} cannot be written" in refusal


def test_a_missing_scan_is_refused(command, tmp_path):
    refusal = command("predict", "no-model@all", tmp_path / "none.nii.gz", "-o", tmp_path / "mask.nii.gz").refusal
    assert refusal == f"r2d2: {tmp_path / 'none.nii.gz'}: no such file"


def test_evaluate_scores_two_folders_in_json(command, dataset, tmp_path):
    labels, report = dataset / "labels", tmp_path / "report"
    asked = "evaluate", "--reference", labels, "--prediction", labels, "-o", report, "--tolerance", "1.5"
    found = command(*asked, "--json").document
    assert found["means"]["dice"] == 1.0 and [row["case"] for row in found["rows"]] == ["a", "b", "c"]
    assert found["report"] == str(report) and "within 1.5 mm" in found["definitions"]["surface_dice"]
    told = json.loads((report / "scores.json").read_text())
    assert {key: value for key, value in found.items() if key != "report"} == told
    assert {path.name for path in report.iterdir()} == {"report.html", "scores.csv", "scores.json"}


def test_evaluate_tells_people_every_score_with_its_interval(command, dataset):
    labels = dataset / "labels"
    told = command("evaluate", "--reference", labels, "--prediction", labels).out
    assert "mean of 3 patients" in told and re.search(r"Dice +1\.000 \(1\.000 to 1\.000\)", told)
    assert re.search(r"HD95, mm \(median\) +0\.0 ", told) and "Wrote report.html" in told


@pytest.mark.parametrize("arguments", [[], ["m", "--reference", "x"], ["--prediction", "x"]])
def test_evaluate_needs_a_model_or_two_folders(command, arguments):
    assert "give MODEL [DATA], or --reference DIR and --prediction DIR" in command("evaluate", *arguments).refusal


@pytest.fixture(scope="module")
def examined(store, tmp_path_factory):
    """`doctor --json`, with a home that is not there yet; it loads Horovod in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["R2D2_HOME"] = str(tmp_path_factory.mktemp("doctor") / "not" / "yet")
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}/mlflow.db"
    done = subprocess.run([SCRIPT, "doctor", "--json"], env=environment, capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def test_doctor_answers_in_json(examined):
    checks = {check["name"]: check for check in json.loads(examined.out)}
    assert {"python", "tensorflow", "horovod", "keras", "ray", "mlflow", "R2D2_HOME", "tracking"} <= checks.keys()
    assert checks["horovod"]["ok"] and "gloo" in checks["horovod"]["found"]
    assert checks["python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert all(check["ok"] or check["remedy"] or not check["required"] for check in checks.values())


def test_doctor_finds_nothing_wrong_with_a_home_that_can_be_made(examined):
    (home,) = [check for check in json.loads(examined.out) if check["name"] == "R2D2_HOME"]
    assert home["ok"], home["found"]
    assert examined.code == 0 and examined.err == ""
