"""The services of `r2d2 up` with a dashboard, an experiment that runs until it is stopped, and a browser before it."""

import contextlib
import json
import shutil
import sqlite3
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from helpers.processes import run
from helpers.stores import furnish
from playwright.sync_api import sync_playwright

from r2d2 import services
from r2d2.engine.services.end import end_service
from r2d2.network import free_port

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SWITCHES = [
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
]
SLOW_S = 90_000
"""Milliseconds that a page may take on a machine that trains meanwhile."""


@contextlib.contextmanager
def services_up(home, *options):
    """Two slots, MLflow and the dashboard on free ports: `home`, `here` (surroundings), `page`, `mlflow`, `jobs`."""
    if not (home / "mlflow.db").exists():
        furnish(home)
    surroundings = {"R2D2_HOME": str(home)}
    names = ("ray", "ray-page", "mlflow", "dashboard")
    ports = [word for name in names for word in (f"--{name}-port", str(free_port("127.0.0.1")))]
    code, out, err = run("up", "--slots", "2", *ports, *options, "--json", timeout=150, **surroundings)
    assert code == 0, err
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R2D2_HOME", str(home))
        started = services.read()
    rows = {row["name"]: row for row in json.loads(out)}
    try:
        yield SimpleNamespace(
            home=home,
            here=surroundings,
            page=rows["dashboard"]["page"],
            mlflow=rows["mlflow"]["address"],
            jobs=rows["ray"]["page"],
            started=started,
        )
    finally:
        for service in started.values():
            end_service(service)


@contextlib.contextmanager
def browser():
    """Headless Chromium, whose pages are those of `context.new_page()`."""
    with sync_playwright() as driver:
        program = driver.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        context = program.new_context(viewport={"width": 1440, "height": 1000})
        context.set_default_timeout(SLOW_S)
        try:
            yield context
        finally:
            program.close()


def write_experiment(path, data, epochs=100_000):
    """An experiment of two ranks that mostly wait for their ring, for as long as nobody stops it."""
    values = {
        "name": "small",
        "data": {"path": str(data)},
        "preprocess": {"image_size": [26, 30], "slices": {"count": 12, "choice": "foreground"}},
        "model": {"filters": 4, "depth": 1},
        "training": {
            "epochs": epochs,
            "batch_size": 4,
            "optimizer": "adam",
            "learning_rate": 0.005,
            "precision": "float32",
            "ring": {"cycle_ms": 50},
        },
        "cluster": {"workers": 2},
        "tracking": {"monitor_s": 2.0},
        "evaluation": {"every_epochs": 5, "overlays": 2},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def query(home, sql, *values):
    """What the store's database answers."""
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as store:
        return store.execute(sql, values).fetchall()


def colours(viewer):
    """How many pixels of the viewer's canvas have the hues of the first three classes."""
    image = cv2.imdecode(np.frombuffer(viewer.screenshot(), np.uint8), cv2.IMREAD_COLOR).astype(int)
    blue, green, red = (image[..., channel] for channel in range(3))
    hues = (
        (blue > red + 50) & (blue > green),
        (red > blue + 60) & (green > blue + 30),
        (green > red + 40) & (green > blue),
    )
    return [int(hue.sum()) for hue in hues]
