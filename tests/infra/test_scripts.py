"""What linters say of infra's shell scripts and of the Dockerfile: nothing."""

import pathlib

import pytest
from helpers import tools

INFRA = pathlib.Path(__file__).parents[2] / "infra"
SCRIPTS = sorted([*INFRA.rglob("*.sh"), *INFRA.rglob("*.sbatch")])


def test_there_are_scripts():
    assert {"install.sh", "make_env.sh", "preflight.sh", "r2d2.sbatch", "several_hosts.sh"} <= {
        one.name for one in SCRIPTS
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    assert tools.run("shellcheck", "--severity=style", script) == (0, "", "")


def test_hadolint_finds_nothing():
    assert tools.run("hadolint", "--failure-threshold=style", INFRA / "docker" / "Dockerfile") == (0, "", "")
