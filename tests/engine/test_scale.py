"""A scaling study from the command line: real workers, virtual ones, a killed driver; and what is refused."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.processes import end, run, run_all, wait_for
from helpers.stores import furnish

from r2d2.engine.jobs import _packed

EPOCHS = 15


@pytest.fixture
def file(virtual_patients, tmp_path):
    """An experiment whose epochs take a tenth of a second."""
    values = {
        "name": "small",
        "data": {"path": str(virtual_patients), "split": {"fractions": [0.5, 0.5, 0.0]}},
        "preprocess": {"image_size": [26, 30], "slices": {"count": 12, "choice": "foreground"}},
        "model": {"filters": 4, "depth": 1},
        "training": {
            "epochs": EPOCHS,
            "batch_size": 3,
            "learning_rate": 0.03,
            "warmup_epochs": 2,
            "precision": "float32",
            "ring": {"cycle_ms": 5},
        },
        "tracking": {"monitor_s": 1},
        "evaluation": {"overlays": 0, "every_epochs": 5},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def query(home, sql):
    with sqlite3.connect(home / "mlflow.db") as store:
        return store.execute(sql).fetchall()


ONE_DIVERGES = ["--workers", "1,2", "--virtual", "4", "--rules", "file,file:1e6"]
"""At each number of workers one rule learns, and one diverges at once, which the others do not suffer from."""


def test_a_study_trains_each_run_once_and_shows_its_curves(home, file):
    furnish(home)
    code, out, err = run("scale", file, *ONE_DIVERGES, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["failed"] == 3 and [one["outcome"] for one in known(home)] == ["finished", "diverged"] * 3
    shows_its_curves(home, result["run_id"], result)


@pytest.mark.long
def test_a_killed_study_goes_on_and_ends_with_the_same_runs_each_trained_once(home, file):
    furnish(home)
    log = home / "killed.log"
    command = [Path(sys.executable).with_name("r2d2"), "scale", file, *ONE_DIVERGES]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:

        def in_the_middle_of_the_ring_of_two():
            assert process.poll() is None, log.read_text()
            found = []
            for path in home.glob("runs/*/attempt-*/checkpoints/step-*/state.json"):
                with contextlib.suppress(FileNotFoundError):  # removed since
                    found.append((path.parts[-5], json.loads(path.read_text())["epoch"]))
            ended = [one for one in known(home) if one["outcome"] == "diverged"]
            going = {one["run_id"] for one in known(home) if one["outcome"] == "running"}
            return len(ended) == 1 and any(run_id in going and 1 <= epoch < EPOCHS for run_id, epoch in found)

        wait_for(in_the_middle_of_the_ring_of_two, 200)
    finally:
        end(process)
    ((study,),) = query(home, "select run_uuid from tags where key = 'r2d2.scale'")
    before = known(home)
    assert [one["outcome"] for one in before] == ["finished", "diverged", "running", "waiting", "waiting", "waiting"]
    told = query(home, "select end_time from runs where run_uuid = '" + before[0]["run_id"] + "'")

    code, out, err = run("scale", "--resume", study, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["run_id"] == study and result["failed"] == 3
    after = known(home)
    assert [one["outcome"] for one in after] == ["finished", "diverged"] * 3
    assert [one["run_id"] for one in after[:3]] == [one["run_id"] for one in before[:3]]
    assert query(home, "select end_time from runs where run_uuid = '" + after[0]["run_id"] + "'") == told
    for one in after[::2]:
        kept = f"from metrics where run_uuid = '{one['run_id']}' and key = 'train/loss' order by step"
        assert [step for (step,) in query(home, f"select step {kept}")] == [*range(1, EPOCHS + 1)]
    shows_its_curves(home, study, result)


def known(home):
    """What the study knows of its runs."""
    for path in home.glob("runs/*/children.json"):
        return json.loads(path.read_text())
    return []


def shows_its_curves(home, study, result):
    scaling = result["scaling"]
    told = [(one["workers"], one["virtual"], one["outcome"], one["updates"]) for one in scaling["points"][::2]]
    assert told == [
        (1, False, "finished", 16 * EPOCHS),
        (2, False, "finished", 8 * EPOCHS),
        (4, True, "finished", 4 * EPOCHS),
    ]
    one, two, four, *high = scaling["summaries"]
    # The rate that no seed bears is told, and a single seed decides nothing.
    assert [(found["workers"], found["repeats"], found["diverged"]) for found in high] == [
        (1, 0, 1),
        (2, 0, 1),
        (4, 0, 1),
    ]
    assert {found["verdict"] for found in high} == {"undecided"}
    assert one["baseline"] and one["efficiency"]["value"] == pytest.approx(1)
    assert two["efficiency"]["value"] == pytest.approx(two["images_per_s"]["value"] / one["images_per_s"]["value"] / 2)
    assert four["step_s"] is None and four["loss"]["dice"]["value"] == pytest.approx(
        100 * (one["scores"]["dice"]["value"] - four["scores"]["dice"]["value"])
    )
    assert one["scores"]["dice"]["value"] > 0.3 and one["scores"]["dice"]["patients"] == scaling["patients"] == 4
    # The scores are those of the last validation, which the run has recorded.
    ((recorded,),) = query(
        home,
        f"select value from metrics where run_uuid = '{scaling['points'][0]['run_id']}' and key = 'val/dice' "
        f"and step = {EPOCHS}",
    )
    assert one["scores"]["dice"]["value"] == pytest.approx(recorded)
    assert {row["workers"] for row in scaling["predictions"]} == {4, 8, 18, 64}
    report = Path(result["report"])
    names = ["loss.png", "points.csv", "scaling.json", "scores.png", "table.md", "time.png"]
    assert sorted(path.name for path in report.iterdir()) == names
    assert json.loads((report / "scaling.json").read_text()) == scaling
    assert len([*(home / "artifacts").rglob("report/scaling.json")]) == 1
    assert query(home, f"select status from runs where run_uuid = '{study}'") == [("FINISHED",)]
    parents = f"select count(*) from tags where key = 'mlflow.parentRunId' and value = '{study}'"
    assert query(home, parents) == [(6,)]
    assert {one["reason"].split(";")[-1] for one in scaling["points"][1::2]} == {" try a lower training.learning_rate"}
    # Nobody was tested, nothing was registered.
    assert query(home, "select count(*) from metrics where key like 'test/%'") == [(0,)]
    assert query(home, "select count(*) from model_versions") == [(0,)]


def test_a_study_that_cannot_be_is_one_line_and_nothing_is_recorded(home, file):
    wrong = {
        (): "nothing to scale",
        (file,): "give --workers 1,2,4 or --virtual 6,12,18",
        (file, "--workers", "1,two"): "--workers 1,two: whole numbers",
        (file, "--workers", "1,1"): "1 is there twice",
        (file, "--workers", "99"): "cluster.workers=99 with 1 CPU each",
        (file, "--virtual", "1,500"): "x training.virtual_workers (500)",
        (file, "--workers", "1", "--rules", "cubic"): "no rule 'cubic'",
        (file, "--workers", "1", "--rules", "lars"): "give it, lars:RATE",
        ("--workers", "1"): "go with an experiment file",
        ("--resume", "nobody"): "run 'nobody'",
        ("nowhere.yaml", "--workers", "1"): "nowhere.yaml: no such experiment file",
    }
    answers = run_all(*(("scale", *words) for words in wrong))
    for (code, out, err), said in zip(answers, wrong.values(), strict=True):
        told = [line for line in err.splitlines() if not line.startswith("Preparing: ")]
        assert (code, out, len(told)) == (2, "", 1), err
        assert said in told[0]
    assert not (home / "runs").exists()


def test_a_study_can_be_a_job(file):
    told, (name, text), experiment = _packed(["scale", str(file), "--workers", "1,2", "training.epochs=3"], None)
    assert told == ["scale", name, "--workers", "1,2"] and experiment.training.epochs == 3
    assert yaml.safe_load(text)["training"]["epochs"] == 3
