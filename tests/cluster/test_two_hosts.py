"""Runs on two hosts, with a link between them that goes down: who trains on, who waits, and who writes nothing more."""

import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
import yaml
from helpers.hosts import JOBS, Hosts, end, missing, ranks, wait_until

from r2d2.data.synthesis import synthesize
from r2d2.services import lives

EPOCHS = 20
PATIENCE_S = 240
NOTICED = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000"}
"""A host that is cut off is noticed in ten seconds instead of half a minute."""

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.timeout(900),
    pytest.mark.long,
]


@pytest.fixture(scope="module")
def room():
    """A folder that both hosts see."""
    folder = Path(tempfile.mkdtemp(prefix="r2d2-two-hosts-", dir="/var/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def experiment(room):
    """The file of an experiment of two workers of one thread, whose epochs take a fraction of a second."""
    values = {
        "name": "hosts",
        "data": {"path": str(synthesize("brain", room / "brains", 8, seed=0, spacing_mm=6.0))},
        "preprocess": {"image_size": [26, 30], "slices": {"count": 12, "choice": "foreground"}},
        "model": {"filters": 4, "depth": 1, "dropout": 0.1},
        "training": {
            "epochs": EPOCHS,
            "batch_size": 4,
            "optimizer": "adam",
            "learning_rate": 0.005,
            "precision": "float32",
            "ring": {"cycle_ms": 5},
            "deterministic": True,
        },
        "cluster": {"workers": 2, "cpus_per_worker": 1},
        "tracking": {"monitor_s": 1},
        "evaluation": {"every_epochs": 5, "overlays": 0},
    }
    (room / "job").mkdir()
    path = room / "job" / "hosts.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def hosts(room):
    with Hosts(room / "home", NOTICED | {"R2D2_CACHE": "/tmp/cache"}, dashboard=True) as hosts:
        yield hosts


class Run:
    """The latest run, as MLflow's store and the disk have it."""

    def __init__(self, hosts):
        self._store = hosts.store
        ((self.id, self.status),) = self.query(
            "select run_uuid, status from runs order by start_time desc, rowid desc limit 1"
        )
        self.folder = hosts.home / "runs" / self.id

    def query(self, sql):
        with sqlite3.connect(self._store) as store:
            return store.execute(sql).fetchall()

    @property
    def tags(self):
        return dict(self.query(f"select key, value from tags where run_uuid = '{self.id}'"))

    @property
    def course(self):
        """Every metric that is not of time and machine: {(name, step): [values]}."""
        found = {}
        for key, step, value in self.query(f"select key, step, value from metrics where run_uuid = '{self.id}'"):
            if key.partition("/")[0] not in ("time", "system", "cost"):
                found.setdefault((key, step), []).append(value)
        return found

    @property
    def monitored(self):
        """The hosts whose load was recorded."""
        keys = self.query(f"select distinct key from metrics where key like 'system/%' and run_uuid = '{self.id}'")
        return {key.split("/")[1] for (key,) in keys}


def checkpoints(hosts):
    """How many epochs the newest run has closed with a checkpoint."""
    newest = max((hosts.home / "runs").glob("*"), key=lambda path: path.stat().st_ctime, default=None)
    steps = [int(path.name[5:]) for path in newest.glob("attempt-*/checkpoints/step-*")] if newest else []
    return max(steps, default=0)


def assert_same_course(run, undisturbed):
    """The same updates and scores, each once; in another order of sums where there were fewer ranks."""
    assert run.status == "FINISHED"
    assert run.course.keys() == undisturbed.course.keys()
    for name, values in run.course.items():
        assert values == pytest.approx(undisturbed.course[name], rel=2e-3, abs=2e-3), name


def log(hosts):
    return (hosts.home / "log").read_text(errors="replace")


def finished(hosts, driver):
    assert driver.wait(timeout=PATIENCE_S) == 0, log(hosts)[-3000:]
    return Run(hosts)


@pytest.fixture(scope="module")
def undisturbed(hosts, experiment):
    """The run of a job that was submitted from outside the cluster, and on which hosts it had ranks."""
    folder = experiment.parent
    submit = ["job", "submit", "--address", JOBS, "--working-dir", folder, "--", "r2d2", "train", experiment.name]
    job = hosts.run(None, "ray", *submit)
    try:
        wait_until(lambda: ranks(0) and ranks(1), PATIENCE_S, job)
        seen = [len(ranks(host)) for host in (0, 1)]
        run = finished(hosts, job)
    finally:
        end(ranks(0) + ranks(1))
    return run, seen


def test_a_job_from_outside_trains_on_both_hosts_each_from_its_own_copy_of_the_data(hosts, undisturbed):
    run, seen = undisturbed
    assert seen == [1, 1] and run.status == "FINISHED"
    assert run.tags["r2d2.workers"] == "2"
    assert run.monitored == {"node0", "node1"}
    assert run.tags["r2d2.data_read"] == "node0: /tmp/cache, node1: /tmp/cache"
    epochs = [step for key, step in run.course if key == "train/loss"]
    assert sorted(epochs) == list(range(1, EPOCHS + 1)) and {len(values) for values in run.course.values()} == {1}
    told = hosts.page("overview")
    assert "node0 (10.77.0.10)" in told and "node1 (10.77.0.11)" in told and "it is gone" not in told


def test_a_host_that_is_cut_off_is_done_without_and_what_its_ranks_go_on_to_write_goes_nowhere(
    hosts, experiment, undisturbed
):
    hosts.join(slots=2)
    driver = hosts.run(0, "r2d2", "train", experiment, "cluster.min_workers=1")
    try:
        wait_until(lambda: checkpoints(hosts) and len(ranks(1)) == 2, PATIENCE_S, driver)
        cut_off = ranks(1)  # both are there, where there is room for two: their ring is whole without the link
        for rank in cut_off:
            rank.suspend()
        hosts.cut()
        run = Run(hosts)
        wait_until((run.folder / "outbox" / "attempt-0000.sealed").exists, PATIENCE_S, driver)
        old = run.folder / "outbox" / "attempt-0000.jsonl"
        before, computed = (old.read_bytes(), old.stat().st_mtime_ns), busy_s(cut_off)
        for rank in cut_off:  # they go on where they were, and reach the disk
            rank.resume()
        wait_until(lambda: busy_s(cut_off) > computed + 0.5 or not any(map(lives, cut_off)), PATIENCE_S, driver)
        hosts.mend()
        run = finished(hosts, driver)
    finally:
        end([*ranks(0), *ranks(1)])
    assert_same_course(run, undisturbed[0])
    assert (old.read_bytes(), old.stat().st_mtime_ns) == before
    left = {path.name for path in run.folder.iterdir()}
    assert left == {"attempt-0001", "model-attempt-0001", "outbox"}
    assert (run.tags["r2d2.attempts"], run.tags["r2d2.restarts"], run.tags["r2d2.workers"]) == ("2", "1", "1")
    assert int(run.tags["r2d2.started_at_step"]) > 0
    assert len(run.query(f"select version from model_versions where run_id = '{run.id}'")) == 1


def test_without_fewer_workers_the_run_waits_for_its_host(hosts, experiment, undisturbed):
    hosts.join()
    driver = hosts.run(0, "r2d2", "train", experiment)
    try:
        wait_until(lambda: checkpoints(hosts) and ranks(0) and ranks(1), PATIENCE_S, driver)
        hosts.cut()
        run = Run(hosts)
        waiting = "for slots: the run needs 2, the cluster has 1"
        wait_until(lambda: run.tags.get("r2d2.waiting") == waiting, PATIENCE_S, driver)
        assert f"Waiting {waiting}; for 30 minutes at most" in log(hosts)
        told = hosts.page("overview")
        assert f"It waits {waiting}." in told and "node0 (10.77.0.10)" in told
        hosts.mend()
        hosts.join()
        run = finished(hosts, driver)
    finally:
        end([*ranks(0), *ranks(1)])
    assert_same_course(run, undisturbed[0])
    assert (run.tags["r2d2.waiting"], run.tags["r2d2.restarts"], run.tags["r2d2.workers"]) == ("", "1", "2")


def busy_s(processes):
    """How long processes have computed that are there."""
    return sum(sum(process.cpu_times()[:2]) for process in processes if lives(process))
