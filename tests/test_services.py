"""The record of services: what lives, what does not, whose a process is; and the choice of ports."""

import json
import os
import socket
import stat
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from r2d2 import services
from r2d2.network import free_port

SLEEP = "import time; time.sleep(600)"


@pytest.fixture
def program():
    """A program that leads a session of its own, with a child in it."""
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); print(p.pid); p.wait()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    child = psutil.Process(int(process.stdout.readline()))
    yield process, child
    for one in (process, child):
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    process.stdout.close()


def recorded(process, name="mlflow", **changes):
    """A service whose first process this is, on record."""
    created = psutil.Process(process.pid).create_time()
    page = "http://127.0.0.1:5000"
    made = services.Service(name, process.pid, created, socket.gethostname(), "127.0.0.1", page, page, "log")
    made = replace(made, **changes)
    services.write({name: made})
    return made


def test_a_record_is_read_back_equal_and_is_nobody_elses(home, program):
    service = recorded(program[0])
    assert services.read() == {"mlflow": service}
    assert stat.S_IMODE((home / "services" / "services.json").stat().st_mode) == 0o600
    services.write({})
    assert services.read() == {} and not list((home / "services").iterdir())


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"name": "ray"}]', json.dumps({"name": "ray"})])
def test_a_record_that_is_none_counts_as_no_record(home, text):
    (home / "services").mkdir(parents=True)
    (home / "services" / "services.json").write_text(text)
    assert services.read() == {} and services.address("ray") is None


def test_a_service_that_lives_has_an_address_and_all_its_processes(program):
    process, child = program
    service = recorded(process)
    assert services.address("mlflow") == "http://127.0.0.1:5000"
    assert services.address("ray") is None
    assert {one.pid for one in services.processes(service)} == {process.pid, child.pid}


def test_what_a_killed_service_left_behind_is_still_found(program):
    process, child = program
    service = recorded(process)
    process.kill()
    process.wait()
    assert services.address("mlflow") is None and services.why_dead(service) == "died"
    assert [one.pid for one in services.processes(service)] == [child.pid]


def test_a_number_that_went_to_another_process_is_not_the_service(program):
    process, _ = program
    service = recorded(process)
    earlier = replace(service, created=service.created - 60)
    services.write({"mlflow": earlier})
    assert services.address("mlflow") is None
    assert services.why_dead(earlier) == f"stale: process {process.pid} is another program's now"
    assert services.processes(earlier) == []


def test_a_record_from_before_the_machine_was_started_is_stale(program):
    old = replace(recorded(program[0]), pid=2**22 - 1, created=psutil.boot_time() - 60)
    assert services.why_dead(old) == "stale: the machine has been started since"


def test_a_zombie_does_not_live(program):
    process, _ = program
    service = recorded(process)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert services.leader(service) is None and services.address("mlflow") is None


def test_of_another_machine_only_what_listens_to_others_has_an_address(program):
    recorded(program[0], machine="elsewhere")
    assert services.address("mlflow") is None
    recorded(program[0], machine="elsewhere", host="10.0.0.7", address="http://10.0.0.7:5000")
    assert services.address("mlflow") == "http://10.0.0.7:5000"
    assert services.processes(services.read()["mlflow"]) == []


def test_a_client_is_let_in_by_what_it_enters_and_its_own_settings_stay(home, program, monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    recorded(program[0], host="10.0.0.7", address="http://10.0.0.7:5000")
    services.write_private(services.password_file(), "[mlflow]\nadmin_username = admin\nadmin_password = a%b\n")
    assert not services.enter("http://10.0.0.8:5000") and "MLFLOW_TRACKING_USERNAME" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    assert services.enter("http://10.0.0.7:5000")
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "somebody"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "a%b"


def test_a_client_of_this_homes_ray_asks_for_no_token_whatever_it_asks_elsewhere(program, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    recorded(program[0], name="ray", address="127.0.0.1:6379")
    assert services.enter("127.0.0.1:6379")
    assert os.environ["RAY_AUTH_MODE"] == "disabled" and "RAY_AUTH_TOKEN" not in os.environ


def test_the_next_port_is_taken_where_somebody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) < port + 100
        with pytest.raises(OSError, match="Cannot assign"):
            free_port("192.0.2.250", port)
    assert free_port("127.0.0.1", port) == port
