"""Sweeps from the command line: real trials of real workers, a killed driver, a population that learns."""

import contextlib
import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.processes import end, run, run_all, wait_for
from helpers.stores import furnish

from r2d2 import config
from r2d2.cluster.search import Study
from r2d2.tracking import runs, store

EPOCHS = 20


@pytest.fixture(scope="module")
def base(virtual_patients):
    """An experiment of one worker whose epochs take a tenth of a second."""
    return {
        "name": "small",
        "data": {"path": str(virtual_patients)},
        "preprocess": {"image_size": [26, 30], "slices": {"count": 12, "choice": "foreground"}},
        "model": {"filters": 4, "depth": 1},
        "training": {
            "epochs": EPOCHS,
            "batch_size": 4,
            "optimizer": "adam",
            "learning_rate": 0.01,
            "warmup_epochs": 0,
            "precision": "float32",
            "sentinel": {"collapse": None},
        },
        "tracking": {"monitor_s": 1},
        "evaluation": {"overlays": 0},
    }


@pytest.fixture
def sweep_file(base, tmp_path):
    """Four trials: one that cannot be, one that diverges at once, two that learn."""
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(base))
    values = {
        "name": "rates",
        "experiment": "small.yaml",
        "search": "grid",
        "space": {
            "training.learning_rate": {"choice": [0.01, 1.0e6, 0.001]},
            "training.batch_size": {"choice": [4, 4000], "when": {"training.learning_rate": 0.001}},
        },
    }
    (tmp_path / "rates.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return tmp_path / "rates.yaml"


def query(home, sql):
    with sqlite3.connect(home / "mlflow.db") as store:
        return store.execute(sql).fetchall()


def checkpoints(home):
    """The epochs of the runs' latest checkpoints."""
    found = {}
    for path in sorted((home / "runs").glob("*/attempt-*/checkpoints/step-*/state.json")):
        with contextlib.suppress(FileNotFoundError):  # removed since
            found[path.parts[-5]] = json.loads(path.read_text())["epoch"]
    return found


def test_a_killed_sweep_goes_on_and_ends_with_the_same_trials_each_trained_once(home, sweep_file):
    log = home / "killed.log"
    furnish(home)
    with log.open("w") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("r2d2"), "tune", sweep_file, "stopping=none"],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        # One has diverged or ended and another one is in the middle.
        def in_the_middle():
            assert process.poll() is None, log.read_text()
            reached = [epoch for epoch in checkpoints(home).values() if 1 <= epoch < EPOCHS]
            return reached and len(query(home, "select 1 from runs where status in ('FINISHED', 'FAILED')")) >= 1

        wait_for(in_the_middle, 200)
    finally:
        end(process)
    ((sweep_id,),) = query(home, "select run_uuid from tags where key = 'r2d2.sweep'")
    before = {trial.number: trial for trial in Study(config.load_sweep(sweep_file), home / "runs" / sweep_id).trials()}
    ended = {number for number, trial in before.items() if trial.outcome != "running"}
    assert ended and len(ended) < 4
    told = dict(query(home, "select run_uuid, end_time from runs where end_time is not null"))
    unknown_to_its_sweep(home, sweep_id, next(iter(told)))

    code, out, err = run("tune", "--resume", sweep_id, "--json")
    assert code == 0, err
    result = json.loads(out)

    rows = {row["number"]: row for row in result["trials"]}
    expected = [
        {"training.learning_rate": 0.01},
        {"training.learning_rate": 1e6},
        {"training.learning_rate": 0.001, "training.batch_size": 4},
        {"training.learning_rate": 0.001, "training.batch_size": 4000},
    ]
    assert [rows[number]["values"] for number in sorted(rows)] == expected
    assert [rows[number]["outcome"] for number in sorted(rows)] == ["finished", "diverged", "finished", "failed"]
    assert "there are only" in rows[3]["reason"] and "\n" not in rows[3]["reason"]
    assert rows[3]["run_id"] is None  # it was never begun
    # What had ended was not begun again.
    for number in ended - {result["best"], 3}:
        assert (
            dict(query(home, "select run_uuid, end_time from runs"))[rows[number]["run_id"]]
            == told[rows[number]["run_id"]]
        )
        assert rows[number]["run_id"] == before[number].run_id
    for number in (0, 2):
        steps = query(
            home,
            f"select step from metrics where key = 'val/dice' and run_uuid = '{rows[number]['run_id']}' order by step",
        )
        assert [step for (step,) in steps] == list(range(1, EPOCHS + 1))
    _the_best_one_alone_was_tested(home, sweep_id, result, rows)


def unknown_to_its_sweep(home, sweep_id, like):
    """A run below the sweep's that it did not come to note before it was killed."""
    with sqlite3.connect(home / "mlflow.db") as store:
        store.execute("create temp table one as select * from runs where run_uuid = ?", [like])
        store.execute("update one set run_uuid = ?, status = 'RUNNING', end_time = null", ["0" * 32])
        store.execute("insert into runs select * from one")
        store.execute("insert into tags values ('mlflow.parentRunId', ?, ?)", [sweep_id, "0" * 32])


def _the_best_one_alone_was_tested(home, sweep_id, result, rows):
    best = max((0, 2), key=lambda number: rows[number]["val/dice"])
    assert result["best"] == best and rows[best]["val/dice"] > 0.1
    assert query(home, "select distinct run_uuid from metrics where key like 'test/%' order by 1") == sorted(
        [(rows[best]["run_id"],), (sweep_id,)]
    )
    assert result["model"]["model"] == "small/1" and result["model"]["run_id"] == rows[best]["run_id"]
    assert query(home, "select name, version, run_id from model_versions") == [("small", 1, rows[best]["run_id"])]
    statuses = dict(query(home, "select run_uuid, status from runs"))
    assert statuses[sweep_id] == "FINISHED"
    assert [statuses[rows[number]["run_id"]] for number in (0, 1, 2)] == ["FINISHED", "FAILED", "FINISHED"]
    parents = query(
        home,
        "select run_uuid from tags join runs using (run_uuid) where key = 'mlflow.parentRunId' "
        f"and value = '{sweep_id}' and lifecycle_stage = 'active'",
    )
    assert {run_id for (run_id,) in parents} == {rows[number]["run_id"] for number in (0, 1, 2)}
    report = Path(result["report"])
    assert sorted(path.name for path in report.iterdir()) == ["best.yaml", "parallel_coordinates.png", "trials.csv"]
    assert config.load(report / "best.yaml").training.learning_rate == rows[best]["values"]["training.learning_rate"]
    assert (report / "trials.csv").read_text().count("\n") == 5
    assert len([*(home / "artifacts").rglob("report/parallel_coordinates.png")]) == 1
    ((best_dice,),) = query(
        home, f"select max(value) from metrics where key = 'sweep/best_dice' and run_uuid = '{sweep_id}'"
    )
    assert best_dice == pytest.approx(rows[best]["val/dice"])


def test_a_sweep_that_cannot_be_is_one_line_and_nothing_is_recorded(home, sweep_file, tmp_path):
    def edited(name, **changes):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(sweep_file.read_text()) | changes, sort_keys=False))
        return path

    rates = {"training.learning_rate": {"choice": [0.01]}}
    wrong = {
        edited("key", space={"training.rate": {"choice": [1]}}): "space.training.rate: training.rate: unknown key",
        edited(
            "empty", space={"training.learning_rate": {"uniform": [1, 0.1]}}
        ): "is empty: its low must be < its high",
        edited("large", space=rates, settings={"cluster.workers": 99}): "cluster.workers=99 with 1 CPU each",
        edited("many", space=rates, concurrent=50): "concurrent: 50 trials of 1 workers: the cluster has room for",
        edited("data", space=rates, settings={"data.path": "/nowhere"}): "/nowhere",
        tmp_path / "none.yaml": "no such sweep file",
    }
    answers = run_all(*(("tune", path) for path in wrong), ("tune", "--resume", "nobody"), ("tune",))
    for (code, out, err), said in zip(answers, [*wrong.values(), "run 'nobody'", "nothing to tune"], strict=True):
        assert (code, out, err.strip().count("\n")) == (2, "", 0), err
        assert said in err
    assert not (home / "runs").exists()


@pytest.mark.filterwarnings("ignore")  # MLflow's own, of SQLAlchemy
def test_what_goes_on_by_the_other_command_is_told_so(home, sweep_file):
    sweep, client = config.load_sweep(sweep_file), store.connect(store.resolve())
    a_sweep = runs.create_sweep(client, sweep)
    training = runs.create(client, sweep.experiment, {"hash": "0"})
    trial = runs.create(client, sweep.experiment, {"hash": "0"}, (sweep, a_sweep, "trial-000"))
    ours = home / "runs" / a_sweep.run_id
    part = f"a part of {a_sweep.run_id}: r2d2 tune --resume {a_sweep.run_id}"
    rules = {
        ("train", "--resume", a_sweep.run_id): "r2d2 tune made it, and goes on with it: --resume",
        ("tune", "--resume", training.run_id): "r2d2 train made it, and goes on with it: --resume",
        ("train", "--resume", trial.run_id): part,
        ("tune", "--resume", trial.run_id): part,
        ("runs", "send", a_sweep.run_id): f"nothing of it lies in {ours}",  # in the folder of its base experiment
        ("runs", "stop", trial.run_id, "--pause"): f"a part of {a_sweep.run_id} cannot be paused by itself",
    }
    for (code, out, err), said in zip(run_all(*rules), rules.values(), strict=True):
        assert (code, out, err.count("\n")) == (2, "", 1) and said in err, err


@pytest.mark.long
def test_a_population_learns_from_its_best(home, base, tmp_path):
    """Of two networks one can learn nothing: it takes the other one's weights and rate."""
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(base | {"training": base["training"] | {"epochs": 20}}))
    values = {
        "name": "population",
        "experiment": "small.yaml",
        "search": "pbt",
        "trials": 2,
        "seed": 1,  # one of each
        "space": {"training.learning_rate": {"choice": [1.0e-9, 0.01]}},
        "pbt": {"every_epochs": 4, "resample": 0.0, "quantile": 0.5},
        "finish": "none",
    }
    (tmp_path / "population.yaml").write_text(yaml.safe_dump(values))
    code, out, err = run("tune", tmp_path / "population.yaml", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert [row["outcome"] for row in result["trials"]] == ["finished"] * 2
    learned = query(home, "select run_uuid, value from tags where key like 'r2d2.learned.%'")
    assert learned, err
    known = {row["run_id"] for row in result["trials"]}
    for run_id, told in learned:
        assert run_id in known and told.split()[1] in known - {run_id}
    assert re.search(r"trial \d goes on with trial \d's weights and learning_rate=", err)
    assert result["model"] is None and query(home, "select count(*) from model_versions") == [(0,)]
