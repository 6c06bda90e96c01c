"""Services of this R2D2_HOME on this machine: a Ray head, an MLflow server and the dashboard; up, down, status."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from filelock import FileLock, Timeout

from r2d2 import services
from r2d2.console import command, say
from r2d2.engine.services import commands
from r2d2.engine.services.end import end_service
from r2d2.engine.services.look import answers, state, users
from r2d2.engine.services.settings import PORTS, Settings, listening, reached, settings_file, settle
from r2d2.engine.services.start import start_all, warn_of_environment
from r2d2.errors import InputError
from r2d2.network import free_port
from r2d2.services import Service

__all__ = ["Settings", "Status", "access", "dashboard", "down", "status", "up"]

ELSEWHERE = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_AUTH_TOKEN")
HUNG_S = 10.0
"""How long one that was started earlier may take until it answers."""


@dataclass(frozen=True)
class Status:
    """A service and its state: running, not answering, died, stale (its process is another's), elsewhere."""

    name: str
    state: str
    address: str
    page: str
    pid: int
    since: str
    about: str
    log: str


def up(asked: Settings) -> list[Status]:
    """Start what does not run yet, and wait until all of it answers.

    Args:
        asked: How to run it. What runs already must have been started so; what died is started as it was.

    Returns:
        A row a service.

    Raises:
        InputError: A setting that cannot be, a port that is taken, or services that run otherwise.
        WorkFailed: A service ended or did not answer in time; what this call started is ended again.
    """
    services.folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone():
        record = services.read()
        _only_here(record)
        before = dict(record)
        for name, service in list(record.items()):
            if reason := _unfit(service):
                say(f"{name}: {reason}; starting it again")
                end_service(service)
                del record[name]
        settings = settle(asked, restart=bool(services.read()), running=bool(record))
        missing = [name for name in services.NAMES if name not in record]
        if missing:
            start_all(missing, record, settings, before)
        elif os.environ.get("MLFLOW_TRACKING_URI"):
            warn_of_environment()
    return status()


def down(force: bool = False) -> list[str]:
    """End all that `up` started, and nothing else.

    Args:
        force: Also while programs use the cluster, which they lose.

    Returns:
        The names of what was ended; empty if nothing was there.

    Raises:
        InputError: The cluster is in use, or the services are another machine's.
    """
    if not services.read():
        return []
    with _alone():
        record = services.read()
        _only_here(record)
        if "ray" in record and not force and (programs := users(record["ray"])):
            raise InputError(
                f"down: the cluster is in use by {'; '.join(programs)}; let them end ({command()} runs stop RUN), "
                f"or end all with {command()} down --force"
            )
        ended: list[str] = []
        # The server last: whoever loses the cluster can still say so in its run.
        for name in ("dashboard", "ray", "mlflow"):
            if name in record:
                end_service(record.pop(name))
                ended.append(name)
                services.write(record)
        settings_file().unlink(missing_ok=True)
    return ended


def status() -> list[Status]:
    """A row for each service on record, none if `up` was not called."""
    rows = []
    record = services.read()
    for service in (record[name] for name in services.NAMES if name in record):
        word, about = state(service)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(service.created))
        rows.append(Status(service.name, word, service.address, service.page, service.pid, since, about, service.log))
    return rows


def dashboard(asked: Settings | None = None) -> str:
    """The address of the dashboard that `up` started; without one, serve it until Ctrl-C and never return.

    Args:
        asked: How to serve it: `host`, `dashboard`, `read_only`, `user_header`, `proxy`.

    Raises:
        InputError: Another one was asked for than `up` started, or one that anybody could enter.
    """
    asked = asked or Settings()
    address = services.address("dashboard")
    if address is None:
        host = listening(asked.host)
        line, environment = commands.dashboard(host, free_port(host, asked.dashboard or PORTS["dashboard"]), asked)
        port = line[line.index("--server.port") + 1]
        say(f"The dashboard is at http://{reached(host)}:{port}; Ctrl-C ends it")
        # By itself it shows what commands here would use, wherever that is.
        where = {name: os.environ[name] for name in ELSEWHERE if name in os.environ}
        os.execve(sys.executable, line, commands.environment() | environment | where)
    elif asked != Settings():
        raise InputError(f"the dashboard of `up` runs at {address}; {command()} down ends it, `up` takes these, too")
    return address


def access() -> dict[str, list[str]]:
    """For services that ask who is there: the file with what they want to know, and the variables of a client."""
    record = services.read()
    said = {}
    if "mlflow" in record and not record["mlflow"].local:
        said[str(services.password_file())] = ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"]
    if "ray" in record and not record["ray"].local:
        said[str(services.token_file())] = ["RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH"]
    return said


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One `up` or `down` at a time."""
    lock = FileLock(services.folder() / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("Another r2d2 up or down is at work here; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _only_here(record: dict[str, Service]) -> None:
    for service in record.values():
        if not service.here:
            raise InputError(
                f"{services.folder()}: its services run on {service.machine}; go there, or set R2D2_HOME to another"
            )


def _unfit(service: Service) -> str | None:
    """Why a service on record must be started again, or None."""
    if services.leader(service) is None:
        return services.why_dead(service)
    deadline = time.monotonic() + HUNG_S
    while not answers(service):
        if time.monotonic() > deadline:
            return f"process {service.pid} does not answer"
        time.sleep(0.2)
    return None
