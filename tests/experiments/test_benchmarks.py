"""The benchmarks' page: what R2D2 is compared with stands above each ratio; and the README's figures are theirs."""

import ast
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

ALL = Path(__file__).parents[2] / "experiments" / "benchmarks" / "all.py"


README = ALL.parents[2] / "README.md"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    return runpy.run_path(str(ALL))


def test_peers_limits_and_r2d2_itself_stand_apart(benchmarks):
    def found(name, low=None, high=None):
        figure = {"name": name, "what": name, "unit": "s", "ours": 1.0, "peer": 2.0, "ratio": 2.0}
        about = {"cores": 2, "processor": "P", "load": 1, "commit": "c", "python": "3", "versions": {}}
        return {"date": "d", "machine": about, "figures": [figure | {"low": low, "high": high}]}

    names = ("segeval/five/numpy", "training/keras", "training/overhead", "dashboard/run page", "network/unet/1")
    told = benchmarks["page"]({name: found(name, *((1.5, 2.5) if "network" not in name else ())) for name in names})
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


def names_of(script):
    """How the names of a benchmark's figures look: what it hands to `figure` or `Figure` first, as patterns."""
    for call in ast.walk(ast.parse(script)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("figure", "Figure"):
            parts = call.args[0].values if isinstance(call.args[0], ast.JoinedStr) else [call.args[0]]
            yield "".join(re.escape(part.value) if isinstance(part, ast.Constant) else ".+" for part in parts)


def test_every_figure_that_the_readme_names_is_one_that_a_benchmark_records(benchmarks):
    text = README.read_text(encoding="utf-8")
    marks = benchmarks["MARK"].findall(text)
    assert len(marks) == text.count("<!---->") >= 6
    scripts = {name: (ALL.parent / f"{name}.py").read_text(encoding="utf-8") for name in benchmarks["SCRIPTS"]}
    for mark in marks:
        script, peer = scripts[mark.partition("/")[0]], mark.rpartition("/")[2].rstrip("*")
        assert any(re.fullmatch(name, mark) for name in names_of(script)) and peer in script, mark
    results = ALL.with_name("results.json")
    if results.exists():
        assert benchmarks["with_figures"](text, json.loads(results.read_text())) == text
