"""What `r2d2 up` started for this R2D2_HOME: its record, whether it lives, and what its clients need."""

import configparser
import contextlib
import importlib.metadata
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from r2d2 import config, job
from r2d2.files import whole_file

NAMES = ("ray", "mlflow", "dashboard")
LOOPBACK = "127.0.0.1"
CLOCK_S = 2.0
"""How far two readings of when a process began may differ: they move with the machine's clock."""


def cuda() -> bool:
    """Whether what is installed can compute on a GPU: Ray counts them also where TensorFlow is made for processors."""
    return any(importlib.metadata.distributions(name="tensorflow"))


@dataclass(frozen=True)
class Service:
    """A service as it was started.

    Attributes:
        name: One of NAMES.
        pid: Its first process, which leads a session of its own; all that it starts is in it or below it.
        created: When that process began, in seconds since 1970.
        machine: The name of the machine it runs on.
        host: The address it listens on.
        address: What its clients are given: `host:port` of Ray's head, the URL of the others.
        page: What a browser opens.
        log: The file that its output goes to.
        scratch: A folder that goes with it.
    """

    name: str
    pid: int
    created: float
    machine: str
    host: str
    address: str
    page: str
    log: str
    scratch: str | None = None

    @property
    def here(self) -> bool:
        """Whether it was started on this machine: another one's process numbers mean nothing here."""
        return self.machine == socket.gethostname()

    @property
    def local(self) -> bool:
        """Whether it listens to this machine alone, and therefore asks nobody who is there."""
        return self.host == LOOPBACK


def folder() -> Path:
    """Where the record, the logs, and the files of passwords and tokens are."""
    return config.home() / "services"


def file_store() -> str:
    """The URI of the runs' store that needs no server: SQLite in R2D2_HOME, its files in `artifacts` beside it."""
    return f"sqlite:///{config.home()}/mlflow.db"


def password_file() -> Path:
    """MLflow's settings of who is let in: the administrator's name and password; nobody else may read it."""
    return folder() / "mlflow.ini"


def token_file() -> Path:
    """Ray's token; nobody else may read it."""
    return folder() / "ray-token"


def login_file() -> Path:
    """How people log in at the dashboard: Streamlit's `[auth]`, with secrets; nobody else may read it."""
    return Path(os.environ.get("R2D2_LOGIN") or folder() / "login.toml")


def read() -> dict[str, Service]:
    """The services on record, by name; none if there is no record."""
    if job.is_homeless():
        return {}
    try:
        entries = json.loads((folder() / "services.json").read_text(encoding="utf-8"))
        return {entry["name"]: Service(**entry) for entry in entries}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return {}


def write(services: Mapping[str, Service]) -> None:
    """Record these services, or, where there are none, nothing."""
    if services:
        write_private(folder() / "services.json", json.dumps([asdict(one) for one in services.values()], indent=1))
    else:
        (folder() / "services.json").unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Make a file that nobody else can read at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with whole_file(path) as new:
        new.touch(mode=0o600)
        new.write_text(text, encoding="utf-8")


def leader(service: Service) -> psutil.Process | None:
    """The first process of a service, if it lives and its number has not gone to another one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(service.pid)
        if service.here and _same(process, service) and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def processes(service: Service) -> list[psutil.Process]:
    """Every process of a service, the first one first; also those that a killed first one left behind."""
    if not service.here:
        return []
    first = leader(service)
    if first is None and psutil.pid_exists(service.pid) and not _same(psutil.Process(service.pid), service):
        return []  # another process' number, and so its session's
    found = {}
    for process in psutil.process_iter():
        # No new process is given the number of a session that still has members.
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == service.pid and process.create_time() > service.created - CLOCK_S:
                found[process.pid] = process
    with contextlib.suppress(psutil.Error):
        if first is not None:
            found |= {process.pid: process for process in first.children(recursive=True)}
    return [process for process in found.values() if lives(process)]


def why_dead(service: Service) -> str:
    """What became of a service whose first process is no more, in a few words."""
    if psutil.boot_time() > service.created + CLOCK_S:
        return "stale: the machine has been started since"
    if psutil.pid_exists(service.pid) and not _same(psutil.Process(service.pid), service):
        return f"stale: process {service.pid} is another program's now"
    return "died"


def address(name: str) -> str | None:
    """The address of a service of this home that lives, or None; asks the system, not the service."""
    service = read().get(name)
    if service is None:
        return None
    # Of another machine one can only know that it is meant to be reached from here.
    return service.address if leader(service) or not (service.here or service.local) else None


def environment(service: Service) -> dict[str, str]:
    """The variables with which a client of a service is let in."""
    if service.name == "ray" and service.local:
        # With Ray's switch for systems on which it knows no clusters, its processes listen on the loopback address
        # alone; otherwise on all addresses, whatever it is told. Its clients must take the same view.
        return {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}
    if service.name == "ray":
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file())}
    if service.name == "mlflow" and not service.local:
        who = password()
        return {"MLFLOW_TRACKING_USERNAME": who["admin_username"], "MLFLOW_TRACKING_PASSWORD": who["admin_password"]}
    return {}


def password() -> Mapping[str, Any]:
    """What `password_file` says, by key."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(password_file(), encoding="utf-8")
    return parser["mlflow"]


def enter(address: str) -> bool:
    """Set what this process needs to be let in at an address, if that is a service of this home's; whether it is.

    Who one is at MLflow, one may have said already. What Ray's processes ask of each other is the cluster's to say.
    """
    for service in read().values():
        if service.address == address:
            if service.name == "ray":
                os.environ.pop("RAY_AUTH_TOKEN", None)  # it would win over the file
                os.environ.update(environment(service))
            for name, value in environment(service).items():
                os.environ.setdefault(name, value)
            return True
    return False


def lives(process: psutil.Process) -> bool:
    """Whether a process has not ended; one that nobody has asked how it ended (a zombie) has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _same(process: psutil.Process, service: Service) -> bool:
    try:
        return abs(process.create_time() - service.created) < CLOCK_S
    except psutil.NoSuchProcess:
        return False
