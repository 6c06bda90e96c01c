"""The file of Ray's cluster launcher, as Ray itself reads it."""

import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "infra" / "ray" / "cluster.yaml"


@pytest.fixture(scope="module")
def cluster():
    """What Ray makes of it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    validate_config(prepared)
    return prepared


def test_ray_takes_the_file_and_waits_for_all_hosts(cluster):
    given = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    hosts = len(given["provider"]["worker_ips"])
    assert given["min_workers"] == given["max_workers"] == hosts
    assert cluster["available_node_types"]["local.cluster.node"]["min_workers"] == hosts


def test_every_node_asks_for_the_token_and_the_head_lets_jobs_leave_with_a_checkpoint(cluster):
    (head,) = [one for one in cluster["head_start_ray_commands"] if "ray start" in one]
    (worker,) = [one for one in cluster["worker_start_ray_commands"] if "ray start" in one]
    for command in (head, worker):
        assert {"RAY_AUTH_MODE=token", "R2D2_HOME=/srv/r2d2/home"} <= set(command.replace(";", "").split())
        assert "MLFLOW_TRACKING_URI=" in command
        subprocess.run(["bash", "-n", "-c", command], check=True)
    assert "RAY_JOB_STOP_WAIT_TIME_S=120" in head and "--autoscaling-config=" in head


def test_secrets_travel_as_files_and_are_on_no_command_line(cluster):
    assert set(cluster["file_mounts"]) == {"~/.ray/auth_token", "~/.mlflow/credentials"}
    told = yaml.safe_dump([value for key, value in cluster.items() if key.endswith("commands")])
    assert "PASSWORD" not in told and "AUTH_TOKEN=" not in told
    assert any("chmod 600" in command for command in cluster["setup_commands"])
