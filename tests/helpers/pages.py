"""Runs as drivers leave them, and the dashboard's pages before them, without a browser."""

import json

from streamlit.testing.v1 import AppTest

from apps.dashboard import page
from r2d2 import resources
from r2d2.tracking import store

EXPERIMENT = "name: small\ndata: {path: /nowhere}\n"


def make_run(client, name, status="FINISHED", dice=0.8, parent=None, files=None, scores=(), **tags):
    """A run as a driver leaves it: three epochs of curves, a node, a reason."""
    found = client.get_experiment_by_name("small")
    experiment = (
        found.experiment_id if found else client.create_experiment("small", store.artifacts(client.tracking_uri))
    )
    tags = {f"r2d2.{key}": str(value) for key, value in ({"version": "0", "workers": 2} | tags).items()}
    tags |= {"mlflow.parentRunId": parent} if parent else {}
    run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    for key, value in {"training.epochs": 3, "training.learning_rate": dice / 100, "tracking.monitor_s": 10}.items():
        client.log_param(run_id, key, value)
    for epoch in (1, 2, 3):
        row = {
            "train/loss": 1 / epoch,
            "train/learning_rate": 1e-3,
            "val/dice": dice - 0.1 / epoch,
            "val/dice/lesion": dice,
        }
        row |= {
            f"time/{part}_s": second
            for part, second in zip(("input", "compute", "communication"), (3, 6, 1), strict=True)
        }
        for key, value in (row | {"time/epoch_s": 10.0, "time/images_per_s": 50.0}).items():
            client.log_metric(run_id, key, value, step=epoch)
        client.log_metric(run_id, "system/node-1/cpu_utilization_percentage", 40.0 + epoch, step=10 * epoch)
    client.log_metric(run_id, "time/restart", 1, step=1)
    for path, text in ({"experiment.yaml": EXPERIMENT} | (files or {})).items():
        client.log_text(run_id, text, path)
    if scores:
        rows = [{"case": f"c{number}", "patient": f"P{number}", "dice": value} for number, value in enumerate(scores)]
        client.log_text(run_id, json.dumps(rows), "evaluation/test.json")
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


def opened(view, **parameters):
    """A page, run once with an address."""
    app = AppTest.from_file(resources.find("apps/dashboard/app.py"), default_timeout=60)
    app.run()
    app.query_params |= parameters
    app.switch_page(f"views/{view}.py").run()
    assert not app.exception, app.exception
    return app


def words(app):
    """All that is said on a page, with nothing escaped."""
    kinds = (app.markdown, app.caption, app.info, app.warning, app.error, app.success, app.code, app.subheader)
    return " | ".join(str(one.value).replace("\\", "").replace(page.JOIN, "") for kind in kinds for one in kind)
