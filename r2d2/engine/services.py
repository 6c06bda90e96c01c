"""Services of this R2D2_HOME on this machine: a Ray head, an MLflow server and the dashboard; up, down, status."""

import configparser
import contextlib
import importlib
import importlib.util
import io
import ipaddress
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from filelock import FileLock, Timeout

from r2d2 import ENVIRONMENT, config, resources, services
from r2d2.console import bar, command, say
from r2d2.errors import InputError, WorkFailed
from r2d2.network import free_port
from r2d2.services import LOOPBACK, Service

PORTS = {"ray": 6379, "ray_page": 8265, "mlflow": 5000, "dashboard": 8501}
START_S = 120.0
"""How long a service may take until it answers; MLflow's tables alone take ten seconds to make."""
HUNG_S = 10.0
"""How long one that was started earlier may take."""
END_S = 10.0
"""How long one that was asked to end may take, before it is made to."""


@dataclass(frozen=True)
class Settings:
    """How the services are to run; None is what was not asked for.

    Attributes:
        host: The address to listen on; 127.0.0.1 if None.
        ray, ray_page, mlflow, dashboard: Ports of Ray's head, its jobs and pages, MLflow and the dashboard; if None,
            those of PORTS or the next that are free.
        slots: CPUs to declare to Ray; the machine's if None.
        backend_store: Where MLflow keeps runs, a database's URL; the SQLite file in R2D2_HOME if None.
        artifacts: Where it keeps their files, a folder or a URL; a folder in R2D2_HOME if None.
    """

    host: str | None = None
    ray: int | None = None
    ray_page: int | None = None
    mlflow: int | None = None
    dashboard: int | None = None
    slots: int | None = None
    backend_store: str | None = None
    artifacts: str | None = None


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
        for name, service in list(record.items()):
            if reason := _unfit(service):
                say(f"{name}: {reason}; starting it again")
                _end(service)
                del record[name]
        settings = _settings(asked, restart=bool(services.read()), running=bool(record))
        missing = [name for name in services.NAMES if name not in record]
        if missing:
            _start_all(missing, record, settings)
        elif os.environ.get("MLFLOW_TRACKING_URI"):
            _warn_of_environment()
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
        if "ray" in record and not force and (users := _users(record["ray"])):
            raise InputError(
                f"down: the cluster is in use by {'; '.join(users)}; let them end ({command()} runs stop RUN), "
                f"or end all with {command()} down --force"
            )
        ended: list[str] = []
        # The server last: whoever loses the cluster can still say so in its run.
        for name in ("dashboard", "ray", "mlflow"):
            if name in record:
                _end(record.pop(name))
                ended.append(name)
                services.write(record)
        _settings_file().unlink(missing_ok=True)
    return ended


def status() -> list[Status]:
    """A row for each service on record, none if `up` was not called."""
    rows = []
    record = services.read()
    for service in (record[name] for name in services.NAMES if name in record):
        state, about = _state(service)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(service.created))
        rows.append(Status(service.name, state, service.address, service.page, service.pid, since, about, service.log))
    return rows


def dashboard_command(port: int) -> list[str]:
    """The command line that serves the dashboard on this machine alone: Streamlit cannot ask who is there."""
    options = {
        "server.address": LOOPBACK,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", "streamlit", "run", str(resources.find("apps/dashboard/app.py")), *words]


def dashboard() -> str:
    """The address of the dashboard that `up` started; without one, serve it until Ctrl-C and never return."""
    address = services.address("dashboard")
    if address is None:
        port = free_port(LOOPBACK, PORTS["dashboard"])
        say(f"The dashboard is at http://{LOOPBACK}:{port}; Ctrl-C ends it")
        os.execve(sys.executable, dashboard_command(port), _environment())
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
    with contextlib.closing(_Release(lock)):
        yield


class _Release:
    def __init__(self, lock: FileLock) -> None:
        self.close = lock.release


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
    while not _answers(service):
        if time.monotonic() > deadline:
            return f"process {service.pid} does not answer"
        time.sleep(0.2)
    return None


# --- Settings


def _settings_file() -> Path:
    return services.folder() / "settings.json"


def _settings(asked: Settings, restart: bool, running: bool) -> Settings:
    """What was asked for, checked; next to what runs already, the settings that it was started with."""
    before = None
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        if restart:
            before = Settings(**json.loads(_settings_file().read_text(encoding="utf-8")))
    if before is not None and asked != Settings():
        other = [key for key, value in asdict(asked).items() if value is not None and value != getattr(before, key)]
        if "host" in other and _listening(asked.host) == _listening(before.host):
            other.remove("host")
        if other and running:
            option = f"--{other[0].replace('_', '-')}" + ("-port" if other[0] in PORTS else "")
            raise InputError(f"{option}: the services that run were started otherwise; first {command()} down")
        before = None if other else before
    if before is not None:
        return before
    _check(asked)
    services.write_private(_settings_file(), json.dumps(asdict(asked)))
    return asked


def _check(settings: Settings) -> None:
    _listening(settings.host)
    if settings.slots is not None and settings.slots < 1:
        raise InputError(f"--slots {settings.slots}: at least 1")
    store = urlsplit(settings.backend_store or services.file_store())
    kind = store.scheme.partition("+")[0]
    if kind not in ("sqlite", "postgresql"):
        raise InputError(f"--backend-store {kind}://...: give postgresql://USER:PASSWORD@HOST/NAME, or sqlite:///FILE")
    if kind == "postgresql":
        _need("psycopg2", "--backend-store postgresql://...")
        _can_connect(store._replace(scheme=kind).geturl())
    if (settings.artifacts or "").startswith("s3://"):
        _need("boto3", "--artifacts s3://...")


def _need(package: str, option: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{option}: {package} is not installed; pip install 'r2d2[server]'")


def _can_connect(database: str) -> None:
    """Ask PostgreSQL before MLflow does, which would go on asking for minutes."""
    psycopg2 = importlib.import_module("psycopg2")
    try:
        psycopg2.connect(database, connect_timeout=10).close()
    except psycopg2.Error as error:
        raise InputError(f"--backend-store {_shown(database)}: {' '.join(str(error).split())}") from None


def _listening(host: str | None) -> str:
    """The numeric address to listen on; every name of the loopback address is 127.0.0.1."""
    try:
        address = socket.gethostbyname(host or LOOPBACK)
        free_port(address)
    except OSError:
        raise InputError(f"--host {host}: not an IPv4 address of this machine") from None
    return LOOPBACK if ipaddress.ip_address(address).is_loopback else address


def _reached(host: str) -> str:
    """The address by which others reach what listens on `host`, which may be all addresses."""
    if host != "0.0.0.0":
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing; the system chooses the way out
        return str(probe.getsockname()[0])
    return socket.gethostbyname(socket.gethostname())


# --- Starting


def _start_all(missing: Sequence[str], record: dict[str, Service], settings: Settings) -> None:
    host = _listening(settings.host)
    if host != LOOPBACK:
        _lock_doors()
    _warn_of_environment()
    ports = _ports(missing, settings, host)
    tracking = record["mlflow"].address if "mlflow" in record else f"http://{_reached(host)}:{ports['mlflow']}"
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
            _end(service)
            del record[service.name]
            services.write(record)
        if not record:
            _settings_file().unlink(missing_ok=True)
        raise


def _warn_of_environment() -> None:
    for variable, name in (("MLFLOW_TRACKING_URI", "mlflow"), ("RAY_ADDRESS", "ray")):
        if value := os.environ.get(variable):
            say(f"{variable} is set to {_shown(value)}: commands go there, and not to the {name} that is started here")


def _ports(missing: Sequence[str], settings: Settings, host: str) -> dict[str, int]:
    """A free port for each listener that is to be started, and the choice said where it is not the usual one."""
    record = services.read()
    chosen = {}
    for key, usual in PORTS.items():
        name = key.partition("_")[0]
        if name not in missing:
            continue
        named = getattr(settings, key)
        before = _port(record, key)  # whoever knows its address must find it there again
        wanted = named or before or usual
        port = free_port(LOOPBACK if name == "dashboard" else host, wanted)
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
    reached = _reached(host)
    scratch = None
    environment = _environment()
    if name == "mlflow":
        line, more = _mlflow(host, ports["mlflow"], settings)
        environment |= more
        address = page = tracking
    elif name == "ray":
        # Ray's sockets want a short path, and a name of their own: in its usual folder it would put itself in the
        # place of a cluster that somebody else has started on this machine.
        scratch = tempfile.mkdtemp(prefix="r2d2-ray-")
        line = _ray(host, ports, settings, scratch)
        # `ray job stop` means: leave well, with a checkpoint. Three seconds are Ray's usual patience.
        environment.setdefault("RAY_JOB_STOP_WAIT_TIME_S", "120")
        # Half a minute in which work could move to another node, when the head ends: there is nowhere to go.
        environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"
        address, page = f"{reached}:{ports['ray']}", f"http://{reached}:{ports['ray_page']}"
    else:
        line, host = dashboard_command(ports["dashboard"]), LOOPBACK
        address = page = f"http://{LOOPBACK}:{ports['dashboard']}"
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
    _children.append(process)
    created = psutil.Process(process.pid).create_time()
    return Service(**asdict(service) | {"pid": process.pid, "created": created})


_children: list[subprocess.Popen] = []
"""What this process started: it must be asked about them for one that has ended to be gone."""


def _environment() -> dict[str, str]:
    others = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI")  # of services elsewhere
    kept = {key: value for key, value in os.environ.items() if key not in others}
    return ENVIRONMENT | kept | {"R2D2_HOME": str(config.home()), "PYTHONUNBUFFERED": "1"}


def _mlflow(host: str, port: int, settings: Settings) -> tuple[list[str], dict[str, str]]:
    """MLflow's command line, and the part of its environment that nobody else may see."""
    # Two workers on two cores take 8 clients' batches at 1.5 times the rate of one, four at 1.9 times, and nothing was
    # lost with any number: SQLite's writers wait for each other.
    workers = min(4, max(2, len(os.sched_getaffinity(0))))
    line = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", str(workers)]
    line += ["--uvicorn-opts=--no-access-log --timeout-graceful-shutdown 3"]
    artifacts = settings.artifacts or str(config.home() / "artifacts")
    if "://" not in artifacts:
        artifacts = Path(artifacts).expanduser().absolute().as_uri()
    if host == LOOPBACK and artifacts.startswith("file:"):
        # Clients are on this machine and write the files themselves; later they find them without the server, too.
        line += ["--no-serve-artifacts", "--default-artifact-root", artifacts]
    else:
        # Files go through the server: nobody else needs its disk or its keys.
        line += ["--serve-artifacts", "--artifacts-destination", artifacts]
    environment = {
        # Here, its password is in no `ps`. SQLAlchemy's own choice of a driver is not the one of r2d2[server].
        "MLFLOW_BACKEND_STORE_URI": re.sub(
            "^postgresql:", "postgresql+psycopg2:", settings.backend_store or services.file_store()
        ),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    if host != LOOPBACK:
        line += ["--app-name", "basic-auth"]
        environment["MLFLOW_AUTH_CONFIG_PATH"] = str(services.password_file())
        environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = services.password()["secret_key"]
        names = os.environ.get("MLFLOW_SERVER_ALLOWED_HOSTS", "").split(",") + sorted(_names(host))
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(
            part for name in names if name for part in (name, f"{name}:*")
        )
    return line, environment


def _names(host: str) -> set[str]:
    """What a client may call this machine."""
    own = {one.address for every in psutil.net_if_addrs().values() for one in every if one.family == socket.AF_INET}
    return {"localhost", LOOPBACK, socket.gethostname(), _reached(host)} | (own if host == "0.0.0.0" else set())


def _ray(host: str, ports: dict[str, int], settings: Settings, scratch: str) -> list[str]:
    slots = settings.slots or len(os.sched_getaffinity(0))
    options = {
        "node-ip-address": _reached(host),
        "port": ports["ray"],
        "dashboard-host": host,
        "dashboard-port": ports["ray_page"],
        "num-cpus": slots,
        "temp-dir": scratch,
        "log-color": "false",
        # Ray's usual ones, where another cluster on this machine would be in the way.
        "ray-client-server-port": free_port(host),
        "dashboard-agent-listen-port": free_port(host),
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    # The module that its command `ray` calls, so that it is this Python's.
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats", *words]


def _lock_doors() -> None:
    """Make the files of MLflow's password and Ray's token, if they are not there."""
    if not services.password_file().exists():
        parser = configparser.ConfigParser(interpolation=None)
        parser["mlflow"] = {
            "default_permission": "NO_PERMISSIONS",
            "database_uri": f"sqlite:///{services.folder()}/mlflow-users.db",
            "admin_username": "admin",
            "admin_password": secrets.token_urlsafe(24),
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
            # Otherwise every request waits for the password's slow hash.
            "auth_cache_ttl_seconds": "300",
            "secret_key": secrets.token_urlsafe(32),
        }
        text = io.StringIO()
        parser.write(text)
        services.write_private(services.password_file(), text.getvalue())
    if not services.token_file().exists():
        services.write_private(services.token_file(), secrets.token_hex(32))


def _wait(started: Sequence[Service]) -> None:
    """Until each of them answers."""
    deadline = time.monotonic() + START_S
    waiting = {service.name: service for service in started}
    with bar("Starting", len(started)) as advance:
        advance(f"waiting for {', '.join(waiting)}", done=0)
        while waiting:
            for name, service in list(waiting.items()):
                if services.leader(service) is None:
                    raise WorkFailed(f"{name} ended at once: {_last_words(service)}")
                if _answers(service):
                    del waiting[name]
                    left = f"waiting for {', '.join(waiting)}" if waiting else ""
                    advance(f"{name} answers at {service.address}; {left}".rstrip("; "))
            if waiting and time.monotonic() > deadline:
                service = next(iter(waiting.values()))
                raise WorkFailed(f"{service.name} does not answer after {START_S:g} s: {_last_words(service)}")
            time.sleep(0.1)


# --- Looking


def _state(service: Service) -> tuple[str, str]:
    if not service.here:
        return "elsewhere", f"on {service.machine}"
    if services.leader(service) is None:
        reason = services.why_dead(service)
        return reason.partition(":")[0], (reason if ":" in reason else _last_words(service))
    if not _answers(service):
        return "not answering", _last_words(service)
    if service.name != "ray":
        return "running", ""
    nodes = _nodes(service)
    cpus = sum(node.get("resourcesTotal", {}).get("CPU", 0) for node in nodes)
    return "running", f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}, {cpus:g} CPUs"


def _answers(service: Service) -> bool:
    if service.name == "ray":
        return bool(_nodes(service))
    path = {"mlflow": "/health", "dashboard": "/_stcore/health"}[service.name]
    return _get(service, path) is not None


def _nodes(service: Service) -> list[dict[str, Any]]:
    """Ray's nodes that live, as its own pages are told of them."""
    answer = _get(service, "/nodes?view=summary")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found = [node["raylet"] for node in json.loads(answer or b"")["data"]["summary"]]
        return [node for node in found if node.get("state") == "ALIVE"]
    return []


def _users(service: Service) -> list[str]:
    """The programs that use a Ray cluster, each in a few words."""
    users = []
    with contextlib.suppress(ValueError, TypeError):
        for job in json.loads(_get(service, "/api/jobs/") or b"[]"):
            if job.get("status") not in ("PENDING", "RUNNING"):
                continue
            driver = job.get("driver_info") or {}
            what = job.get("entrypoint") or "a program"
            users.append(f"{what[:80]}" + (f" (process {driver['pid']})" if driver.get("pid") else ""))
    return users


def _get(service: Service, path: str) -> bytes | None:
    """What a service answers, or None."""
    request = urllib.request.Request(service.page + path)
    if service.name == "ray" and not service.local:
        with contextlib.suppress(OSError):
            request.add_header("Authorization", f"Bearer {services.token_file().read_text(encoding='utf-8')}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine
    with contextlib.suppress(OSError, ValueError), opener.open(request, timeout=3.0) as answer:
        return answer.read() if answer.status == 200 else None
    return None


def _last_words(service: Service) -> str:
    """The last line of a service's log that says what went wrong, or else the last, and where the rest is."""
    try:
        text = Path(service.log).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"it left no log ({service.log})"
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in text.splitlines()[-200:]]
    lines = [line for line in lines if line and not line.startswith("(Background on this error")]
    wrong = re.compile(r"error|refused|denied|cannot|fail|killed|exception", re.IGNORECASE)
    telling = [line for line in lines if wrong.search(line) and "INFO" not in line]
    last = (telling or lines or ["its log is empty"])[-1]
    return f"{_shown(last)[:300]} ({service.log})"


def _shown(text: str) -> str:
    """The text without the passwords of URLs in it."""
    return re.sub(r"(\w+://[^\s:/@]*):[^\s@]+@", r"\1:***@", text)


# --- Ending


def _end(service: Service) -> None:
    """End a service with all that it started: asked first, then made to."""
    first = services.leader(service)
    group = services.processes(service)
    if first is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            first.terminate()
        _gone(group, END_S)
    for process in {*group, *services.processes(service)}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _gone(group, 5.0)
    if service.scratch and Path(service.scratch).name.startswith("r2d2-ray-"):
        shutil.rmtree(service.scratch, ignore_errors=True)


def _gone(group: Sequence[psutil.Process], seconds: float) -> None:
    """Wait until these processes have ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for child in _children:
            child.poll()
        if not any(_lives(process) for process in group):
            return
        time.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
