"""The dashboard's pages on stores with no, one and many runs, without a browser."""

import json
import os
import re
import shutil
import time
from types import SimpleNamespace

import pyarrow as pa
import pytest
import streamlit as st
from helpers.datasets import decathlon
from helpers.pages import EXPERIMENT, make_run, opened, words
from helpers.processes import wait_for
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from apps.dashboard import errands, page
from r2d2 import job, resources, services
from r2d2.engine import jobs, watch
from r2d2.engine import runs as work
from r2d2.engine.jobs import JobRow
from r2d2.errors import InputError
from r2d2.tracking import queries, runs, store
from r2d2.tracking.shared import Answer, Refused

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload``")  # of SQLAlchemy's, at MLflow
HOSTILE = "<img src=x onerror=alert(1)> **../../x** :red[y] $z$"
SWEEP = """
name: sizes
experiment: {name: small, data: {path: /nowhere}, training: {epochs: 3}}
space:
  training.learning_rate: {log_uniform: [1.0e-4, 1.0e-2]}
  model.filters: {choice: [8, 16]}
search: random
trials: 4
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A store without runs, whose tables take seconds to make."""
    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    store.connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def client(home, tables, monkeypatch):
    home.mkdir()
    shutil.copy(tables, home / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", services.file_store())
    monkeypatch.setenv("R2D2_LOGIN_BY", "loopback")
    yield store.connect(store.resolve())
    queries.forget()


def listed():
    """The cells of the overview's table of runs, row by row."""
    (table,) = [text.value for text in opened("overview").markdown if text.value.startswith("|run|")]
    return [re.split(r"(?<!\\)\|", row)[1:-1] for row in table.splitlines()[2:]]


def test_one_run_is_shown_with_its_curves_its_time_its_nodes_and_where_it_comes_from(client):
    run_id = make_run(client, HOSTILE, reason=f"all epochs done {HOSTILE}", **{"restart.1": "a host was lost"})
    (row,) = listed()
    assert row[0] == f"[{page.plain(HOSTILE)}](run?run={run_id})"
    assert "finished" in row[2] and row[5:7] == ["0.767", "-"]

    app = opened("run", run=run_id)
    assert [metric.value for metric in app.metric][:4] == ["3", "0.3333", "0.767", "-"]
    assert "all epochs done" in words(app) and "restart: a host was lost" in words(app)
    shown = [text.value for kind in (app.markdown, app.caption, app.title, app.subheader) for text in kind]
    assert not [text for text in shown if re.search(r"(?<!\\)(<img|:red|\*\*\.|\$z)", text)]
    said = {
        "Time": "Waiting for images took",
        "Nodes": "restart: a host was lost",
        "Pictures": "No pictures yet",
        "Log": "This run was not a job",
    }
    for section, expected in said.items():
        assert expected in words(opened("run", run=run_id, show=section)), section
    app = opened("run", run=run_id, show="Settings")
    assert app.code[0].value == EXPERIMENT.strip() or app.code[0].value == EXPERIMENT
    assert not app.button  # it is over: nothing to stop, nothing to resume


def test_many_runs_are_compared_by_what_differs_and_by_their_patients(client):
    first = make_run(client, "first", dice=0.70, scores=[0.5, 0.6, 0.7, 0.8, 0.65, 0.72])
    second = make_run(client, "second", dice=0.80, scores=[0.6, 0.7, 0.75, 0.85, 0.75, 0.80])
    for number in range(20):
        make_run(client, f"other-{number}", dice=0.5)
    app = opened("compare", runs=[first, second])
    differs = app.dataframe[0].value
    assert differs["setting"].tolist() == ["training.learning_rate"] and differs["second"].tolist() == ["0.008"]
    assert "+0.080" in words(app) and "of 6 patients" in words(app) and "more than chance explains" in words(app)
    assert len(listed()) == 22
    alone = opened("compare", runs=[first])
    assert "Choose two runs or more" in words(alone)
    gone = "0" * 32  # one that is not there takes neither the others nor the chooser away
    app = opened("compare", runs=[first, gone, "second"])
    assert gone in words(app) and "+0.080" in words(app) and app.query_params["runs"] == [first, second]
    app = opened("run", run=gone)
    assert gone in words(app) and app.selectbox(key=f"run-{gone}").value is None and not app.metric
    assert opened("run", run="second").metric[2].value == page.number(0.8 - 0.1 / 3)


@pytest.mark.parametrize("count", [1, 4])
def test_every_page_on_one_run_and_on_many(client, count):
    for number in range(count):
        make_run(client, f"run-{number}", "RUNNING" if number == 0 else "FINISHED", dice=0.5)
    said = {
        "overview": "run-0",
        "run": "Learning rate",
        "compare": "There are no two runs yet" if count == 1 else "Choose two runs or more",
        "sweep": "No sweeps yet",
        "zoo": "No models yet",
        "predict": "A scan is segmented by a model, and there is none yet",
        "train": "Choose a folder of annotated scans",
        "data": "Choose a folder of annotated scans",
    }
    assert said.keys() == {path.stem for path in resources.find("apps/dashboard/views").glob("*.py")}
    for view, expected in said.items():
        app = opened(view)
        assert not app.exception and expected in words(app), (view, words(app))


def test_a_sweep_and_a_study_that_go_on_are_shown_with_their_runs(client):
    for kind, tag in (("sizes", {"sweep": "random"}), ("study", {"scale": "1, 2"})):
        whole = make_run(client, kind, "RUNNING", files={"sweep.yaml": SWEEP}, **tag)
        make_run(client, f"{kind}-000", parent=whole)
        make_run(client, f"{kind}-001", "RUNNING", parent=whole)
    app = opened("overview")
    told = words(app)
    assert told.count("1 of its runs have ended, 1 go on") == 2 and not app.get("progress")
    links = [link.proto.label for link in app.get("page_link")]
    assert {page.plain("sizes-001"), page.plain("study-001")} <= set(links) and page.plain("study-000") not in links
    app = opened("run", run=whole)
    assert not app.metric and "Its curves are drawn at its end" in words(app)
    assert {page.plain("study-000"), page.plain("study-001")} <= {link.proto.label for link in app.get("page_link")}


def test_how_old_the_nodes_are_is_said_and_without_them_the_rest_stays(client, monkeypatch):
    load = watch.Load(0.0, cpu=50.0, memory=40.0)
    node = watch.Node("host-1", "2 CPUs", True, (load,))
    monkeypatch.setattr(watch, "nodes", lambda: Answer([node], 7.0, "the cluster does not answer"))
    told = words(opened("overview"))
    assert "host-1" in told and "As of 7 s ago" in told and "50 %" in told

    def gone():
        raise InputError("no cluster answers there")

    monkeypatch.setattr(watch, "nodes", gone)
    app = opened("overview")
    assert "no cluster answers there" in words(app) and "Latest runs" in words(app) and not app.exception


def test_what_goes_on_is_read_again_and_what_is_over_is_not(client, monkeypatch):
    refreshed, fragment = {}, st.fragment

    def watched(part=None, *, run_every=None, key=None):
        refreshed[key] = run_every
        return fragment(part, run_every=run_every, key=key)

    monkeypatch.setattr(st, "fragment", watched)
    over, live = make_run(client, "over"), make_run(client, "live", "RUNNING")
    sweep = make_run(client, "sizes", files={"sweep.yaml": SWEEP}, sweep="random")
    for run_id, every in ((over, None), (live, page.LIVE_S)):
        opened("run", run=run_id)
        assert (refreshed["head"], refreshed["section"]) == (every, every)
    opened("sweep", run=sweep)
    assert refreshed["sweep"] is None and (refreshed["work"], refreshed["latest"]) == (page.LIVE_S, page.LIVE_S)


def test_a_run_that_goes_on_is_never_too_old_to_be_listed(client):
    live = make_run(client, "live", "RUNNING")
    sweep = make_run(client, "sweep", "RUNNING", sweep="random")
    make_run(client, "trial", "RUNNING", parent=sweep, trial=0, **{"sentinel.1": "the loss is NaN"})
    for run_id in (live, sweep):
        client.log_metric(run_id, "time/input_s", 0.0, step=4)
    for number in range(3):
        make_run(client, f"later-{number}")
    assert [run.name for run in queries.latest_runs(2).value] == ["later-2", "later-1", "sweep", "live"]
    told = words(opened("overview"))
    assert "It fell apart once: the loss is NaN" in told and "Waiting for images took" not in told


def test_pages_come_back_by_themselves_after_an_outage(client, monkeypatch):
    runs_there = [make_run(client, "first"), make_run(client, "second", "RUNNING")]
    again = []
    monkeypatch.setattr(errands, "again", lambda: again.append(1))
    addresses = {"run": {"run": runs_there[0]}, "sweep": {}, "compare": {"runs": runs_there}}
    for view, address in addresses.items():
        opened(view, **address)
    assert not again
    known = queries.latest_runs().value
    for answer in (Answer(known, 70.0, "no server answers there"), InputError("no server answers there")):

        def away(answer=answer):
            if isinstance(answer, InputError):
                raise answer
            return answer

        for view, address in addresses.items():
            monkeypatch.setattr(queries, "latest_runs", away)
            assert "no server answers there" in words(opened(view, **address)) and again.pop(), view
    client.set_terminated(runs_there[1])  # which the list does not know yet
    queries.forget()
    wait_for(lambda: not queries.view(runs_there[1]).value.running, 20)
    monkeypatch.setattr(queries, "latest_runs", lambda: Answer(known, 0.0))
    assert "Training loss" in words(opened("compare", runs=runs_there)) and not again


@pytest.mark.parametrize(("view", "show"), [("run", "Curves"), ("run", "Settings"), ("compare", "")])
def test_a_part_of_a_page_of_what_is_over_is_asked_for_until_it_is_there_or_never_will_be(
    client, monkeypatch, view, show
):
    over = [make_run(client, "first"), make_run(client, "second")]
    again = []
    monkeypatch.setattr(errands, "again", lambda: again.append(1))
    for error, asked in ((InputError("no server answers there"), True), (Refused("its file is gone"), False)):
        with pytest.MonkeyPatch.context() as patch:

            def fails(*_, error=error):
                raise error

            patch.setattr(queries, "content" if show == "Settings" else "history", fails)
            app = opened(view, **({"run": over[0], "show": show} if show else {"runs": over}))
            assert str(error) in words(app) and bool(again) == asked
        again.clear()
    assert "its file is gone" not in words(opened(view, **({"run": over[0]} if show else {"runs": over})))
    assert not again


def test_what_has_stalled_is_taken_up_after_a_confirmation(client, monkeypatch):
    run_id, asked = make_run(client, "silent", "RUNNING"), []
    monkeypatch.setattr(watch, "clustered", lambda: True)
    monkeypatch.setattr(watch, "jobs", lambda: Answer([], 0.0))
    monkeypatch.setattr(jobs, "submit", lambda words, **told: asked.append((words, told)) or SimpleNamespace(job="j1"))
    assert [one.key for one in opened("run", run=run_id).button] == ["stop"]
    monkeypatch.setattr(watch, "STALLED_S", -1000.0)
    app = opened("run", run=run_id)
    assert app.button(key="resume").disabled
    app.checkbox(key="resume-sure").check().run()
    app.button(key="resume").click().run()
    assert not app.exception and asked == [(["train", "--resume", run_id], {"run_s": 0.0, "by": page.who()})]
    with pytest.raises(InputError, match="it goes on"):
        work.resume(run_id)


def test_a_study_without_one_worker_is_compared_with_its_least_and_a_single_seed_has_no_bar(client):
    def summary(workers, virtual=False):
        point = {"value": workers / 2, "low": None, "high": None}
        scores = {"dice": {"value": 0.8, "low": 0.7, "high": 0.9}, "iou": {"value": 0.6, "low": None, "high": None}}
        scores["hd95_mm"] = {"value": "inf", "low": None, "high": None}
        told = {"workers": workers, "virtual": virtual, "rule": "linear", "repeats": 1, "diverged": 1, "loss": {}}
        return told | {"speedup": None if virtual else point, "scores": scores, "verdict": ""}

    told = {"summaries": [summary(2), summary(4), summary(18, True)], "scored": "validation patients"}
    files = {"report/scaling.json": json.dumps(told | {"intervals": "95 %, both"})}
    app = opened("compare", runs=[make_run(client, "study", files=files, scale="1")])
    speedup, scores = (chart.proto for chart in app.get("vega_lite_chart"))
    assert "times as fast as 2 workers" in speedup.spec and "isValid(datum.low)" in speedup.spec
    (data,) = (one.data.data for one in speedup.datasets)
    rows = pa.ipc.open_stream(data).read_pandas()
    assert rows[rows["series"] == "ideal"][["x", "y"]].to_numpy().tolist() == [[2, 1], [4, 2]]
    assert rows["low"].isna().all()
    assert app.selectbox[0].options == ["dice", "iou"] and "dice of a patient, mean" in scores.spec
    assert app.dataframe[0].value["diverged"].tolist() == [1, 1, 1] and "bars of scores: 95 %, both" in words(app)
    app.selectbox[0].select("iou").run()
    assert "iou of a patient, mean" in app.get("vega_lite_chart")[1].proto.spec


def test_a_live_run_in_trouble_comes_first_and_is_stopped_with_a_name_and_a_reason(client, monkeypatch):
    make_run(client, "quiet")
    live = make_run(
        client, "live", "RUNNING", **{"sentinel.1": "the loss is NaN; back to step 5 at 0.5 times the rate"}
    )
    app = opened("overview")
    assert [text.value for text in app.markdown if "diverging" in text.value] and "Waiting for images took" in words(
        app
    )
    monkeypatch.setenv("R2D2_READ_ONLY", "1")
    assert not opened("run", run=live).button
    monkeypatch.delenv("R2D2_READ_ONLY")
    app = opened("run", run=live)
    app.radio(key="stop-when").set_value("checkpoint")
    app.text_input(key="stop-why").set_value("it diverges")
    app.button(key="stop").click().run()
    assert not app.exception and "after the next checkpoint" in words(app)
    tags = client.get_run(live).data.tags
    assert (tags["r2d2.stop"], tags["r2d2.stop_reason"], tags["r2d2.stop_by"]) == (
        "checkpoint",
        "it diverges",
        page.who(),
    )
    app = opened("run", run=live, show="Settings")
    assert f"{page.who()} has asked it to leave after the next checkpoint" in words(app)
    assert f"{page.who()}** · stop after checkpoint · because: it diverges" in words(app)


def test_a_store_that_fails_in_the_middle_is_told_and_what_it_holds_of_others_breaks_no_list(client, monkeypatch):
    tags = {"action.soon": "{}", "action.17": "no JSON", "action.18": "[1]", "action.19": '{"by": "ada"}'}
    live = make_run(client, "live", "RUNNING", **tags)
    assert not queries.view(live).value.actions and len(listed()) == 1
    app = opened("run", run=live)

    def refuse(*_, **__):
        raise MlflowException("the database is locked")

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    app.button(key="stop").click().run()
    assert not app.exception and "does not do as it is asked (the database is locked)" in words(app)


def test_a_run_records_who_submitted_the_jobs_that_it_was(client, monkeypatch):
    run_id = make_run(client, "small", "RUNNING")

    def begun(job_id, **told):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": job_id}}))
        monkeypatch.setenv(job.CLIENT, json.dumps(told))
        runs.Run(client, run_id).start_again()

    begun("first", by="ada", did="submit")
    begun("first", by="ada", did="submit")  # its driver was started again
    begun("second", by="bob", did="resume")
    begun("third")  # by an older client
    done = [(one["by"], one["what"]) for one in queries.view(run_id).value.actions]
    assert done == [("ada", "submit as job first"), ("bob", "resume as job second")]


def test_a_run_that_was_stopped_says_what_it_is_gone_on_with(client):
    run_id = make_run(client, "stopped", "KILLED", reason="terminated")
    said = words(opened("run", run=run_id))
    assert f"r2d2 train --resume {run_id}" in said and "· took" in said and "terminated" in said
    runs.Run(client, run_id).start_again()
    queries.forget()
    said = words(opened("run", run=run_id))
    assert "running" in said and "· took" not in said and "terminated" not in said  # of what is over
    study = make_run(client, "study", "KILLED", scale="1, 2")
    assert f"r2d2 scale --resume {study}" in words(opened("run", run=study))
    assert "not in sqlite" in words(opened("run", run="0" * 32))


def test_a_sweep_is_shown_with_its_trials_and_what_matters(client):
    importance = "setting,importance\ntraining.learning_rate,0.75\nmodel.filters,0.25\n"
    files = {"sweep.yaml": SWEEP, "report/importance.csv": importance}
    sweep = make_run(client, "sizes", "RUNNING", files=files, sweep="random")
    for number, (rate, filters, dice) in enumerate([("0.001", "8", 0.7), ("0.0002", "16", 0.8)]):
        values = {"trial": number, "trial.training.learning_rate": rate, "trial.model.filters": filters}
        make_run(client, f"sizes-trial-{number}", "RUNNING" if number else "FINISHED", dice, parent=sweep, **values)
    app = opened("sweep", run=sweep)
    table = app.dataframe[0].value
    assert table["trial"].tolist() == [1, 0] and table["learning_rate"].tolist() == ["0.0002", "0.001"]
    assert "2 of 4 trials" in words(app)
    assert app.selectbox(key="stop-what").options == ["the whole sweep", "sizes-trial-1"]  # the other one has ended
    assert app.selectbox(key="stop-what").value is None and app.button(key="stop").disabled
    trial = client.search_runs(client.get_run(sweep).info.experiment_id.split(), "attributes.status = 'RUNNING'")
    (trial,) = [found.info.run_id for found in trial if found.info.run_id != sweep]
    drawn = [json.loads(chart.proto.spec) for chart in app.get("vega_lite_chart")]
    assert len(drawn) == 2 and "Dice" in json.dumps(drawn[0]) and "variance explained, %" in json.dumps(drawn[1])
    app.selectbox(key="stop-what").set_value(trial).run()
    app.text_input(key="stop-why").set_value("no better").run()
    app.button(key="stop").click().run()
    assert "Asked: it leaves after its present step" in words(app)
    told = client.get_run(trial).data.tags
    assert (told["r2d2.stop"], told["r2d2.stop_reason"]) == ("now", "no better")
    assert "r2d2.stop" not in client.get_run(sweep).data.tags
    client.delete_tag(trial, "r2d2.stop")
    client.set_terminated(trial)
    queries.forget()
    wait_for(lambda: not any(one.running for one in queries.parts(queries.view(sweep).value).value), 20)
    app.button(key="stop").click().run()
    assert not app.exception and app.selectbox(key="stop-what").value is None and "Asked" not in words(app)
    assert not [one for one in (sweep, trial) if "r2d2.stop" in client.get_run(one).data.tags]
    assert [row[0] for row in listed()] == [f"[sizes](sweep?run={sweep})"]


def test_the_slider_of_pictures_follows_the_run_until_somebody_moves_it(client):
    told = json.dumps({"labels": {"0": "background", "1": "lesion"}, "slices": []})
    drawn = {f"overlays/validation/epoch-{epoch:04d}.json": told for epoch in (5, 10_000)}
    run_id = make_run(client, "live", "RUNNING", files=drawn)
    app = opened("run", run=run_id, show="Pictures")

    def later(epoch):
        client.log_text(run_id, told, f"overlays/validation/epoch-{epoch:04d}.json")
        queries.forget()
        wait_for(lambda: any(str(epoch) in path for path in drawn_now()), 20)
        app.run()
        return app.select_slider[0].value

    def drawn_now():
        return queries.files(queries.view(run_id).value, "overlays/validation").value

    assert app.select_slider[0].value == 10_000
    assert later(10_005) == 10_005
    app.select_slider[0].set_value(5).run()
    assert later(10_010) == 5
    app.select_slider[0].set_value(10_010).run()
    assert later(10_015) == 10_015


def test_names_that_strangers_choose_are_text_also_as_options_and_of_jobs(client, tmp_path, monkeypatch):
    path = decathlon(tmp_path / "data", modality={"0": HOSTILE, "1": "T1w"}).path
    (channels,) = [one for one in opened("data", data=str(path)).get("button_group") if "T1w" in str(one.proto)]
    assert channels.proto.options[0].content == page.plain(HOSTILE)
    job = JobRow("a` ![x](http://y) `b", "PENDING", "train", None, None, None, None, None, None, "1 CPU", "", None)
    monkeypatch.setattr(watch, "clustered", lambda: True)
    monkeypatch.setattr(watch, "jobs", lambda: Answer([job], 0.0))
    (shown,) = [one.value for one in opened("overview").markdown if "pending" in one.value]
    assert not re.search(r"(?<!\\)[`!\[]", shown.removeprefix(":material/pending:"))


def test_what_is_trained_is_what_was_checked_on_a_cluster_that_is_there(client, tmp_path, monkeypatch):
    folder = decathlon(tmp_path / "data").path
    path, real = str(folder), queries.shared
    accepted = SimpleNamespace(over=True, error="", result={"errors": [], "warnings": [], "cases": [{}, {}]})
    monkeypatch.setattr(errands.CHECKS, "hand_in", lambda _: accepted)
    errands.check(path, None)
    cluster = Answer("http://a:8265", 1.0)

    def shared(key, *asked):
        return cluster if key == "takes jobs" else real(key, *asked)

    monkeypatch.setattr(queries, "shared", shared)

    def train(app):
        return {one.label: one.disabled for one in app.button}.get("Train")

    deep = "training.epochs=" + "[" * 3000
    app = opened("train", data=path, set=[deep, "training.batch_size=3", "training.epochs=&a [*a, *a]"])
    assert train(app) is False and app.number_input(key="set training.batch_size").value == 3
    cluster = Answer("http://a:8265", 60.0, "no cluster answers there")
    app.run()
    assert train(app) is True and "no cluster answers there" in words(app)
    mask = folder / "labelsTr" / "BRATS_001.nii.gz"
    os.utime(mask, (1, 1))
    assert train(app.run()) is None and "takes a dataset that the check accepts" in words(app)
    monkeypatch.setattr(errands, "MOST_FILES", 3)
    (folder / "dataset.json").unlink()
    errands._listings.forget()
    wait_for(lambda: "more than 3 files" in words(app.run()), 20)


def test_what_is_read_of_a_history_grows_and_a_run_that_went_back_is_read_again(client):
    run_id = make_run(client, "live", "RUNNING")
    asked = []

    def history():
        queries.forget()
        return [
            (point.step, point.value) for point in queries.history(queries.view(run_id).value, ["a"]).value.get("a", [])
        ]

    real = queries._interval
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries, "_interval", lambda *given: asked.append(given[2:]) or real(*given))
        assert history() == []
        client.log_metric(run_id, "a", 1.0, step=1)
        assert history() == [(1, 1.0)] and asked == [("a", 0)]
        client.log_metric(run_id, "a", 2.0, step=2)  # known from the run itself
        assert history() == [(1, 1.0), (2, 2.0)] and asked == [("a", 0)]
        for step in (3, 4):
            client.log_metric(run_id, "a", float(step), step=step)
        assert history()[2:] == [(3, 3.0), (4, 4.0)] and asked[1:] == [("a", 3)]
        client.set_tag(run_id, "r2d2.sentinel.1", "the loss is NaN; back to step 2")
        client.log_metric(run_id, "a", 9.0, step=3, timestamp=int(time.time() * 1000) + 5)
        assert history() == [(1, 1.0), (2, 2.0), (3, 9.0), (4, 4.0)] and asked[2:] == [("a", 0)]
