"""The benchmarks' page: what R2D2 is compared with stands above each ratio."""

import runpy
import sys
from pathlib import Path

import pytest

ALL = Path(__file__).parents[2] / "experiments" / "benchmarks" / "all.py"


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    return runpy.run_path(str(ALL))["page"]


def test_peers_limits_and_r2d2_itself_stand_apart(page):
    def found(name, low=None, high=None):
        figure = {"name": name, "what": name, "unit": "s", "ours": 1.0, "peer": 2.0, "ratio": 2.0}
        about = {"cores": 2, "processor": "P", "load": 1, "commit": "c", "python": "3", "versions": {}}
        return {"date": "d", "machine": about, "figures": [figure | {"low": low, "high": high}]}

    names = ("segeval/five/numpy", "training/keras", "training/overhead", "dashboard/run page", "network/unet/1")
    told = page({name: found(name, *((1.5, 2.5) if "network" not in name else ())) for name in names})
    sections = {part.partition("\n")[0]: part for part in told.split("## ")[1:]}
    assert [*sections] == [
        "Against peers",
        "Against a limit",
        "Against one host of R2D2's own",
        "Against R2D2's own bare learner",
    ]
    peers, limit, host, learner = sections.values()
    assert "segeval/five/numpy" in peers and "training/keras" in peers and "dashboard" not in peers
    assert "2.00 (1.50 to 2.50)" in limit and "training/overhead" in learner
    assert "| 2.00 |" in host  # no turns, no interval
