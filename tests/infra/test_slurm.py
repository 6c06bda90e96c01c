"""The Slurm script, with a stub of Slurm on two hosts made of network namespaces: real Ray, real ranks, a requeue."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import yaml
from filelock import FileLock
from helpers import slurm
from helpers.hosts import LOCK
from helpers.processes import end, wait_for

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra" / "slurm" / "r2d2.sbatch"
HOSTS = ("node0", "node1")
EPOCHS = 20


def on_hosts():
    """All processes on the hosts."""
    found = []
    for host in HOSTS:
        told = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False).stdout
        for pid in map(int, told.split()):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
    return found


@pytest.fixture
def hosts():
    """Two hosts, and a folder that they share."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("hosts made of network namespaces need root and iproute2")
    if ROOT.is_relative_to("/tmp"):
        pytest.skip(f"{ROOT} lies in /tmp, of which each host has its own")
    shared = Path(tempfile.mkdtemp(prefix="r2d2-slurm-", dir="/var/tmp"))
    with FileLock(LOCK, timeout=240):
        assert not on_hosts(), "somebody who does not heed the lock uses these hosts"
        # What a killed test left.
        subprocess.run([slurm.SEVERAL_HOSTS, "down", str(len(HOSTS))], capture_output=True, check=False)
        subprocess.run([slurm.SEVERAL_HOSTS, "up", str(len(HOSTS)), "1gbit"], check=True)
        try:
            yield shared
        finally:
            for process in on_hosts():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            subprocess.run([slurm.SEVERAL_HOSTS, "down", str(len(HOSTS))], check=True)
            shutil.rmtree(shared)


class Job:
    """A job of a stubbed Slurm: the script on the first host."""

    def __init__(self, shared, *arguments, restarts=0):
        self.shared = shared
        self.log = shared / f"log-{restarts}"
        environment = {
            "PATH": f"{shared / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "R2D2_HOME": str(shared / "home"),
            "R2D2_TEST_HOSTS": " ".join(HOSTS),
            "R2D2_TEST_REQUEUED": str(shared / "requeued"),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "node[0-1]",
            "SLURM_SUBMIT_DIR": str(shared),
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_RESTART_COUNT": str(restarts),
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [slurm.SEVERAL_HOSTS, "run", "0", "bash", SCRIPT, *map(str, arguments)],
                env=os.environ | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self):
        return self.log.read_text()

    def until(self, condition, seconds=150):
        assert wait_for(lambda: condition() or self.process.poll() is not None, seconds)
        assert self.process.poll() is None, self.said()


def query(home, sql):
    with sqlite3.connect(home / "mlflow.db") as store:
        return store.execute(sql).fetchall()


def epoch(home):
    """The epoch of the latest checkpoint."""
    found = sorted((home / "runs").glob("*/attempt-*/checkpoints/step-*/state.json"))
    with contextlib.suppress(FileNotFoundError):  # removed since
        return json.loads(found[-1].read_text())["epoch"] if found else 0
    return 0


def command_line(process):
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.long
@pytest.mark.timeout(500)
def test_a_job_whose_time_is_up_leaves_with_a_checkpoint_and_goes_on_when_it_is_queued_again(hosts, virtual_patients):
    slurm.install(hosts / "bin")
    shutil.copytree(virtual_patients, hosts / "patients")
    values = {
        "name": "small",
        "data": {"path": str(hosts / "patients")},
        "preprocess": {"image_size": [26, 30], "slices": {"count": 12, "choice": "foreground"}},
        "model": {"filters": 4, "depth": 1},
        "training": {
            "epochs": EPOCHS,
            "batch_size": 4,
            "optimizer": "adam",
            "learning_rate": 0.005,
            "ring": {"cycle_ms": 5},
        },
        "cluster": {"workers": 2, "cpus_per_worker": 1},
        "tracking": {"monitor_s": 1.0},
        "evaluation": {"every_epochs": 5, "overlays": 0},
    }
    (hosts / "small.yaml").write_text(yaml.safe_dump(values))
    home, private = hosts / "home", hosts / "home" / "slurm" / "4711"

    first = Job(hosts, "train", "small.yaml")
    try:
        first.until(lambda: epoch(home) >= 3)
        token = (private / "ray-token").read_text()
        assert re.fullmatch("[0-9a-f]{64}", token)
        assert (private / "ray-token").stat().st_mode & 0o077 == 0 and private.stat().st_mode & 0o077 == 0
        assert not [line for line in map(command_line, psutil.process_iter()) if token in line]
        first.process.send_signal(signal.SIGUSR1)
        assert first.process.wait(timeout=120) == 1, first.said()
    finally:
        end(first.process)
    assert "Ray on 2 nodes (node0 node1)" in first.said()
    assert (hosts / "requeued").read_text() == "requeue 4711\n"
    assert not private.exists() and not on_hosts()
    ((run_id, status),) = query(home, "select run_uuid, status from runs")
    assert status == "KILLED"

    second = Job(hosts, "train", "small.yaml", restarts=1)
    try:
        assert second.process.wait(timeout=200) == 0, second.said()
    finally:
        end(second.process)
    assert (hosts / "requeued").read_text() == "requeue 4711\n"
    assert not private.exists() and not on_hosts()
    assert query(home, "select run_uuid, status from runs") == [(run_id, "FINISHED")]
    losses = query(home, "select step from metrics where key = 'train/loss' order by step")
    assert [step for (step,) in losses] == list(range(1, EPOCHS + 1))
    ((resumed,),) = query(home, "select value from tags where key = 'r2d2.started_at_step'")
    assert int(resumed) > 0
    nodes = query(home, "select distinct key from metrics where key like 'system/%/cpu_utilization_percentage'")
    assert sorted(key.split("/")[1] for (key,) in nodes) == list(HOSTS)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["train", "a.yaml"], {}, "sbatch r2d2.sbatch train FILE"),
        ([], {"SLURM_JOB_ID": "1"}, "nothing: give train FILE or tune FILE"),
        (["zoo", "list"], {"SLURM_JOB_ID": "1"}, "zoo: give train FILE or tune FILE"),
        (["train", "a.yaml"], {"SLURM_JOB_ID": "1"}, "sbatch --cpus-per-task=N"),
        (["train", "a.yaml"], {"SLURM_JOB_ID": "1", "SLURM_CPUS_PER_TASK": "4"}, "no r2d2 on the PATH"),
    ],
    ids=["not a job", "nothing", "another command", "no CPUs", "not installed"],
)
def test_a_job_that_cannot_be_is_refused_in_one_line(tmp_path, arguments, environment, said):
    environment = {"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path)} | environment
    command = ["bash", SCRIPT, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("r2d2: ") and said in line
    assert not list(tmp_path.iterdir())
