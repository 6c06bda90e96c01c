"""Starting services: free ports, their processes, and a wait until each of them answers."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from urllib.parse import urlsplit

import psutil

from r2d2 import services
from r2d2.console import bar, say
from r2d2.engine.services import commands
from r2d2.engine.services.end import children, end_service
from r2d2.engine.services.look import answers, last_words
from r2d2.engine.services.settings import PORTS, Settings, listening, login, reached, settings_file
from r2d2.errors import InputError, WorkFailed
from r2d2.network import free_port, without_passwords
from r2d2.services import LOOPBACK, Service

START_S = 120.0
"""How long a service may take until it answers; MLflow's tables alone take ten seconds to make."""


def start_all(
    missing: Sequence[str], record: dict[str, Service], settings: Settings, before: dict[str, Service]
) -> None:
    """Start these services and wait until they answer; if one does not, end what was started.

    Args:
        missing: Their names.
        record: What runs already; what is started is added to it, and to the file.
        settings: How to run them.
        before: What ran, whose addresses are taken again where they are free.

    Raises:
        InputError: A port that was named is taken.
        WorkFailed: A service ended or did not answer in time.
    """
    host = listening(settings.host)
    if host != LOOPBACK:
        commands.lock_doors()
    warn_of_environment()
    ports = _ports(missing, settings, host, before)
    tracking = record["mlflow"].address if "mlflow" in record else f"http://{reached(host)}:{ports['mlflow']}"
    if "dashboard" in record and "mlflow" in before and tracking != before["mlflow"].address:
        say(f"dashboard: starts again, for mlflow is at {tracking} now")
        end_service(record.pop("dashboard"))
        missing = [*missing, "dashboard"]
        ports |= _ports(["dashboard"], settings, host, before)
    started: list[Service] = []
    try:
        for name in missing:
            service = _start(name, host, ports, tracking, settings)
            started.append(service)
            record[name] = service
            services.write(record)
        _wait(started)
    except BaseException:
        for service in started:
            end_service(service)
            del record[service.name]
            services.write(record)
        if not record:
            settings_file().unlink(missing_ok=True)
        raise


def dashboard_host(host: str, settings: Settings) -> str:
    """Where the dashboard listens: where the others do, if it can ask who is there; else to this machine alone."""
    return host if login(settings) else LOOPBACK


def warn_of_environment() -> None:
    """Say which variables send commands to services elsewhere."""
    for variable, name in (("MLFLOW_TRACKING_URI", "mlflow"), ("RAY_ADDRESS", "ray")):
        if value := os.environ.get(variable):
            where = without_passwords(value)
            say(f"{variable} is set to {where}: commands go there, and not to the {name} that is started here")


def _ports(missing: Sequence[str], settings: Settings, host: str, known: dict[str, Service]) -> dict[str, int]:
    """A free port for each listener that is to be started, and the choice said where it is not the usual one."""
    chosen = {}
    for key, usual in PORTS.items():
        name = key.partition("_")[0]
        if name not in missing:
            continue
        named = getattr(settings, key)
        before = _port(known, key)  # whoever knows its address must find it there again
        wanted = named or before or usual
        port = free_port(dashboard_host(host, settings) if name == "dashboard" else host, wanted)
        if port != wanted and named:
            raise InputError(f"--{key.replace('_', '-')}-port {wanted}: taken by another program; name a free one")
        if port != wanted:
            say(f"Port {wanted} is taken by another program: {name} takes {port}")
        chosen[key] = port
    return chosen


def _port(record: dict[str, Service], key: str) -> int | None:
    name, _, page = key.partition("_")
    if name not in record:
        return None
    address = record[name].page if page else record[name].address
    return urlsplit(address if "://" in address else f"//{address}").port


def _start(name: str, host: str, ports: dict[str, int], tracking: str, settings: Settings) -> Service:
    reach = reached(host)
    scratch = None
    environment = commands.environment()
    if name == "mlflow":
        line, more = commands.mlflow(host, ports["mlflow"], settings)
        environment |= more
        address = page = tracking
    elif name == "ray":
        # Ray's sockets want a short path, and a name of their own: in its usual folder it would put itself in the
        # place of a cluster that somebody else has started on this machine.
        scratch = tempfile.mkdtemp(prefix="r2d2-ray-")
        line = commands.ray(host, ports, settings, scratch)
        environment = commands.HEAD | environment
        # Half a minute in which work could move to another node, when the head ends: there is nowhere to go.
        environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"
        address, page = f"{reach}:{ports['ray']}", f"http://{reach}:{ports['ray_page']}"
    else:
        host = dashboard_host(host, settings)
        line, more = commands.dashboard(host, ports["dashboard"], settings)
        environment |= more
        address = page = f"http://{reached(host)}:{ports['dashboard']}"
    log = services.folder() / f"{name}.log"
    service = Service(name, 0, 0.0, socket.gethostname(), host, address, page, str(log), scratch)
    if name != "mlflow":
        # What runs on the cluster records where this machine does, whatever its own surroundings say.
        environment["MLFLOW_TRACKING_URI"] = tracking
        environment |= services.environment(Service(**asdict(service) | {"name": "mlflow"}))
    environment |= services.environment(service)
    with log.open("w") as output:
        log.chmod(0o600)
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=services.folder(),
            env=environment,
        )
    children.append(process)
    created = psutil.Process(process.pid).create_time()
    return Service(**asdict(service) | {"pid": process.pid, "created": created})


def _wait(started: Sequence[Service]) -> None:
    """Until each of them answers."""
    deadline = time.monotonic() + START_S
    waiting = {service.name: service for service in started}
    with bar("Starting", len(started)) as advance:
        advance(f"waiting for {', '.join(waiting)}", done=0)
        while waiting:
            for name, service in list(waiting.items()):
                if services.leader(service) is None:
                    raise WorkFailed(f"{name} ended at once: {last_words(service)}")
                if answers(service):
                    del waiting[name]
                    left = f"waiting for {', '.join(waiting)}" if waiting else ""
                    advance(f"{name} answers at {service.address}; {left}".rstrip("; "))
            if waiting and time.monotonic() > deadline:
                service = next(iter(waiting.values()))
                raise WorkFailed(f"{service.name} does not answer after {START_S:g} s: {last_words(service)}")
            time.sleep(0.1)
