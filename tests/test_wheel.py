"""The wheel, built here and used outside the clone."""

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import r2d2

ROOT = Path(__file__).parents[1]

USE = """
import importlib.metadata, json, sys
import r2d2
from r2d2 import config, resources
from r2d2.cli import main
file = resources.find("experiments/brain_tissue.yaml")
(script,) = importlib.metadata.entry_points(group="console_scripts", name="r2d2")
loaded = [getattr(module, "__file__", None) for name, module in sys.modules.items() if name.split(".")[0] == "r2d2"]
print(json.dumps({
    "package": r2d2.__file__,
    "file": str(file),
    "name": config.load(file).name,
    "script is main": script.load() is main,
    "loaded": loaded,
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-compile", "--target", str(folder), str(wheel)], check=True, capture_output=True)
    return folder


def test_the_wheel_is_of_this_version_for_any_machine(wheel):
    assert wheel.name == f"r2d2-{r2d2.__version__}-py3-none-any.whl"


def test_the_wheel_holds_every_module_the_licence_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "r2d2").rglob("*.py")}
    assert modules <= names
    files = [path for path in (ROOT / "apps").rglob("*") if path.suffix in (".py", ".toml")]
    assert {f"r2d2/_files/{path.relative_to(ROOT)}" for path in files} <= names
    information = f"r2d2-{r2d2.__version__}.dist-info"
    assert f"{information}/licenses/LICENSE" in names
    assert {name.split("/")[0] for name in names} == {"r2d2", information}
    assert not [name for name in names if "tests/" in name or name.endswith(".pyc")]


def test_the_console_script_is_declared(installed):
    (distribution,) = importlib.metadata.distributions(path=[str(installed)])
    scripts = distribution.entry_points.select(group="console_scripts")
    assert [(script.name, script.value) for script in scripts] == [("r2d2", "r2d2.cli:main")]
    assert distribution.metadata["License-Expression"] == "Apache-2.0"


def test_outside_the_clone_it_imports_itself_and_finds_its_files(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed), "R2D2_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", USE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert Path(found["package"]) == installed / "r2d2/__init__.py"
    assert Path(found["file"]) == installed / "r2d2/_files/experiments/brain_tissue.yaml"
    assert found["name"] == "brain-tissue" and found["script is main"]
    assert len(found["loaded"]) > 3 and all(Path(path).is_relative_to(installed) for path in found["loaded"])
    assert list(tmp_path.iterdir()) == []
