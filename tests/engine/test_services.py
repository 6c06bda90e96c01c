"""`r2d2 up`, `status`, `down` with real services on free ports."""

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from helpers.processes import run, wait_for
from mlflow import MlflowClient

from r2d2 import services
from r2d2.engine import services as engine
from r2d2.engine.services import commands, look, settings, start
from r2d2.engine.services.end import end_service
from r2d2.errors import InputError, WorkFailed
from r2d2.network import answers, free_port
from r2d2.tracking import store


@pytest.fixture
def ended():
    """Whatever is on record at the end of a test is ended."""
    yield
    for service in services.read().values():
        end_service(service)


@pytest.fixture
def listener():
    """The port of a program of somebody else's."""
    code = (
        "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
        "print(s.getsockname()[1], flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    yield int(process.stdout.readline())
    assert process.poll() is None  # nobody has touched it
    process.kill()
    process.wait()
    process.stdout.close()


def ports(**named):
    """Options with a free port for each listener."""
    keys = ("ray", "ray-page", "mlflow", "dashboard")
    return [word for key in keys for word in (f"--{key}-port", str(named.get(key) or free_port("127.0.0.1")))]


def rows(*command):
    """The rows that a command answers with, by name, and its exit code."""
    code, out, err = run(*command, "--json", timeout=150)
    assert out, err
    return {row["name"]: row for row in json.loads(out)}, code, err


@pytest.mark.filterwarnings("ignore:The ``noload``")  # of SQLAlchemy's, at MLflow
def test_up_finds_what_runs_mends_what_died_and_down_leaves_nothing(home, ended, monkeypatch):
    options = ports()
    with ThreadPoolExecutor() as pool:  # two at a time make one set
        one, two = pool.map(lambda _: rows("up", *options, "--slots", "3"), range(2))
    assert one[1] == two[1] == 0, one[2] + two[2]
    assert one[0] == two[0]
    made = one[0]
    assert {row["state"] for row in made.values()} == {"running"}
    assert made["ray"]["about"] == "1 node, 3 CPUs"
    assert store.resolve() == made["mlflow"]["address"] == f"http://127.0.0.1:{options[5]}"
    assert "Another r2d2 up or down is at work here" in one[2] + two[2]

    everything = [one for service in services.read().values() for one in services.processes(service)]
    assert _listening_elsewhere(everything) == []
    assert {stat.S_IMODE(path.stat().st_mode) for path in (home / "services").glob("*.*")} == {0o600}

    client = MlflowClient(store.resolve())  # not `connect`, which would leave its address in this process
    run_id = client.create_run(client.create_experiment("kept")).info.run_id
    client.log_text(run_id, "some text", "note.txt")

    victim = psutil.Process(made["mlflow"]["pid"])
    victim.kill()
    wait_for(lambda: services.address("mlflow") is None, 10)
    found, code, _ = rows("status")
    assert code == 1
    assert {name: row["state"] for name, row in found.items()} == {
        "ray": "running",
        "mlflow": "died",
        "dashboard": "running",
    }
    assert found["mlflow"]["about"].endswith(f"({home}/services/mlflow.log)")
    code, _, err = run("up", "--slots", "2")
    assert code == 2 and "--slots: the services that run were started otherwise" in err
    again, code, err = rows("up")
    assert code == 0 and "mlflow: died; starting it again" in err
    assert again["mlflow"]["address"] == made["mlflow"]["address"] and again["mlflow"]["pid"] != made["mlflow"]["pid"]
    assert again["ray"]["pid"] == made["ray"]["pid"]
    assert client.get_run(run_id).info.status == "RUNNING"

    everything += [one for service in services.read().values() for one in services.processes(service)]
    ended_, out, err = run("down")
    assert (ended_, out) == (0, "Ended dashboard, ray, mlflow\n"), err
    assert [one for one in everything if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert run("down")[:2] == (0, "Nothing to end: no services of this R2D2_HOME\n")
    assert rows_of_nothing() == ([], 0)
    # What was recorded through the server is there without it.
    assert store.resolve() == services.file_store()
    assert MlflowClient(store.resolve()).get_run(run_id).info.status == "RUNNING"
    (note,) = (home / "artifacts").rglob("note.txt")
    assert note.read_text() == "some text"


def rows_of_nothing():
    code, out, _ = run("status", "--json")
    return json.loads(out), code


def _listening_elsewhere(processes):
    """Where these processes listen on another address than the loopback one."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found += [one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert len(found) >= 4
    return [place for place in found if place.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]


def test_one_that_cannot_start_ends_the_others_and_says_why(home, ended, listener, monkeypatch):
    def others(*_):
        return [sys.executable, "-c", "import time; time.sleep(600)"]

    began = []
    real = start._start
    monkeypatch.setattr(start, "_start", lambda *given: began.append(real(*given)) or began[-1])
    monkeypatch.setattr(commands, "ray", others)
    monkeypatch.setattr(commands, "dashboard", lambda *_: (others(), {}))
    fails = [sys.executable, "-c", "raise SystemExit('no such table')"]
    monkeypatch.setattr(commands, "mlflow", lambda *_: (fails, {}))
    with pytest.raises(WorkFailed, match=r"mlflow ended at once: no such table .*/home/services/mlflow.log"):
        engine.up(engine.Settings(mlflow=free_port("127.0.0.1")))
    assert [service.name for service in began] == ["ray", "mlflow", "dashboard"]
    assert [service for service in began if services.processes(service)] == []
    assert services.read() == {} and not Path(began[0].scratch).exists()
    assert answers(f"127.0.0.1:{listener}")


def test_a_port_that_was_named_and_is_taken_is_refused_and_another_one_is_stepped_over(
    home, listener, capsys, monkeypatch
):
    with pytest.raises(InputError, match=f"--mlflow-port {listener}: taken by another program"):
        engine.up(engine.Settings(mlflow=listener))
    assert services.read() == {}
    monkeypatch.setitem(settings.PORTS, "mlflow", listener)
    chosen = start._ports(["mlflow"], engine.Settings(), "127.0.0.1", {})
    assert list(chosen) == ["mlflow"] and chosen["mlflow"] > listener
    assert f"Port {listener} is taken by another program: mlflow takes {chosen['mlflow']}" in capsys.readouterr().err


@pytest.mark.parametrize("taken", [False, True])
def test_what_is_started_again_has_its_address_again_or_the_dashboard_follows_it(
    home, listener, capsys, monkeypatch, taken
):
    port = listener if taken else free_port("127.0.0.1")
    here = socket.gethostname()
    was = services.Service("mlflow", 1, 0.0, here, "127.0.0.1", f"http://127.0.0.1:{port}", None, "", None)
    ended, begun, record = [], [], {"ray": was, "dashboard": was}
    monkeypatch.setattr(start, "end_service", ended.append)
    monkeypatch.setattr(start, "_wait", lambda started: None)
    monkeypatch.setattr(start, "_start", lambda name, *given: begun.append((name, given[2])) or was)
    start.start_all(["mlflow"], record, engine.Settings(), {"mlflow": was, "dashboard": was})
    assert [name for name, _ in begun] == (["mlflow", "dashboard"] if taken else ["mlflow"])
    assert (begun[0][1] == was.address) != taken and ended == [was] * taken
    assert ("dashboard: starts again" in capsys.readouterr().err) == taken


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"host": "192.0.2.250"}, "--host 192.0.2.250: not an IPv4 address of this machine"),
        ({"backend_store": "mysql://me:secret@there/runs"}, "--backend-store mysql://"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_started(home, asked, said):
    with pytest.raises(InputError, match=said) as caught:
        engine.up(engine.Settings(**asked))
    assert "secret" not in str(caught.value) and services.read() == {}


def test_a_missing_extra_is_one_line_with_the_command(home, monkeypatch):
    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: None)
    for asked in (engine.Settings(backend_store="postgresql://a/b"), engine.Settings(artifacts="s3://bucket")):
        with pytest.raises(InputError, match=r"is not installed; pip install 'r2d2\[server\]'"):
            engine.up(asked)


def test_services_of_another_machine_are_left_alone(home):
    services.write(
        {"ray": services.Service("ray", os.getpid(), 0.0, "far", "10.0.0.7", "10.0.0.7:6379", "http://10.0.0.7", "log")}
    )
    assert [row.state for row in engine.status()] == ["elsewhere"]
    for act in (lambda: engine.up(engine.Settings()), engine.down):
        with pytest.raises(InputError, match="its services run on far"):
            act()


def test_a_password_in_a_log_is_not_repeated(home):
    (home / "services").mkdir(parents=True)
    log = home / "services" / "mlflow.log"
    log.write_text("Traceback\nOperationalError: postgresql://me:secret@there/runs refused\n2026 INFO: no error, bye\n")
    service = services.Service("mlflow", 1, 0.0, socket.gethostname(), "127.0.0.1", "a", "a", str(log))
    assert look.last_words(service) == f"OperationalError: postgresql://me:***@there/runs refused ({log})"
