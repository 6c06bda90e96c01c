"""One version of everything: what infra names is what pyproject.toml, the locks and the Makefile have."""

import re
import tomllib
from pathlib import Path

import pytest

from r2d2 import __version__
from r2d2.engine.services.commands import HEAD

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (INFRA / "docker" / "Dockerfile").read_text(encoding="utf-8")
NAMES_IMAGES = [path for path in INFRA.rglob("*") if path.is_file() and path.suffix != ".pyc"]


def pins(lock):
    text = (ROOT / lock).read_text(encoding="utf-8")
    return dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", text))


def test_ray_on_kubernetes_is_the_locked_one():
    (version,) = re.findall(r"rayVersion: (\S+)", (INFRA / "kubernetes" / "ray-cluster.yaml").read_text())
    assert version == pins("requirements.lock")["ray"] == pins("requirements-gpu.lock")["ray"]


def test_the_images_python_is_the_projects():
    versions = re.findall(r"(?m)^FROM python:(\d+)\.(\d+)-slim-bookworm", DOCKERFILE)
    assert versions == [("3", "11")] * 2
    assert PROJECT["requires-python"] == ">=3.11,<3.12"


def test_cuda_of_the_build_is_the_one_that_the_locked_wheels_carry():
    (built,) = re.findall(r"FROM nvidia/cuda:(\d+\.\d+)\.\d+-devel", DOCKERFILE)
    carried = pins("requirements-gpu.lock")
    assert carried["nvidia-cuda-runtime-cu12"].startswith(f"{built}.") and carried["nvidia-nccl-cu12"]
    assert f"/usr/local/cuda-{built} " in DOCKERFILE


def test_the_two_locks_differ_in_tensorflow_alone():
    cpu, gpu = pins("requirements.lock"), pins("requirements-gpu.lock")
    assert gpu.pop("tensorflow") == cpu.pop("tensorflow-cpu")
    assert {name: version for name, version in gpu.items() if not name.startswith("nvidia-") or name in cpu} == cpu


@pytest.mark.parametrize("path", NAMES_IMAGES, ids=lambda path: str(path.relative_to(INFRA)))
def test_images_have_the_projects_version_no_registry_and_never_the_latest(path):
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"r2d2:(\d+\.\d+\.\d+)-[cg]pu", text)) <= {__version__}
    assert set(re.findall(r"newTag: (\S+)-[cg]pu", text)) <= {__version__}
    assert ":latest" not in text
    for image in re.findall(r"(?m)^(?:FROM|\s*image:) (\S+)", text):
        assert "." not in image.split("/")[0].split(":")[0], f"{image} names a registry"


def test_postgres_is_one_in_compose_and_kubernetes():
    files = (INFRA / "compose" / "compose.yaml", INFRA / "kubernetes" / "postgres.yaml")
    versions = {version for file in files for version in re.findall(r"image: postgres:(\S+)", file.read_text())}
    assert len(versions) == 1


@pytest.mark.parametrize("file", ["kubernetes/ray-cluster.yaml", "ray/cluster.yaml", "slurm/r2d2.sbatch"])
def test_rays_head_reads_the_same_everywhere(file):
    """Compose's head and `r2d2 up` take `commands.HEAD` itself; Slurm has no job server that could stop a job."""
    text = (INFRA / file).read_text(encoding="utf-8")
    stated = dict(re.findall(r"(RAY_[A-Za-z_]+?)(?:, value: \"|=)(\d+)", text))
    expected = {key: value for key, value in HEAD.items() if not ("JOB" in key and "slurm" in file)}
    assert {key: stated.get(key) for key in expected} == expected
