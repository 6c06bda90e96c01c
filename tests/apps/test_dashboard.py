"""The dashboard's page, run without a browser."""

import os
import socket

import psutil
import pytest
from streamlit.testing.v1 import AppTest

from r2d2 import resources, services
from r2d2.tracking import store

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload``")  # of SQLAlchemy's, at MLflow


@pytest.fixture
def page(monkeypatch):
    """The page, run once."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", services.file_store())  # MLflow sets it, too
    return AppTest.from_file(resources.find("apps/dashboard/app.py"), default_timeout=60)


def test_a_new_home_says_what_comes_next(page, home):
    page.run()
    assert not page.exception and [title.value for title in page.title] == ["R2D2"]
    told = [info.value for info in page.info]
    assert ["r2d2 up" in told[0], "r2d2 train" in told[1], "No models yet" in told[2]] == [True] * 3
    assert not home.exists()


def test_it_shows_services_runs_and_models(page):
    client = store.connect(store.resolve())
    tags = {"r2d2.version": "0", "r2d2.reason": "all epochs done"}
    run_id = client.create_run(client.create_experiment("lesion"), run_name="lesion-1", tags=tags).info.run_id
    client.log_metric(run_id, "test/dice", 0.8125)
    client.set_terminated(run_id)
    client.create_registered_model("lesion")
    client.create_model_version("lesion", "file:///nowhere", run_id, tags={"r2d2.dice": "0.8125", "r2d2.task": "find"})
    client.set_registered_model_alias("lesion", "candidate", "1")
    me = psutil.Process(os.getpid())
    entry = services.Service(
        "mlflow", me.pid, me.create_time() - 60, socket.gethostname(), "127.0.0.1", "http://a:1", "http://a:1", "log"
    )
    services.write({"mlflow": entry})

    page.run()
    assert not page.exception
    assert any("**mlflow** :red-badge[stale]" in text.value for text in page.markdown)
    of_runs, of_models = (table.value for table in page.dataframe)
    assert of_runs[["name", "status", "test/dice"]].to_numpy().tolist() == [["lesion-1", "FINISHED", 0.8125]]
    assert of_models["model"].tolist() == ["lesion/1"] and list(of_models["aliases"][0]) == ["candidate"]
    assert of_models[["task", "Dice"]].to_numpy().tolist() == [["find", 0.8125]]


def test_a_store_that_does_not_answer_is_told_on_the_page(page, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    page.run()
    (error,) = page.error
    assert not page.exception and "http://127.0.0.1:1: no server answers there" in error.value
