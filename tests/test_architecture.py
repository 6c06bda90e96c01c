"""The floors of docs/architecture.md: imports go down only, and each heavy library has its few importers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Rooms of one floor stand side by side and do not import each other, but for what BESIDE allows.
FLOORS = {
    "errors": 0,
    "config": 0,
    "console": 0,
    "files": 0,
    "job": 0,
    "lean": 0,
    "network": 0,
    "resources": 0,
    "services": 0,
    "imgmed": 1,
    "img": 1,
    "kernels": 1,
    "segeval": 1,
    "data": 1,
    "models": 2,
    "training": 3,
    "inference": 3,
    "tracking": 3,
    "cluster": 4,
    "engine": 5,
    "cli": 6,
    "apps": 6,
}
BESIDE = {
    *(("config", "errors"), ("files", "errors"), ("services", "config"), ("services", "files")),
    *(("job", "errors"), ("config", "job"), ("services", "job")),
    *(("data", "imgmed"), ("data", "segeval"), ("img", "imgmed"), ("img", "data")),
}
STAND_ALONE = {"imgmed", "segeval"}
IMPORTERS = {
    "ray": {"cluster"},
    "horovod": {"training"},
    "mlflow": {"tracking"},
    "tensorflow": {"kernels", "models", "training", "inference"},
    "keras": {"models", "training", "inference"},
    "streamlit": {"apps"},
}


def modules(root: Path) -> dict[str, Path]:
    """Every module of r2d2 and apps below `root`, by its dotted name."""
    found = {}
    for package in ("r2d2", "apps"):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """What a module imports, at its top or inside functions, by dotted name and line."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield (name if name in known else base), node.lineno
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value), node.lineno


def room(module: str) -> str:
    """The room of a module: `r2d2.data.cases` -> data, `apps.dashboard.app` -> apps, `r2d2` itself -> r2d2."""
    parts = module.split(".")
    return "apps" if parts[0] == "apps" else parts[1] if len(parts) > 1 else "r2d2"


def violations(root: Path) -> list[str]:
    """One line a broken rule, beginning with the file's path and line."""
    found, known = [], modules(root)
    for module, path in known.items():
        here = room(module)
        if here == "r2d2":  # the package itself: it may import the standard library alone
            rules = {"ray", "r2d2", "apps", *IMPORTERS}
            found += [f"{path}:{n}: r2d2 imports {to}" for to, n in imports(module, path, known) if top(to) in rules]
            continue
        if here not in FLOORS:
            found.append(f"{path}:1: the room {here} has no floor")
            continue
        for target, line in imports(module, path, known):
            where = f"{path}:{line}: {here} imports {target}"
            if target == "r2d2" and here in STAND_ALONE:
                found.append(f"{where}; it stands alone")
            elif top(target) in ("r2d2", "apps") and target != "r2d2":
                there = room(target)
                if there == here:
                    continue
                if there not in FLOORS:
                    found.append(f"{where}, a room with no floor")
                elif here in STAND_ALONE and there not in ("errors", "files"):
                    found.append(f"{where}; it stands alone")
                elif FLOORS[there] > FLOORS[here]:
                    found.append(f"{where}, which is above it")
                elif FLOORS[there] == FLOORS[here] and (here, there) not in BESIDE:
                    found.append(f"{where}, which is beside it")
            elif here not in IMPORTERS.get(top(target), {here}):
                found.append(f"{where}; only {', '.join(sorted(IMPORTERS[top(target)]))} may")
    return found


def top(module: str) -> str:
    return module.partition(".")[0]


def test_imports_go_down_only_and_heavy_libraries_have_their_few_importers():
    assert len(modules(ROOT)) > 40
    found = violations(ROOT)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("r2d2/imgmed/slices.py", "from r2d2 import config", "stands alone"),
        ("r2d2/imgmed/slices.py", "from r2d2 import __version__", "stands alone"),
        ("r2d2/segeval/metrics.py", "import r2d2.imgmed", "stands alone"),
        ("r2d2/data/cases.py", "from r2d2.models import losses", "above it"),
        ("r2d2/data/cases.py", "from ..models import losses", "above it"),
        ("r2d2/data/cases.py", "import keras", "only inference, models, training may"),
        (
            "r2d2/data/cases.py",
            "def f():\n    from tensorflow import data",
            "only inference, kernels, models, training may",
        ),
        ("r2d2/models/unet.py", "import importlib\nimportlib.import_module('horovod.tensorflow')", "only training may"),
        ("r2d2/training/step.py", "from r2d2 import tracking", "beside it"),
        ("r2d2/inference/predict.py", "from r2d2.training.ring import Ring", "beside it"),
        ("r2d2/engine/train.py", "import ray.train", "only cluster may"),
        ("r2d2/engine/train.py", "class A:\n    def f(self):\n        import mlflow as m", "only tracking may"),
        ("r2d2/engine/train.py", "from r2d2 import cli", "above it"),
        ("r2d2/cli/runs.py", "import apps.dashboard", "beside it"),
        ("apps/dashboard/app.py", "from r2d2.cli import app", "beside it"),
        ("r2d2/config/reading.py", "from r2d2.console import say", "beside it"),
        ("r2d2/attic/old.py", "import json", "no floor"),
        ("r2d2/__init__.py", "import ray", "r2d2 imports ray"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, line, rule):
    for package in ("r2d2/config", "r2d2/models", "r2d2/tracking", "r2d2/cli"):
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line)
    (found,) = violations(tmp_path)
    assert found.startswith(f"{path}:{1 if rule == 'no floor' else len(line.splitlines())}:") and rule in found


def test_what_the_floors_allow_is_not_found(tmp_path):
    allowed = {
        "r2d2/__init__.py": "import os",
        "r2d2/errors.py": "",
        "r2d2/imgmed/__init__.py": "from r2d2.errors import InputError\nfrom r2d2.imgmed.slices import x\nimport cv2",
        "r2d2/imgmed/slices.py": "",
        "r2d2/data/cases.py": "from r2d2 import __version__, imgmed\nfrom r2d2.segeval import scores",
        "r2d2/cluster/trainer.py": "import ray\nfrom r2d2.cluster import worker\nfrom r2d2.training import ring",
        "apps/dashboard/app.py": "import streamlit\nfrom apps.dashboard import figures\nfrom r2d2 import engine",
    }
    for file, text in allowed.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert violations(tmp_path) == []
