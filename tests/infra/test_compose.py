"""Compose's files as Docker Compose itself reads them, and a file of settings that is still the example's."""

import json
import re
import stat
import subprocess
from pathlib import Path

import pytest
from helpers import tools

INFRA = Path(__file__).parents[2] / "infra"
COMPOSE = INFRA / "compose"
FILLED_IN = {
    "R2D2_HEAD": "192.0.2.10",
    "R2D2_ADDRESS": "192.0.2.11",
    "R2D2_SHARED": "/srv/r2d2",
    "R2D2_USER": "1000:1000",
}


def make_env(example, file):
    command = ["bash", INFRA / "make_env.sh", example, file]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def settings(tmp_path):
    """An .env as a person makes it."""
    path = tmp_path / ".env"
    assert make_env(COMPOSE / ".env.example", path).returncode == 0
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line + FILLED_IN.get(line.removesuffix("="), "") for line in lines))
    return path


def values(path):
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if line and not line.startswith("#"))


def config(settings, *files):
    """What Compose makes of its files."""
    told = [option for name in ("compose.yaml", *files) for option in ("--file", COMPOSE / name)]
    code, out, err = tools.run(
        "docker-compose", *told, "--env-file", settings, "--profile", "worker", "config", "--format", "json"
    )
    return json.loads(out) if code == 0 else err


def test_compose_reads_the_files_and_every_service_waits_for_the_check_of_secrets(settings):
    found = config(settings)
    services = found["services"]
    assert set(services) == {"check", "postgres", "storage", "mlflow", "ray-head", "ray-worker", "dashboard"}
    for name, service in services.items():
        if name != "check":
            assert service["depends_on"]["check"] == {"condition": "service_completed_successfully", "required": True}
            assert service["healthcheck"]["test"], name
    assert {one["source"] for one in services["check"]["secrets"]} == set(found["secrets"])


def test_ray_is_on_its_hosts_network_and_the_stores_are_seen_by_mlflow_alone(settings):
    found = config(settings)
    services = found["services"]
    for name in ("ray-head", "ray-worker", "dashboard"):
        assert services[name]["network_mode"] == "host"
    assert found["networks"]["store"]["internal"] is True
    assert {name for name, service in services.items() if "store" in service.get("networks", {})} == {
        *("postgres", "storage", "mlflow")
    }
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert list(published) == ["mlflow"] and published["mlflow"][0]["host_ip"] == "192.0.2.10"


def test_what_ray_and_its_jobs_need_is_in_their_environment_and_data_has_one_path(settings):
    for name in ("ray-head", "ray-worker"):
        service = config(settings)["services"][name]
        told = service["environment"]
        assert told["MLFLOW_TRACKING_URI"] == "http://192.0.2.10:5000"
        assert told["R2D2_HOME"] == "/srv/r2d2/home"
        assert (told["RAY_AUTH_MODE"], told["RAY_AUTH_TOKEN_PATH"]) == ("token", "/run/secrets/ray_token")
        (shared,) = service["volumes"]
        assert shared["source"] == shared["target"] == "/srv/r2d2"
        assert service["user"] == "1000:1000" and service["cap_drop"] == ["ALL"]


def test_no_secret_is_in_what_compose_tells_of_a_service(settings):
    secrets = {value for key, value in values(settings).items() if re.search("PASSWORD|KEY|TOKEN", key)}
    assert len(secrets) == 5 and all(re.fullmatch("[0-9a-f]{48}", secret) for secret in secrets)
    told = json.dumps(config(settings)["services"])
    assert not [secret for secret in secrets if secret in told]


def test_gpus_are_added_to_ray_alone(settings):
    services = config(settings, "gpu.yaml")["services"]
    with_gpus = {name for name, service in services.items() if service.get("deploy", {}).get("resources")}
    assert with_gpus == {"ray-head", "ray-worker"}
    (device,) = services["ray-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]


@pytest.mark.parametrize("variable", FILLED_IN)
def test_what_is_not_filled_in_is_named(settings, variable):
    settings.write_text(re.sub(f"(?m)^{variable}=.*$", f"{variable}=", settings.read_text()))
    assert f"required variable {variable} is missing a value" in config(settings)


def test_settings_are_made_once_with_secrets_of_their_own_that_nobody_else_reads(tmp_path):
    path = tmp_path / ".env"
    assert make_env(COMPOSE / ".env.example", path).returncode == 0
    before = path.read_text()
    assert "=change-me" not in before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = make_env(COMPOSE / ".env.example", path)
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "is there already" in again.stderr
    assert path.read_text() == before
