"""Jobs on the Ray cluster of a real `r2d2 up`: typed, submitted, waiting, stopped by Ray and by us, taken up again."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers.processes import run, run_all, wait_for
from helpers.stores import furnish

from r2d2 import job, resources, services
from r2d2.cluster import jobs
from r2d2.console import person
from r2d2.engine.services.end import end_service
from r2d2.errors import InputError
from r2d2.network import free_port
from r2d2.tracking import store

EPOCHS = 50


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two slots, and the surroundings of a client of theirs."""
    furnish(home := tmp_path_factory.mktemp("cluster"))
    surroundings = {"R2D2_HOME": str(home)}
    names = ("ray", "ray-page", "mlflow", "dashboard")
    ports = [word for name in names for word in (f"--{name}-port", str(free_port("127.0.0.1")))]
    code, out, err = run("up", "--slots", "2", *ports, "--json", timeout=150, **surroundings)
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R2D2_HOME", str(home))
        started = services.read()
    yield SimpleNamespace(
        home=home, page=rows["ray"]["page"], mlflow=rows["mlflow"]["address"], here=surroundings, ray=started["ray"]
    )
    for service in started.values():
        end_service(service)


@pytest.fixture
def folder(tmp_path, virtual_patients):
    """A fresh clone, an experiment of two workers in it, and what gathers in a clone that is worked in."""
    clone = tmp_path / "clone"
    passed_over = shutil.ignore_patterns(".git", ".venv", ".r2d2", "*.so", "__pycache__", ".*_cache")
    shutil.copytree(resources.CLONE, clone, ignore=passed_over)
    values = {
        "name": "small",
        "data": {"path": str(virtual_patients)},
        "preprocess": {"image_size": [26, 30], "slices": {"count": 12, "choice": "foreground"}},
        "model": {"filters": 4, "depth": 1},
        "training": {"epochs": EPOCHS, "batch_size": 4, "warmup_epochs": 2, "ring": {"cycle_ms": 5}},
        "cluster": {"workers": 2},
        "evaluation": {"every_epochs": 10, "overlays": 1},
    }
    (clone / "experiments" / "small.yaml").write_text(yaml.safe_dump(values))
    for name in (".r2d2/mlflow.db", ".venv/lib/big.py", "my_scans/P1.nii.gz", "r2d2/kernels/gradient.so", "old.zip"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_bytes(os.urandom(1_000_000))
    return clone


def asked(cluster, path, data=None):
    """What the cluster's page answers."""
    with urllib.request.urlopen(urllib.request.Request(cluster.page + path, data=data), timeout=30) as answer:
        return json.loads(answer.read())


def query(cluster, sql, *values):
    with sqlite3.connect(cluster.home / "mlflow.db") as found:
        return found.execute(sql, values).fetchall()


def tags(cluster, run_id):
    return dict(query(cluster, "select key, value from tags where run_uuid = ?", run_id))


def status_of(cluster, run_id):
    ((status,),) = query(cluster, "select status from runs where run_uuid = ?", run_id)
    return status


def document(answer):
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)


def test_what_ray_stops_has_a_checkpoint_and_a_reason_and_goes_on_to_the_end_as_another_job(cluster, folder):
    typed = ["ray", "job", "submit", "--working-dir", ".", "--no-wait", "--submission-id", "typed"]
    subprocess.run(
        [Path(sys.executable).with_name(typed[0]), *typed[1:], "--", "r2d2", "train", "experiments/small.yaml"],
        env=os.environ | {"RAY_API_SERVER_ADDRESS": cluster.page},
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=120,
    )

    def trains():
        states = sorted((cluster.home / "runs").glob("*/attempt-*/checkpoints/step-*/state.json"))
        return states and json.loads(states[-1].read_text())["epoch"] >= 3

    wait_for(trains, 120)
    asked(cluster, "/api/jobs/typed/stop", data=b"")  # as `ray job stop` does
    wait_for(lambda: asked(cluster, "/api/jobs/typed")["status"] == "STOPPED", 60)
    ((run_id, status),) = query(cluster, "select run_uuid, status from runs")
    assert status == "KILLED"
    assert tags(cluster, run_id)["r2d2.reason"] == "terminated" and tags(cluster, run_id)["r2d2.job"] == "typed"
    log = asked(cluster, "/api/jobs/typed/logs")["logs"]
    assert f"Run {run_id}  {cluster.mlflow}/#/experiments/" in log
    assert log.splitlines()[-1].endswith(f"r2d2 train --resume {run_id}") and "Traceback" not in log
    trained = query(cluster, "select count(*) from metrics where key = 'train/loss'")
    assert 3 <= trained[0][0] < EPOCHS

    # It was uploaded without data, environments and R2D2 itself.
    (uploaded,) = Path(cluster.ray.scratch).glob("session_2*/runtime_resources/working_dir_files/*/experiments")
    files = [path for path in uploaded.parent.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".yaml", ".py"} and uploaded / "small.yaml" in files
    assert {path.relative_to(uploaded.parent).parts[0] for path in files} == {"experiments"}
    assert sum(path.stat().st_size for path in files) < 500_000

    code, out, err = run("submit", "--wait", "--json", "--", "train", "--resume", run_id, **cluster.here)
    assert code == 0, err
    row = json.loads(out)
    assert (row["status"], row["run_id"], row["reason"]) == ("SUCCEEDED", run_id, "all epochs done")
    assert row["what"] == f"r2d2 train --resume {run_id}"
    assert row["page"] == f"{cluster.page}/#/jobs/{row['job']}" and row["run_page"].startswith(f"{cluster.mlflow}/#/")
    assert "Training small: " in err and "registered small/1" in err
    steps = query(cluster, "select step from metrics where key = 'train/loss' order by step")
    assert steps == [(step,) for step in range(1, EPOCHS + 1)]
    assert query(cluster, "select name, version, run_id from model_versions") == [("small", 1, run_id)]
    assert status_of(cluster, run_id) == "FINISHED" and tags(cluster, run_id)["r2d2.job"] == f"typed {row['job']}"
    # What Ray shows of it to everybody.
    environment = asked(cluster, f"/api/jobs/{row['job']}")["runtime_env"]
    assert environment.keys() == {"env_vars"} and environment["env_vars"].keys() == {job.CLIENT}
    listed = document(run_all(("jobs", "list", "--json"), **cluster.here)[0])
    assert [(one["job"], one["status"], one["run_id"]) for one in listed] == [
        (row["job"], "SUCCEEDED", run_id),
        ("typed", "STOPPED", run_id),
    ]


def test_a_run_waits_for_the_slots_of_another_and_both_are_stopped_by_their_tags(cluster, folder):
    experiment = folder / "experiments" / "small.yaml"
    # It holds its slots, and its ranks mostly wait for their ring.
    long = ["training.epochs=100000", "evaluation.every_epochs=100000", "training.ring.cycle_ms=200"]
    first = document(run("submit", "--workers", "2", "--json", "--", "train", experiment, *long, **cluster.here))
    assert first["status"] == "RUNNING" and status_of(cluster, first["run_id"]) == "RUNNING"
    assert first["what"].endswith(f"{experiment} {' '.join(long)} cluster.workers=2")
    second = document(run("submit", "--json", "--", "train", experiment, **cluster.here))
    log = f"/api/jobs/{second['job']}/logs"
    wait_for(lambda: "Waiting for slots: " in asked(cluster, log)["logs"], 60)
    waiting = wait_for(lambda: tags(cluster, second["run_id"]).get("r2d2.waiting"), 30)
    assert waiting == f"for slots: 2 with 1 CPU; {first['job']} (r2d2 train small.yaml) has 2 CPUs"

    listed, state, stopped, after = run_all(
        ("jobs", "list", "--json"),
        ("status", "--json"),
        ("jobs", "stop", second["job"], "--json"),
        ("jobs", "stop", second["job"]),
        **cluster.here,
    )
    waits = {row["job"]: row["waits"] for row in document(listed)}
    assert waits[second["job"]] == f"2 with 1 CPU; {first['job']} (r2d2 train small.yaml) has 2 CPUs"
    assert waits[first["job"]] is None
    assert "2 CPUs; 1 waiting for slots" in document(state)[0]["about"]
    row = document(stopped)
    assert (row["status"], row["run_id"]) == ("FAILED", second["run_id"])
    assert (row["run_status"], row["reason"]) == ("KILLED", f"asked to leave while it waited by {person()}")
    assert tags(cluster, second["run_id"])["r2d2.waiting"] == ""
    assert asked(cluster, log)["logs"].splitlines()[-1].endswith(f"r2d2 train --resume {second['run_id']}")
    assert after[0] == 2 and "it has failed, there is nothing to stop" in after[2]

    stopped, logs = run_all(("jobs", "stop", first["job"], "--json"), ("jobs", "logs", first["job"]), **cluster.here)
    row = document(stopped)
    assert (row["status"], row["exit_code"], row["run_id"]) == ("SUCCEEDED", 0, first["run_id"])
    assert (row["run_status"], row["reason"]) == ("FINISHED", f"stopped on request by {person()}")
    assert logs[0] == 0 and "It ended before its last epoch: stopped on request" in logs[1]


def test_what_cannot_be_is_one_line_and_exit_code_2(cluster, folder, tmp_path, monkeypatch):
    experiment, elsewhere = folder / "experiments" / "small.yaml", f"http://127.0.0.1:{free_port('127.0.0.1')}"
    secret, page = "tracking.uri=https://me:secret@host", cluster.page.removeprefix("http://")
    rules = {
        ("submit", "--", "train", experiment, "cluster.workers=3"): "the cluster has slots for 2 (nodes: 2 CPUs)",
        ("submit", "--workers", "3", "--", "train", experiment): "the cluster has slots for 2",
        ("submit", "--", "up"): "submit: up is no work for a cluster",
        ("submit", "--workers", "1", "--", "train", "--resume", "r"): "--workers: goes with an experiment file",
        ("submit", "--", "train", experiment, "training.epoch=1"): "training.epoch: unknown key",
        ("submit", "--", "train", "--resume", "r", experiment, "training.epoch=1"): "training.epoch: unknown key",
        ("submit", "--", "tune"): "submit: nothing to tune: submit -- tune FILE",
        ("train", experiment, f"cluster.address={page}"): f"cluster.address {page}: that is a page, which takes jobs",
        ("submit", "--", "train", experiment, secret): "MLFLOW_TRACKING_PASSWORD",
        ("submit", "--address", elsewhere, "--", "train", experiment): f"{elsewhere}: no cluster answers there",
        ("jobs", "list", "--address", cluster.mlflow): "no Ray cluster that takes jobs",
        ("jobs", "list", "--address", cluster.mlflow.removeprefix("http://")): "no Ray cluster that takes jobs",
        ("jobs", "logs", "none-such"): f"job 'none-such': not on {cluster.page}; the latest: ",
        ("jobs", "stop", "none-such"): "job 'none-such': not on",
    }
    before = asked(cluster, "/api/jobs/")
    for (code, out, err), (words, rule) in zip(run_all(*rules, **cluster.here), rules.items(), strict=True):
        assert (code, out, err.count("\n")) == (2, "", 1), f"{words}: {err}"
        assert rule in err and "secret" not in err, err
    assert asked(cluster, "/api/jobs/") == before
    nowhere = tmp_path / "nowhere"
    ((code, _, err),) = run_all(("jobs", "list"), R2D2_HOME=str(nowhere))
    assert code == 2 and "no cluster to submit to: `r2d2 up` starts one here" in err

    # What only the cluster can see is seen by the job, which ends so, too.
    missing = tmp_path / "no_scans"
    code, out, err = run("submit", "--", "train", experiment, f"data.path={missing}", **cluster.here)
    assert code == 2, err
    told = f"r2d2: data.path {missing}: no such folder on {socket.gethostname()}, where the job runs; give a folder"
    assert told in err.splitlines()[-1] and "Traceback" not in err

    assert jobs.Cluster(page).page == cluster.page  # as many would write it
    monkeypatch.setattr(job, "versions", lambda: {"Ray": "9.0", "Python": "3.11", "R2D2": "0"})
    with pytest.raises(InputError, match=r"Ray [\d.]+ runs there, and Ray 9.0 on the client; install the same on both"):
        jobs.Cluster(cluster.page)


def in_a_job(monkeypatch, **client):
    config = {"runtime_env": {}, "metadata": {"job_submission_id": "raysubmit_1", "job_name": "raysubmit_1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(config))
    if client:
        monkeypatch.setenv(job.CLIENT, json.dumps(client))


def test_a_job_on_nodes_that_say_nothing_keeps_nothing_in_its_folder_that_is_thrown_away(monkeypatch, home):
    assert job.submission() is None and store.resolve() == services.file_store()
    in_a_job(monkeypatch)
    assert job.submission() == "raysubmit_1"
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI is not set on the cluster's nodes"):
        store.resolve()
    monkeypatch.delenv("R2D2_HOME")
    assert services.read() == {} and store.resolve("http://somewhere:5000") == "http://somewhere:5000"
    with pytest.raises(InputError, match=r"R2D2_HOME is not set .* tracking.storage"):
        services.folder()


def test_a_job_of_a_client_with_other_versions_says_which(monkeypatch, home):
    job.check_client()
    in_a_job(monkeypatch, **job.versions())
    job.check_client()
    in_a_job(monkeypatch, **job.versions() | {"R2D2": "9.1"})
    rule = f"node {socket.gethostname()}: R2D2 0.1.0 runs there, and R2D2 9.1 on the client"
    ((code, out, err),) = run_all(("runs", "list"))
    assert (code, out, err.count("\n")) == (2, "", 1) and rule in err
