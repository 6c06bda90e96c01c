"""The street from the command line: two real Horovod ranks on a real Ray cluster, MLflow's store, the registry."""

import contextlib
import json
import pathlib
import re
import shutil
import signal
import sqlite3

import nibabel
import numpy as np
import psutil
import pytest
import yaml
from helpers.processes import end, run, run_all, start, wait_for, workers
from helpers.servers import Server
from helpers.stores import furnish

from r2d2 import config, models
from r2d2.console import person
from r2d2.engine import train
from r2d2.errors import InputError

EPOCHS = 20


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, virtual_patients):
    """An experiment of two workers whose epochs take a tenth of a second."""
    path = tmp_path_factory.mktemp("experiment") / "small.yaml"
    values = {
        "name": "small",
        "data": {"path": str(virtual_patients)},
        "preprocess": {"image_size": [26, 30], "slices": {"count": 12, "choice": "foreground"}},
        "model": {"filters": 4, "depth": 1, "dropout": 0.1},
        "training": {
            "epochs": EPOCHS,
            "batch_size": 4,
            "optimizer": "adam",
            "learning_rate": 0.005,
            "warmup_epochs": 2,
            "precision": "float32",
            "ring": {"cycle_ms": 5},
        },
        "cluster": {"workers": 2},
        "evaluation": {"every_epochs": 5, "overlays": 1},
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def undisturbed(experiment, tmp_path_factory):
    """The home of that experiment's run, to its end without a disturbance."""
    furnish(home := tmp_path_factory.mktemp("undisturbed"))
    code, _, err = run("train", experiment, R2D2_HOME=str(home))
    assert code == 0, err
    return home


def _query(home, sql):
    with sqlite3.connect(home / "mlflow.db") as store:
        return store.execute(sql).fetchall()


def _checkpoint(home, epoch):
    """A condition: some run has a checkpoint of this epoch or a later one."""

    def reached():
        found = sorted((home / "runs").glob("*/attempt-*/checkpoints/step-*/state.json"))
        with contextlib.suppress(FileNotFoundError):  # removed since
            return found and json.loads(found[-1].read_text())["epoch"] >= epoch
        return False

    return reached


def _assert_whole(home, run_id):
    """One run, finished, with each metric's step once, and one registered version with the alias."""
    assert _query(home, "select run_uuid, status from runs") == [(run_id, "FINISHED")]
    losses = _query(home, "select step from metrics where key = 'train/loss' order by step")
    assert [step for (step,) in losses] == list(range(1, EPOCHS + 1))
    scores = _query(home, "select step from metrics where key = 'val/dice' order by step")
    assert [step for (step,) in scores] == list(range(5, EPOCHS + 1, 5))
    assert _query(home, "select name, version, run_id from model_versions") == [("small", 1, run_id)]
    assert _query(home, "select alias, version from registered_model_aliases") == [("candidate", 1)]
    # In the run's own experiment, and not in a throw-away folder of Ray's.
    kept_in = "select e.name, m.source_run_id from logged_models m join experiments e using (experiment_id)"
    assert _query(home, kept_in) == [("small", run_id)]
    assert len([*(home / "artifacts").rglob("model.keras")]) == 1


def _assert_same_course(home, other):
    """The same images in the same order, the same optimizer, the same dropped units: the same numbers to the last."""
    sql = (
        "select key, step, value from metrics where key not like 'time/%' and key not like 'system/%' "
        "and key not like 'cost/%' order by key, step"
    )
    assert _query(home, sql) == _query(other, sql)


def _the_model_is_used_as_people_do(result, home, virtual_patients, tmp_path):
    """Its commands share one process, which imports TensorFlow once."""
    asked = [
        _evaluation_gives_the_scores_of_the_run(result),
        _orientation_does_not_change_the_mask(tmp_path, virtual_patients),
        _a_scan_that_does_not_fit_is_one_line(tmp_path, virtual_patients),
        _a_scan_is_never_replaced_by_its_mask(tmp_path, virtual_patients),
        _data_that_are_not_the_models_are_refused(tmp_path, virtual_patients),
        _scans_that_trained_the_model_are_told(tmp_path, virtual_patients, home),
    ]
    commands = [next(one) for one in asked]
    answers = iter(run_all(*(command for some in commands for command in some)))
    for one, some in zip(asked, commands, strict=True):
        with contextlib.suppress(StopIteration):
            one.send([next(answers) for _ in some])


def _document(answer):
    """The JSON of a command that must do well."""
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)


def _refusal(answer):
    """The one line of a command that must fail as input."""
    code, out, err = answer
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err.strip()


def _same(evaluation, result):
    """Whether the numbers that a run gives of its test patients are those of their evaluation."""
    mine = {name: evaluation["means"][name] for name in result["metrics"]}
    return mine == pytest.approx(result["metrics"], rel=1e-12, abs=1e-12)


def _evaluation_gives_the_scores_of_the_run(result):
    (answer,) = yield [("evaluate", "small@candidate", "--json")]
    evaluation = _document(answer)
    assert [row["case"] for row in evaluation["rows"]] == [row["case"] for row in result["rows"]]
    assert _same(evaluation, result)
    assert {"dice_pooled", "dice_slice/grey matter", "kappa", "volume_error_ml/grey matter"} <= result["metrics"].keys()
    assert (
        "hd95_mm/grey matter" in evaluation["estimates"] and pathlib.Path(evaluation["report"], "report.html").exists()
    )
    assert evaluation["about"].startswith("1 test scans of the model's own data")


def _orientation_does_not_change_the_mask(tmp_path, virtual_patients):
    source, turned = virtual_patients / "imagesTr" / "brain_001.nii.gz", tmp_path / "turned.nii.gz"
    nibabel.load(source).as_reoriented(nibabel.orientations.axcodes2ornt(("P", "I", "L"))).to_filename(turned)
    outputs = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    scans = source, turned
    answers = yield [("predict", "small/1", *pair, "--json") for pair in zip(scans, ("-o", "-o"), outputs, strict=True)]
    masks = [nibabel.load(path) for path in outputs]
    for answer, mask, scan in zip(answers, masks, map(nibabel.load, scans), strict=True):
        assert _document(answer)["shape"] == list(scan.shape) == list(mask.shape)
        for code_of in ("qform_code", "sform_code"):
            assert mask.header[code_of] == scan.header[code_of]
        np.testing.assert_allclose(mask.affine, scan.affine)
    # as_reoriented gives the orientation from which these axes are made: I, L, P.
    assert nibabel.aff2axcodes(masks[1].affine) == nibabel.aff2axcodes(nibabel.load(turned).affine) == ("I", "L", "P")
    canonical = [np.asarray(nibabel.as_closest_canonical(mask).dataobj) for mask in masks]
    np.testing.assert_array_equal(canonical[0], canonical[1])
    assert {1, 2} <= set(np.unique(canonical[0]))


def _a_scan_that_does_not_fit_is_one_line(tmp_path, virtual_patients):
    scan = nibabel.load(virtual_patients / "imagesTr" / "brain_001.nii.gz")
    two = np.stack([np.asarray(scan.dataobj)] * 2, axis=-1)
    hole = np.asarray(scan.dataobj, dtype=np.float32)
    hole[3, 3, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(two, scan.affine), tmp_path / "two.nii.gz")
    nibabel.save(nibabel.Nifti1Image(hole, scan.affine), tmp_path / "hole.nii.gz")
    rules = {"two.nii.gz": "2 channels", "hole.nii.gz": "NaN or infinity"}
    answers = yield [("predict", "small/1", tmp_path / name, "-o", tmp_path / "no.nii.gz") for name in rules]
    for answer, (name, rule) in zip(answers, rules.items(), strict=True):
        told = _refusal(answer)
        assert told.startswith(f"r2d2: {tmp_path / name}: ") and rule in told
    assert not (tmp_path / "no.nii.gz").exists()


def _a_scan_is_never_replaced_by_its_mask(tmp_path, virtual_patients):
    scan, link = tmp_path / "scan.nii.gz", tmp_path / "link.nii.gz"
    shutil.copy(virtual_patients / "imagesTr" / "brain_001.nii.gz", scan)
    before = scan.read_bytes()
    link.symlink_to(scan)
    (answer,) = yield [("predict", "small/1", scan, "-o", link)]
    assert "the scan itself" in _refusal(answer)
    assert scan.read_bytes() == before


def _data_that_are_not_the_models_are_refused(tmp_path, virtual_patients):
    """Folders of one virtual patient, each with one thing that the model was not trained for."""
    about = json.loads((virtual_patients / "dataset.json").read_text())
    about["training"] = [{"image": "imagesTr/brain_001.nii.gz", "label": "labelsTr/brain_001.nii.gz"}]
    classes = {"0": "background", "1": "white matter", "2": "grey matter", "3": "other brain"}
    changes = {
        "classes": ({"labels": classes}, "its classes are"),
        "channels": ({"modality": {"0": "CT"}}, "its channels are CT"),
        "elsewhere": ({}, "the affine of the label differs"),
    }
    for name, (change, _) in changes.items():
        for part in ("imagesTr", "labelsTr"):
            (tmp_path / name / part).mkdir(parents=True)
            shutil.copy(virtual_patients / part / "brain_001.nii.gz", tmp_path / name / part)
        (tmp_path / name / "dataset.json").write_text(json.dumps(about | change))
    label = nibabel.load(virtual_patients / "labelsTr" / "brain_001.nii.gz")
    moved = label.affine.copy()
    moved[0, 3] += 5
    nibabel.Nifti1Image(label.dataobj, moved).to_filename(tmp_path / "elsewhere" / "labelsTr" / "brain_001.nii.gz")
    answers = yield [("evaluate", "small/1", tmp_path / name) for name in changes]
    for answer, (_, rule) in zip(answers, changes.values(), strict=True):
        assert rule in _refusal(answer)


def _scans_that_trained_the_model_are_told(tmp_path, virtual_patients, home):
    (split,) = home.glob("artifacts/*/artifacts/split.json")
    meanings = json.loads((split.parent / "evaluation/definitions.json").read_text())
    validations = json.loads((split.parent / "evaluation/validation.json").read_text())
    assert [*validations] == [str(epoch) for epoch in range(5, EPOCHS + 1, 5)]
    assert {row["case"] for row in validations["5"]} == {*json.loads(split.read_text())["split"]["validation"]}
    assert "of grey matter" in meanings["dice/grey matter"] and "put together" in meanings["dice_pooled"]
    trained, tested = (json.loads(split.read_text())["split"][part][0] for part in ("training", "test"))
    folder = tmp_path / "seen"
    for name in (trained, tested):
        for part, source in (("images", "imagesTr"), ("labels", "labelsTr")):
            (folder / part).mkdir(parents=True, exist_ok=True)
            image = nibabel.load(virtual_patients / source / f"{name}.nii.gz")
            nibabel.save(image, folder / part / f"renamed_{name}.nii")  # another name, not compressed
    (answer,) = yield [("evaluate", "small/1", folder, "--json")]
    assert _document(answer)["about"] == (
        f"1 of these 2 scans trained or chose the model, so this is no test: renamed_{trained}"
    )


def test_a_run_is_resumed_on_another_number_of_workers_if_it_computes_the_same(experiment):
    recorded = config.load(experiment)
    fewer = {"training.virtual_workers": 2, "cluster.workers": 1, "cluster.min_workers": 1, "cluster.wait_minutes": 5}
    given = config.load(experiment, [f"{key}={value}" for key, value in fewer.items()])
    assert train._resumed(recorded, given, "run") is given
    with pytest.raises(InputError, match=r"its cluster\.workers was another"):
        train._resumed(recorded, config.load(experiment, ["cluster.workers=1"]), "run")
    with pytest.raises(InputError, match=r"its training\.virtual_workers was another"):
        train._resumed(recorded, config.load(experiment, ["training.virtual_workers=4"]), "run")


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "server")
    yield server
    server.kill()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_resume_goes_on_after_the_driver_died_and_ends_without_a_server_that_hears_of_it_later(
    home, experiment, undisturbed, server, tmp_path
):
    store = server.folder
    live = {"MLFLOW_TRACKING_URI": server.address, "FORCE_COLOR": "1"}  # the latter as on a terminal, with a live bar
    process = start("train", experiment, **live)
    try:
        last = "select max(step) from metrics where key = 'train/loss'"
        wait_for(lambda: (_query(store, last)[0][0] or 0) >= 3, 120, process)
        process.kill()
        process.wait(timeout=30)
    finally:
        end(process)
    ((run_id, status),) = _query(store, "select run_uuid, status from runs")
    assert status == "RUNNING"
    assert _query(store, last)[0][0] < EPOCHS

    changes = ("training.seed=1", "cluster.workers=1", "tracking.model_name=other")
    answers = run_all(*(("train", experiment, change, "--resume", run_id) for change in changes), **live)
    for answer, change in zip(answers, changes, strict=True):
        assert f"its {change.partition('=')[0]} was another" in _refusal(answer)
    elsewhere = live | {"R2D2_HOME": str(tmp_path / "elsewhere")}
    ((code, out, err),) = run_all(("train", "--resume", run_id), **elsewhere)
    assert (code, out) == (2, "")
    assert "no checkpoints in" in err.splitlines()[-1]

    process = start("train", "--resume", run_id, "--json", **live)
    try:
        wait_for(lambda: workers(process), 120, process)
        server.kill()
        out, err = process.communicate(timeout=240)
    finally:
        end(process)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert result["run_id"] == run_id and result["undelivered"] > 10 and result["model_uri"] is None
    assert "does not answer" in err and err.splitlines()[-1].endswith(f"r2d2 runs send {run_id}")
    server.start()
    assert _query(store, "select status from runs") == [("RUNNING",)]

    sent, again, finished, evaluated, unregistered = run_all(
        ("runs", "send", run_id, "--json"),
        ("runs", "send", "--json"),
        ("train", "--resume", run_id),
        ("evaluate", run_id, "--json"),
        ("evaluate", result["model"], "--json"),
        **live,
    )
    told = [(one["run_id"], one["delivered"]) for one in _document(sent)]
    assert told == [(run_id, result["undelivered"])] and _document(again) == []
    _assert_whole(store, run_id)
    _assert_same_course(store, undisturbed)
    tags = dict(_query(store, "select key, value from tags"))
    assert (tags["r2d2.restarts"], result["restarts"]) == ("1", 1) and "its driver was lost" in tags["r2d2.restart.1"]
    assert not (home / "mlflow.db").exists()
    assert finished[0] == 2
    assert "it is finished" in finished[2].splitlines()[-1]
    assert _same(_document(evaluated), result) and _same(_document(unregistered), result)


def _suspended(worker, home):
    """Suspend a worker, but not while it writes to the store, which nobody else could then."""
    worker.suspend()
    with contextlib.closing(sqlite3.connect(home / "mlflow.db", timeout=0.2)) as store:
        try:
            store.execute("begin immediate")
            store.rollback()
            return True
        except sqlite3.OperationalError:
            worker.resume()
            return False


@pytest.mark.long
def test_a_second_driver_takes_a_run_over_and_stops_on_request_with_a_model_of_what_it_has(home, experiment):
    long = ["training.epochs=100000", "evaluation.every_epochs=100000"]
    first = start("train", experiment, "cluster.workers=1", "cluster.cpus_per_worker=1", *long)
    second = None
    try:
        wait_for(_checkpoint(home, 3), 120, first)
        (paused,) = workers(first)  # as a node that does not answer for a while
        wait_for(lambda: _suspended(paused, home), 60)
        ((run_id,),) = _query(home, "select run_uuid from runs")
        (attempt,) = home.glob("runs/*/attempt-*")
        second = start("train", "--resume", run_id, "--json")
        wait_for(lambda: not attempt.exists(), 120, second)
        paused.resume()
        _, err = first.communicate(timeout=240)
        assert first.returncode == 1
        assert err.splitlines()[-1].endswith("another r2d2 train --resume has taken it over")
        code, out, err = run("runs", "stop", run_id, "--after", "epoch", "--reason", "it is good", "--json")
        assert code == 0, err
        reason = f"stopped on request by {person()}: it is good"
        assert json.loads(out) == {"run_id": run_id, "status": "FINISHED", "reason": reason}
        out, err = second.communicate(timeout=60)
        assert second.returncode == 0, err
    finally:
        end(first)
        if second:
            end(second)
    result = json.loads(out)
    assert result["run_id"] == run_id and result["reason"] == reason and result["model"] == "small/1"
    tags = dict(_query(home, "select key, value from tags"))
    states = [json.loads(path.read_text()) for path in home.glob("runs/*/attempt-*/checkpoints/step-*/state.json")]
    assert states[-1]["step"] == states[-1]["epoch"] * int(tags["r2d2.steps_per_epoch"])  # it left with a whole epoch
    losses = [step for (step,) in _query(home, "select step from metrics where key = 'train/loss' order by step")]
    assert losses == list(range(1, result["best_epoch"] + 1))
    assert _query(home, "select step from metrics where key = 'val/dice'") == [(result["best_epoch"],)]
    ((wasted,),) = _query(home, "select value from metrics where key = 'time/wasted_s'")
    assert 0 <= wasted < 5
    code, _, err = run("runs", "stop", run_id)
    assert code == 2 and "it is finished, there is nothing to stop" in err


def test_after_control_c_and_a_killed_rank_the_run_completes_as_if_nothing_had_been(
    home, experiment, undisturbed, virtual_patients, tmp_path
):
    furnish(home)
    process = start("train", experiment)
    try:
        wait_for(_checkpoint(home, 3), 120, process)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        _, alive = psutil.wait_procs(started, timeout=30)
    finally:
        end(process)
    ((run_id, status),) = _query(home, "select run_uuid, status from runs")
    assert (process.returncode, out, status) == (1, "", "KILLED")
    assert err.splitlines()[-1].endswith(f"r2d2 train --resume {run_id}")
    assert "Traceback" not in err
    assert alive == []
    latest = sorted((home / "runs").glob("*/attempt-*/checkpoints/step-*"))[-1]
    left_with = json.loads((latest / "state.json").read_text())["epoch"]
    tags = dict(_query(home, "select key, value from tags"))
    assert tags["r2d2.reason"] == "terminated"
    assert " took " in tags["r2d2.verdict"]  # that is said whatever a run ends for
    ((wasted,),) = _query(home, "select value from metrics where key = 'time/wasted_s'")
    assert 0 <= wasted < 60
    whole, *stages = (float(seconds) for seconds in re.findall(r"([\d.]+) s", tags["r2d2.start"]))
    assert len(stages) == 6 and whole == pytest.approx(sum(stages), abs=0.5)

    process = start("train", "--resume", run_id, "--json")
    try:
        wait_for(_checkpoint(home, left_with + 2), 120, process)
        victim = wait_for(lambda: workers(process), 10, process)[0]
        victim.kill()
        out, err = process.communicate(timeout=240)
    finally:
        end(process)
    assert process.returncode == 0, err
    assert "A worker was lost" in err
    result = json.loads(out)
    assert (result["run_id"], result["reason"], result["restarts"]) == (run_id, "all epochs done", 1)
    assert re.match("(Waiting for images|Communication|Computing) took", result["verdict"])
    _assert_whole(home, run_id)
    _assert_same_course(home, undisturbed)
    tags = dict(_query(home, "select key, value from tags"))
    assert (tags["r2d2.attempts"], tags["r2d2.restarts"]) == ("3", "1")
    assert "Error: " in tags["r2d2.restart.1"], tags
    assert not latest.exists()  # the oldest of those that are kept is later
    assert result["metrics"]["dice"] > 0.4

    _the_model_is_used_as_people_do(result, home, virtual_patients, tmp_path)


@pytest.mark.long
def test_a_training_that_falls_apart_goes_back_at_a_lower_rate_and_ends_when_there_is_no_hope_left(
    home, experiment, tmp_path
):
    models.build(config.DistUNet(filters=4, depth=1), 1, 7, (26, 30)).save(tmp_path / "seven.keras")
    settings = [
        f"model.weights={tmp_path / 'seven.keras'}",
        "model.freeze={until_epoch: 1}",
        "training.optimizer=sgd",
        "training.learning_rate=1.0e+9",
        "training.warmup_epochs=0",
        "training.sentinel={action: restart, rate_factor: 1.0e-11}",
        "training.early_stopping={patience: 2, improvement: 0.9}",
        "training.epochs=100000",
        "evaluation.every_epochs=1",
    ]
    code, out, err = run("train", experiment, *settings, "--json")
    assert code == 0, err
    assert json.loads(out)["reason"] == "no better validation Dice in 2 epochs"
    tags = dict(_query(home, "select key, value from tags"))
    assert "logits" in tags["r2d2.weights"]  # seven classes there, four here
    assert "in step" in tags["r2d2.sentinel.1"]
    assert tags["r2d2.sentinel.1"].endswith("back to step 0 at 1e-11 times the rate")
    losses = _query(home, "select step from metrics where key = 'train/loss' order by step")
    assert losses == [(step,) for step in range(1, len(losses) + 1)]
