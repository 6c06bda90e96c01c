"""What the images start: the secrets that it refuses, a real tracking server, and how Ray is started."""

import base64
import contextlib
import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from helpers.processes import end, wait_for

from r2d2.network import answers

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "infra" / "docker" / "serve.py"
SECRETS = ("postgres_password", "s3_secret_key", "mlflow_password", "mlflow_key", "ray_token")


@pytest.fixture
def secrets(tmp_path):
    """A folder of secrets, each of its own."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    for number, name in enumerate(SECRETS):
        (folder / name).write_text(f"{number}{name[::-1]}-0123456789\n")
    return folder


def serve(role, secrets, **environment):
    """Start a service and wait for its end: (exit code, standard output, standard error)."""
    told = os.environ | {"PYTHONPATH": str(ROOT), "R2D2_SECRETS": str(secrets)} | environment
    command = [sys.executable, SERVE, *role.split()]
    done = subprocess.run(command, capture_output=True, text=True, env=told, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_good_secrets_pass_in_silence(secrets):
    assert serve("check", secrets) == (0, "", "")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("change-me", "it is the example's"),
        ("CHANGE-ME-0123456789-abcdef", "it is the example's"),
        ("minioadmin", "it is the example's"),
        ("password1234", "it is the example's"),
        ("0123456789abcde", "15 characters, at least 16"),
        ("\n", "0 characters"),
    ],
)
def test_a_secret_that_is_none_is_refused_in_one_line_that_does_not_show_it(secrets, value, said):
    (secrets / "mlflow_key").write_text(value)
    code, out, err = serve("check", secrets)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("r2d2: secret mlflow_key: ") and said in line
    assert value.strip() == "" or value not in line


@pytest.mark.parametrize("role", ["mlflow", "dashboard", "ray-head", "ray-worker"])
def test_no_service_starts_with_an_examples_secret(secrets, role):
    (secrets / "ray_token").write_text("change-me")
    code, out, err = serve(role, secrets)
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("r2d2: secret ray_token: ")


def test_no_secrets_at_all_are_refused(tmp_path):
    code, _, err = serve("check", tmp_path)
    assert code == 2 and err == f"r2d2: no secrets in {tmp_path}\n"


def test_a_secret_that_a_service_needs_and_does_not_have_is_named(secrets):
    (secrets / "ray_token").unlink()
    code, _, err = serve(
        "ray-worker", secrets, R2D2_HEAD="192.0.2.1", R2D2_ADDRESS="192.0.2.2", MLFLOW_TRACKING_URI="x"
    )
    assert code == 2 and err.startswith("r2d2: secret ray_token: ") and err.count("\n") == 1


@pytest.mark.parametrize("role", ["", "bash", "mlflow now"])
def test_another_service_is_refused(secrets, role):
    code, _, err = serve(role, secrets)
    assert (code, err) == (2, "r2d2: serve.py: one of check, mlflow, dashboard, ray-head, ray-worker\n")


def test_the_tracking_server_asks_who_is_there_and_shows_no_secret(secrets, tmp_path):
    home = tmp_path / "server"
    environment = {
        "PYTHONPATH": str(ROOT),
        "R2D2_SECRETS": str(secrets),
        "R2D2_HOME": str(home),
        "R2D2_DATABASE": f"sqlite:///{tmp_path}/runs.db",
        "R2D2_ARTIFACTS": f"file://{tmp_path}/artifacts",
    }
    if answers("127.0.0.1:5000"):
        pytest.skip("port 5000, the one in the image, is taken here")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, SERVE, "mlflow"],
            env=os.environ | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(lambda: status("/health") == 200, 150, process)
        path = "/api/2.0/mlflow/experiments/search?max_results=1"
        assert status(path) == 401
        assert status(path, "password1234") == 401
        password = (secrets / "mlflow_password").read_text().strip()
        assert status(path, password) == 200
        assert stat.S_IMODE((home / "services" / "mlflow.ini").stat().st_mode) == 0o600
        lines = [
            " ".join(one.cmdline())
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        ]
        assert not [name for name in SECRETS for line in lines if (secrets / name).read_text().strip() in line]
    finally:
        end(process)


def status(path, password=None):
    """What the tracking server answers a request with."""
    request = urllib.request.Request(f"http://127.0.0.1:5000{path}")
    if password:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"admin:{password}".encode()).decode())
    with contextlib.suppress(OSError):
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
    return None


PROBE = """
import os, runpy, sys

def told(path, line, environment):
    names = "RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH RAY_JOB_STOP_WAIT_TIME_S MLFLOW_TRACKING_USERNAME R2D2_HOME".split()
    print(*line)
    print(*map(environment.get, names), len(environment["MLFLOW_TRACKING_PASSWORD"]))

os.execve = told
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("role", "joins"), [("ray-head", "--head"), ("ray-worker", "--address=127.0.0.1:6379")])
def test_ray_is_started_with_the_token_and_lets_jobs_leave_with_a_checkpoint(secrets, tmp_path, role, joins):
    told = {
        "PYTHONPATH": str(ROOT),
        "R2D2_SECRETS": str(secrets),
        "R2D2_HEAD": "127.0.0.1",
        "R2D2_ADDRESS": "127.0.0.2",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "R2D2_HOME": "/srv/home",
    }
    command = [sys.executable, "-c", PROBE, SERVE, role]
    out = subprocess.run(command, capture_output=True, text=True, env=os.environ | told, check=True, timeout=60).stdout
    line, environment = out.splitlines()
    address = "127.0.0.1" if role == "ray-head" else "127.0.0.2"
    assert f" start {joins} --block " in line and f"--node-ip-address {address}" in line
    patience = "120" if role == "ray-head" else "None"
    length = len((secrets / "mlflow_password").read_text().strip())
    assert environment == f"token {secrets}/ray_token {patience} admin /srv/home {length}"
    assert not [name for name in SECRETS if (secrets / name).read_text().strip() in line]
