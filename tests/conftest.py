"""What all tests share: a home of their own, and a few small virtual patients."""

import os

import pytest

from r2d2.data.synthesis import synthesize


@pytest.fixture(autouse=True, scope="module")
def nothing_left_over():
    """No address of a store or a cluster, also for what a module makes once; what its tests leave is an error."""
    names = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delenv(name, raising=False)
        yield
        assert not [name for name in names if name in os.environ]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """R2D2_HOME of this test, and none of the user's own settings."""
    folder = tmp_path / "home"
    monkeypatch.setenv("R2D2_HOME", str(folder))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def virtual_patients(tmp_path_factory):
    """A dataset of eight virtual brains at 4 mm: 50x59x48 voxels, grey matter, white matter, other."""
    return synthesize("brain", tmp_path_factory.mktemp("data") / "brains", 8, seed=0, spacing_mm=4.0)
