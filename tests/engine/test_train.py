"""The street from the command line: two real Horovod ranks on a real Ray cluster, MLflow's store, the registry."""

import contextlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request

import nibabel
import numpy as np
import psutil
import pytest
import yaml
from helpers.processes import end, run, start, wait_for, workers

EPOCHS = 40


@pytest.fixture
def experiment(tmp_path, virtual_patients):
    """An experiment of two workers whose epochs take a tenth of a second."""
    path = tmp_path / "small.yaml"
    values = {
        "name": "small",
        "data": {"path": str(virtual_patients)},
        "preprocess": {"image_size": [26, 30], "slices": {"count": 12, "choice": "foreground"}},
        "model": {"filters": 4, "depth": 2, "dropout": 0.1},
        "training": {
            "epochs": EPOCHS,
            "batch_size": 4,
            "optimizer": "adam",
            "learning_rate": 0.005,
            "warmup_epochs": 2,
        },
        "cluster": {"workers": 2},
        "evaluation": {"every_epochs": 5, "overlays": 1},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def _query(home, sql):
    with sqlite3.connect(home / "mlflow.db") as store:
        return store.execute(sql).fetchall()


def _checkpoint(home, epoch):
    """A condition: some run has a checkpoint of this epoch or a later one."""

    def reached():
        found = sorted((home / "runs").glob("*/checkpoints/epoch-*"))
        return found and int(found[-1].name.removeprefix("epoch-")) >= epoch

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


def test_a_killed_rank_restarts_the_run_which_completes_as_one(home, experiment, virtual_patients, tmp_path):
    process = start("train", experiment, "--json")
    try:
        wait_for(_checkpoint(home, 3), 120, process)
        victim = wait_for(lambda: workers(process), 10, process)[0]
        victim.kill()
        out, err = process.communicate(timeout=240)
    finally:
        end(process)
    assert process.returncode == 0, err
    assert "A worker was lost" in err
    result = json.loads(out)
    assert result["restarts"] == 1
    _assert_whole(home, result["run_id"])
    tags = dict(_query(home, "select key, value from tags"))
    assert tags["r2d2.attempts"] == "2"
    assert tags["r2d2.restarts"] == "1"
    assert "Error: " in tags["r2d2.restart.1"], tags
    assert result["metrics"]["dice"] > 0.4

    _evaluation_gives_the_scores_of_the_run(result)
    _orientation_does_not_change_the_mask(tmp_path, virtual_patients)
    _a_scan_that_does_not_fit_is_one_line(tmp_path, virtual_patients)


def _evaluation_gives_the_scores_of_the_run(result):
    code, out, err = run("evaluate", "small@candidate", "--json")
    assert code == 0, err
    evaluation = json.loads(out)
    assert [row["patient"] for row in evaluation["rows"]] == [row["patient"] for row in result["patients"]]
    assert evaluation["means"] == pytest.approx(result["metrics"], abs=1e-12)


def _orientation_does_not_change_the_mask(tmp_path, virtual_patients):
    scan = nibabel.load(virtual_patients / "imagesTr" / "brain_001.nii.gz")
    turned = scan.as_reoriented(nibabel.orientations.axcodes2ornt(("P", "I", "L")))
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    masks = []
    for source, name in ((virtual_patients / "imagesTr" / "brain_001.nii.gz", "a"), (tmp_path / "turned.nii.gz", "b")):
        code, out, err = run("predict", "small/1", source, "-o", tmp_path / f"{name}.nii.gz", "--json")
        assert code == 0, err
        assert json.loads(out)["shape"] == list(nibabel.load(source).shape)
        masks.append(nibabel.load(tmp_path / f"{name}.nii.gz"))
        for code_of in ("qform_code", "sform_code"):
            assert masks[-1].header[code_of] == nibabel.load(source).header[code_of]
        np.testing.assert_allclose(masks[-1].affine, nibabel.load(source).affine)
    assert nibabel.aff2axcodes(masks[1].affine) == nibabel.aff2axcodes(turned.affine) == ("I", "L", "P")
    canonical = [np.asarray(nibabel.as_closest_canonical(mask).dataobj) for mask in masks]
    np.testing.assert_array_equal(canonical[0], canonical[1])
    assert {1, 2} <= set(np.unique(canonical[0]))


def _a_scan_that_does_not_fit_is_one_line(tmp_path, virtual_patients):
    scan = nibabel.load(virtual_patients / "imagesTr" / "brain_001.nii.gz")
    two = np.stack([np.asarray(scan.dataobj)] * 2, axis=-1)
    nibabel.save(nibabel.Nifti1Image(two, scan.affine), tmp_path / "two.nii.gz")
    code, out, err = run("predict", "small/1", tmp_path / "two.nii.gz", "-o", tmp_path / "no.nii.gz")
    assert (code, out) == (2, "")
    assert "2 channels" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "no.nii.gz").exists()


@pytest.fixture
def server(tmp_path):
    """A real MLflow server on a free port: its address, and its store as `_query` wants it."""
    folder = tmp_path / "server"
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, *places], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{port}"

    def answers():
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return answer.status == 200

    try:
        wait_for(answers, 90)
        yield address, folder
    finally:
        end(process)


def test_resume_goes_on_after_the_driver_died(home, experiment, server):
    address, store = server
    live = {"MLFLOW_TRACKING_URI": address, "FORCE_COLOR": "1"}  # the latter as on a terminal, with a live bar
    process = start("train", experiment, **live)
    try:
        wait_for(_checkpoint(home, 3), 120, process)
        process.kill()
        process.wait(timeout=30)
    finally:
        end(process)
    ((run_id, status),) = _query(store, "select run_uuid, status from runs")
    assert status == "RUNNING"
    before = _query(store, "select max(step) from metrics where key = 'train/loss'")[0][0]
    assert 3 <= before < EPOCHS

    code, _, err = run("train", experiment, "training.seed=1", "--resume", run_id, **live)
    assert code == 2
    assert "training.seed" in err

    code, out, err = run("train", "--resume", run_id, "--json", **live)
    assert code == 0, err
    result = json.loads(out)
    assert result["run_id"] == run_id
    _assert_whole(store, run_id)
    assert not (home / "mlflow.db").exists()

    code, _, err = run("train", "--resume", run_id, **live)
    assert code == 2
    assert "finished" in err
    _the_model_comes_from_the_server(result, live)


def _the_model_comes_from_the_server(result, live):
    code, out, err = run("evaluate", result["run_id"], "--json", **live)
    assert code == 0, err
    assert json.loads(out)["means"] == pytest.approx(result["metrics"], abs=1e-12)


def test_control_c_closes_the_run_and_says_how_to_go_on(home, experiment):
    process = start("train", experiment, "training.epochs=4000")
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
    assert err.splitlines()[-1].endswith(f"go on with r2d2 train --resume {run_id}")
    assert "Traceback" not in err
    assert alive == []
