"""The command line of each service, and what stands in its environment."""

import configparser
import io
import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from r2d2 import ENVIRONMENT, config, resources, services
from r2d2.engine import uploads
from r2d2.engine.services.settings import Settings, check_login, reached
from r2d2.network import free_port
from r2d2.services import LOOPBACK

HEAD = {
    # `ray job stop` means: leave well, with a checkpoint. Three seconds are Ray's usual patience.
    "RAY_JOB_STOP_WAIT_TIME_S": "120",
    # A node that does not answer is taken for dead after 4 x (2 + 5) s, as long as Horovod's ranks wait for each other.
    # Ray's own values make that a minute, in which a run would wait for a host that was cut off.
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "4",
}
"""What Ray's head reads from its environment, here and in infra/."""


def environment() -> dict[str, str]:
    """This process' environment as a service starts in it: nothing in it names services elsewhere."""
    others = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI")  # of services elsewhere
    kept = {key: value for key, value in os.environ.items() if key not in others}
    # A job's `r2d2` is the one of this Python, also where nobody has put it on the PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return ENVIRONMENT | kept | {"R2D2_HOME": str(config.home()), "PYTHONUNBUFFERED": "1", "PATH": path}


def dashboard(host: str, port: int, settings: Settings) -> tuple[list[str], dict[str, str]]:
    """The command line that serves the dashboard, and what its pages find in their environment.

    Raises:
        InputError: Not on the loopback address, and nobody would be asked who is there.
    """
    how = check_login(host, settings)
    page = resources.find("apps/dashboard/app.py")
    options: list[tuple[str, object]] = [
        ("server.address", host),
        ("server.port", port),
        ("server.headless", "true"),
        ("server.fileWatcherType", "none"),
        # A whole collection after every refresh of every viewer's would take six sevenths of the server's time.
        ("runner.postScriptGC", "false"),
        # A string that says what stands above it is nothing to be shown.
        ("runner.magicEnabled", "false"),
        ("server.maxUploadSize", uploads.LARGEST_MB),
        ("browser.gatherUsageStats", "false"),
        ("client.toolbarMode", "viewer"),
        ("client.showErrorDetails", "none"),
        ("theme.base", page.with_name("theme.toml")),
        ("secrets.files", services.login_file()),
    ]
    # What the pages of no other machine may be led to by a name: a page elsewhere that calls itself this one.
    if how is None:
        options += [("server.allowedHosts", name) for name in ("localhost", LOOPBACK)]
    environment = {"R2D2_READ_ONLY": "1"} if settings.read_only else {}
    # Without it the server would believe what a request says of where it comes from.
    environment |= {"R2D2_LOGIN_BY": how or "loopback", "FORWARDED_ALLOW_IPS": ""}
    # A page that waits two minutes for a server that hangs is no page.
    environment |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    if how == "header":
        options.append(("server.trustedUserHeaders", json.dumps({settings.user_header: "name"})))
        environment["R2D2_PROXY"] = str(settings.proxy)
    words = [word for key, value in options for word in (f"--{key}", str(value))]
    return [sys.executable, str(page.with_name("serve.py")), "run", str(page), *words], environment


def mlflow(host: str, port: int, settings: Settings) -> tuple[list[str], dict[str, str]]:
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
    return {"localhost", LOOPBACK, socket.gethostname(), reached(host)} | (own if host == "0.0.0.0" else set())


def ray(host: str, ports: dict[str, int], settings: Settings, scratch: str) -> list[str]:
    """The command line of Ray's head, whose folder is `scratch`."""
    slots = settings.slots or len(os.sched_getaffinity(0))
    options = {
        "node-ip-address": reached(host),
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
    return _ray_start("--head", options)


def ray_node(head: str, host: str) -> list[str]:
    """The command line of a further node, at the address `host`, of the cluster whose head is at `head` (host:port)."""
    slots = len(os.sched_getaffinity(0))
    return _ray_start(f"--address={head}", {"node-ip-address": host, "num-cpus": slots, "log-color": "false"})


def _ray_start(role: str, options: Mapping[str, object]) -> list[str]:
    options = options if services.cuda() else {**options, "num-gpus": 0}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    # The module that its command `ray` calls, so that it is this Python's.
    return [sys.executable, "-m", "ray.scripts.scripts", "start", role, "--block", "--disable-usage-stats", *words]


def lock_doors() -> None:
    """Make the files of MLflow's password and Ray's token, if they are not there."""
    if not services.password_file().exists():
        users = f"sqlite:///{services.folder()}/mlflow-users.db"
        write_users(users, secrets.token_urlsafe(24), secrets.token_urlsafe(32))
    if not services.token_file().exists():
        services.write_private(services.token_file(), secrets.token_hex(32))


def write_users(database: str, password: str, key: str) -> None:
    """Write MLflow's settings of who is let in.

    Args:
        database: The URL of the database of its users.
        password: The administrator's, who is made with the database.
        key: What the server signs its pages with.
    """
    parser = configparser.ConfigParser(interpolation=None)
    parser["mlflow"] = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": database,
        "admin_username": "admin",
        "admin_password": password,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        # Otherwise every request waits for the password's slow hash.
        "auth_cache_ttl_seconds": "300",
        "secret_key": key,
    }
    text = io.StringIO()
    parser.write(text)
    services.write_private(services.password_file(), text.getvalue())
