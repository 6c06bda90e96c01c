"""What all tests share: a home of their own, and a few small virtual patients."""

import os

import pytest
from helpers.stores import copied_in_this_process

from r2d2.data.synthesis import synthesize
from r2d2.lean import import_keras_alone

import_keras_alone()
os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # where there is a GPU, several processes share it
ADDRESSES = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")


def pytest_addoption(parser):
    """`--long`: also what takes minutes, for `make soak`."""
    parser.addoption("--long", action="store_true", help="also what takes minutes")


def pytest_collection_modifyitems(config, items):
    """What is marked `long` is left to `make soak`."""
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(autouse=True, scope="module")
def environment():
    """No address of a store or a cluster, also for what a module makes once; what its tests set goes with them."""
    before = dict(os.environ)
    for name in ADDRESSES:
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """R2D2_HOME of this test, and none of the user's own settings."""
    folder = tmp_path / "home"
    monkeypatch.setenv("R2D2_HOME", str(folder))
    for name in ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(autouse=True, scope="session")
def stores():
    """Stores that are made in this process are copies of an empty one."""
    with pytest.MonkeyPatch.context() as patch:
        copied_in_this_process(patch)
        yield


@pytest.fixture(scope="session")
def virtual_patients(tmp_path_factory):
    """A dataset of eight virtual brains at 4 mm: 50x59x48 voxels, grey matter, white matter, other."""
    return synthesize("brain", tmp_path_factory.mktemp("data") / "brains", 8, seed=0, spacing_mm=4.0)
