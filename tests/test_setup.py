"""Setting up: the locks, the check of the machine, and a second `make` that makes nothing."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "horovod.lock")
KERNELS = tuple(
    f"r2d2/kernels/{name}" for name in ("amx.h", "convolution.cc", "convolution_gradient.cc", "__init__.py")
)
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?: ; .+)? \\$")


def pins(lock):
    """The versions that a lock pins by package, and how many hashes each has."""
    versions, hashes, name = {}, {}, ""
    for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
        if line.startswith("    --hash=sha256:"):
            hashes[name] += 1
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
        else:
            match = PIN.match(line)
            assert match, f"{lock}: neither a pin nor a hash: {line}"
            name = canonicalize_name(match[1])
            versions[name], hashes[name] = match[2], 0
    return versions, hashes


@pytest.mark.parametrize("lock", [*LOCKS, "requirements-gpu.lock"])
def test_a_lock_says_what_and_not_from_where_and_every_pin_has_a_hash(lock):
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"https?:|--(extra-)?index|--find-links|--trusted-host|\bgit\+|\bfile:", text)
    versions, hashes = pins(lock)
    assert versions and all(count > 0 for count in hashes.values())


def test_every_dependency_is_pinned_in_a_version_that_it_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    versions, _ = pins("requirements.lock")
    asked = [*project["dependencies"], *extras["cpu"], *extras["horovod-build"], *extras["dev"]]
    for requirement in map(Requirement, asked):
        pinned = versions.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement} is not in requirements.lock"
        assert requirement.specifier.contains(pinned, prereleases=True), f"{requirement}, the lock has {pinned}"
    (horovod,) = map(Requirement, extras["horovod"])
    assert pins("horovod.lock")[0] == {"horovod": str(horovod.specifier).removeprefix("==")}


def machine(folder, python="real", compiler=True):
    """A PATH with nothing but Python and a compiler, or without one of them."""
    folder.mkdir()
    if python == "real":
        (folder / "python3.11").symlink_to(Path(sys.base_prefix) / "bin/python3.11")
    elif python:
        (folder / "python3.11").write_text(f"#!/bin/sh\n{python}\n")
        (folder / "python3.11").chmod(0o755)
    if compiler:
        (folder / "g++").write_text("#!/bin/sh\n")
        (folder / "g++").chmod(0o755)
    return folder


def preflight(path, *words, gpu=""):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "CXX")} | {"GPU": gpu}
    command = ["/bin/bash", str(ROOT / "infra/preflight.sh"), *words]
    return subprocess.run(command, env=environment | {"PATH": str(path)}, capture_output=True, text=True, check=False)


def test_a_machine_with_all_that_is_needed_passes_in_silence(tmp_path):
    done = preflight(machine(tmp_path / "bin"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_this_machine_passes():
    done = preflight(f"{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Answers as a Python 3.10, or as a 3.11 of Debian without its package python3.11-venv.
PYTHON_310 = 'case "$*" in --version) echo Python 3.10.4;; *) exit 1;; esac'
PYTHON_WITHOUT_VENV = 'case "$*" in *ensurepip*) echo Traceback >&2; exit 1;; esac'


@pytest.mark.parametrize(
    ("lacks", "named", "package"),
    [
        ({"compiler": False}, "C++ compiler", "apt install g++"),
        ({"python": None}, "python3.11", "apt install python3.11"),
        ({"python": PYTHON_310}, "Python 3.10.4", "apt install python3.11"),
        ({"python": PYTHON_WITHOUT_VENV}, "venv", "apt install python3.11-venv"),
    ],
    ids=["no compiler", "no python", "python 3.10", "no venv"],
)
def test_what_a_machine_lacks_is_one_line_with_the_package_that_brings_it(tmp_path, lacks, named, package):
    done = preflight(machine(tmp_path / "bin", **lacks))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("r2d2: ") and named in line and package in line


def test_who_tests_needs_a_browser_too(tmp_path):
    path = machine(tmp_path / "bin")
    done = preflight(path, "browser")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("r2d2: no chromium") and "apt install chromium" in line
    (path / "chromium").symlink_to("/bin/true")
    assert preflight(path, "browser").returncode == 0


def digest(*files):
    """As the Makefile names its stamps: by the files' contents, one after another."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


@pytest.fixture
def made(tmp_path):
    """A copy of the Makefile and what it looks at, with the stamps of a finished `make setup`."""
    for name in ("Makefile", "pyproject.toml", *KERNELS, *LOCKS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / f".packages-{digest(*(tmp_path / lock for lock in LOCKS))}").touch()
    (tmp_path / ".venv" / f".project-{digest(tmp_path / 'pyproject.toml')}").touch()
    (tmp_path / ".venv" / f".kernels-{digest(*(tmp_path / name for name in (*KERNELS, *LOCKS)))}").touch()
    return tmp_path


def would_run(folder, target="setup", *options):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = ["make", "-n", "-C", str(folder), "--no-print-directory", target, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment | {"LC_ALL": "C"})
    return done.stdout


def test_what_is_set_up_is_not_set_up_again(made):
    assert would_run(made) == "make: Nothing to be done for 'setup'.\n"


def test_a_checkout_that_touches_the_locks_makes_nothing_again(made):
    for path in (made / "pyproject.toml", *(made / lock for lock in LOCKS)):
        os.utime(path, (4e9, 4e9))
    assert would_run(made) == "make: Nothing to be done for 'setup'.\n"


@pytest.mark.parametrize("lock", LOCKS)
def test_another_lock_makes_the_environment_again(made, lock):
    with (made / lock).open("a") as file:
        file.write("\n")
    commands = would_run(made)
    assert "preflight.sh" in commands and "--require-hashes -r requirements.lock" in commands


def test_another_pyproject_installs_the_project_alone(made):
    with (made / "pyproject.toml").open("a") as file:
        file.write("\n")
    commands = would_run(made)
    assert "--editable ." in commands and "requirements.lock" not in commands


@pytest.mark.parametrize("source", KERNELS)
def test_another_kernel_is_built_alone(made, source):
    with (made / source).open("a") as file:
        file.write("\n")
    commands = would_run(made)
    assert "-m r2d2.kernels" in commands and "install" not in commands


def test_a_machine_with_gpus_gets_their_lock_and_horovod_with_nccl(made):
    shutil.copy(ROOT / "requirements-gpu.lock", made)
    commands = would_run(made, "setup", "GPU=1")
    assert "--require-hashes -r requirements-gpu.lock" in commands and "HOROVOD_GPU_OPERATIONS=NCCL" in commands
    assert "HOROVOD_NCCL_LINK=SHARED" in commands and "/nvidia/nccl/lib" in commands
    assert "NCCL" not in would_run(made) and "nccl" not in would_run(made)


def test_a_gpus_setup_without_cudas_compiler_says_so(tmp_path):
    here = machine(tmp_path / "bin")
    done = preflight(here, gpu="1")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("r2d2: no nvcc here") and "install CUDA" in line
    (here / "nvcc").symlink_to(here / "g++")
    assert preflight(here, gpu="1").returncode == 0


def test_a_first_make_checks_the_machine_before_anything_else(made):
    shutil.rmtree(made / ".venv")
    assert "infra/preflight.sh" in would_run(made, "demo").splitlines()[0]
